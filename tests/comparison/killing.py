"""Comparisons that are stopped at a moment of their own: when something has ended."""

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.warm import start


def ended(directory: Path) -> list[str]:
    """Names of the baselines, arms and rates that the journal below a directory says have ended."""
    found = list(directory.glob("checkpoints/*/journal.json"))
    return list(json.loads(found[0].read_text(encoding="utf-8"))["ended"]) if found else []


def kill_once(words: Sequence[str], name: str, directory: Path, *, number: int = signal.SIGKILL) -> str:
    """Start the command, stop it as soon as what is called ``name`` has ended, and return what was printed."""
    process = start(*words, cwd=directory)
    while name not in ended(directory):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    output, errors = process.communicate()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    return output + errors
