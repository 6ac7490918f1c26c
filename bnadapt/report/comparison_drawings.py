"""The plots of a comparison: which there are, what they are called, and in which part of the report they stand."""

from functools import partial

from bnadapt.evaluation.arms import Comparison
from bnadapt.report.comparison_choice import accuracy_by_labels, validation_against_test
from bnadapt.report.comparison_curves import curves_by_arm, rates_by_arm
from bnadapt.report.comparison_material import ComparisonMaterial, labels_in_words
from bnadapt.report.comparison_plots import accuracy_by_arm, differences_to_reference
from bnadapt.report.drawing import Drawing
from bnadapt.report.look import class_drawings, normalization_drawings
from bnadapt.report.subject import drawing_about_rows

ARMS, TRAINING, CHOICE, LEVELS = "Arms", "Training", "Choice on validation", "Numbers of labels"


def comparison_drawings(material: ComparisonMaterial) -> list[Drawing]:
    """The plots that the material is enough for; none of them is drawn yet.

    With one number of labels they stand in sections by subject, with several in one section for each number.
    """
    found = _drawings(material)
    return [drawing_about_rows(each) for each in found] if material.rows else found


def _drawings(material: ComparisonMaterial) -> list[Drawing]:
    look, (source, target) = material.look, material.names
    found = [
        *(each for comparison in material.comparisons for each in _of_one(material, comparison)),
        *(class_drawings(look) if look is not None else []),
        *normalization_drawings(
            look.name if look else "", material.diagnosis, material.shifts, source, target
        ),
    ]
    if len(material.comparisons) < 2:
        return found
    title = "Test accuracy of every arm over the number of labels"
    return [
        Drawing(LEVELS, "accuracy_by_labels", title, partial(accuracy_by_labels, material.comparisons)),
        *found,
    ]


def section_of(material: ComparisonMaterial, comparison: Comparison, subject: str) -> str:
    """Title of the section that a subject of a comparison stands in."""
    if len(material.comparisons) == 1:
        return subject
    words = labels_in_words(comparison.labels)
    return words[0].upper() + words[1:]


def _of_one(material: ComparisonMaterial, comparison: Comparison) -> list[Drawing]:
    results = material.of(comparison)
    several = len(material.comparisons) > 1
    labels = "all" if comparison.labels is None else comparison.labels
    words = f", {labels_in_words(comparison.labels)}" if several else ""

    def drawing(subject: str, name: str, title: str, draw: partial) -> Drawing:
        section = section_of(material, comparison, subject)
        return Drawing(section, f"{name}_{labels}_labels" if several else name, f"{title}{words}", draw)

    tried = any(each.rates for found in results.values() for each in found)
    looked = any(each.history for found in results.values() for each in found)
    compared = any(arm.against_reference is not None for arm in comparison.arms)
    found = [
        drawing(
            ARMS,
            "accuracy_by_arm",
            "Test accuracy of every arm, with 95 % intervals",
            partial(accuracy_by_arm, comparison, results),
        )
    ]
    if compared:
        found.append(
            drawing(
                ARMS,
                "difference_to_reference",
                f"Test accuracy of every arm minus that of {comparison.reference}",
                partial(differences_to_reference, comparison),
            )
        )
    if looked:
        found.append(
            drawing(
                TRAINING,
                "validation_accuracy",
                "Validation accuracy of every arm over its optimizer steps",
                partial(curves_by_arm, comparison, results),
            )
        )
    if tried:
        found.append(
            drawing(
                TRAINING,
                "learning_rates",
                "Validation accuracy of every arm with every learning rate tried",
                partial(rates_by_arm, comparison, results),
            )
        )
    found.append(
        drawing(
            CHOICE,
            "validation_and_test",
            "Validation accuracy against test accuracy of every arm",
            partial(validation_against_test, comparison),
        )
    )
    return found
