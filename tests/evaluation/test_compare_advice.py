"""When each rule of advice after a comparison speaks, when it is silent, and that its settings exist."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from bnadapt.config import Settings
from bnadapt.evaluation.arms import ArmResult, Comparison, RateTried
from bnadapt.evaluation.compare import compare
from bnadapt.evaluation.compare_advice import RULES, comparison_advice
from bnadapt.evaluation.resampling import spread
from bnadapt.evaluation.results import Epoch, Scores


def scores(correct: np.ndarray, loss: float = 0.5, calibration_error: float = 0.1) -> Scores:
    accuracy = float(correct.mean())
    recall = np.array([accuracy])
    return Scores(accuracy, loss, accuracy, calibration_error, recall, correct, correct.astype(int))


def right(share: float, images: int) -> np.ndarray:
    return np.arange(images) < round(share * images)


def result(
    arm: str,
    validation: float,
    *,
    test: float | None = None,
    seed: int = 0,
    labels: int | None = 100,
    images: int = 5000,
    tests: int = 5000,
    rates: Sequence[float] = (),
    accuracies: Sequence[float] = (),
    learning_rate: float | None = 1e-3,
    losses: Sequence[float] = (),
    looks: Sequence[float] = (),
    calibration_error: float = 0.1,
    loss: float = 0.5,
) -> ArmResult:
    history = tuple(
        Epoch(number + 1, 0.9, 0.3, look, value, 1e-3, 1.0)
        for number, (value, look) in enumerate(zip(losses, looks, strict=True))
    )
    return ArmResult(
        arm=arm,
        seed=seed,
        labels=labels,
        baseline="a" * 64,
        learning_rate=learning_rate,
        rates=tuple(RateTried(*each, 0.5) for each in zip(rates, accuracies, strict=True)),
        trainable=0 if learning_rate is None else 100,
        steps=300,
        seconds=1.0,
        kept="stage",
        history=history,
        looks=tuple(range(len(history))),
        validation=scores(right(validation, images), loss, calibration_error),
        test=scores(right(validation if test is None else test, tests)),
    )


def everyone(**bn: object) -> list[ArmResult]:
    """Three seeds of an arm that is far ahead of the reference and of the baseline: nothing to advise."""
    return [
        each
        for seed in range(3)
        for each in (
            result("untouched", 0.5, seed=seed, learning_rate=None),
            result("more", 0.7, seed=seed),
            result("bn", **{"validation": 0.9, "seed": seed, **bn}),  # type: ignore[arg-type]
        )
    ]


def compared(results: Sequence[ArmResult], reference: str = "more") -> list[Comparison]:
    levels = dict.fromkeys(each.labels for each in results)
    return [
        compare(
            [each for each in results if each.labels == labels],
            reference=reference,
            descriptions={},
            resamples=1000,
        )
        for labels in levels
    ]


def advice(results: Sequence[ArmResult], reference: str = "more", **known: int | None) -> dict[str, str]:
    found = comparison_advice(compared(results, reference), results, **known)
    return {each.rule: each.sentence for each in found}


def test_where_all_is_well_nothing_is_advised() -> None:
    assert advice(everyone()) == {}
    assert comparison_advice([], []) == ()


def test_the_reference_has_to_run() -> None:
    results = [each for each in everyone() if each.arm != "more"]
    assert advice(results) == {
        "no reference": "The reference more did not run, so that gains may come from more training alone: put it into "
        "comparison.only, or name another with comparison.reference"
    }


@pytest.mark.parametrize(
    ("kept", "accuracies", "sentence"),
    [
        (1e-4, (0.9, 0.8, 0.7), "lowest learning rate tried (0.0001): go on in that direction, "
         "comparison.learning_rates=[1e-05,0.0001,0.001,0.01]"),
        (1e-2, (0.7, 0.8, 0.9), "highest learning rate tried (0.01): go on in that direction, "
         "comparison.learning_rates=[0.0001,0.001,0.01,0.1]"),
        (1e-4, (0.9, float("nan"), float("nan")), "lowest learning rate tried (0.0001): go on in that direction, "
         "comparison.learning_rates=[1e-05,0.0001,0.001,0.01]"),
        (1e-3, (0.7, 0.9, 0.8), None),
        (1e-2, (0.7, 0.9, 0.9), None),
    ],
)  # fmt: skip
def test_a_rate_at_the_edge_of_those_tried(
    kept: float, accuracies: tuple[float, ...], sentence: str | None
) -> None:
    results = everyone(learning_rate=kept)
    results[2] = replace(
        results[2],
        rates=tuple(RateTried(*each, 0.5) for each in zip((1e-4, 1e-3, 1e-2), accuracies, strict=True)),
    )
    found = advice(results).get("learning rate at the edge")
    assert found == (None if sentence is None else f"bn did best at the {sentence}")


def test_the_rates_of_the_reference_count_and_those_of_other_arms_do_not() -> None:
    tried = {"learning_rate": 1e-2, "rates": (1e-3, 1e-2), "accuracies": (0.6, 0.7)}
    more = [result("more", 0.7, seed=seed, **tried) for seed in range(3)]  # type: ignore[arg-type]
    others = [each for each in everyone() if each.arm != "more"]
    assert advice([*others, *more]) == {
        "learning rate at the edge": "more did best at the highest learning rate tried (0.01): go on in that "
        "direction, comparison.learning_rates=[0.001,0.01,0.1]"
    }
    bystander = [replace(each, arm="head", validation=scores(right(0.1, 5000))) for each in more]
    assert advice([*everyone(), *bystander]) == {}


def test_rates_that_seeds_do_not_agree_on_are_no_edge() -> None:
    tried = {"rates": (1e-3, 1e-2), "accuracies": (0.8, 0.9)}
    results = [each for each in everyone() if each.arm != "bn"]
    results += [
        result("bn", 0.9, seed=seed, learning_rate=rate, **tried)  # type: ignore[arg-type]
        for seed, rate in enumerate((1e-2, 1e-2, 1e-3))
    ]
    assert advice(results) == {}


@pytest.mark.parametrize(
    ("losses", "looks", "spoken"),
    [
        ((0.9, 0.6, 0.4), (0.7, 0.8, 0.9), True),
        ((0.9, 0.4, 0.395), (0.7, 0.8, 0.9), False),
        ((0.9, 0.6, 0.4), (0.7, 0.9, 0.9), False),
        ((0.9, 0.3, 0.4), (0.7, 0.8, 0.9), False),
        ((0.4,), (0.9,), False),
    ],
)
def test_training_that_still_gets_better(
    losses: tuple[float, ...], looks: tuple[float, ...], spoken: bool
) -> None:
    found = advice(everyone(losses=losses, looks=looks))
    expected = (
        "bn was still getting better at the last look (validation loss 0.6 to 0.4): more steps for every arm, "
        "comparison.steps=600"
    )
    assert found == ({"more steps": expected} if spoken else {})


@pytest.mark.parametrize(
    ("seeds", "words"),
    [(1, "the intervals leave that out"), (2, "they hold the truth in some 90 % of cases instead of 95 %")],
)
def test_fewer_than_three_seeds_are_few(seeds: int, words: str) -> None:
    found = advice([each for each in everyone() if each.seed < seeds])
    assert list(found) == ["few seeds"]
    assert found["few seeds"].endswith(f"{words}: three or more, comparison.seeds=[0,1,2]")
    assert found["few seeds"].startswith("One seed" if seeds == 1 else "Two seeds")


def test_few_test_images_leave_the_gain_unknown() -> None:
    """A share of 0.1 differs each way: 1.96 x sqrt(0.2 / images) is one point from 7,683 images on."""
    first, second = np.ones(400, bool), np.ones(400, bool)
    first[:40] = second[40:80] = False
    results = [
        replace(each, test=scores({"bn": first, "more": second}.get(each.arm, right(0.1, 400))))
        for each in everyone()
    ]
    found = advice(results)
    assert list(found) == ["interval too wide"]
    assert re.fullmatch(
        r"The gain over more is known to 4\.[0-9] points either way, mostly because of the 400 test images: some 7,800 "
        r"would tell it to 1 point \(data\.test_fraction, where test images are held out\)",
        found["interval too wide"],
    )


def test_seeds_that_differ_leave_the_gain_unknown() -> None:
    results = [
        replace(each, test=scores(right(0.7 + 0.1 * each.seed, 5000))) if each.arm == "bn" else each
        for each in everyone()
    ]
    found = advice(results)
    assert list(found) == ["interval too wide"]
    assert found["interval too wide"].endswith(
        "mostly because the 3 seeds are few and differ, less because of the test images: "
        "comparison.seeds=[0,1,2,3,4,5]"
    )


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (
            20,
            "mostly because the 2 seeds are few and differ, less because of the test images: "
            "comparison.seeds=[0,1,2,3,4]",
        ),
        (
            10,
            "mostly because of the 1,000 test images, less because the seeds differ: some 4,800 would bring their part "
            "to 1 point (data.test_fraction, where test images are held out)",
        ),
    ],
)
def test_what_makes_most_of_the_interval_is_named(lost: int, words: str) -> None:
    """Both seeds win 60 images and lose 60 others, one seed wins so many more.

    The variance of the images is the larger of the two each time; two seeds that differ make the interval far wider
    than that all the same.
    """
    tests = {name: np.ones((2, 1000), bool) for name in ("bn", "more")}
    tests["more"][:, :60] = tests["bn"][:, 60:120] = tests["more"][1, 200 : 200 + lost] = False
    results = [
        replace(each, test=scores(tests[each.arm][each.seed] if each.arm in tests else right(0.1, 1000)))
        for each in everyone()
        if each.seed < 2
    ]
    found = spread(tests["bn"].astype(int) - tests["more"])
    assert found.images > found.seeds > 0
    told = advice(results)
    assert list(told) == ["few seeds", "interval too wide"]
    assert told["interval too wide"].endswith(f"points either way, {words}")


def test_a_gain_that_is_known_closely_needs_nothing_more() -> None:
    """The seeds differ by 3 of 5000 images: to 0.2 points either way there is none."""
    results = [
        replace(each, test=scores(right(0.7 + 0.0006 * (each.seed - 1), 5000))) if each.arm == "bn" else each
        for each in everyone()
    ]
    assert compared(results)[0].answer == "no difference"
    assert advice(results) == {}


def test_few_validation_images_cannot_tell_arms_apart() -> None:
    small = [replace(each, validation=scores(right(each.validation.accuracy, 40))) for each in everyone()]
    assert "validation too small" not in advice(small)
    near = [result(arm, 0.9, seed=seed, images=40, loss=0.9) for seed in range(3) for arm in ("near", "twin")]
    expected = (
        "40 validation images cannot tell bn from near and twin (within one standard error): hold out more of them, "
        "data.validation_fraction"
    )
    crowd = [*small, *near]
    assert advice(crowd)["validation too small"] == expected
    assert advice(crowd, validation_limit=41)["validation too small"] == expected
    assert advice(crowd, validation_limit=40)["validation too small"] == expected.replace(
        "hold out more of them, data.validation_fraction",
        "allow more of them, data.validation_limit (now 40)",
    )
    many = [result("near", 0.9, seed=seed, loss=0.9) for seed in range(3)]
    assert advice([*everyone(), *many]) == {}


def test_one_validation_image_is_one_image() -> None:
    single = [replace(each, validation=scores(right(1.0, 1))) for each in everyone()]
    assert advice(single)["validation too small"].startswith("1 validation image cannot tell ")


@pytest.mark.parametrize(
    ("labelled", "spoken"), [(100, True), (364, True), (365, False), (729, False), (None, False)]
)
def test_more_labels_to_choose_by_than_to_train_on(labelled: int | None, spoken: bool) -> None:
    results = [replace(each, validation=scores(right(each.validation.accuracy, 729))) for each in everyone()]
    expected = (
        f"The arm and its rate were chosen on 729 labelled validation images, more than the {labelled} labelled images "
        f"that arms train on: with fewer to choose by the choice is less sure, data.validation_limit={labelled} shows "
        "how much"
    )
    assert advice(results, training_images=labelled) == (
        {"more to choose by than to train on": expected} if spoken else {}
    )


def test_the_fewest_labels_are_those_that_validation_outnumbers() -> None:
    results = [
        replace(each, labels=labels, arm=each.arm)
        for labels in (50, None)
        for each in everyone(validation=0.9)
    ]
    found = advice(results, training_images=1)
    assert list(found) == ["more to choose by than to train on"]
    assert (
        "more than the 1 labelled image that arms train on with the fewest labels: with"
        in (found["more to choose by than to train on"])
    )


def test_labels_that_bring_nothing() -> None:
    free = [result("statistics", 0.9, seed=seed, learning_rate=None, loss=0.9) for seed in range(3)]
    assert advice([*everyone(), *free]) == {
        "labels not needed": "No labels are needed for statistics, which lies within one standard error of bn on "
        "validation: they may not be worth their price here"
    }
    worse = [replace(each, validation=scores(right(0.8, 5000))) for each in free]
    assert advice([*everyone(), *worse]) == {}


@pytest.mark.parametrize(("fewer", "spoken"), [(0.85, True), (0.895, False), (0.9, False)])
def test_more_labels_pay_where_the_last_step_did(fewer: float, spoken: bool) -> None:
    results = [*everyone(labels=None), *everyone(labels=50, validation=fewer)]
    results = [replace(each, labels=None if number < 9 else 50) for number, each in enumerate(results)]
    expected = (
        "From 50 to all labels of each class the recommended arm's validation accuracy rose by 5.0 points: it has "
        "not levelled off, so label more images"
    )
    assert advice(results) == ({"more labels pay": expected} if spoken else {})


def test_a_rise_of_one_validation_image_is_chance() -> None:
    results = [
        replace(each, labels=labels, validation=scores(right(share if each.arm == "bn" else 0.5, 40)))
        for labels, share in ((None, 0.9), (50, 0.875))
        for each in everyone()
    ]
    assert advice(results) == {}


def test_few_labels_are_worth_another_look() -> None:
    results = [replace(each, labels=10) for each in everyone()]
    assert advice(results) == {
        "few labels": "With 10 labels of each class: to see what more would bring, "
        "comparison.labels_per_class=[10,50]"
    }
    single = [replace(each, labels=1) for each in everyone()]
    assert advice(single)["few labels"].startswith("With 1 label of each class: ")


@pytest.mark.parametrize(
    ("error", "images", "spoken"), [(0.14, 5000, True), (0.12, 5000, False), (0.14, 150, False)]
)
def test_probabilities_further_from_the_truth(error: float, images: int, spoken: bool) -> None:
    results = [
        replace(
            each,
            validation=scores(
                right(each.validation.accuracy, images), 0.5, error if each.arm == "bn" else 0.1
            ),
        )
        for each in everyone()
    ]
    found = advice(results)
    assert list(found) == (["worse calibrated"] if spoken else [])
    if spoken:
        assert "(calibration error 0.140 against 0.100 on validation)" in found["worse calibrated"]


def test_every_rule_says_what_it_goes_by() -> None:
    assert all(rule.__doc__ and rule.__doc__.endswith(".") for _, rule in RULES)
    assert len({name for name, _ in RULES}) == len(RULES)


def test_settings_that_are_named_exist() -> None:
    import inspect

    from bnadapt.evaluation import compare_advice

    named = set(re.findall(r"\b(comparison|data)\.([a-z_]+)", inspect.getsource(compare_advice)))
    named = {each for each in named if each[1] != "comparison"}
    settings = Settings()
    missing = [f"{group}.{name}" for group, name in named if not hasattr(getattr(settings, group), name)]
    # Fields of a Comparison, which the rules read, are no settings.
    assert [each for each in missing if each.split(".")[1] not in Comparison.__dataclass_fields__] == []
