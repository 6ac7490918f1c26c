"""The arms of a comparison against each other: test accuracy, and what each gains over the reference."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnadapt.evaluation.arms import ArmResult, ArmSummary, Comparison
from bnadapt.report.comparison_axes import (
    accuracy_edge,
    beside,
    colour,
    explain,
    limits,
    longest_axis,
    lower_edge,
    name_rows,
    roles,
    short,
)
from bnadapt.report.comparison_material import labels_in_words, reference, seed_accuracies
from bnadapt.report.comparison_tables import p_value, shows_difference
from bnadapt.report.style import GREEN, GREY, VERMILION, new_figure, percent_axis

Repetitions = Mapping[str, Sequence[ArmResult]]
ROW_HEIGHT = 0.4


def accuracy_by_arm(comparison: Comparison, results: Repetitions) -> Figure:
    """Test accuracy of every arm, its mean with the 95 % interval, and each seed as a small dot.

    Where a few arms lie far below the others the axis starts above them; arrows at its edge stand for them.
    """
    figure, axes = _rows(f"Test accuracy of every arm, {labels_in_words(comparison.labels)}", comparison)
    yardstick = reference(comparison)
    edge = accuracy_edge(comparison)
    shown = [arm for arm in comparison.arms if edge is None or arm.test >= edge]
    seeds = {arm.arm: seed_accuracies(results.get(arm.arm, ())) for arm in comparison.arms}
    values = [value for arm in shown for value in (arm.low, arm.high, *seeds[arm.arm])]
    left, right = limits(values)
    axes.set_xlim(left, right)
    if yardstick is not None:
        axes.axvline(yardstick.test, color="black", linestyle="--", linewidth=1.2, zorder=1)
        _say(axes, yardstick.test, f"reference: {short([yardstick.arm])[0]}", "center", 0)
    for row, arm in enumerate(comparison.arms):
        shade = colour(comparison, arm.arm)
        beside(axes, row, f"{100 * arm.test:.2f} %", 62, align="right", colour=shade)
        beside(axes, row, "\n".join(roles(comparison, arm.arm)), 74, colour=shade)
        if arm not in shown:
            _below(axes, row, shade)
            continue
        _mean(axes, row, arm, shade)
        if len(seeds[arm.arm]) > 1:
            axes.plot(
                seeds[arm.arm], [row + 0.27] * len(seeds[arm.arm]), "o", color=shade, markersize=3.5, alpha=0.6
            )  # fmt: skip
    name_rows(axes, comparison)
    percent_axis(axes, "x")
    several = any(len(each) > 1 for each in seeds.values())
    words = (
        "mean over the seeds with its 95 % interval; small dots: each seed" if several else "95 % intervals"
    )
    left_out = "; arrows: further to the left" if len(shown) < len(comparison.arms) else ""
    start = "" if left <= 0 else "; the axis does not start at zero"
    axes.locator_params(axis="x", nbins=7)
    axes.set_xlabel(f"accuracy on the test images{start}", fontsize=11)
    explain(figure, f"{words}{left_out}")
    return figure


def differences_to_reference(comparison: Comparison) -> Figure:
    """What every arm gains or loses on the test images against the reference, in percentage points.

    Coloured is what the data show: an interval without zero, and an adjusted p-value below 0.05.
    """
    yardstick = short([comparison.reference])[0]
    title = f"Test accuracy minus that of {yardstick}, {labels_in_words(comparison.labels)}"
    figure, axes = _rows(title, comparison)
    found = [arm.against_reference for arm in comparison.arms]
    estimates = [0.0 if each is None else each.estimate for each in found]
    edge = lower_edge(estimates, longest_axis([(each.low, each.high) for each in found if each]), [0.0])
    ends = [0.0]
    for each in found:
        if each is not None and (edge is None or each.estimate >= edge):
            ends += [each.low, each.high]
    left, right = limits([100 * end for end in ends], ends=(-100, 100))
    axes.set_xlim(left, right)
    axes.axvline(0, color="black", linewidth=1.2, zorder=1)
    for row, (arm, each) in enumerate(zip(comparison.arms, found, strict=True)):
        if each is None:
            axes.plot(0, row, "D", color="black", markersize=6)
            beside(axes, row, "reference", 12)
            continue
        shade = GREY if not shows_difference(arm) else GREEN if each.estimate > 0 else VERMILION
        numbers = f"{100 * each.estimate:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})"
        beside(axes, row, numbers, 12, colour=shade)
        beside(axes, row, f"p {p_value(arm.adjusted)}", 155, colour=shade)
        if edge is not None and each.estimate < edge:
            _below(axes, row, shade)
            continue
        axes.plot(
            [100 * each.low, 100 * each.high], [row, row], color=shade, linewidth=3, solid_capstyle="butt"
        )
        axes.plot(100 * each.estimate, row, "o", color=shade, markersize=8, markeredgecolor="white")
    name_rows(axes, comparison)
    _say(axes, 0, "\N{LEFTWARDS ARROW} worse", "right", -8)
    _say(axes, 0, "better \N{RIGHTWARDS ARROW}", "left", 8)
    axes.xaxis.set_major_formatter(lambda points, _: f"{points:+.10g}" if points else "0")
    left_out = "; arrows: further to the left" if edge is not None else ""
    axes.locator_params(axis="x", nbins=7)
    axes.set_xlabel(f"percentage points, with 95 % interval{left_out}", fontsize=11)
    explain(
        figure,
        "coloured: the interval leaves out zero, and p, corrected for the number of arms (Holm), is below 0.05",
    )
    return figure


def _rows(title: str, comparison: Comparison) -> tuple[Figure, Axes]:
    figure, axes = new_figure(title, height=2.0 + ROW_HEIGHT * len(comparison.arms))
    axes.grid(axis="x", color=GREY, alpha=0.25)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _mean(axes: Axes, row: int, arm: ArmSummary, shade: str) -> None:
    axes.errorbar(
        arm.test,
        row,
        xerr=[[max(arm.test - arm.low, 0)], [max(arm.high - arm.test, 0)]],
        fmt="o",
        color=shade,
        markersize=8,
        markeredgecolor="white",
        elinewidth=2,
        capsize=4,
    )


def _below(axes: Axes, row: int, shade: str) -> None:
    """An arrow at the left edge, for what lies beyond it."""
    axes.plot(0.012, row, "<", color=shade, markersize=8, transform=axes.get_yaxis_transform())


def _say(axes: Axes, x: float, text: str, align: str, points: float) -> None:
    """Write something above the axes."""
    axes.annotate(
        text,
        (x, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(points, 3),
        textcoords="offset points",
        ha=align,
        va="bottom",
        fontsize=10,
        parse_math=False,
        annotation_clip=False,
    )
