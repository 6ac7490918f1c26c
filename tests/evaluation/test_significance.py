"""Intervals and p-values against published values, plain resampling and enumeration."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from bnadapt.evaluation.results import Scores
from bnadapt.evaluation.significance import difference, mcnemar, wilson


def scores(correct: np.ndarray) -> Scores:
    accuracy = float(correct.mean()) if correct.size else 0.0
    return Scores(accuracy, 0.5, accuracy, 0.1, np.array([accuracy]), correct, correct.astype(int))


def right(share: float, images: int = 1000) -> np.ndarray:
    return np.arange(images) < share * images


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [
        (0.9, 100, 0.8256343, 0.9447708),
        (0.0, 10, 0.0, 0.2775328),
        (1.0, 10, 0.7224672, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_against_published_values(share: float, count: int, low: float, high: float) -> None:
    assert wilson(scores(right(share, count))) == pytest.approx((low, high), abs=1e-6)


def test_the_interval_is_that_of_a_plain_paired_bootstrap() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.random(400) < 0.9, generator.random(400) < 0.8
    found = difference(scores(first), scores(second), resamples=20_000)
    picks = generator.integers(0, 400, (4000, 400))
    resampled = first[picks].mean(axis=1) - second[picks].mean(axis=1)
    assert found.estimate == pytest.approx(first.mean() - second.mean())
    np.testing.assert_allclose([found.low, found.high], np.quantile(resampled, [0.025, 0.975]), atol=0.006)


def test_images_gained_and_lost_are_counted() -> None:
    first = np.array([True, True, True, False, True])
    second = np.array([False, False, True, True, True])
    found = difference(scores(first), scores(second), resamples=100)
    assert (found.gained, found.lost, found.estimate) == (2, 1, pytest.approx(0.2))
    assert found.p_value == mcnemar(2, 1)


def test_pairing_matters() -> None:
    first = right(0.9)
    same_images = scores(first.copy())
    other_images = scores(first[::-1].copy())
    paired = difference(scores(first), same_images, resamples=2000)
    unpaired = difference(scores(first), other_images, resamples=2000)
    assert (paired.low, paired.high, paired.p_value) == (0, 0, 1)
    assert unpaired.high - unpaired.low > 0.03


def test_scores_of_different_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="scores of 10 and of 20 images cannot be paired"):
        difference(scores(right(0.5, 10)), scores(right(0.5, 20)), resamples=100)


def test_mcnemar_against_the_published_example() -> None:
    """Bentur et al.'s 21 children in Fagerland, Lydersen and Laake (2013), where 1 and 7 pairs differ."""
    assert mcnemar(1, 7) == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 0), (2, 5), (6, 4), (5, 5), (1, 1)])
def test_mcnemar_against_the_enumeration_of_all_tosses(gained: int, lost: int) -> None:
    """What is farther from even than the observed counts whole, what is as far counts half."""
    images = gained + lost
    distance = abs(gained - lost)
    found = [abs(2 * sum(tosses) - images) for tosses in itertools.product((0, 1), repeat=images)]
    expected = np.mean([1.0 if each > distance else 0.5 if each == distance else 0.0 for each in found])
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(4800, 5000), (300, 700), (0, 2000), (40_000, 40_100)])
def test_mcnemar_of_many_images_against_the_exact_test(gained: int, lost: int) -> None:
    images = gained + lost
    exact = binomtest(gained, images).pvalue
    next_to_it = binomtest(gained - 1, images).pvalue if gained else 0.0
    assert mcnemar(gained, lost) == pytest.approx((exact + next_to_it) / 2, rel=1e-6, abs=1e-300)


def test_where_no_image_differs_nothing_is_shown() -> None:
    assert mcnemar(0, 0) == 1
