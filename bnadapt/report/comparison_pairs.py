"""Pairs of arms that differ in one thing only, and what that one thing is worth."""

from dataclasses import dataclass

from bnadapt.evaluation.arms import Comparison
from bnadapt.evaluation.resampling import mean_difference
from bnadapt.evaluation.results import Difference
from bnadapt.evaluation.verdict import signed
from bnadapt.report.comparison_material import ComparisonMaterial, labels_in_words
from bnadapt.report.comparison_tables import p_value
from bnadapt.report.page import Table

RESAMPLES = 10_000  # behind the intervals of the pairs


@dataclass(frozen=True)
class Pair:
    """Two arms that differ in one thing only, and what their difference shows."""

    first: str
    second: str
    question: str


PAIRS = (
    Pair(
        "procedure",
        "procedure_standard",
        "calibrated insertion instead of gamma 1, beta 0, mean 0, variance 1",
    ),
    Pair("procedure", "procedure_other_placement", "the chosen placement instead of the other one"),
    Pair("statistics", "input_statistics", "statistics inside the network instead of the input's alone"),
    Pair(
        "statistics_then_affine",
        "random_weights",
        "gamma and beta instead of as many random weights, both on the target's statistics "
        "(after Frankle et al., 2021)",
    ),
)


def pairs_table(material: ComparisonMaterial) -> tuple[Table, ...]:
    """Differences between arms that differ in one thing only; nothing where no such two were compared."""
    several = len(material.comparisons) > 1
    rows = []
    for pair in PAIRS:
        for comparison in material.comparisons:
            gap = _difference(material, comparison, pair)
            if gap is not None:
                level = (labels_in_words(comparison.labels),) if several else ()
                rows.append((pair.question, *level, pair.first, pair.second, *_numbers(gap)))
    headings = (
        "what differs",
        *(("labels",) if several else ()),
        "arm",
        "minus arm",
        ">points of test accuracy",
        ">95 % interval",
        ">p",
    )
    note = "Above zero the first arm is better. Each interval and p stands for itself, not corrected for their number."
    return (Table(headings, tuple(rows), note=note),) if rows else ()


def _numbers(gap: Difference) -> tuple[str, str, str]:
    return signed(gap.estimate), f"{signed(gap.low)} to {signed(gap.high)}", p_value(gap.p_value)


def _difference(material: ComparisonMaterial, comparison: Comparison, pair: Pair) -> Difference | None:
    """Test accuracy of the first arm minus that of the second, over the seeds that both have."""
    results = material.of(comparison)
    first, second = (
        {each.seed: each.test for each in results.get(name, ()) if each.test is not None}
        for name in (pair.first, pair.second)
    )
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    return mean_difference(
        [first[seed] for seed in seeds], [second[seed] for seed in seeds], resamples=RESAMPLES
    )
