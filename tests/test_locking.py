"""A lock holds other processes off, and ends with its process."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnadapt.locking import HeldElsewhereError, locked

HOLD = """
import sys, time
from pathlib import Path
from bnadapt.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_held_off_until_the_holder_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "some" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(HeldElsewhereError), locked(file, patience=0.2):
            pass
        assert time.monotonic() - began < 5
    finally:
        holder.kill()
        holder.wait()
    with locked(file, patience=10):
        pass


def test_what_happens_inside_is_not_taken_for_the_locks_own_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock"):
        _ = 1 / 0
    with locked(tmp_path / "lock"):
        pass


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock"):
        pass
    with pytest.raises(OSError, match="unable to open"), locked(tmp_path):
        pass
