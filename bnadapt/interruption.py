"""Requests to stop that cannot get lost, and do not come in between where they would do harm.

Python drops an exception that a signal handler raises while the interpreter happens to be in a weak reference's
callback or in ``__del__``. What was asked for is therefore asked again a moment later; and wherever work goes on for
long, should the platform have no alarms.

Raised in the middle of a call to a database, it leaves a transaction open, and its lock keeps the same process from
recording how the run ended. Such a call is therefore brought to its end first.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_HELD_BACK = 5.0
SECONDS_AFTER_A_LOSS = 0.01

_requested: list[BaseException] = []
_lost: list[BaseException] = []
_held_back: list[BaseException] = []
_depth = 0  # of blocks that hold requests back


def heed_signals(terminated: int) -> None:
    """Let SIGINT and SIGTERM stop this process through exceptions, the latter with this exit code."""
    signal.signal(signal.SIGINT, lambda number, frame: _stop(KeyboardInterrupt(), frame))
    # A polite request to end gets what an interrupt gets: the runs are marked, nothing finished is lost.
    signal.signal(signal.SIGTERM, lambda number, frame: _stop(SystemExit(terminated), frame))
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, lambda number, frame: _ring())
    sys.unraisablehook = _notice_loss


def check_for_stop() -> None:
    """Raise what a signal asked for, if one did; else return None."""
    if _requested:
        raise _requested[0]


@contextmanager
def stops_held_back() -> Iterator[None]:
    """Let a request to stop wait for the end of the block, for five seconds at most; for the main thread.

    Blocks may be nested: the request waits for the end of the outermost one.

    Raises:
        KeyboardInterrupt, SystemExit: at the end, what was asked for meanwhile.
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0 and _held_back:
            _set_alarm(0.0)
            reason = _held_back[0]
            _held_back.clear()
            raise reason


def _stop(reason: BaseException, _: FrameType | None) -> None:
    _requested.append(reason)
    _raise_or_hold_back(reason)


def _raise_or_hold_back(reason: BaseException) -> None:
    if _depth == 0:
        raise reason
    if not _held_back:
        _set_alarm(SECONDS_HELD_BACK)
    _held_back.append(reason)


def _notice_loss(dropped: "sys.UnraisableHookArgs") -> None:
    """Ask again for what Python dropped, as soon as it is out of where it drops exceptions; print all else."""
    lost = [reason for reason in _requested if reason is dropped.exc_value]
    if not lost:
        sys.__unraisablehook__(dropped)
        return
    _lost.extend(lost)
    _set_alarm(SECONDS_AFTER_A_LOSS)


def _set_alarm(seconds: float) -> None:
    """Ask again after so long, if there is something to ask for; not at all after 0."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _ring() -> None:
    if _lost:
        reason = _lost[0]
        _lost.clear()
        _raise_or_hold_back(reason)
    elif _held_back:
        raise _held_back[0]
