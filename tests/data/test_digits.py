import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from bnadapt.config import DataSettings
from bnadapt.data.digits import TRAIN_SIZE, prepared_digits
from bnadapt.data.load import describe, load
from bnadapt.errors import DataError

pytestmark = pytest.mark.usefixtures("no_default_directories")

DIGITS = DataSettings(name="digits")


def test_images_and_labels_are_scikit_learns_in_their_order() -> None:
    splits = load(DIGITS, (8, 8, 1))
    expected = load_digits()
    images = np.concatenate([image for image, _ in splits.test.batches(64).as_numpy_iterator()])
    assert images.shape == (500, 8, 8, 1)
    np.testing.assert_allclose(images[..., 0], expected.images[TRAIN_SIZE:] * 255 / 16, atol=0.5)
    np.testing.assert_array_equal(splits.test.labels(), expected.target[TRAIN_SIZE:])
    kept = np.sort(np.concatenate([splits.train.labels(), splits.validation.labels()]))
    np.testing.assert_array_equal(kept, np.sort(expected.target[:TRAIN_SIZE]))


def test_the_order_lies_in_blocks_that_begin_with_the_same_labels() -> None:
    # What the docstring says of the writers rests on this.
    text = "".join(map(str, load_digits().target))
    begins = [start for start in range(len(text)) if text.startswith("0123456789" * 3, start)]
    assert len(begins) in (12, 13, 14)
    assert begins[:4] == [0, 130, 256, 386]
    assert TRAIN_SIZE - max(start for start in begins if start < TRAIN_SIZE) == 10


def test_description() -> None:
    description = describe(DIGITS)
    assert description.classes == tuple("0123456789")
    assert description.image_shape == (8, 8, 1)
    assert description.sizes == {"train": 1167, "validation": 130, "test": 500}


def test_it_prepares_itself_silently_in_the_users_cache(
    no_default_directories: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = prepared_digits(DIGITS)
    assert found == no_default_directories / "cache" / "bnadapt" / "tfds" / "digits" / "1.0.0"
    assert capfd.readouterr() == ("", "")
    assert prepared_digits(DIGITS) == found
    assert [each.name for each in found.parent.parent.iterdir()] == ["digits"]


def test_without_the_cache_variable_it_is_below_home(
    no_default_directories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert prepared_digits(DIGITS).is_relative_to(no_default_directories / ".cache" / "bnadapt" / "tfds")


def test_the_directory_of_the_settings_is_used(tmp_path: Path) -> None:
    settings = DataSettings(name="digits", dir=str(tmp_path / "own"))
    assert prepared_digits(settings) == tmp_path / "own" / "digits" / "1.0.0"


def test_a_copy_that_is_there_already_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = prepared_digits(DataSettings(name="digits", dir=str(tmp_path / "there")))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "there"))
    assert prepared_digits(DIGITS) == there


def test_a_directory_that_cannot_be_written_to_leaves_the_cache(no_default_directories: Path) -> None:
    # A file where the directory should be fails for every user, also for one that may write anywhere.
    (no_default_directories / "blocked").touch()
    settings = DataSettings(name="digits", dir=str(no_default_directories / "blocked" / "tfds"))
    assert prepared_digits(settings).is_relative_to(no_default_directories / "cache")


def test_nowhere_to_write_to(no_default_directories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (no_default_directories / "blocked").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_default_directories / "blocked"))
    with pytest.raises(
        DataError, match=r"nowhere to prepare it \(.*blocked.*\); set data.dir or XDG_CACHE_HOME"
    ):
        prepared_digits(DIGITS)


def test_there_is_one_version() -> None:
    with pytest.raises(DataError, match=r"data.name=digits:2.0.0: there is only digits:1.0.0"):
        prepared_digits(DataSettings(name="digits:2.0.0"), "2.0.0")


@pytest.mark.slow
def test_two_processes_at_once_prepare_one_copy_and_agree(tmp_path: Path, project: Path) -> None:
    program = """
import hashlib
from bnadapt.config import DataSettings
from bnadapt.data.load import load
splits = load(DataSettings(name="digits"), (8, 8, 1))
hashed = hashlib.sha256()
for images, labels in splits.train.shuffled(32, seed=3, epochs=2):
    hashed.update(images.numpy().tobytes() + labels.numpy().tobytes())
print(splits.digest, hashed.hexdigest())
"""
    cache = tmp_path / "both"
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(project)}
    processes = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    first, second = (process.communicate(timeout=120)[0] for process in processes)
    assert first == second
    assert len(first.split()) == 2
    assert first.split()[0] == load(DIGITS, (8, 8, 1)).digest
    assert [each.name for each in (cache / "bnadapt" / "tfds").iterdir()] == ["digits"]
