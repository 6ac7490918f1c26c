"""The interval against a plain bootstrap, and what the verdict says of results that help, hurt or do neither."""

from dataclasses import replace

import numpy as np
import pytest

from bnadapt.evaluation.results import Difference, Scores, StageResult
from bnadapt.evaluation.verdict import best_stage, difference, judge, points


def scores(correct: np.ndarray) -> Scores:
    return Scores(float(correct.mean()), 0.5, float(correct.mean()), np.array([correct.mean()]), correct)


def right(share: float, images: int = 1000) -> np.ndarray:
    return np.arange(images) < share * images


def result(name: str, validation: float, test: float) -> StageResult:
    return StageResult(name, 0, 0, 0.0, validation=scores(right(validation)), test=scores(right(test)))


def test_the_interval_is_that_of_a_plain_paired_bootstrap() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.random(400) < 0.9, generator.random(400) < 0.8
    found = difference(scores(first), scores(second), resamples=20_000)
    picks = generator.integers(0, 400, (4000, 400))
    resampled = first[picks].mean(axis=1) - second[picks].mean(axis=1)
    assert found.estimate == pytest.approx(first.mean() - second.mean())
    np.testing.assert_allclose([found.low, found.high], np.quantile(resampled, [0.025, 0.975]), atol=0.006)


def test_pairing_matters() -> None:
    first = right(0.9)
    same_images = scores(first.copy())
    other_images = scores(first[::-1].copy())
    paired = difference(scores(first), same_images, resamples=2000)
    unpaired = difference(scores(first), other_images, resamples=2000)
    assert (paired.low, paired.high) == (0, 0)
    assert unpaired.high - unpaired.low > 0.03


def test_scores_of_different_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="scores of 10 and of 20 images cannot be paired"):
        difference(scores(right(0.5, 10)), scores(right(0.5, 20)), resamples=100)


def test_the_best_stage_is_chosen_on_validation() -> None:
    results = [result("baseline", 0.8, 0.1), result("insert", 0.9, 0.2), result("adapt", 0.7, 0.99)]
    assert best_stage([*results, result("control", 1.0, 1.0)]).name == "insert"


@pytest.mark.parametrize(
    ("losses", "best"),
    [((0.5, 0.5, 0.4), "adapt"), ((0.5, 0.49999, 0.6), "baseline"), ((0.5, 0.5, 0.5), "baseline")],
)
def test_of_stages_that_tie_the_lowest_loss_wins_and_of_equal_ones_the_earliest(
    losses: tuple[float, ...], best: str
) -> None:
    results = [result(name, 0.9, 0.9) for name in ("baseline", "insert", "adapt")]
    for each, loss in zip(results, losses, strict=True):
        assert each.validation is not None
        each.validation = replace(each.validation, loss=loss)
    assert best_stage(results).name == best


@pytest.mark.parametrize(
    ("baseline", "adapted", "control", "answer", "opening"),
    [
        (
            0.5,
            0.9,
            0.6,
            "helped",
            "Adapting helped: it beats the untouched baseline and the baseline trained further without BN.",
        ),
        (
            0.5,
            0.9,
            0.95,
            "hurt",
            "Adapting did not pay: the baseline trained further without BN did better on the test images.",
        ),
        (
            0.5,
            0.9,
            0.9,
            "no difference",
            "These data do not show that adapting helped.",
        ),
    ],
)
def test_the_verdict(baseline: float, adapted: float, control: float, answer: str, opening: str) -> None:
    verdict = judge(
        [result("baseline", 0.5, baseline), result("adapt", 0.9, adapted), result("control", 0.7, control)],
        resamples=500,
    )
    assert verdict.answer == answer
    assert verdict.best == "adapt"
    assert verdict.sentences[0].startswith(opening)
    assert verdict.against_control is not None
    assert verdict.against_control.estimate == pytest.approx(adapted - control)


def test_where_the_baseline_is_best_it_is_to_be_kept() -> None:
    verdict = judge([result("baseline", 0.9, 0.9), result("adapt", 0.8, 0.8)], resamples=500)
    assert verdict.answer == "no difference"
    assert verdict.sentences[0].startswith("Adapting did not help: nothing after the baseline did better on")


def test_where_only_more_training_beats_the_baseline_the_verdict_says_so() -> None:
    results = [result("baseline", 0.9, 0.8), result("adapt", 0.8, 0.8), result("control", 0.95, 0.9)]
    verdict = judge(results, resamples=500)
    assert (verdict.best, verdict.answer) == ("baseline", "hurt")
    assert "the baseline trained further without BN did better" in verdict.sentences[0]


def test_without_a_control_help_is_not_proven_and_the_verdict_says_so() -> None:
    verdict = judge([result("baseline", 0.5, 0.5), result("adapt", 0.9, 0.9)], resamples=500)
    assert verdict.answer == "uncontrolled"
    assert verdict.sentences[0].startswith("Better than before: it beats the untouched baseline.")
    assert verdict.sentences[-1] == "There is no control: more training alone may have done as much."


def test_without_a_baseline_nothing_is_compared() -> None:
    verdict = judge([result("adapt", 0.9, 0.9)], resamples=500)
    assert verdict.answer == "not compared"
    assert verdict.sentences[0].startswith("Nothing was compared: there is no baseline among the stages.")


def test_differences_are_told_in_points_and_zero_has_no_minus() -> None:
    assert points(Difference(-0.0004, -0.0123, 0.05)) == "+0.0 points (95 % interval -1.2 to +5.0)"
