"""What the report of a comparison is made of, gathered once all arms have been scored on the test images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bnadapt.evaluation.arms import ArmResult, ArmSummary, Comparison
from bnadapt.evaluation.compare_wording import counted
from bnadapt.evaluation.results import Advice, Diagnosis, LayerShift
from bnadapt.report.look import Look


@dataclass(frozen=True)
class ComparisonMaterial:
    """Everything that the report of a comparison tells of.

    Attributes:
        title: What was adapted to what: ``mnist to usps``; the numbers of labels are added to it.
        facts: A few words each on network, placement, steps and seeds.
        comparisons: What was found, one for each number of labels.
        results: Every arm with every seed and number of labels.
        descriptions: What each arm is, by its name; an arm may be missing.
        data: What is known of the data adapted to, by name: numbers of images, their shape, digest.
        source_data: The same of the data that the baseline trained on; empty where they are the same.
        notes: Sentences of the plan about data and network.
        advice: What to try next.
        labels: How many labels in words, where it is no number of each class: ``2 % of the labels``.
        look: The recommended network next to the untouched one of the same seed; None where nobody looked.
        diagnosis: What batch normalization does in it; None without any, or where nobody looked.
        shifts: How the two data sets differ for each layer; empty where that was not measured.
        command: What repeats the comparison.
        versions: Of the programs that ran, by name.
        seeds: By setting, in words.
        configuration: Every setting, as YAML.
        run_id: MLflow's id of the comparison's run.
        seconds: Wall time of everything together.
        rows: Whether the data are rows of numbers and no images.
    """

    title: str
    facts: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    results: tuple[ArmResult, ...]
    descriptions: Mapping[str, str]
    data: Mapping[str, str]
    source_data: Mapping[str, str]
    notes: tuple[str, ...]
    advice: tuple[Advice, ...]
    look: Look | None
    diagnosis: Diagnosis | None
    shifts: tuple[LayerShift, ...]
    command: str
    versions: Mapping[str, str]
    seeds: Mapping[str, str]
    configuration: str
    run_id: str
    seconds: float
    labels: str = ""
    rows: bool = False

    @property
    def heading(self) -> str:
        """What was adapted to what, and with how many labels."""
        return f"{self.title}, {self.labels or levels_in_words([each.labels for each in self.comparisons])}"

    @property
    def names(self) -> tuple[str, str]:
        """Names of the data that the baseline trained on and of those adapted to."""
        target = self.data.get("name", "the target")
        return self.source_data.get("name", target), target

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of all arms, in the comparisons' order."""
        return tuple(dict.fromkeys(each.arm for found in self.comparisons for each in found.arms))

    @property
    def repetitions(self) -> tuple[int, ...]:
        """The seeds of the repetitions, in ascending order."""
        return tuple(sorted({each.seed for each in self.results}))

    def of(self, comparison: Comparison) -> dict[str, list[ArmResult]]:
        """The results of one number of labels by arm, in the comparison's order, those of an arm by seed."""
        return {
            arm.arm: sorted(
                (each for each in self.results if each.arm == arm.arm and each.labels == comparison.labels),
                key=lambda each: each.seed,
            )
            for arm in comparison.arms
        }


def labels_in_words(labels: int | None) -> str:
    """How many labels: ``10 labels per class``; ``all labels`` for None."""
    if labels is None:
        return "all labels"
    return f"{counted(labels, 'label')} per class"


def levels_in_words(levels: Sequence[int | None]) -> str:
    """Several numbers of labels, ascending: ``1, 10 and all labels per class``."""
    if len(levels) == 1:
        return labels_in_words(levels[0])
    ascending = sorted(levels, key=lambda each: math.inf if each is None else each)
    *others, last = ("all" if each is None else f"{each:,}" for each in ascending)
    return f"{', '.join(others)} and {last} labels per class"


def summary(comparison: Comparison, arm: str) -> ArmSummary:
    """The summary of the arm of this name.

    Raises:
        KeyError: the comparison has no such arm.
    """
    return {each.arm: each for each in comparison.arms}[arm]


def reference(comparison: Comparison) -> ArmSummary | None:
    """The arm that gains are measured against; None where it did not run."""
    return next((each for each in comparison.arms if each.arm == comparison.reference), None)


def seed_accuracies(results: Sequence[ArmResult]) -> list[float]:
    """Test accuracy of each result that has been scored on the test images, 0 to 1."""
    return [each.test.accuracy for each in results if each.test is not None]


def mean_curve(results: Sequence[ArmResult]) -> tuple[list[int], list[float]]:
    """Steps at which every seed was looked at, ascending, and the mean validation accuracy there."""
    curves = [curve(each) for each in results]
    shared = sorted(set.intersection(*(set(each) for each in curves))) if curves else []
    return shared, [float(np.mean([each[step] for each in curves])) for step in shared]


def curve(result: ArmResult) -> dict[int, float]:
    """Validation accuracy by optimizer steps; of several looks at the same step the last one counts."""
    return {step: look.val_accuracy for step, look in zip(result.looks, result.history, strict=True)}


def mean_by_rate(results: Sequence[ArmResult]) -> dict[float, float]:
    """Validation accuracy by learning rate, ascending, the mean over the seeds that tried the most rates.

    A seed that took its rate over from another tells of that one alone, and would favour or harm it. NaN is a
    rate at which the training ran away.
    """
    most = max((len(each.rates) for each in results), default=0)
    found: dict[float, list[float]] = {}
    for each in (each for each in results if len(each.rates) == most):
        for tried in each.rates:
            found.setdefault(tried.learning_rate, []).append(tried.accuracy)
    return {rate: float(np.mean(found[rate])) for rate in sorted(found)}
