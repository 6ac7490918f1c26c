"""The plots of a pipeline: which there are, what they are called, and in which part of the report they stand."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from bnadapt.config import BASELINE
from bnadapt.evaluation.scores import confusion
from bnadapt.report.comparisons import accuracy_by_stage, recall_change
from bnadapt.report.curves import accuracy_curve, loss_curves
from bnadapt.report.diagnostics import (
    changed_images_grid,
    confusion_matrix,
    statistics_gaps,
    statistics_shifts,
)
from bnadapt.report.material import Material
from bnadapt.report.style import png_of

STAGES, TRAINING, CLASSES = "Stages", "Training", "Classes and images"
NORMALIZATION = "Batch normalization"


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


def drawings(material: Material) -> list[Drawing]:
    """The plots that the material is enough for; none of them is drawn yet."""
    results, best = material.results, material.best
    return [
        Drawing(
            STAGES,
            "accuracy_by_stage",
            "Accuracy after each stage, with 95 % intervals",
            lambda: accuracy_by_stage(results, best),
        ),
        Drawing(
            TRAINING,
            "validation_accuracy",
            "Validation accuracy over the epochs of all stages",
            lambda: accuracy_curve(results, best),
        ),
        Drawing(TRAINING, "loss", "Loss over the epochs of all stages", lambda: loss_curves(results)),
        *_of_classes(material),
        *_of_normalization(material),
    ]


def _of_classes(material: Material) -> list[Drawing]:
    kept, baseline, classes = material.result(material.best), material.result(BASELINE), material.classes
    found = []
    if kept is None or kept.test is None or material.labels is None:
        return []
    after, labels, name = kept.test, material.labels, kept.name
    if baseline is not None and baseline.test is not None and baseline is not kept:
        before = baseline.test
        found.append(
            Drawing(
                CLASSES,
                "recall_change",
                f"Change of each class's recall from {BASELINE} to {name}",
                lambda: recall_change(before, after, classes, after_name=name),
            )
        )
    found.append(
        Drawing(
            CLASSES,
            "confusion_matrix",
            f"Confusion matrix of {name}",
            lambda: confusion_matrix(
                confusion(labels, after.predicted, len(classes)), list(classes), name=name
            ),
        )
    )
    changes, images = material.changes, material.changed_images
    if changes is not None and changes.shown and images is not None:
        found.append(
            Drawing(
                CLASSES,
                "changed_images",
                f"Test images that {BASELINE} and {name} put into different classes",
                lambda: changed_images_grid(
                    changes, images, list(classes), before_name=BASELINE, after_name=name
                ),
            )
        )
    return found


def _of_normalization(material: Material) -> list[Drawing]:
    found = []
    diagnosed = material.diagnosed()
    if diagnosed is not None and diagnosed.diagnosis is not None:
        layers, name = diagnosed.diagnosis.layers, diagnosed.name
        found.append(
            Drawing(
                NORMALIZATION,
                "statistics_gap",
                f"Moving statistics against exact ones in each layer after {name}",
                lambda: statistics_gaps(layers, name=name),
            )
        )
    if material.shifts:
        found.append(
            Drawing(
                NORMALIZATION,
                "statistics_shift",
                f"Distance between {material.source} and {material.target} in each layer",
                lambda: statistics_shifts(material.shifts, before=material.source, after=material.target),
            )
        )
    return found
