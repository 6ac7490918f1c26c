"""A program that records runs, and is stopped when it does something for the so many-th time, such as writing.

Once for each number, in processes of their own that are forked from one, because the imports take longer than the rest.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import loading

from bnadapt.config import TrackingSettings
from bnadapt.interruption import heed_signals
from bnadapt.tracking.store import Tracker

IDENTITY = "what the run is"
LASTING = ("os.rename", "os.mkdir", "os.remove", "sqlite3.connect")


def main(uri: str, directory: Path, numbers: Sequence[int], how: str) -> None:
    for number in numbers:
        child = os.fork()
        if child == 0:
            place = directory / str(number)
            place.mkdir()
            try:
                if how == "killed":
                    begin(number, uri, place)
                elif how == "killed creating":
                    kill_creating(number)
                    Tracker(TrackingSettings(), place)
                else:
                    record(number, uri, place, reading=how == "interrupted reading")
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        os.waitpid(child, 0)


def begin(number: int, uri: str, place: Path) -> None:
    """Begin a run, and be killed in the middle of that or just after it."""
    tracker = Tracker(TrackingSettings(uri=uri, system_metrics=False), place)
    stop_at(number, signal.SIGKILL)
    with tracker.pipeline("begun", identity=IDENTITY):
        os.kill(os.getpid(), signal.SIGKILL)


def record(number: int, uri: str, place: Path, *, reading: bool) -> None:
    """Record a run with two stages, and be interrupted somewhere."""
    heed_signals(143)
    tracker = Tracker(TrackingSettings(uri=uri, system_metrics=not reading), place)
    (interrupt_reading if reading else stop_at)(number, signal.SIGINT)
    with tracker.pipeline(f"interrupted {number}", identity=IDENTITY, parameters={"seed": 0}) as run:
        for order, name in enumerate(("baseline", "adapt"), 1):
            with run.stage(name, order=order) as stage:
                stage.log_epoch(1, {"val_accuracy": 0.5})


def stop_at(number: int, signal_number: int) -> None:
    """Send this process a signal when it is about to write something for the so many-th time from now on."""
    seen = 0

    def watch(happens: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = (
            happens == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes or happens in LASTING:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal_number)

    sys.addaudithook(watch)


def kill_creating(number: int) -> None:
    """Kill this process when it is about to create the so many-th table of a store."""
    seen = 0

    @event.listens_for(Engine, "before_cursor_execute")
    def watch(connection: object, cursor: object, statement: str, *_: object) -> None:
        nonlocal seen
        seen += "CREATE TABLE" in statement
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)


def interrupt_reading(number: int, signal_number: int) -> None:
    """Send this process a signal when SQLAlchemy is about to take rows from an open cursor for the so many-th time."""
    seen = 0

    def watch(frame: FrameType, happens: str, _: Any) -> None:
        nonlocal seen
        if happens == "call" and frame.f_code is loading._instance_processor.__code__:
            seen += 1
            if seen == number:
                sys.setprofile(None)
                os.kill(os.getpid(), signal_number)

    sys.setprofile(watch)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])
