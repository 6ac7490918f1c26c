"""What the plots of a comparison share: where an axis starts, the roles of arms, and names that do not overlap."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnadapt.config import UNTOUCHED
from bnadapt.evaluation.arms import Comparison
from bnadapt.report.comparison_material import reference
from bnadapt.report.style import BLUE, GREY, fonts, readable

# What stands out: one arm in colour, the one that it is measured against in black, the others behind them.
RECOMMENDED, REFERENCE, OTHERS = BLUE, "black", GREY
MARGIN = 0.06
INTERVALS_LONG = 12  # an axis, so that the typical interval can be read


def lower_edge(values: Sequence[float], longest: float, shown: Sequence[float] = ()) -> float | None:
    """The lowest value that an axis shows where a few lie so far below the others that they would squeeze them.

    Args:
        values: One for each arm.
        longest: The length that the axis would have at most, in the units of the values.
        shown: Those that must stay on the axis, such as the reference's.

    Returns:
        The lowest value of those within the length below the highest one, so low that no more than a third
        of the values lie below it; None where all can stay.
    """
    ordered = sorted(values)
    within = [value for value in ordered if value >= ordered[-1] - longest]
    edge = min([within[0], ordered[len(ordered) // 3], *shown])
    return edge if edge > ordered[0] else None


def longest_axis(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of an axis on which intervals like these, low and high end of each, can still be read."""
    typical = float(np.median([high - low for low, high in intervals])) if intervals else 0.0
    return INTERVALS_LONG * typical or np.inf


def accuracy_edge(comparison: Comparison) -> float | None:
    """Where the axis of a plot of test accuracies starts; None where it can hold all arms."""
    yardstick = reference(comparison)
    intervals = [(arm.low, arm.high) for arm in comparison.arms]
    shown = [yardstick.test] if yardstick else []
    return lower_edge([arm.test for arm in comparison.arms], longest_axis(intervals), shown)


def limits(values: Sequence[float], *, ends: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float]:
    """Ends of an axis that holds these values with some room, no further than a little beyond ``ends``."""
    low, high = min(values), max(values)
    room = MARGIN * (high - low) or 0.01
    beyond = 0.5 * room
    return max(low - room, ends[0] - beyond), min(high + room, ends[1] + beyond)


def roles(comparison: Comparison, arm: str) -> list[str]:
    """What the arm is in the comparison: recommended, best in hindsight, reference; nothing for most arms."""
    named = {
        "recommended": comparison.recommended,
        "best in hindsight": comparison.best_in_hindsight,
        "reference": comparison.reference,
    }
    return [words for words, name in named.items() if name == arm]


def colour(comparison: Comparison, arm: str) -> str:
    """The colour of an arm: the recommended one's, the reference's, or that of all others."""
    if arm == comparison.recommended:
        return RECOMMENDED
    return REFERENCE if arm == comparison.reference else OTHERS


def line_style(arm: str) -> str:
    """Dotted for the untouched baseline, which is no way to go on."""
    return ":" if arm == UNTOUCHED else "-"


def short(names: Sequence[str], longest: int = 32) -> list[str]:
    """The names as plots write them: shortened in their middle if long."""
    return [readable(name, f"arm {number}", longest) for number, name in enumerate(names, 1)]


def explain(figure: Figure, text: str) -> None:
    """Write under a figure how it is to be read; unlike an axis' label it may be wider than the axes."""
    figure.supxlabel(text, fontsize=10, color=GREY, parse_math=False)


def name_rows(axes: Axes, comparison: Comparison) -> None:
    """Write an arm's name at each row, the recommended one's in bold."""
    names = [arm.arm for arm in comparison.arms]
    axes.set_yticks(range(len(names)), short(names), fontfamily=fonts(), parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for row, (label, name) in enumerate(zip(axes.get_yticklabels(), names, strict=True)):
        if name == comparison.recommended:
            label.set_fontweight("bold")
            label.set_color(RECOMMENDED)
            axes.axhspan(row - 0.5, row + 0.5, color=RECOMMENDED, alpha=0.08, lw=0)


def beside(
    axes: Axes, row: float, text: str, points: float, *, align: str = "left", colour: str = "black"
) -> None:
    """Write something into a row, so many points beyond the right edge of the axes."""
    axes.annotate(
        text,
        (1, row),
        xycoords=axes.get_yaxis_transform(),
        xytext=(points, 0),
        textcoords="offset points",
        va="center",
        ha=align,
        fontsize=10,
        color=colour,
        annotation_clip=False,
    )


def names_beside(
    figure: Figure,
    axes: Axes,
    ends: Sequence[tuple[float, float]],
    names: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Name points or the ends of lines beyond the right edge, in the order of their height, each with a thin line.

    Args:
        figure: That of the axes.
        axes: With its limits set.
        ends: Where each of them lies, in the units of the data; what lies off the axes is named at their edge.
        names: Of each, one line.
        colours: Of each name.
    """
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    heights = [(y - bottom) / (top - bottom) for _, y in ends]
    line = 14 / (72 * figure.get_figheight() * 0.78)  # of text, as a share of the axes
    for (x, _), height, place, name, each in zip(
        ends, heights, spaced(heights, line), names, colours, strict=True
    ):
        at = (x - left) / (right - left)
        if 0 <= height <= 1:
            axes.plot(
                [at, 1.0, 1.025],
                [height, height + 0.9 * (place - height), place],
                color=each,
                linewidth=0.6,
                alpha=0.45,
                transform=axes.transAxes,
                clip_on=False,
                zorder=1,
            )
        axes.annotate(
            name,
            (1.03, place),
            xycoords="axes fraction",
            va="center",
            fontsize=10,
            color=each,
            fontfamily=fonts(),
            parse_math=False,
            fontweight="normal" if each == OTHERS else "bold",
            annotation_clip=False,
        )


def spaced(places: Sequence[float], distance: float) -> list[float]:
    """The nearest places that are as far apart as this, in the same order, from 0 to 1 where they fit.

    Nearest in the sense of least squares: without the distances that must lie between them the places may not
    fall, which pooling neighbours solves (Barlow et al., 1972, Statistical Inference under Order Restrictions).
    """
    order = np.argsort(places, kind="stable")
    steps = distance * np.arange(len(order))
    pools: list[tuple[float, int]] = []
    for place in np.asarray(places, float)[order] - steps:
        mean, size = float(place), 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    level = np.repeat([mean for mean, _ in pools], [size for _, size in pools])
    if len(order):
        level = np.clip(level, 0, max(1 - steps[-1], 0))
    found = np.empty(len(order))
    found[order] = level + steps
    return found.tolist()
