"""Stages against each other: accuracies with their intervals, and what changed for each class."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bnadapt.config import BASELINE
from bnadapt.evaluation.results import Scores, StageResult
from bnadapt.evaluation.significance import wilson
from bnadapt.report.style import BLUE, GREEN, GREY, VERMILION, fonts, new_figure, percent_axis, readable

CLASSES_SHOWN = 40


def accuracy_by_stage(results: Sequence[StageResult], best: str | None = None) -> Figure:
    """Validation and test accuracy after every stage, with 95 % intervals (Wilson's) of one network each.

    Points instead of bars, because the axis starts where the accuracies are: the length of a bar would
    then mean nothing. Two networks scored on the same images can differ for certain though their
    intervals overlap; that comparison is the verdict's.
    """
    figure, axes = new_figure("Accuracy after each stage", height=1.8 + 0.62 * max(len(results), 1))
    kinds = (
        ("validation images", "o", GREY, -0.16, [result.validation for result in results]),
        ("test images", "s", BLUE, 0.16, [result.test for result in results]),
    )
    for label, marker, colour, shift, scored in kinds:
        rows = [(row + shift, scores) for row, scores in enumerate(scored) if scores is not None]
        if not rows:
            continue
        values = np.array([scores.accuracy for _, scores in rows])
        intervals = np.array([wilson(scores) for _, scores in rows])
        axes.errorbar(
            values,
            [row for row, _ in rows],
            xerr=np.abs(intervals.T - values),
            fmt=marker,
            color=colour,
            markersize=8,
            capsize=4,
            label=f"{label} ({len(rows[0][1].correct):,})",
        )
        for (row, _), value, (_, high) in zip(rows, values, intervals, strict=True):
            axes.annotate(
                f"{100 * value:.2f} %",
                (high, row),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
                color=colour,
            )
    names = [f"{result.name} (kept)" if result.name == best else result.name for result in results]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(results) - 0.45, -0.55)
    axes.margins(x=0.16)
    percent_axis(axes, "x")
    axes.set_xlabel("accuracy, with 95 % interval; the axis does not start at zero", fontsize=12)
    axes.grid(axis="x", color=GREY, alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, fontsize=11, frameon=False)
    return figure


def recall_change(
    before: Scores, after: Scores, classes: Sequence[str], *, after_name: str, before_name: str = BASELINE
) -> Figure:
    """Change of each class's recall on the test images, in percentage points, the largest loss first.

    Of more than 40 classes the twenty at each end are drawn, and the axis says so; classes without
    images are left out, and counted.
    """
    change = 100 * (after.recall - before.recall)
    known = [index for index in np.argsort(change, kind="stable") if not math.isnan(change[index])]
    half = CLASSES_SHOWN // 2
    parted = len(known) > CLASSES_SHOWN
    shown = known[:half] + known[-half:] if parted else known
    rows = [row + (parted and row >= half) for row in range(len(shown))]
    figure, axes = new_figure(
        f"Recall of each class: {after_name} minus {before_name}", height=2.0 + 0.27 * max(len(shown), 3)
    )
    values = change[shown]
    axes.barh(rows, values, color=[GREEN if value > 0 else VERMILION for value in values], height=0.7)
    for row, value in zip(rows, values, strict=True):
        axes.annotate(
            f"{value:+.1f}" if abs(value) >= 0.05 else "0",
            (value, row),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if value >= 0 else "right",
            fontsize=9,
        )
    names = [readable(classes[index], f"class {index}") for index in shown]
    axes.set_yticks(rows, names, fontsize=10, fontfamily=fonts(), parse_math=False)
    axes.set_ylim(max(rows, default=0) + 0.6, -0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    widest = float(np.abs(values).max(initial=1.0))
    axes.set_xlim(-1.2 * widest, 1.2 * widest)
    axes.set_xlabel(
        "change of recall on the test images, in percentage points" + _left_out(change, known, shown),
        fontsize=12,
    )
    axes.grid(axis="x", color=GREY, alpha=0.25)
    return figure


def _left_out(change: np.ndarray, known: Sequence[int], shown: Sequence[int]) -> str:
    notes = []
    if len(shown) < len(known):
        middle = change[known[len(shown) // 2 : -(len(shown) // 2)]]
        between = f"({middle.min():+.1f} to {middle.max():+.1f})"
        notes.append(f"{len(known) - len(shown)} classes between {between} are not drawn")
    if len(known) < len(change):
        notes.append(f"{len(change) - len(known)} without test images")
    return "".join(f"\n{note}" for note in notes)
