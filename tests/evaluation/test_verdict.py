"""What the verdict says of results that help, hurt or do neither."""

from dataclasses import replace

import numpy as np
import pytest

from bnadapt.evaluation.results import Difference, Scores, StageResult
from bnadapt.evaluation.verdict import best_stage, judge, points


def scores(correct: np.ndarray) -> Scores:
    accuracy = float(correct.mean())
    return Scores(accuracy, 0.5, accuracy, 0.1, np.array([accuracy]), correct, correct.astype(int))


def right(share: float, images: int = 1000) -> np.ndarray:
    return np.arange(images) < share * images


def result(name: str, validation: float, test: float) -> StageResult:
    return StageResult(name, 0, 0, 0.0, validation=scores(right(validation)), test=scores(right(test)))


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
            "Adapting helped: adapt beats the untouched baseline and the baseline trained further without BN, by "
            "+30.0 points (95 % interval +27.",
        ),
        (
            0.5,
            0.9,
            0.95,
            "hurt",
            "Adapting did not pay: adapt differs by -5.0 points (95 % interval -6.",
        ),
        (0.95, 0.9, 0.9, "hurt", "Adapting hurt: adapt differs by -5.0 points (95 % interval -6."),
        (
            0.5,
            0.9,
            0.899,
            "no difference",
            "No difference that these 1,000 test images can show: adapt differs by +0.1 points (95 % interval +0.0 to ",
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
    assert verdict.sentences[1] == "Best stage by validation: adapt (90.0 % of 1,000 test images right)."
    assert verdict.against_control is not None
    assert verdict.against_control.estimate == pytest.approx(adapted - control)


def test_every_rival_is_told_of_with_its_interval_and_p_value() -> None:
    sentences = judge([result("baseline", 0.5, 0.8), result("adapt", 0.9, 0.805)], resamples=500).sentences
    assert sentences[2].startswith("Against the untouched baseline: +0.5 points (95 % interval +0.")
    assert sentences[2].endswith("), 5 images gained, 0 lost, McNemar's p = 0.031.")


def test_an_interval_above_zero_is_not_enough_where_few_images_differ() -> None:
    """Of 4 images that differ all are won, as one time in eight a coin does, to one side or the other."""
    verdict = judge([result("baseline", 0.5, 0.8), result("adapt", 0.9, 0.804)], resamples=4000)
    assert verdict.against_baseline is not None
    assert verdict.against_baseline.low > 0
    assert verdict.against_baseline.p_value == pytest.approx(0.0625)
    assert verdict.answer == "no difference"


def test_nor_is_an_interval_below_zero() -> None:
    verdict = judge([result("baseline", 0.5, 0.804), result("adapt", 0.9, 0.8)], resamples=4000)
    assert verdict.against_baseline is not None
    assert verdict.against_baseline.high < 0
    assert verdict.answer == "no difference"


def test_the_sentence_tells_the_difference_that_decided() -> None:
    """Against the baseline more images differ, so that -2 points show nothing; against the control -1 point does."""
    images = 1000
    baseline, adapt, control = (np.zeros(images, bool) for _ in range(3))
    adapt[:500] = True
    baseline[480:1000] = True
    control[:510] = True
    results = [
        StageResult(name, 0, 0, 0.0, validation=scores(right(validation)), test=scores(test))
        for name, validation, test in (
            ("baseline", 0.5, baseline),
            ("adapt", 0.9, adapt),
            ("control", 0.5, control),
        )
    ]
    verdict = judge(results, resamples=2000)
    assert verdict.answer == "hurt"
    assert verdict.sentences[0].startswith("Adapting did not pay: adapt differs by -1.0 points")


def test_where_the_baseline_is_best_it_is_to_be_kept() -> None:
    verdict = judge([result("baseline", 0.9, 0.9), result("adapt", 0.8, 0.8)], resamples=500)
    assert verdict.answer == "no difference"
    assert verdict.sentences[0] == (
        "Adapting did not help: nothing after the baseline did better on validation."
    )


def test_where_the_baseline_is_best_it_is_still_compared_with_the_control() -> None:
    results = [result("baseline", 0.9, 0.9), result("adapt", 0.8, 0.8), result("control", 0.9, 0.9)]
    sentence = judge(results, resamples=500).sentences[0]
    assert sentence.endswith(
        "; the untouched baseline differs by +0.0 points (95 % interval +0.0 to +0.0) from the baseline trained "
        "further without BN."
    )


def test_where_only_more_training_beats_the_baseline_the_verdict_says_so() -> None:
    results = [result("baseline", 0.9, 0.8), result("adapt", 0.8, 0.8), result("control", 0.95, 0.9)]
    verdict = judge(results, resamples=500)
    assert (verdict.best, verdict.answer) == ("baseline", "hurt")
    assert verdict.sentences[0].startswith(
        "Adapting did not pay: the untouched baseline differs by -10.0 points (95 % interval -1"
    )
    assert verdict.sentences[0].endswith(" from the baseline trained further without BN.")


def test_without_a_control_help_is_not_proven_and_the_verdict_says_so() -> None:
    verdict = judge([result("baseline", 0.5, 0.5), result("adapt", 0.9, 0.9)], resamples=500)
    assert verdict.answer == "uncontrolled"
    assert verdict.sentences[0].startswith(
        "Better than before: adapt beats the untouched baseline, by +40.0 points (95 % interval +3"
    )
    assert verdict.sentences[-1] == "There is no control: more training alone may have done as much."


def test_without_a_baseline_nothing_is_compared() -> None:
    verdict = judge([result("adapt", 0.9, 0.9)], resamples=500)
    assert verdict.answer == "not compared"
    assert verdict.sentences[0].startswith("Nothing was compared: there is no baseline among the stages.")


def test_differences_are_told_in_points_and_zero_has_no_minus() -> None:
    assert points(Difference(-0.0004, -0.0123, 0.05, 0.9, 1, 2)) == "+0.0 points (95 % interval -1.2 to +5.0)"
