"""Which arm is recommended, by validation alone, and what is said of it and of the others."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from bnadapt.evaluation.arms import ArmResult, ArmSummary, Comparison
from bnadapt.evaluation.compare import behind, compare, recommend
from bnadapt.evaluation.compare_wording import counted, p_in_words
from bnadapt.evaluation.resampling import holm, mean_difference, mean_interval
from bnadapt.evaluation.results import Scores

IMAGES = 1000


def scores(correct: np.ndarray, loss: float = 0.5) -> Scores:
    accuracy = float(correct.mean())
    return Scores(accuracy, loss, accuracy - 0.01, 0.1, np.array([accuracy]), correct, correct.astype(int))


def right(share: float, images: int = IMAGES) -> np.ndarray:
    return np.arange(images) < round(share * images)


def result(
    arm: str,
    validation: float,
    test: float | None = None,
    *,
    loss: float = 0.5,
    seed: int = 0,
    trainable: int = 100,
    learning_rate: float | None = 1e-3,
    images: int = IMAGES,
) -> ArmResult:
    return ArmResult(
        arm=arm,
        seed=seed,
        labels=10,
        baseline="a" * 64,
        learning_rate=learning_rate,
        rates=(),
        trainable=trainable,
        steps=300,
        seconds=2.0 + seed,
        kept="stage",
        history=(),
        looks=(),
        validation=scores(right(validation, images), loss),
        test=None if test is None else scores(right(test), loss),
    )


def untouched(validation: float, test: float | None = None, *, loss: float = 0.5, seed: int = 0) -> ArmResult:
    return result("untouched", validation, test, loss=loss, seed=seed, trainable=0, learning_rate=None)


def of(results: list[ArmResult], reference: str = "more", **others: str) -> Comparison:
    return compare(results, reference=reference, descriptions=others, resamples=2000)


def summary(comparison: Comparison, arm: str) -> ArmSummary:
    return next(each for each in comparison.arms if each.arm == arm)


# ---- what to use, from validation alone


def test_the_arm_with_the_highest_validation_accuracy_is_recommended() -> None:
    assert recommend([result("more", 0.8), result("bn", 0.9), untouched(0.5)], "more") == "bn"


def test_the_test_images_have_no_say() -> None:
    results = [result("more", 0.8, 0.99), result("bn", 0.9, 0.1), untouched(0.5, 1.0)]
    assert recommend(results, "more") == of(results).recommended == "bn"


def test_of_arms_that_validation_cannot_tell_apart_the_lowest_loss_wins() -> None:
    """One image of 40 is within one standard error, five are not."""
    results = [
        result("more", 0.5, images=40),
        result("first", 0.9, loss=0.5, images=40),
        result("near", 0.875, loss=0.3, images=40),
        result("far", 0.775, loss=0.1, images=40),
    ]
    distance, error = behind([results[1]], [results[2]])
    assert (distance, error) == pytest.approx((0.025, np.sqrt(0.025 * 0.975 / 39)))
    assert recommend(results, "more") == "near"


def test_the_standard_error_is_that_of_seeds_too() -> None:
    """With every seed 30 of 1000 images behind: more than chance; with seeds that differ it may be chance."""
    steady = [
        result(arm, share, loss=loss, seed=seed)
        for seed in range(3)
        for arm, share, loss in (("more", 0.1, 1.0), ("a", 0.93, 0.5), ("b", 0.90, 0.1))
    ]
    assert recommend(steady, "more") == "a"
    shares = {0: 0.99, 1: 0.75, 2: 0.96}
    scattered = [
        *(each for each in steady if each.arm != "b"),
        *(result("b", share, loss=0.1, seed=seed) for seed, share in shares.items()),
    ]
    assert recommend(scattered, "more") == "b"


def test_seeds_are_averaged() -> None:
    results = [result("more", 0.5, seed=seed) for seed in range(2)]
    results += [result("steady", 0.8, seed=seed) for seed in range(2)]
    results += [result("lucky", share, seed=seed, loss=0.9) for seed, share in enumerate((0.9, 0.3))]
    assert recommend(results, "more") == "steady"


@pytest.mark.parametrize(
    ("more", "bn", "loss", "expected"),
    [
        (0.900, 0.901, 0.4, "bn"),
        (0.900, 0.900, 0.4, "more"),
        (0.901, 0.900, 0.4, "more"),
        (0.900, 0.901, 0.6, "more"),
    ],
)
def test_the_reference_stays_unless_an_arm_is_right_on_more_images(
    more: float, bn: float, loss: float, expected: str
) -> None:
    assert recommend([result("more", more, loss=0.5), result("bn", bn, loss=loss)], "more") == expected


def test_of_arms_that_tie_the_one_without_labels_wins_then_the_smaller_then_the_first() -> None:
    small, first, second = result("small", 0.9, trainable=5), result("first", 0.9), result("second", 0.9)
    free = result("free", 0.9, trainable=900, learning_rate=None)
    reference = result("more", 0.9, trainable=1000)
    assert recommend([first, second, small, free, reference], "more") == "free"
    assert recommend([first, second, small], "missing") == "small"
    assert recommend([first, second], "missing") == "first"
    assert recommend([second, first], "missing") == "second"


def test_losses_tie_to_four_decimals_and_one_that_is_no_number_comes_last() -> None:
    free = untouched(0.9, loss=0.50004)
    assert recommend([result("a", 0.9, loss=0.5), free], "missing") == "untouched"
    assert recommend([result("a", 0.9, loss=float("nan")), result("b", 0.9, loss=9.0)], "missing") == "b"


def test_the_rule_regrets_less_than_the_highest_accuracy_and_seldom_falls_below_the_reference() -> None:
    """Twelve arms and the reference on 60 validation images that are alike for all arms, three seeds."""
    generator = np.random.default_rng(0)
    regret = {"rule": [], "highest": []}  # type: dict[str, list[float]]
    below = {"rule": [], "highest": []}  # type: dict[str, list[float]]
    for _ in range(150):
        true = np.concatenate([[1.2], 1.1 + 0.15 * generator.standard_normal(12)])
        shared, sharpness = generator.standard_normal(60), np.exp(0.3 * generator.standard_normal(13))
        results = []
        for arm in range(13):
            own = 0.3 * generator.standard_normal(60)
            for seed in range(3):
                margin = true[arm] + 0.7 * shared + own + 0.4 * generator.standard_normal(60)
                loss = float(np.logaddexp(0, -2.5 * sharpness[arm] * margin).mean())
                one = result(f"arm{arm}", 0.0, loss=loss, seed=seed)
                results.append(replace(one, validation=scores(margin > 0, loss)))
        accuracies = [
            np.mean([each.validation.accuracy for each in results if each.arm == f"arm{arm}"])
            for arm in range(13)
        ]
        for how, chosen in (
            ("rule", int(recommend(results, "arm0").removeprefix("arm"))),
            ("highest", int(np.argmax(accuracies))),
        ):
            regret[how].append(true.max() - true[chosen])
            below[how].append(max(true[0] - true[chosen], 0))
    assert np.mean(regret["rule"]) < np.mean(regret["highest"])
    assert np.mean(below["rule"]) < 0.7 * np.mean(below["highest"])


# ---- what the test images show


@pytest.mark.parametrize(
    ("base", "more", "bn", "answer", "reading"),
    [
        (0.5, 0.6, 0.9, "helped", "On the test images bn beats more and the untouched baseline."),
        (
            0.5,
            0.95,
            0.9,
            "hurt",
            "The choice did not pay: on the test images more did better than bn.",
        ),
        (
            0.99,
            0.95,
            0.9,
            "hurt",
            "Adapting did not pay: on the test images more and the untouched baseline did better than bn.",
        ),
        (
            0.5,
            0.899,
            0.9,
            "no difference",
            "No difference that these 1,000 test images can show between bn and more.",
        ),
        (
            0.899,
            0.899,
            0.9,
            "no difference",
            "No difference that these 1,000 test images can show between bn and more or the untouched baseline.",
        ),
    ],
)
def test_the_answer(base: float, more: float, bn: float, answer: str, reading: str) -> None:
    found = of([untouched(0.5, base), result("more", 0.6, more), result("bn", 0.9, bn)])
    assert (found.answer, found.recommended) == (answer, "bn")
    assert found.sentences[1] == reading


@pytest.mark.parametrize("seeds", [1, 3])
def test_all_sentences_of_an_arm_that_helps(seeds: int) -> None:
    results = [
        each
        for seed in range(seeds)
        for each in (
            untouched(0.5, 0.5, seed=seed),
            result("more", 0.6, 0.7, seed=seed),
            result("bn", 0.9, 0.8, seed=seed),
            result("late", 0.895, 0.82, seed=seed, loss=0.7),
            result("bad", 0.3, 0.4, seed=seed),
        )
    ]
    found = of(results, bn="gamma and beta")
    over = "one seed" if seeds == 1 else "mean of 3 seeds"
    assert found.sentences[0] == f"Use bn (gamma and beta): 80.0 % of 1,000 test images right, {over}."
    assert re.fullmatch(
        r"Against more: \+10\.0 points \(95 % interval \+\d+\.\d to \+\d+\.\d, p < 0\.001\)\.",
        found.sentences[2],
    )
    assert found.sentences[3].startswith("Against the untouched baseline: +30.0 points (95 % interval +2")
    assert found.sentences[4] == (
        "In hindsight late was best, by 2.0 points: on the 1,000 validation images it was 0.5 points behind."
    )
    assert found.sentences[5] == (
        "On the test images, Holm-corrected for 4 arms, these other arms differ from more: better: late (+12.0); "
        "worse: the untouched baseline (-20.0), bad (-30.0)."
    )
    assert len(found.sentences) == 6
    assert (found.best_in_hindsight, found.regret) == ("late", pytest.approx(0.02))


def test_where_validation_could_not_tell_the_best_apart_that_is_said() -> None:
    """Two of 1000 validation images: within two standard errors, not within one."""
    results = [result("more", 0.5, 0.7), result("bn", 0.9, 0.80), result("late", 0.898, 0.803)]
    assert of(results).sentences[3] == (
        "In hindsight late was best, by 0.3 points: within what the 1,000 validation images could tell."
    )


def test_where_nothing_was_better_in_hindsight_or_as_good_that_is_said() -> None:
    found = of([result("twin", 0.5, 0.8), result("more", 0.5, 0.7), result("bn", 0.9, 0.8)])
    assert (found.best_in_hindsight, found.regret) == ("bn", 0.0)
    assert "In hindsight, on the test images, nothing did better than bn." in found.sentences


def test_where_the_reference_is_recommended_that_is_what_validation_found() -> None:
    """Nothing is said of batch normalization, which the reference may have and validation cannot judge."""
    found = of([untouched(0.5, 0.5), result("bn", 0.8, 0.8), result("more", 0.9, 0.9)])
    assert (found.recommended, found.answer) == ("more", "no difference")
    assert found.sentences[:2] == (
        "Use more: 90.0 % of 1,000 test images right, one seed.",
        "On these 1,000 validation images no other arm was right more often than more.",
    )
    assert found.sentences[2].startswith("Against the untouched baseline: +40.0 points")


def test_an_arm_that_was_right_more_often_than_the_recommended_reference_is_named() -> None:
    """One of 40 images is within one standard error, and the loss spoke for the reference."""
    results = [
        result("more", 0.875, 0.7, loss=0.3, images=40),
        result("bn", 0.9, 0.7, loss=0.5, images=40),
    ]
    found = of(results)
    assert found.recommended == "more"
    assert found.sentences[1] == (
        "On these 40 validation images no other arm was better than more beyond chance: bn was right more often by 2.5 "
        "points, within one standard error."
    )


def test_an_arm_far_ahead_that_was_not_recommended_is_not_called_chance() -> None:
    """near ties with ahead, misses other images and has the lower loss, but is right no more often than more."""
    first, near, more = right(0.5, 100), right(0.5, 100), right(0.5, 100)
    near[:4], near[50:52] = False, True  # 4 lost, 2 won
    more[:2] = False  # 2 lost, none won
    found = of(
        [
            replace(result("more", 0.5, 0.7), validation=scores(more, 0.6)),
            replace(result("ahead", 0.5, 0.7), validation=scores(first, 0.5)),
            replace(result("near", 0.5, 0.7), validation=scores(near, 0.4)),
        ]
    )
    lead, error = behind([_with("ahead", first)], [_with("more", more)])
    assert lead > error
    assert found.recommended == "more"
    assert found.sentences[1] == (
        "On these 100 validation images ahead was right more often than more, by 2.0 points, but of the arms within "
        "one standard error of it the one with the lowest loss was not."
    )


def _with(arm: str, correct: np.ndarray) -> ArmResult:
    return replace(result(arm, 0.5), validation=scores(correct))


def test_what_the_test_images_show_of_other_arms_does_not_contradict_the_choice() -> None:
    found = of([untouched(0.5, 0.5), result("bn", 0.9, 0.8), result("more", 0.9, 0.7, loss=0.4)])
    assert found.recommended == "more"
    assert found.sentences[1:2] + found.sentences[3:] == (
        "On these 1,000 validation images no other arm was right more often than more.",
        "In hindsight bn was best, by 10.0 points: within what the 1,000 validation images could tell.",
        "On the test images, Holm-corrected for 2 arms, these other arms differ from more: better: bn (+10.0); worse: "
        "the untouched baseline (-20.0).",
        "The choice of more was made without the test images.",
    )


def test_where_the_untouched_baseline_is_recommended_nothing_helped_even_if_it_beats_the_reference() -> None:
    found = of([untouched(0.9, 0.9), result("bn", 0.5, 0.8), result("more", 0.5, 0.5)])
    assert (found.recommended, found.answer) == ("untouched", "no difference")
    assert found.sentences[1] == (
        "On these 1,000 validation images no other arm was right more often than the untouched baseline."
    )


def test_where_the_reference_beats_the_recommended_baseline_it_was_the_choice_that_did_not_pay() -> None:
    found = of([untouched(0.9, 0.5), result("more", 0.5, 0.8)])
    assert (found.recommended, found.answer) == ("untouched", "hurt")
    assert found.sentences[1] == (
        "The choice did not pay: on the test images more did better than the untouched baseline."
    )


@pytest.mark.parametrize("arm", ["finetune", "bn"])
def test_no_sentence_credits_or_blames_batch_normalization(arm: str) -> None:
    """Whether an arm has any is not known here, and an arm without it can be the best."""
    for base, more, share in product((0.5, 0.8, 0.9), repeat=3):
        for validation in (0.5, 0.9):
            found = of([untouched(0.6, base), result("more", 0.7, more), result(arm, validation, share)])
            words = " ".join(found.sentences).lower()
            assert "normalization" not in words
            assert "adapting helped" not in words


@pytest.mark.parametrize(
    ("won", "lost", "above_zero", "p_value", "helped"),
    [(4, 0, True, "0.062", False), (12, 4, False, "0.049", False), (5, 0, True, "0.031", True)],
)
def test_half_of_what_shows_a_difference_is_explained(
    won: int, lost: int, above_zero: bool, p_value: str, helped: bool
) -> None:
    """An interval above zero with a p-value that is not small, and the other way round."""
    more = right(0.7)
    bn = more.copy()
    bn[:lost], bn[700 : 700 + won] = False, True
    results = [result("more", 0.6, 0.7), replace(result("bn", 0.9), test=scores(bn))]
    found = compare(results, reference="more", descriptions={}, resamples=10_000)
    gain = summary(found, "bn").against_reference
    assert gain is not None
    assert (gain.low > 0) == above_zero
    assert found.answer == ("helped" if helped else "no difference")
    assert found.sentences[1] == (
        "On the test images bn beats more."
        if helped
        else "No difference that these 1,000 test images can show between bn and more: the interval has to leave zero "
        "out, and p to be below 0.05."
    )
    assert found.sentences[2].endswith(f", p = {p_value}).")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0004, "p < 0.001"),
        (0.001, "p = 0.001"),
        (0.0312, "p = 0.031"),
        (0.1, "p = 0.10"),
        (1.0, "p = 1.00"),
    ],
)
def test_p_values_in_words(value: float, words: str) -> None:
    assert p_in_words(value) == words


def test_one_is_one() -> None:
    one = replace(result("more", 1.0, 1.0, images=1), test=scores(right(1.0, 1)))
    found = of([one, replace(one, arm="bn", validation=scores(right(0.0, 1)))])
    assert found.sentences[0] == "Use more: 100.0 % of 1 test image right, one seed."
    assert found.sentences[1] == "On this 1 validation image no other arm was right more often than more."
    assert found.sentences[-1] == (
        "On the test images, Holm-corrected for 1 arm, no other arm differs from more."
    )
    chosen = of([replace(one, validation=scores(right(0.0, 1))), replace(one, arm="bn")])
    assert chosen.sentences[1] == "No difference that this 1 test image can show between bn and more."
    assert counted(0, "seed") == "0 seeds"


def test_without_the_reference_nothing_is_compared_with_it() -> None:
    found = of([untouched(0.5, 0.5), result("bn", 0.9, 0.9)])
    assert found.answer == "not compared"
    assert found.sentences[1] == (
        "Not compared with more, which did not run: more training alone may have done as much."
    )
    assert summary(found, "bn").against_reference is None
    assert summary(found, "bn").adjusted is None
    assert summary(found, "bn").against_untouched is not None
    assert len(found.sentences) == 4


def test_the_untouched_baseline_may_be_the_reference_and_is_told_of_once() -> None:
    found = of([untouched(0.5, 0.5), result("bn", 0.9, 0.9)], reference="untouched")
    assert found.answer == "helped"
    assert found.sentences[1] == "On the test images bn beats the untouched baseline."
    assert sum("Against" in each for each in found.sentences) == 1
    assert not any(
        "Holm" in each for each in found.sentences
    )  # the only comparison is the recommended arm's own


def test_a_lone_arm_can_be_compared_with_nothing() -> None:
    found = of([result("more", 0.9, 0.9)])
    assert (found.answer, found.recommended) == ("no difference", "more")
    assert found.sentences[1] == "There is no other arm to compare more with."
    assert len(found.sentences) == 3


def test_other_arms_are_corrected_for_their_number_and_the_recommended_one_is_not() -> None:
    """Six images won and none lost: p = 0.016 once, and 0.11 of seven arms."""
    arms = [result(f"arm{number}", 0.5, 0.706) for number in range(6)]
    found = of([untouched(0.4, 0.5), result("more", 0.6, 0.7), result("bn", 0.9, 0.706), *arms])
    p_value = 2 * 0.5**6 / 2
    gain = summary(found, "bn").against_reference
    assert gain is not None
    assert gain.p_value == pytest.approx(p_value)
    assert found.answer == "helped"
    assert summary(found, "arm3").adjusted == pytest.approx(7 * p_value)
    assert found.sentences[-1] == (
        "On the test images, Holm-corrected for 8 arms, this other arm differs from more: worse: the untouched "
        "baseline (-20.0)."
    )


def test_a_recommended_arm_that_beats_the_reference_is_not_said_to_equal_it() -> None:
    """Corrected it would differ from nothing: only the other arms are told of with the correction."""
    arms = [result(f"arm{number}", 0.5, 0.706) for number in range(6)]
    found = of([result("more", 0.6, 0.7), result("bn", 0.9, 0.706), *arms])
    assert summary(found, "bn").adjusted == pytest.approx(7 * 0.5**6)
    assert found.sentences[1] == "On the test images bn beats more."
    assert found.sentences[-1] == (
        "On the test images, Holm-corrected for 7 arms, no other arm differs from more."
    )


def test_the_summaries_are_means_over_seeds_in_the_order_of_the_arms() -> None:
    shares = ((0.6, 0.7, 0.72), (0.5, 0.8, 0.85), (0.5, 0.55, 0.6))
    names = ("more", "bn", "untouched")
    results = [
        result(
            name,
            share,
            share,
            seed=seed,
            loss=seed + 1.0,
            trainable=10 * (seed + 1),
            learning_rate=10.0**-seed,
        )
        for seed in (2, 0, 1)
        for name, share in zip(names, [each[seed] for each in shares], strict=True)
    ]
    found = of(results)
    assert [each.arm for each in found.arms] == list(names)
    bn = summary(found, "bn")
    mean = (0.5 + 0.8 + 0.85) / 3
    assert (bn.validation, bn.test, bn.macro_f1) == pytest.approx((mean, mean, mean - 0.01))
    assert (bn.loss, bn.calibration_error, bn.seconds, bn.trainable) == pytest.approx((2.0, 0.1, 3.0, 30))
    assert bn.learning_rates == (1.0, 0.1, 0.01)
    tests = {
        name: [each.test for each in sorted(results, key=lambda each: each.seed) if each.arm == name]
        for name in names
    }
    assert (bn.low, bn.high) == mean_interval(tests["bn"])
    assert bn.against_reference == mean_difference(tests["bn"], tests["more"], resamples=2000)
    assert bn.against_untouched == mean_difference(tests["bn"], tests["untouched"], resamples=2000)
    more, base = summary(found, "more"), summary(found, "untouched")
    assert (more.against_reference, more.adjusted, base.against_untouched) == (None, None, None)
    assert base.against_reference is not None
    p_values = [bn.against_reference.p_value, base.against_reference.p_value]
    assert (bn.adjusted, base.adjusted) == pytest.approx(holm(p_values))
    assert (found.labels, found.reference) == (10, "more")


def test_seeds_are_paired_whatever_their_order() -> None:
    results = [
        result(arm, 0.5, share, seed=seed)
        for arm, at in (("more", (0.5, 0.9)), ("bn", (0.51, 0.91)))
        for seed, share in enumerate(at)
    ]
    assert of(results).arms == of(results[:2] + results[:1:-1]).arms


def test_the_same_seed_gives_the_same_comparison() -> None:
    results = [
        result(arm, 0.5, share + seed / 100, seed=seed)
        for arm, share in (("more", 0.5), ("bn", 0.6))
        for seed in range(3)
    ]
    assert of(results) == of(results)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "nothing to compare: there are no results"),
        (
            [result("more", 0.5, 0.5), replace(result("bn", 0.5, 0.5), labels=None)],
            r"results with labels_per_class \[10, None\] are several comparisons: compare one at a time",
        ),
        (
            [result("more", 0.5, 0.5), result("more", 0.5, 0.5, seed=1), result("bn", 0.5, 0.5)],
            r"arm bn has results of the seeds \[0\], needed is one of each of \[0, 1\]",
        ),
        (
            [result("more", 0.5, 0.5), result("bn", 0.5, 0.5), result("bn", 0.5, 0.5)],
            r"arm bn has results of the seeds \[0, 0\], needed is one of each of \[0\]",
        ),
        (
            [result("more", 0.5, 0.5), result("bn", 0.5)],
            "arm bn with seed 0 has no test scores: score every arm on the test images",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(results: list[ArmResult], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of(results)
