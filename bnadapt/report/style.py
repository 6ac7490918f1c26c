"""How all plots look: colours that colour-blind readers can tell apart, sizes, and text in any script."""

import io
import logging
import math
import re
import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#666666"
STAGE_COLOURS = (GREY, SKY, GREEN, ORANGE, PURPLE, BLUE)

# Signs that turn the direction of writing, and those without width; and the one that sets it.
_TURNS = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_FROM_LEFT = "\u200e"

DOTS_PER_INCH = 130
LONGEST_NAME = 32
# DejaVu, which matplotlib brings along, has no East Asian, Indic or Arabic letters; these have, if installed.
FURTHER_FONTS = (
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Thai",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "Hiragino Sans",
)


def new_figure(title: str, width: float = 10.0, height: float = 5.6) -> tuple[Figure, Axes]:
    """An empty figure (inches) with one pair of axes and a title; nothing of pyplot's state is touched."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle(title, fontsize=14, fontweight="bold")
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file; a letter that no installed font has is a box in it."""
    written = io.BytesIO()
    with rc_context({"font.sans-serif": fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(written, format="png")
    return written.getvalue()


def percent_axis(axes: Axes, which: str) -> None:
    """Write the ticks of the ``x`` or ``y`` axis, which holds shares of 1, in per cent."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.10g} %"))


def logarithmic_axis(axes: Axes, which: str, values: Iterable[float]) -> None:
    """Make the ``x`` or ``y`` axis logarithmic, with numbers as people write them, few enough for these values.

    Without any value above 0 it stays as it is.
    """
    shown = [value for value in values if value > 0 and math.isfinite(value)]
    if not shown:
        return
    scale, axis = (axes.set_xscale, axes.xaxis) if which == "x" else (axes.set_yscale, axes.yaxis)
    scale("log")
    decades = math.log10(max(shown) / min(shown))
    steps = (1.0, 2.0, 5.0) if decades < 1.2 else (1.0, 3.0) if decades < 2.2 else (1.0,)
    # Within half a decade a logarithmic axis has a tick or none at round numbers.
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]) if decades < 0.5 else LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def readable(name: str, substitute: str, longest: int = LONGEST_NAME) -> str:
    """The name on one line, shortened in its middle if long; the substitute where no installed font can write it.

    Signs that turn the direction of what follows are left out; letters that are written from the right are drawn so.
    """
    name = " ".join(_TURNS.sub("", name).split())
    if not name or not all(ord(character) in _characters() for character in name):
        return substitute
    if len(name) <= longest:
        return name
    half = (longest - 3) // 2
    return f"{name[:half]}...{name[-half:]}"


def arrow(before: str, after: str, *, lines: bool = False) -> str:
    """From one name to another, written from the left whatever their letters; in two lines where asked for."""
    gap = "\n" if lines else " "
    if not any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in before + after):
        return f"{before}{gap}\u2192 {after}"
    gap = f"{_FROM_LEFT}{gap}{_FROM_LEFT if lines else ''}"
    return f"{_FROM_LEFT}{before}{gap}\u2192 {_FROM_LEFT}{after}"


def fonts() -> list[str]:
    """Font families for names in any script, those that are installed, in order of preference."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(family for family in FURTHER_FONTS if family in installed)]


@cache
def _characters() -> frozenset[int]:
    """Every character that one of :func:`fonts` can write."""
    return frozenset(code for family in fonts() for code in _characters_of(family))


def _characters_of(family: str) -> Iterable[int]:
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    return FT2Font(font_manager.findfont(family)).get_charmap()
