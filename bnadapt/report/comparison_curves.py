"""How the arms of a comparison trained: validation accuracy over steps, and over the learning rates tried."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from bnadapt.evaluation.arms import ArmResult, Comparison
from bnadapt.report.comparison_axes import RECOMMENDED, accuracy_edge, colour, explain, limits, roles, short
from bnadapt.report.comparison_material import (
    curve,
    labels_in_words,
    mean_by_rate,
    mean_curve,
    reference,
    summary,
)
from bnadapt.report.style import BLUE, DOTS_PER_INCH, GREY, fonts, new_figure, percent_axis

Repetitions = Mapping[str, Sequence[ArmResult]]
PANELS_PER_ROW = 4
PANEL_HEIGHT = 2.0
ACCURACY = LinearSegmentedColormap.from_list("accuracy", ["white", BLUE])


def curves_by_arm(comparison: Comparison, results: Repetitions) -> Figure:
    """Validation accuracy over the optimizer steps of every arm, a panel each, with all others behind it.

    Thick is the mean over the seeds, thin each seed. An arm that takes no steps is a level line.
    """
    arms = [arm.arm for arm in comparison.arms]
    columns = min(PANELS_PER_ROW, len(arms))
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(10.0, 1.6 + PANEL_HEIGHT * rows), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(
        f"Validation accuracy while training, {labels_in_words(comparison.labels)}", fontsize=14, fontweight="bold"
    )  # fmt: skip
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    means = {arm: mean_curve(results.get(arm, ())) for arm in arms}
    steps = max((steps[-1] for steps, _ in means.values() if steps), default=1)
    _shared_axes(panels[0, 0], comparison, results, steps)
    for axes, arm, name in zip(panels.flat, arms, short(arms, 26), strict=False):
        for other, (x, y) in means.items():
            if other != arm:
                axes.plot(x, y, color=GREY, linewidth=0.6, alpha=0.3)
        _panel(axes, comparison, arm, name, results.get(arm, ()), steps)
    for axes in list(panels.flat)[len(arms) :]:
        axes.set_visible(False)
    for column in range(columns):
        last = (len(arms) - 1 - column) // columns
        panels[last, column].tick_params(labelbottom=True)
        panels[last, column].set_xlabel("optimizer steps", fontsize=9)
    seeds = max((len(each) for each in results.values()), default=0)
    dashed = f"dashed: what the reference, {short([comparison.reference])[0]}, reached; "
    explain(
        figure,
        ("thick: mean over the seeds; thin: each seed; " if seeds > 1 else "")
        + "dot: the network that was kept; arrow: below the axis\n"
        + (dashed if reference(comparison) else "")
        + "thin and grey: the other arms",
    )
    figure.supylabel("accuracy on the validation images", fontsize=11)
    return figure


def rates_by_arm(comparison: Comparison, results: Repetitions) -> Figure:
    """Validation accuracy that each learning rate led to, a row for each arm that tried some; the kept ones framed."""
    tried = {arm: mean_by_rate(each) for arm, each in results.items()}
    arms = [arm.arm for arm in comparison.arms if tried.get(arm.arm)]
    rates = sorted({rate for arm in arms for rate in tried[arm]})
    figure, axes = new_figure(
        f"Learning rates tried, {labels_in_words(comparison.labels)}", height=1.9 + 0.4 * max(len(arms), 1)
    )
    scores = np.array([[tried[arm].get(rate, np.nan) for rate in rates] for arm in arms]).reshape(
        len(arms), len(rates)
    )
    known = scores[np.isfinite(scores)]
    edge = accuracy_edge(comparison)
    high = float(known.max(initial=0.0))
    low = max(float(known.min(initial=high)), 0.0 if edge is None else edge - 0.05)
    span = max(high - low, 1e-9)
    # Never white, which would look like nothing tried, and never too dark for black letters.
    shades = 0.08 + 0.67 * np.clip((scores - low) / span, 0, 1)
    axes.imshow(np.ma.masked_invalid(shades), cmap=ACCURACY, vmin=0, vmax=1, aspect="auto")
    for row, arm in enumerate(arms):
        kept = {each.learning_rate for each in results[arm]}
        for column, rate in enumerate(rates):
            if np.isnan(scores[row, column]):
                if rate in tried[arm]:
                    axes.text(column, row, "ran away", ha="center", va="center", fontsize=10, color=GREY)
                continue
            axes.text(
                column,
                row,
                f"{100 * scores[row, column]:.1f} %",
                ha="center",
                va="center",
                fontsize=10,
                fontweight="bold" if rate in kept else "normal",
            )
            if rate in kept:
                axes.add_patch(
                    Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, fill=False, edgecolor="black", linewidth=2)
                )  # fmt: skip
    axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.set_yticks(range(len(arms)), short(arms), fontfamily=fonts(), parse_math=False)
    for label, arm in zip(axes.get_yticklabels(), arms, strict=True):
        if arm == comparison.recommended:
            label.set_fontweight("bold")
            label.set_color(RECOMMENDED)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("learning rate", fontsize=11)
    explain(
        figure, "validation accuracy, the mean over the seeds that tried it; framed: the rate that was kept"
    )
    return figure


def _panel(
    axes: Axes, comparison: Comparison, arm: str, name: str, results: Sequence[ArmResult], steps: int
) -> None:
    shade, found = colour(comparison, arm), summary(comparison, arm)
    yardstick = reference(comparison)
    if yardstick is not None:
        axes.axhline(yardstick.validation, color="black", linestyle="--", linewidth=0.9)
    x, y = mean_curve(results)
    if len(results) > 1:
        for each in results:
            points = sorted(curve(each).items())
            axes.plot(
                [step for step, _ in points], [value for _, value in points], color=shade, lw=0.7, alpha=0.5
            )
    if x:
        axes.plot(x, y, color=shade, linewidth=2.2)
        axes.plot(
            steps, found.validation, "o", color=shade, markersize=6, markeredgecolor="white", clip_on=False
        )
    else:
        axes.plot([0, steps], [found.validation] * 2, color=shade, linewidth=2.2, linestyle=":")
    if not axes.get_ylim()[0] <= found.validation <= 1.1:
        axes.plot(0.5, 0.06, "v", color=shade, markersize=8, transform=axes.transAxes)
    words = ", ".join(words for words in roles(comparison, arm) if words != "best in hindsight")
    axes.set_title(name, fontsize=10, fontweight="bold", color=shade, loc="left", parse_math=False, pad=16)
    axes.annotate(
        f"{100 * found.validation:.1f} %" + (f", {words}" if words else "") + ("" if x else ", no steps"),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=9,
        color=shade,
        annotation_clip=False,
    )
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GREY, alpha=0.25)


def _shared_axes(axes: Axes, comparison: Comparison, results: Repetitions, steps: int) -> None:
    """Limits in which the ends of the curves can be told apart; what starts or stays below is cut off."""
    ends = [arm.validation for arm in comparison.arms]
    seen = [look.val_accuracy for found in results.values() for each in found for look in each.history]
    edge = accuracy_edge(comparison)
    kept = [value for value in ends if edge is None or value >= edge - 0.02] or ends
    low, high = limits([*kept, *(value for value in seen if value >= min(kept))])
    axes.set_ylim(low - 0.25 * (high - low) if low > 0 else low, high)
    axes.set_xlim(0, 1.03 * steps)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    percent_axis(axes, "y")
