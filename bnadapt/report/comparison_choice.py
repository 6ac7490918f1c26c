"""What choosing on the validation images could see, and how the arms do as the number of labels grows."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from bnadapt.config import UNTOUCHED
from bnadapt.evaluation.arms import Comparison
from bnadapt.report.comparison_axes import (
    OTHERS,
    REFERENCE,
    accuracy_edge,
    colour,
    explain,
    limits,
    line_style,
    longest_axis,
    lower_edge,
    names_beside,
    short,
)
from bnadapt.report.comparison_material import labels_in_words, summary
from bnadapt.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, new_figure, percent_axis

# Of arms that are recommended with some number of labels, in the order in which they are.
WINNERS = (BLUE, GREEN, VERMILION, PURPLE, ORANGE, SKY)


def validation_against_test(comparison: Comparison) -> Figure:
    """Mean test accuracy of each arm over its mean validation accuracy, on which alone the choice rests.

    On the diagonal both are the same. The best in hindsight lies furthest up; the recommended arm need not lie
    furthest to the right, because the validation loss decides among arms that are nearly as accurate.
    """
    title = f"What choosing on validation could see, {labels_in_words(comparison.labels)}"
    figure, axes = new_figure(title, height=max(5.4, 1.8 + 0.3 * len(comparison.arms)))
    edge = accuracy_edge(comparison)
    shown = [arm for arm in comparison.arms if edge is None or arm.test >= edge]
    low, high = limits([value for arm in shown for value in (arm.validation, arm.test)])
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1)
    ends, names, colours = [], [], []
    for arm, name in zip(comparison.arms, short([arm.arm for arm in comparison.arms]), strict=True):
        shade = colour(comparison, arm.arm)
        x, y = min(max(arm.validation, low), high), max(arm.test, low)
        marks = {comparison.best_in_hindsight: "D", comparison.recommended: "*"}
        axes.plot(
            x,
            y,
            "<" if arm not in shown else marks.get(arm.arm, "o"),
            color=shade,
            markersize=17 if arm.arm == comparison.recommended else 8,
            markeredgecolor="white",
            clip_on=False,
            zorder=4 if arm.arm == comparison.recommended else 3,
        )
        ends.append((x, arm.test))
        names.append(name if arm in shown else f"{name} (below: {100 * arm.test:.1f} %)")
        colours.append(shade)
    names_beside(figure, axes, ends, names, colours)
    percent_axis(axes, "x")
    percent_axis(axes, "y")
    axes.locator_params(nbins=7)
    axes.set_xlabel("mean accuracy on the validation images, which the choice rests on", fontsize=11)
    explain(
        figure,
        "star: recommended; diamond: best in hindsight; black: reference; dashed: as good on both\n"
        f"regret, what choosing on validation cost: {100 * comparison.regret:.1f} points of test accuracy",
    )
    axes.set_ylabel("mean accuracy on the test images", fontsize=11)
    axes.grid(color=GREY, alpha=0.25)
    return figure


def accuracy_by_labels(comparisons: Sequence[Comparison]) -> Figure:
    """Mean test accuracy of every arm over the number of labels, which grows evenly in its logarithm.

    All labels stand at the right end. A star marks the arm that is recommended with that number.
    """
    levels = sorted(comparisons, key=lambda each: math.inf if each.labels is None else each.labels)
    places = _places([each.labels for each in levels])
    arms = list(dict.fromkeys(arm.arm for each in levels for arm in each.arms))
    figure, axes = new_figure(
        "Test accuracy over the number of labels", height=max(5.4, 1.8 + 0.3 * len(arms))
    )
    lines = {arm: _line(levels, places, arm) for arm in arms}
    room = 0.04 * (places[-1] - places[0]) or 1.0
    axes.set_xlim(places[0] - room, places[-1] + room)
    highest = {arm: max(y for _, y in line) for arm, line in lines.items()}
    intervals = [(arm.low, arm.high) for each in levels for arm in each.arms]
    references = [highest[each.reference] for each in levels if each.reference in highest]
    edge = lower_edge(list(highest.values()), longest_axis(intervals), references)
    kept = [arm for arm in arms if edge is None or highest[arm] >= edge]
    low, high = limits([y for arm in kept for _, y in lines[arm]])
    axes.set_ylim(low, high)
    colours = _colours(levels, arms)
    for arm in sorted(arms, key=lambda arm: colours[arm] != OTHERS):
        x, y = zip(*lines[arm], strict=True)
        plain = colours[arm] == OTHERS
        axes.plot(
            x,
            y,
            color=colours[arm],
            linestyle=line_style(arm),
            linewidth=1 if plain else 2.2,
            alpha=0.6 if plain else 1,
            marker="o",
            markersize=3 if plain else 5,
        )
    for place, each in zip(places, levels, strict=True):
        height = summary(each, each.recommended).test
        shade = colours[each.recommended]
        axes.plot(place, height, "*", color=shade, markersize=20, markeredgecolor="white", zorder=4)
    names = dict(zip(arms, short(arms), strict=True))
    for arm in arms:
        names[arm] += "" if arm in kept else f" (below: {100 * lines[arm][-1][1]:.1f} %)"
        names[arm] += " (reference)" if arm in {each.reference for each in levels} else ""
    names_beside(
        figure,
        axes,
        [lines[arm][-1] for arm in arms],
        [names[arm] for arm in arms],
        [colours[arm] for arm in arms],
    )
    axes.set_xticks(places, ["all" if each.labels is None else f"{each.labels:,}" for each in levels])
    percent_axis(axes, "y")
    axes.set_xlabel("labels per class", fontsize=11)
    explain(figure, "a star marks the arm that is recommended with that number of labels")
    axes.set_ylabel("mean accuracy on the test images", fontsize=11)
    axes.grid(color=GREY, alpha=0.25)
    return figure


def _places(labels: Sequence[int | None]) -> list[float]:
    """Where each number of labels lies: its logarithm, and all labels a typical step beyond the last of them."""
    numbers = [math.log10(each) for each in labels if each is not None]
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else 1.0
    return [*numbers, *([(numbers[-1] if numbers else 0.0) + step] if None in labels else [])]


def _line(levels: Sequence[Comparison], places: Sequence[float], arm: str) -> list[tuple[float, float]]:
    return [
        (place, found.test)
        for place, each in zip(places, levels, strict=True)
        for found in each.arms
        if found.arm == arm
    ]


def _colours(levels: Sequence[Comparison], arms: Sequence[str]) -> dict[str, str]:
    """Of the arms that are recommended somewhere a colour each, the reference black, the others grey."""
    winners = list(dict.fromkeys(each.recommended for each in levels))
    found = dict.fromkeys(arms, OTHERS)
    found |= {each.reference: REFERENCE for each in levels}
    return found | {
        arm: WINNERS[number % len(WINNERS)] for number, arm in enumerate(winners) if arm != UNTOUCHED
    }
