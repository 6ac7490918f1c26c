"""Processes that tests start, and their end: with everything that they started, whatever becomes of the test."""

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import IO, Any, Protocol


class Process(Protocol):
    """A process of a command, in a group of its own."""

    pid: int
    stdout: IO[str] | None
    stderr: IO[str] | None

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


RUNNING: list[Process] = []


def begin(command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
    """Start a process in a group of its own; what a test leaves running ends with the test."""
    process = subprocess.Popen(command, start_new_session=True, text=True, **options)
    RUNNING.append(process)
    return process


def end(process: Process) -> None:
    """Kill a process that was started in a group of its own, and its group, where it has not ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def end_all() -> None:
    """End what is left of all that was begun."""
    while RUNNING:
        end(RUNNING.pop())
