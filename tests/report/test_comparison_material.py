"""What a comparison's report is made of, in the order and the words that it needs."""

import math
from dataclasses import replace

import pytest

from bnadapt.evaluation.arms import RateTried
from bnadapt.report.comparison_material import (
    labels_in_words,
    levels_in_words,
    mean_by_rate,
    mean_curve,
    reference,
    seed_accuracies,
    summary,
)
from tests.report.comparison_examples import ARMS, material

TWO = material(labels=(10, None), seeds=(2, 0), arms=ARMS[:3], images=100)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "all labels"),
        (1, "1 label per class"),
        (10, "10 labels per class"),
        (1000, "1,000 labels per class"),
    ],
)
def test_a_number_of_labels_in_words(labels: int | None, words: str) -> None:
    assert labels_in_words(labels) == levels_in_words([labels]) == words


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([1, 10, 50], "1, 10 and 50 labels per class"),
        ([10, None], "10 and all labels per class"),
        ([None, 10, 1], "1, 10 and all labels per class"),
    ],
)
def test_several_numbers_of_labels_in_words(levels: list[int | None], words: str) -> None:
    assert levels_in_words(levels) == words


def test_the_heading_names_data_and_labels() -> None:
    assert material(arms=ARMS[:2], images=50).heading == "mnist to usps, 10 labels per class"
    assert TWO.heading == "mnist to usps, 10 and all labels per class"


def test_results_are_found_by_arm_and_seed() -> None:
    found = TWO.of(TWO.comparisons[1])
    assert list(found) == list(TWO.arms) == ["untouched", "further_training", "finetune"]
    assert [(each.arm, each.labels, each.seed) for each in found["finetune"]] == [
        ("finetune", None, 0),
        ("finetune", None, 2),
    ]
    assert TWO.repetitions == (0, 2)


def test_the_reference_may_have_not_run() -> None:
    found = reference(TWO.comparisons[0])
    assert found is not None
    assert found is summary(TWO.comparisons[0], "further_training")
    assert reference(material(arms=ARMS[:2], images=50, reference="absent").comparisons[0]) is None


def test_a_mean_curve_has_the_steps_that_all_seeds_share() -> None:
    first, second = TWO.of(TWO.comparisons[0])["further_training"]
    shorter = replace(second, looks=second.looks[1:], history=second.history[1:])
    steps, values = mean_curve([first, shorter])
    assert steps == list(first.looks[1:])
    assert values[0] == pytest.approx((first.history[1].val_accuracy + second.history[1].val_accuracy) / 2)
    assert mean_curve([]) == ([], [])


def test_rates_are_averaged_over_the_seeds_that_tried_them_all() -> None:
    result = TWO.of(TWO.comparisons[0])["further_training"][0]

    def tried(*rates: tuple[float, float]) -> object:
        return replace(result, rates=tuple(RateTried(rate, accuracy, 1.0) for rate, accuracy in rates))

    assert mean_by_rate([tried((1e-2, 0.75), (1e-3, 0.5)), tried((1e-2, 0.25), (1e-3, 1.0))]) == {
        1e-3: 0.75,
        1e-2: 0.5,
    }
    # The second seed took its rate over: what it reached there says nothing about the other rate.
    assert mean_by_rate([tried((1e-2, 0.75), (1e-3, 0.5)), tried((1e-2, 0.0))]) == {1e-3: 0.5, 1e-2: 0.75}
    assert math.isnan(mean_by_rate([tried((1e-2, math.nan), (1e-3, 0.5))])[1e-2])
    assert mean_by_rate([replace(result, rates=())]) == {}


def test_seeds_without_test_scores_are_left_out() -> None:
    first, second = TWO.of(TWO.comparisons[0])["finetune"]
    assert seed_accuracies([replace(first, test=None), second]) == [second.test.accuracy]
