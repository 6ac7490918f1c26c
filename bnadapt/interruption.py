"""Requests to stop that cannot get lost, and do not come in between where they would do harm.

Python drops an exception that a signal handler raises while the interpreter happens to be in a weak reference's
callback or in ``__del__``. What was asked for is therefore asked again a moment later; and wherever work goes on for
long, should the platform have no alarms.

Raised in the middle of a call to a database, it leaves a transaction open, and its lock keeps the same process from
recording how the run ended. Such a call is therefore brought to its end first.
"""

import atexit
import signal
import sys
import threading
from contextlib import ContextDecorator
from typing import NoReturn

SECONDS_HELD_BACK = 5.0
SECONDS_AFTER_A_LOSS = 0.01

_requested: list[BaseException] = []
_lost: list[BaseException] = []
_held_back: list[BaseException] = []
_depth = 0  # of blocks that hold requests back


def heed_signals(terminated: int) -> None:
    """Let SIGINT and SIGTERM stop this process through exceptions, the latter with this exit code."""
    signal.signal(signal.SIGINT, lambda number, frame: _stop(KeyboardInterrupt()))
    # A polite request to end gets what an interrupt gets: the runs are marked, nothing finished is lost.
    signal.signal(signal.SIGTERM, lambda number, frame: _stop(SystemExit(terminated)))
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, lambda number, frame: _ring())
        # At its end Python lets go of this, and an alarm that is still to come would kill the process.
        atexit.register(signal.signal, signal.SIGALRM, signal.SIG_IGN)
    sys.unraisablehook = _notice_loss


def check_for_stop() -> None:
    """Raise what a signal asked for, if one did; else return None."""
    if _requested:
        raise _requested[0]


class stops_held_back(ContextDecorator):  # noqa: N801  # it reads as what it does
    """Lets a request to stop wait for the end of a block or function, for five seconds at most.

    Blocks may be nested: the request waits for the end of the outermost one. Where the platform has no alarms
    (Windows) it waits however long that takes. It is for signals that :func:`heed_signals` heeds, and does nothing
    outside of the main thread, which alone hears them.

    Raises:
        KeyboardInterrupt, SystemExit: at the end, what was asked for meanwhile.
    """

    def __enter__(self) -> None:
        """Hold back from here on."""
        global _depth
        if threading.current_thread() is threading.main_thread():
            _depth += 1

    def __exit__(self, *_: object) -> None:
        """Raise what was held back."""
        global _depth
        if threading.current_thread() is threading.main_thread():
            _depth = max(0, _depth - 1)  # where the time was up, nothing is held back any more
            if _depth == 0 and _held_back:
                _raise(_held_back[0])


def _stop(reason: BaseException) -> None:
    _requested.append(reason)
    _raise_or_hold_back(reason)


def _raise_or_hold_back(reason: BaseException) -> None:
    if _depth == 0:
        _raise(reason)
    if not _held_back:
        _set_alarm(SECONDS_HELD_BACK)
    _held_back.append(reason)


def _raise(reason: BaseException) -> NoReturn:
    _held_back.clear()  # an alarm that is still to come then finds nothing
    raise reason


def _notice_loss(dropped: "sys.UnraisableHookArgs") -> None:
    """Ask again for what Python dropped, as soon as it is out of where it drops exceptions; print all else."""
    lost = [reason for reason in _requested if reason is dropped.exc_value]
    if not lost:
        sys.__unraisablehook__(dropped)
        return
    _lost.extend(lost)
    _set_alarm(SECONDS_AFTER_A_LOSS)


def _set_alarm(seconds: float) -> None:
    """Ask again after so long, if there is something to ask for then."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _ring() -> None:
    global _depth
    if _held_back:
        _depth = 0  # the time is up: whatever else is asked for is heard at once
        _raise(_held_back[0])
    if _lost:
        reason = _lost[0]
        _lost.clear()
        _raise_or_hold_back(reason)
