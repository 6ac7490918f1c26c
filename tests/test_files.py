"""Files are whole or not there, whatever happens while they are written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnadapt.errors import StorageError
from bnadapt.files import copy, remove_drafts, replacing, save, write_bytes, write_text

# The system refuses to let any file grow beyond the limit: to a program it is a full disk of its own.
FULL = """
import resource, sys
from pathlib import Path
import keras
from bnadapt.errors import StorageError
from bnadapt.files import save, write_bytes
path = Path(sys.argv[1])
network = keras.Sequential([keras.Input((64,)), keras.layers.Dense(1000)])
content = save(network, path / "network.keras").read_bytes()
write_bytes(path / "note.txt", b"before")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for write in (lambda: save(network, path / "network.keras"), lambda: write_bytes(path / "note.txt", b"x" * 5000)):
    try:
        write()
    except StorageError as error:
        print(error)
assert (path / "network.keras").read_bytes() == content
assert (path / "note.txt").read_bytes() == b"before"
"""


def write_half(path: Path, error: BaseException) -> None:
    with replacing(path) as draft:
        draft.write_bytes(b"half of the sec")
        raise error


def test_what_was_written_takes_the_place_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "note.txt"
    assert write_text(path, "first") == path
    with replacing(path) as draft:
        draft.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["note.txt"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "note.txt", b"first")
    with pytest.raises(KeyError):
        write_half(path, KeyError())
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["note.txt"]


@pytest.mark.fault(
    "process: Ctrl-C while a file is written",
    "what was there before stays whole",
)
def test_an_interrupt_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "note.txt", b"first")
    with pytest.raises(KeyboardInterrupt):
        write_half(path, KeyboardInterrupt())
    assert os.listdir(tmp_path) == ["note.txt"]
    assert path.read_bytes() == b"first"


def test_errors_that_are_not_the_systems_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes do not fit"), replacing(tmp_path / "note.txt"):
        raise RuntimeError("shapes do not fit")


@pytest.mark.fault(
    "disk: a place that cannot be written",
    "an error that names the file and why",
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    with pytest.raises(
        StorageError, match=r"file/note\.txt cannot be written: (Not a directory|File exists)"
    ):
        write_text(tmp_path / "file" / "note.txt", "")


@pytest.mark.fault(
    "disk: full while a file is written",
    "an error that names the file; what was there before stays whole",
)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 2, done.stdout + done.stderr
    for line, name in zip(said, ("network.keras", "note.txt"), strict=True):
        assert f"{name} cannot be written: File too large. What was there before is as it was" in line
    assert sorted(os.listdir(tmp_path)) == ["network.keras", "note.txt"]


def test_networks_and_copies_are_whole(tmp_path: Path) -> None:
    import keras

    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    path = copy(save(network, tmp_path / "a.keras"), tmp_path / "b" / "c.keras")
    again = keras.saving.load_model(path)
    assert all(np.array_equal(*pair) for pair in zip(network.get_weights(), again.get_weights(), strict=True))


@pytest.mark.fault(
    "process: SIGKILL while a file is written",
    "the draft is removed later; the file itself is never half there",
)
def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    kill = (
        "import os, signal, sys; from pathlib import Path; from bnadapt.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as draft:\n"
        "    draft.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = write_text(tmp_path / "network.keras", "whole")
    subprocess.run([sys.executable, "-c", kill, str(path)], check=False)
    assert path.read_text() == "whole"
    assert len(os.listdir(tmp_path)) == 2
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == ["network.keras"]


@pytest.mark.parametrize("name", ["名前.txt", "a b.txt", ".hidden", "no_extension"])
def test_any_name(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def test_letters_that_cannot_be_written(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a", "x\udcffy").read_bytes() == b"x?y"
