"""The plots of a pipeline: which there are, what they are called, and in which part of the report they stand."""

from bnadapt.config import BASELINE
from bnadapt.report.comparisons import accuracy_by_stage
from bnadapt.report.curves import accuracy_curve, loss_curves
from bnadapt.report.drawing import Drawing
from bnadapt.report.look import Look, class_drawings, normalization_drawings
from bnadapt.report.material import Material

STAGES, TRAINING = "Stages", "Training"


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
    kept, baseline = material.result(material.best), material.result(BASELINE)
    if kept is None or kept.test is None or material.labels is None:
        return []
    before = baseline.test if baseline is not None and baseline is not kept else None
    return class_drawings(
        Look(
            kept.name, BASELINE, material.classes, material.labels, kept.test, before, material.changes,
            material.changed_images,
        )
    )  # fmt: skip


def _of_normalization(material: Material) -> list[Drawing]:
    found = material.diagnosed()
    name, diagnosis = (found.name, found.diagnosis) if found is not None else ("", None)
    return normalization_drawings(name, diagnosis, material.shifts, material.source, material.target)
