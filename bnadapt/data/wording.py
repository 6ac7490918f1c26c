"""Names of files and classes in messages: any script, nothing that a terminal would obey."""

from collections.abc import Sequence

_LONGEST = 80
# Joiners, which many scripts and emoji need and which str.isprintable() refuses.
_JOINERS = "\u200c\u200d"


def printable(text: object) -> str:
    """The text with control characters, line breaks, marks of direction and broken Unicode as escapes.

    What is left can be written to any file and terminal in UTF-8, on one line.
    """
    return "".join(
        each if each.isprintable() or each in _JOINERS else each.encode("unicode_escape").decode("ascii")
        for each in str(text)
    )


def listing(names: Sequence[str], limit: int = 10) -> str:
    """The first names, each cut where it is very long, and how many more there are: ``a, b and 998 more``."""
    shown = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..." for name in names[:limit]]
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(shown) + more


def unit_of(image_shape: Sequence[int] | None) -> str:
    """What examples of a shape are called: images, or the rows that vectors come in."""
    return "rows" if image_shape is not None and len(image_shape) == 1 else "images"
