"""The real command in a process of its own that need not import anything any more.

Importing TensorFlow and MLflow takes as long as the small pipelines of the tests. Here one process has done that, and
each command is forked from it; what the command does at its start, and the import itself, is for :mod:`tests.command`.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from tests.command import Finished, environment
from tests.processes import RUNNING

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.imported"])


class Warm:
    """A command that was started, with what tests need of ``subprocess.Popen``."""

    stdin = None

    def __init__(self, arguments: tuple[str, ...], cwd: Path) -> None:
        (read_output, output), (read_errors, errors) = _context.Pipe(False), _context.Pipe(False)
        self._process = _context.Process(
            target=_run, args=(arguments, cwd, environment(), output, errors), daemon=False
        )
        self._process.start()
        for end in (output, errors):
            end.close()
        self.stdout, self.stderr = _stream(read_output), _stream(read_errors)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        texts: dict[str, str] = {}
        readers = [
            threading.Thread(
                target=lambda name, stream: texts.update({name: stream.read()}), args=each, daemon=True
            )
            for each in (("output", self.stdout), ("errors", self.stderr))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired("bnadapt", timeout or 0)
        self.wait()
        return texts["output"], texts["errors"]


def start(*arguments: str, cwd: Path) -> Warm:
    process = Warm(arguments, cwd)
    RUNNING.append(process)
    return process


def bnadapt(*arguments: str, cwd: Path) -> Finished:
    process = start(*arguments, cwd=cwd)
    output, errors = process.communicate()
    return Finished(cwd, output, errors, process.wait())


def _run(
    arguments: tuple[str, ...],
    cwd: Path,
    variables: Mapping[str, str],
    output: Connection,
    errors: Connection,
) -> None:
    os.setsid()
    os.dup2(output.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["bnadapt", *arguments]
    from bnadapt.cli import main

    main()


def _stream(connection: Connection) -> IO[str]:
    return os.fdopen(os.dup(connection.fileno()), encoding="utf-8")
