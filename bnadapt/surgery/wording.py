"""Lists of names in messages: the first few, and how many more there are."""

from collections.abc import Sequence

LISTED_AT_MOST = 5


def listed(names: Sequence[str], at_most: int = LISTED_AT_MOST) -> str:
    """The names joined by commas; of a long list the first ones, and the number of the others."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")
