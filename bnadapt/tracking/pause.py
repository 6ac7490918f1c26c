"""How long to leave a store alone that does not answer; standard library only."""

import time

LONGEST_WAIT = 60.0  # seconds between two attempts
# Waits are so much longer than what the attempt took, so that attempts cost a tenth of the time at most.
SHARE_OF_THE_TIME = 9
RECENT = 6.0  # seconds


class Pause:
    """How long nothing is tried after a failure: twice as long each time, and longer after slow ones."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self._until = 0.0
        self._wait = 0.0
        self._took = 0.0
        self._since = 0.0

    def lasts(self) -> bool:
        """Whether it is too early for the next attempt."""
        return time.monotonic() < self._until

    def begin(self, took: float) -> bool:
        """Wait after a failure that took so many seconds; says whether it is the first in a row."""
        first = self._wait == 0
        self._wait = min(LONGEST_WAIT, max(1.0, 2 * self._wait, SHARE_OF_THE_TIME * took))
        self._took, self._since = took, time.monotonic()
        self._until = self._since + self._wait
        return first

    @property
    def failing(self) -> bool:
        """Whether nothing has arrived since the last failure."""
        return self._wait > 0

    def over(self) -> None:
        """Let the next attempt be made at once."""
        self._until = 0.0

    def end(self) -> bool:
        """Forget the failures; says whether there were any."""
        failed, self._wait = self._wait > 0, 0.0
        self.over()
        return failed

    def recent_and_slow(self) -> bool:
        """Whether the last attempt just failed after a long time, so that another one would, too."""
        return self._took > 1 and time.monotonic() - self._since < RECENT
