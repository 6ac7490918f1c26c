"""A plot that can be drawn: its place in a report, its file, its title."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from bnadapt.report.style import png_of


@dataclass(frozen=True)
class Drawing:
    """A plot that can be drawn.

    Attributes:
        section: The part of the report that it belongs to.
        name: Of its file, without suffix.
        title: What it shows, in words.
        draw: Draws it.
    """

    section: str
    name: str
    title: str
    draw: Callable[[], Figure]

    @property
    def path(self) -> str:
        """Where it lies among the run's files."""
        return f"plots/{self.name}.png"

    def png(self) -> bytes:
        """Draw it as a PNG file."""
        return png_of(self.draw())
