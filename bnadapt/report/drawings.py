"""The plots of a pipeline: which there are, what they are called, and in which part of the report they stand."""

from bnadapt.config import BASELINE
from bnadapt.report.comparisons import accuracy_by_stage
from bnadapt.report.curves import accuracy_curve, loss_curves
from bnadapt.report.drawing import Drawing
from bnadapt.report.look import Look, class_drawings, normalization_drawings
from bnadapt.report.material import Material
from bnadapt.report.subject import drawing_about_rows

STAGES, TRAINING = "Stages", "Training"


def drawings(material: Material) -> list[Drawing]:
    """The plots that the material is enough for; none of them is drawn yet."""
    results, best = material.results, material.best
    found = [
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
    return [drawing_about_rows(each) for each in found] if material.rows else found


def look_of(material: Material) -> Look | None:
    """The kept network next to the baseline; None where nothing was evaluated."""
    kept, baseline = material.result(material.best), material.result(BASELINE)
    if kept is None or kept.test is None or material.labels is None:
        return None
    before = baseline.test if baseline is not None and baseline is not kept else None
    return Look(
        kept.name, BASELINE, material.classes, material.labels, kept.test, before, material.changes,
        material.changed_images,
    )  # fmt: skip


def _of_classes(material: Material) -> list[Drawing]:
    look = look_of(material)
    return [] if look is None else class_drawings(look)


def _of_normalization(material: Material) -> list[Drawing]:
    found = material.diagnosed()
    name, diagnosis = (found.name, found.diagnosis) if found is not None else ("", None)
    return normalization_drawings(name, diagnosis, material.shifts, material.source, material.target)
