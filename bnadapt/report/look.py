"""A network looked at closely: its classes, the images that changed, its batch normalization."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnadapt.evaluation.changes import ChangedImage, Changes
from bnadapt.evaluation.results import Diagnosis, LayerShift, Scores
from bnadapt.evaluation.scores import confusion
from bnadapt.report.comparisons import recall_change
from bnadapt.report.diagnostics import (
    changed_images_grid,
    confusion_matrix,
    statistics_gaps,
    statistics_shifts,
)
from bnadapt.report.drawing import Drawing
from bnadapt.report.page import Table
from bnadapt.report.tables import MISSING, percent

CLASSES, NORMALIZATION = "Classes and images", "Batch normalization"
FOLDED_FROM = 12  # layers, or rows of a table
COLUMNS_SHOWN = 8
CLASSES_LISTED = 20


@dataclass(frozen=True)
class Look:
    """What one network gets right on the test images, next to an earlier one.

    Attributes:
        name: What it is called.
        before_name: What the earlier one is called.
        classes: Names of the classes.
        labels: Right classes of the test images, int64 of shape ``(images,)``.
        after: Its scores on the test images.
        before: Those of the earlier network; None where there is none to compare with.
        changes: Images that the two put into different classes; None where nobody looked.
        images: Those of them that are shown, ``(images, height, width, channels)``, or ``(rows, features)``.
    """

    name: str
    before_name: str
    classes: Sequence[str]
    labels: np.ndarray
    after: Scores
    before: Scores | None = None
    changes: Changes | None = None
    images: np.ndarray | None = None


def class_drawings(look: Look) -> list[Drawing]:
    """The plots of classes and images that there is enough known for; none of them is drawn yet."""
    name, before, classes = look.name, look.before, list(look.classes)
    found = []
    if before is not None:
        found.append(
            Drawing(
                CLASSES,
                "recall_change",
                f"Change of each class's recall from {look.before_name} to {name}",
                lambda: recall_change(before, look.after, classes, after_name=name),
            )
        )
    found.append(
        Drawing(
            CLASSES,
            "confusion_matrix",
            f"Confusion matrix of {name}",
            lambda: confusion_matrix(
                confusion(look.labels, look.after.predicted, len(classes)), classes, name=name
            ),
        )
    )
    changes, images = look.changes, look.images
    if changes is not None and changes.shown and images is not None and images.ndim > 2:
        found.append(
            Drawing(
                CLASSES,
                "changed_images",
                f"Test images that {look.before_name} and {name} put into different classes",
                lambda: changed_images_grid(
                    changes, images, classes, before_name=look.before_name, after_name=name
                ),
            )
        )
    return found


def normalization_drawings(
    name: str, diagnosis: Diagnosis | None, shifts: Sequence[LayerShift], source: str, target: str
) -> list[Drawing]:
    """The plots of batch normalization that there is enough known for; none of them is drawn yet."""
    found = []
    if diagnosis is not None:
        found.append(
            Drawing(
                NORMALIZATION,
                "statistics_gap",
                f"Moving statistics against exact ones in each layer after {name}",
                lambda: statistics_gaps(diagnosis.layers, name=name),
            )
        )
    if shifts:
        found.append(
            Drawing(
                NORMALIZATION,
                "statistics_shift",
                f"Distance between {source} and {target} in each layer",
                lambda: statistics_shifts(shifts, before=source, after=target),
            )
        )
    return found


def words_on_changes(changes: Changes | None, before_name: str, name: str) -> tuple[str, ...]:
    """How many images changed between right and wrong, in a sentence; none where nobody looked."""
    if changes is None:
        return ()
    return (
        f"Of the test images {changes.gained:,} that {before_name} got wrong are right after {name}, and "
        f"{changes.lost:,} that it got right are wrong.",
    )


def changed_rows(look: Look) -> tuple[Table, ...]:
    """The rows of numbers that two networks put into different classes; nothing for images, which are drawn."""
    if look.changes is None or not look.changes.shown or look.images is None or look.images.ndim != 2:
        return ()
    features = look.images.shape[1]
    columns = range(min(features, COLUMNS_SHOWN))
    left_out = (
        f" Of {features:,} columns the first {len(columns)} are shown." if len(columns) < features else ""
    )

    def cells(change: ChangedImage, values: np.ndarray) -> tuple[str, ...]:
        named = (_named(look, number) for number in (change.label, change.before, change.after))
        return f"{change.index:,}", *named, *(f"{values[column]:.6g}" for column in columns)

    return (
        Table(
            (">test row", "right class", look.before_name, look.name, *(f">column {each + 1}" for each in columns)),
            tuple(cells(each, row) for each, row in zip(look.changes.shown, look.images, strict=True)),
            title=f"Test rows that changed from {look.before_name} to {look.name}",
            note=f"The first row is 0.{left_out}",
            folded=len(look.changes.shown) > FOLDED_FROM,
        ),
    )  # fmt: skip


def class_table(look: Look) -> tuple[Table, ...]:
    """What becomes of each class; of more than 20 those of which the fewest are right, and the rarest first of them.

    Accuracy hardly shows a rare class, and macro F1 not which one it is.
    """
    counts = np.bincount(look.labels, minlength=len(look.classes))
    known = [number for number in range(len(look.classes)) if counts[number]]
    parted = len(known) > CLASSES_LISTED
    if parted:
        known = sorted(known, key=lambda number: (look.after.recall[number], counts[number]))[:CLASSES_LISTED]
    before = look.before
    rows = tuple(
        (
            _named(look, number),
            f"{counts[number]:,}",
            *((percent(before.recall[number]),) if before is not None else ()),
            percent(look.after.recall[number]),
        )
        for number in known
    )
    listed = (
        f"{len(known)} classes with the lowest recall of {look.name}" if parted else "Recall of each class"
    )
    return (
        Table(
            (
                "class",
                ">test images",
                *((f">right after {look.before_name}",) if before is not None else ()),
                f">right after {look.name}",
            ),
            rows,
            title=listed,
            note=f"Macro F1, which counts every class the same: {look.after.macro_f1:.3f}"
            + (f", {before.macro_f1:.3f} after {look.before_name}." if before is not None else "."),
        ),
    )


def _named(look: Look, number: int) -> str:
    """The name of a class on one line."""
    return " ".join(look.classes[number].split()) or f"class {number}"


def diagnosis_tables(found: Sequence[tuple[str, Diagnosis]]) -> tuple[Table, ...]:
    """What batch normalization does in networks, by their names; nothing where nobody looked."""
    if not found:
        return ()
    rows = []
    for name, diagnosis in found:
        gap = max(diagnosis.layers, key=lambda each: each.mean)
        accuracies = percent(diagnosis.inference_accuracy), percent(diagnosis.batch_accuracy)
        rows.append((name, *accuracies, f"{gap.mean:.3f}\n{gap.layer}", _share_near_zero(diagnosis)))
    headings = (
        "after stage",
        ">accuracy with moving statistics",
        ">accuracy with batch statistics",
        ">largest gap of a layer's means",
        ">gammas near zero",
    )
    note = (
        f"Both accuracies are of the same {found[-1][1].images:,} validation images, cut into batches as in "
        "training. The gap is the distance between moving means and exact means of the training images, in "
        "standard deviations."
    )
    return (Table(headings, tuple(rows), note=note, title="What batch normalization does"),)


def shift_tables(shifts: Sequence[LayerShift], source: str, target: str) -> tuple[Table, ...]:
    """How two data sets differ for each layer; nothing where that was not measured."""
    if not shifts:
        return ()
    rows = tuple(
        (each.layer, f"{each.channels:,}", f"{each.divergence:.3f}", f"{each.mean:.3f}", f"{each.deviation:.3f}")
        for each in shifts
    )  # fmt: skip
    return (
        Table(
            ("layer", ">channels", ">divergence (nats)", ">shift of means", ">shift of deviations"),
            rows,
            title=f"From {source} to {target}, layer by layer",
            note="Divergence is the symmetric Kullback-Leibler divergence of the channels' normal distributions; means "
            f"are in standard deviations of {source}, deviations in natural logarithms of their ratio.",
            folded=len(rows) > FOLDED_FROM,
        ),
    )  # fmt: skip


def _share_near_zero(diagnosis: Diagnosis) -> str:
    layers = [each for each in diagnosis.layers if not math.isnan(each.gammas_near_zero)]
    channels = sum(each.channels for each in layers)
    if not channels:
        return MISSING
    return percent(sum(each.gammas_near_zero * each.channels for each in layers) / channels)
