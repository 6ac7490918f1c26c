"""What is behind the accuracies: confusions, statistics that do not fit, the shift, images that changed."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure

from bnadapt.evaluation.advice import STATISTICS_OFF
from bnadapt.evaluation.changes import ChangedImage, Changes
from bnadapt.evaluation.results import LayerGap, LayerShift
from bnadapt.report.style import (
    BLUE,
    DOTS_PER_INCH,
    GREEN,
    GREY,
    VERMILION,
    arrow,
    fonts,
    new_figure,
    readable,
)

Layer = TypeVar("Layer")

CLASSES_WITH_NUMBERS = 20
CLASSES_WITH_NAMES = 40
CONFUSIONS_LISTED = 20
LAYERS_SHOWN = 60
IMAGES_PER_ROW = 6
RIGHT = LinearSegmentedColormap.from_list("right", ["white", BLUE])
WRONG = LinearSegmentedColormap.from_list("wrong", ["white", VERMILION])


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], *, name: str) -> Figure:
    """How many test images of each class were given which class by the network of a stage.

    Up to 20 classes are drawn with the numbers; of more, the matrix is drawn in colours, and the 20 most
    frequent confusions are listed beside it.

    Args:
        counts: Rows are right classes, columns predicted ones, as of ``scores.confusion``.
        classes: Their names.
        name: Of the stage.
    """
    number = len(counts)
    title = f"Which classes {name} takes for which"
    if number <= CLASSES_WITH_NUMBERS:
        side = 3.4 + 0.42 * max(number, 5)
        figure, axes = new_figure(title, width=side + 0.6, height=side)
    else:
        figure = Figure(figsize=(14.0, 8.2), dpi=DOTS_PER_INCH, layout="constrained")
        figure.suptitle(title, fontsize=14, fontweight="bold")
        axes, beside = figure.subplots(1, 2, width_ratios=[2, 1])
        _list_confusions(beside, counts, classes)
    with np.errstate(invalid="ignore"):
        shares = np.nan_to_num(counts / counts.sum(axis=1, keepdims=True))
    right = np.eye(number, dtype=bool)
    wrong_shares = shares[~right]
    worst = max(float(wrong_shares.max(initial=0.0)), 1e-9)
    # Errors are few beside what is right: on one scale they would all be white.
    axes.imshow(np.where(right, RIGHT(0.75 * shares).T, WRONG(0.75 * np.sqrt(shares / worst)).T).T)
    if number <= CLASSES_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = row == column and shares[row, column] > 0.85
            axes.text(
                column,
                row,
                f"{counts[row, column]:,}",
                ha="center",
                va="center",
                fontsize=10 if number <= 12 else 8,
                color="white" if dark else "black",
            )
    _class_ticks(axes, classes)
    axes.set_xlabel("predicted class\n(blue: right, orange: wrong, shaded by share of the row)", fontsize=11)
    axes.set_ylabel("right class of the test images", fontsize=11)
    axes.spines[:].set_visible(True)
    return figure


def statistics_gaps(layers: Sequence[LayerGap], *, name: str) -> Figure:
    """How far each batch normalization layer's moving statistics are from the exact ones, and its idle gammas.

    Of more than 60 layers those with the largest gaps are drawn, in their order, and the axis says so.
    """
    figure = Figure(figsize=(11.0, _height(len(layers))), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(f"Batch normalization after {name}", fontsize=14, fontweight="bold")
    panels = figure.subplots(1, 3, sharey=True, squeeze=False)[0]
    shown = _largest(layers, [max(each.mean, each.deviation) for each in layers])
    names = [each.layer for each in shown]
    means, deviations = [each.mean for each in shown], [_percent_off(each.deviation) for each in shown]
    limit = _percent_off(STATISTICS_OFF)
    _bars(panels[0], names, means, "{:.2f}", least=1.2 * STATISTICS_OFF, threshold=STATISTICS_OFF)
    panels[0].set_xlabel("moving means are off by\n(in standard deviations)", fontsize=11)
    _bars(panels[1], names, deviations, "{:.0f} %", least=1.2 * limit, threshold=limit)
    panels[1].set_xlabel("moving standard deviations\nare off by (in %)", fontsize=11)
    _bars(panels[2], names, [100 * each.gammas_near_zero for each in shown], "{:.0f} %", least=10)
    panels[2].set_xlabel("gammas near zero\n(share of channels, in %)", fontsize=11)
    note = "dashed: from there on, statistics should be measured anew"
    if len(shown) < len(layers):
        note += f"; {len(layers) - len(shown)} more layers have smaller gaps and are not drawn"
    figure.supxlabel(note, fontsize=10, color=GREY)
    return figure


def statistics_shifts(shifts: Sequence[LayerShift], *, before: str, after: str) -> Figure:
    """How differently two data sets reach each batch normalization layer of one network.

    Of more than 60 layers those with the largest divergence are drawn, in their order, and the axis says so.
    """
    figure, axes = new_figure(
        f"Shift from {readable(before, 'one data set')} to {readable(after, 'the other')}, layer by layer",
        height=_height(len(shifts)),
    )
    shown = _largest(shifts, [each.divergence for each in shifts])
    _bars(axes, [each.layer for each in shown], [each.divergence for each in shown], "{:.3g}", least=1)
    label = "symmetric Kullback-Leibler divergence of the layer's inputs, mean over channels (nats)"
    label += "\n0: the same distribution; 1: as if all means were one standard deviation apart"
    if len(shown) < len(shifts):
        label += f"\n{len(shifts) - len(shown)} more layers have smaller shifts and are not drawn"
    axes.set_xlabel(label, fontsize=11)
    return figure


def changed_images_grid(
    changes: Changes, images: np.ndarray, classes: Sequence[str], *, before_name: str, after_name: str
) -> Figure:
    """The chosen images that one of two stages predicts rightly, each with its class and both predictions.

    Args:
        changes: As of ``changed_images``.
        images: Those of ``changes.shown``, 0 to 255, shape ``(images, height, width, channels)``.
        classes: Names of the classes.
        before_name: Of the stage before.
        after_name: Of the stage after.
    """
    parts = [
        (
            kind,
            total,
            [(each, image) for each, image in zip(changes.shown, images, strict=True) if each.gained == won],
        )
        for kind, total, won in (("Gained", changes.gained, True), ("Lost", changes.lost, False))
    ]
    rows = [max(math.ceil(len(chosen) / IMAGES_PER_ROW), 0) for *_, chosen in parts]
    heights = [0.5 + 1.95 * count for count in rows]
    figure = Figure(figsize=(10.0, 1.1 + sum(heights)), dpi=DOTS_PER_INCH, layout="constrained")
    figure.suptitle(
        f"Test images that changed from {before_name} to {after_name}", fontsize=14, fontweight="bold"
    )
    figure.supxlabel(
        f"above each image its right class, below it what {before_name} and then {after_name} predicted",
        fontsize=10,
        color=GREY,
    )
    places = figure.subfigures(2, 1, height_ratios=heights, squeeze=False).ravel()
    for part, (kind, total, chosen), count in zip(places, parts, rows, strict=True):
        only = after_name if kind == "Gained" else before_name
        shown = f", {len(chosen)} of them shown" if len(chosen) < total else ""
        part.suptitle(f"{kind}: {total:,} that only {only} has right{shown}", fontsize=12, x=0.01, ha="left")
        _draw_images(part, chosen, count, classes, GREEN if kind == "Gained" else VERMILION)
    return figure


def _draw_images(
    figure: SubFigure,
    chosen: Sequence[tuple[ChangedImage, np.ndarray]],
    rows: int,
    classes: Sequence[str],
    colour: str,
) -> None:
    if not rows:
        return
    places = figure.subplots(rows, IMAGES_PER_ROW, squeeze=False).ravel()
    for axes in places[len(chosen) :]:
        axes.set_axis_off()
    for axes, (change, image) in zip(places, chosen, strict=False):
        right, before, after = (
            readable(classes[index], f"class {index}", longest=15)
            for index in (change.label, change.before, change.after)
        )
        axes.imshow(_pixels(image), cmap="gray", vmin=0, vmax=1)
        axes.set_title(right, fontsize=10, fontfamily=fonts(), parse_math=False)
        named = arrow(before, after, lines=len(before) + len(after) > 14)
        axes.set_xlabel(named, fontsize=9, color=colour, fontfamily=fonts(), parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=2)


def _pixels(image: np.ndarray) -> np.ndarray:
    """An image as matplotlib takes it, 0 to 1: its first three channels as colours where it has them, else in grey."""
    scaled = np.clip(image / 255, 0, 1)
    # A fourth is transparency or infrared: nothing that a mean over all would show.
    return scaled[..., :3] if image.shape[-1] in (3, 4) else scaled.mean(axis=-1)


def _class_ticks(axes: Axes, classes: Sequence[str]) -> None:
    number = len(classes)
    step = 1 if number <= CLASSES_WITH_NAMES else math.ceil(number / CLASSES_WITH_NAMES)
    places = list(range(0, number, step))
    names = [readable(classes[index], f"class {index}", longest=18) for index in places]
    size = 10 if number <= CLASSES_WITH_NUMBERS else 7
    short = max(map(len, names), default=0) * max(number, 5) <= 40
    axes.set_yticks(places, names, fontsize=size, fontfamily=fonts(), parse_math=False)
    axes.set_xticks(
        places, names, fontsize=size, fontfamily=fonts(), parse_math=False, rotation=0 if short else 90
    )


def _list_confusions(axes: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Bars of the most frequent confusions, from the most frequent down."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_LISTED]
    pairs = [(int(each) // len(counts), int(each) % len(counts)) for each in order if wrong.flat[each]]
    names = [
        arrow(*(readable(classes[index], f"class {index}", longest=16) for index in pair)) for pair in pairs
    ]
    if not pairs:
        axes.set_axis_off()
        axes.set_title("no class was taken for another", fontsize=11)
        return
    numbers = [int(wrong[pair]) for pair in pairs]
    axes.barh(range(len(pairs)), numbers, color=VERMILION, height=0.7)
    for row, value in enumerate(numbers):
        axes.annotate(
            f"{value:,}", (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_yticks(range(len(pairs)), names, fontsize=9, fontfamily=fonts(), parse_math=False)
    axes.set_ylim(CONFUSIONS_LISTED - 0.4, -0.6)
    axes.margins(x=0.15)
    axes.set_title("most frequent confusions\n(right class \u2192 predicted class)", fontsize=11)
    axes.set_xlabel("test images", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    text: str,
    *,
    least: float,
    threshold: float | None = None,
) -> None:
    """Horizontal bars from the first layer down, with their values, and a dashed line at a threshold.

    ``least`` has room on the axis however small the values are, lest what is next to nothing looks like much.
    """
    known = [0.0 if math.isnan(value) else value for value in values]
    colours = [VERMILION if threshold is not None and value > threshold else BLUE for value in known]
    axes.barh(range(len(known)), known, color=colours, height=0.7)
    for row, value in enumerate(values):
        axes.annotate(
            "no gamma" if math.isnan(value) else text.format(value),
            (known[row], row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"color": "white", "alpha": 0.7, "pad": 0.5},
        )
    size = 10 if len(names) <= 20 else 8
    axes.set_yticks(
        range(len(names)),
        [readable(name, f"layer {number}") for number, name in enumerate(names)],
        fontsize=size,
        fontfamily=fonts(),
        parse_math=False,
    )
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    if threshold is not None:
        axes.axvline(threshold, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlim(0, 1.25 * max([*known, least]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GREY, alpha=0.25)


def _percent_off(logarithm: float) -> float:
    """A factor given by its logarithm, as what it adds in per cent; cut where it is absurd."""
    return 100 * math.expm1(min(logarithm, 20))


def _largest(layers: Sequence[Layer], sizes: Sequence[float]) -> list[Layer]:
    """At most 60 of the layers, the largest, in their own order."""
    kept = sorted(range(len(layers)), key=lambda index: -sizes[index])[:LAYERS_SHOWN]
    return [layers[index] for index in sorted(kept)]


def _height(layers: int) -> float:
    count = min(max(layers, 2), LAYERS_SHOWN)
    return 1.9 + (0.34 if count <= 20 else 0.21) * count
