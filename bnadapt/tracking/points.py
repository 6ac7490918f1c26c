"""Every step of every metric once, also where a run is gone on with by another process."""

from collections.abc import Mapping

Points = Mapping[tuple[str, int], tuple[float, int]]  # by key and step: value and time stamp in milliseconds


class Steps:
    """Where the numbers of one run go.

    MLflow keeps several values of a key at one step, draws them all, and counts them as one. Where a second one comes,
    its step is therefore the next one that is free, so that it is still the newest. What an earlier process of the run
    has recorded is not recorded again: it is the same but for the time.

    Attributes:
        earlier: What an earlier process of this run recorded.
    """

    def __init__(self, earlier: Points | None = None) -> None:
        """Begin with what an earlier process recorded."""
        self.earlier = dict(earlier or {})
        self._told: set[tuple[str, int]] = set()
        self._highest: dict[str, int] = {}

    def place(self, key: str, step: int) -> int:
        """The step at which a value goes."""
        # Told again in the same order, the same values get the same steps.
        if (key, step) in self._told:
            step = self._highest[key] + 1
        self._told.add((key, step))
        self._highest[key] = max(step, self._highest.get(key, step))
        return step

    def highest(self, prefix: str = "") -> int | None:
        """The highest step of an earlier process, of the keys with this prefix; None where there is none."""
        return max((step for key, step in self.earlier if key.startswith(prefix)), default=None)
