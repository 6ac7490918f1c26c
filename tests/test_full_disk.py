"""A disk that runs full in the middle of a pipeline: one clear error, nothing half written, and it goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import QUICK, bnadapt, environment
from tests.interrupted import comparable, left

WORDS = ["model.widths=[512,512]", *QUICK[:3], "data.batch_size=64"]
# In a name space of its own: a file system of a few megabytes, which later grows.
SMALL = """
set -eu
mount -t tmpfs -o size={size}m tmpfs {place}
cd {place}
set +e
{command} {words} >first.txt 2>errors.txt
code=$?
set -e
mount -o remount,size=500m {place}
run=$(sed -n 's/.*resume=\\([0-9a-f]*\\).*/\\1/p' errors.txt | head -1)
find . -name '.*.part*' >drafts.txt
{command} resume=$run >second.txt 2>>errors.txt
cp -r . {out}
echo code=$code
"""


def in_a_small_disk(
    size: int, place: Path, out: Path, words: list[str]
) -> "subprocess.CompletedProcess[str]":
    script = SMALL.format(
        size=size, place=place, out=out, command=f"{sys.executable} -m bnadapt", words=" ".join(words)
    )
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def can_mount() -> bool:
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.fault(
    "disk: full in the middle of a pipeline",
    "one clear error, no half-written file; with room again goes on to bit-identical weights",
)
@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 18])
def test_a_full_disk_costs_nothing_that_was_there(size: int, tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("this system lets nobody mount a small disk")
    place, out, undisturbed = (tmp_path / name for name in ("place", "out", "undisturbed"))
    for each in (place, out, undisturbed):
        each.mkdir()
    done = in_a_small_disk(size, place, out, WORDS)
    errors = (out / "errors.txt").read_text()
    assert done.returncode == 0, done.stderr + errors
    assert "code=1" in done.stdout
    assert "cannot be written: No space left on device. What was there before is as it was" in errors
    assert "go on with it: bnadapt resume=" in errors
    assert not (out / "drafts.txt").read_text()
    finished = bnadapt(*WORDS, cwd=undisturbed)
    assert finished.code == 0, finished.errors
    # What was recorded in the small disk names its own paths; hashes and numbers are the same.
    found, whole = left(out), left(undisturbed)
    assert found.weights == whole.weights
    assert comparable(found.metrics) == comparable(whole.metrics)
    assert set(found.statuses.values()) == {"FINISHED"}
