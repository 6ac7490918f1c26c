"""Requests to stop that cannot get lost.

Python drops an exception that a signal handler raises while the interpreter happens to be in a weak reference's
callback or in ``__del__``. What was asked for is therefore remembered, and asked again wherever work goes on for long.
"""

import signal
from types import FrameType

_requested: list[BaseException] = []


def heed_signals(terminated: int) -> None:
    """Let SIGINT and SIGTERM stop this process through exceptions, the latter with this exit code."""
    signal.signal(signal.SIGINT, lambda number, frame: _stop(KeyboardInterrupt(), frame))
    # A polite request to end gets what an interrupt gets: the runs are marked, nothing finished is lost.
    signal.signal(signal.SIGTERM, lambda number, frame: _stop(SystemExit(terminated), frame))


def check_for_stop() -> None:
    """Raise what a signal asked for, if one did and it got lost; else return None."""
    if _requested:
        raise _requested[0]


def _stop(reason: BaseException, _: FrameType | None) -> None:
    _requested.append(reason)
    raise reason
