"""Every rule speaks under its condition, stays silent just outside of it, and hears nothing of the test images."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bnadapt.config import StageSettings
from bnadapt.evaluation.advice import RULES, Evidence, advise
from bnadapt.evaluation.results import Diagnosis, Epoch, LayerGap, Scores, StageResult


def scores(accuracy: float, loss: float = 0.3, images: int = 10_000) -> Scores:
    correct = np.arange(images) < round(accuracy * images)
    return Scores(accuracy, loss, accuracy, 0.1, np.array([accuracy]), correct, correct.astype(int))


def epochs(*losses: float, accuracy: float = 0.951) -> list[Epoch]:
    return [
        Epoch(number, accuracy, loss, accuracy, loss, 1e-3, 1.0)
        for number, loss in enumerate(losses, start=1)
    ]


def diagnosis(
    mean: float = 0.0,
    deviation: float = 0.0,
    inference: float = 0.95,
    batch: float = 0.95,
    images: int = 2000,
    layer: str = "bn2",
) -> Diagnosis:
    layers = (LayerGap("bn1", 4, 0.01, 0.01, 0.0), LayerGap(layer, 8, mean, deviation, 0.0))
    return Diagnosis(layers, images, inference, batch)


def stage(name: str, validation: Scores, history: list[Epoch] | None = None, **more: object) -> StageResult:
    history = history or []
    return StageResult(
        name, 0, len(history), 0.0, history, validation=validation, kept_epoch=len(history), **more
    )


SCHEDULE = {"adapt": StageSettings(train=["batch_norm"]), "finetune": StageSettings(train=["all"])}


def evidence(**changes: object) -> Evidence:
    """A run that went well: nothing to say. Results are changed by their names, all else by the field's."""
    given = [each for each in changes.values() if isinstance(each, StageResult) and each.validation]
    images = len(given[0].validation.correct) if given else 10_000  # all stages are scored on the same ones
    results = {
        "baseline": stage("baseline", scores(0.9, 0.4, images)),
        "insert": stage("insert", scores(0.9, 0.4, images)),
        "adapt": stage("adapt", scores(0.93, 0.35, images), epochs(0.37, 0.35), diagnosis=diagnosis()),
        "finetune": stage(
            "finetune", scores(0.95, 0.3, images), epochs(0.31, 0.3, 0.3), diagnosis=diagnosis()
        ),
        "control": stage("control", scores(0.92, 0.36, images), epochs(0.38, 0.36)),
    }
    fields = {
        "best": "finetune",
        "schedule": SCHEDULE,
        "placement": "before_activation",
        "training_images": 5000,
        "classes": 10,
        "batch_size": 64,
        "calibrated": True,
    }
    fields |= {name: value for name, value in changes.items() if name in fields}
    results |= {name: value for name, value in changes.items() if name not in fields}
    return Evidence(results=[each for each in results.values() if each is not None], **fields)


def finetune(history: list[Epoch] | None = None, left: Scores | None = None, **more: object) -> StageResult:
    more = {"diagnosis": diagnosis()} | more
    return stage("finetune", left or scores(0.95, 0.3), history or epochs(0.31, 0.3, 0.3), **more)


def scheduled(**settings: object) -> dict[str, StageSettings]:
    return SCHEDULE | {"finetune": replace(SCHEDULE["finetune"], **settings)}


def test_where_all_went_well_there_is_nothing_to_say() -> None:
    assert advise(evidence()) == ()


CASES = [
    (
        "insertion not calibrated",
        {
            "insert": stage("insert", scores(0.9, 0.4), diagnosis=diagnosis(mean=0.3, layer="bn_inserted_bn_1")),
            "calibrated": False,
        },
        {  # one of the network's own
            "insert": stage("insert", scores(0.9, 0.4), diagnosis=diagnosis(mean=0.3)),
            "calibrated": False,
        },
        "began with another function than the baseline's: insertion.init=calibrated",
    ),
    (
        "insertion not calibrated",
        {
            "insert": stage("insert", scores(0.9, 0.4), diagnosis=diagnosis(deviation=0.3, layer="x_inserted_bn")),
            "calibrated": False,
        },
        {  # calibrated on the images that the network was trained on, which are others
            "insert": stage("insert", scores(0.9, 0.4), diagnosis=diagnosis(deviation=0.3, layer="x_inserted_bn")),
            "calibrated": True,
        },
        "insertion.init=calibrated",
    ),
    (
        "statistics do not fit",
        {"finetune": finetune(diagnosis=diagnosis(mean=0.26)), "schedule": scheduled(reestimate=False)},
        {"finetune": finetune(diagnosis=diagnosis(mean=0.24)), "schedule": scheduled(reestimate=False)},
        "After finetune the moving statistics of bn2 are not those of the training images (means 0.26 deviations "
        "apart, deviations 0 % apart): measure them anew: schedule.finetune.reestimate=true",
    ),
    (
        "statistics do not fit",
        {"finetune": finetune(diagnosis=diagnosis(deviation=0.3))},
        {"finetune": finetune(diagnosis=None)},
        "(means 0 deviations apart, deviations 35 % apart): measure them on more images: insertion.samples=null",
    ),
    (
        "statistics do not fit",
        {"finetune": finetune(diagnosis=diagnosis(mean=2)), "schedule": scheduled(normalize="moving")},
        {"schedule": scheduled(normalize="moving")},
        "let a stage before it take them from these images",
    ),
    (
        "batch and moving statistics disagree",
        {"finetune": finetune(diagnosis=diagnosis(inference=0.95, batch=0.92))},
        {"finetune": finetune(diagnosis=diagnosis(inference=0.95, batch=0.935))},
        "Normalizing with batches as in training, the network of finetune is right on 92.0 % of the validation "
        "images, as it is used on 95.0 %: take larger batches (data.batch_size=128), or train on statistics that "
        "stay (schedule.finetune.statistics=stay schedule.finetune.normalize=moving)",
    ),
    (
        "batch and moving statistics disagree",
        {"finetune": finetune(diagnosis=diagnosis(inference=0.31, batch=0.9))},
        # Three of sixty images more or less are chance.
        {"finetune": finetune(diagnosis=diagnosis(inference=0.95, batch=0.9, images=60))},
        "is right on 90.0 % of the validation images, as it is used on 31.0 %",
    ),
    (
        "batch and moving statistics disagree",
        {"finetune": finetune(diagnosis=diagnosis(batch=0.9))},
        {"finetune": finetune(diagnosis=diagnosis(batch=0.9)), "schedule": scheduled(normalize="moving")},
        "take larger batches",
    ),
    (
        "learning rate too high",
        {"adapt": stage("adapt", scores(0.93, 0.43), epochs(0.5, 0.43))},
        {"adapt": stage("adapt", scores(0.93, 0.415), epochs(0.5, 0.415))},
        "adapt made the validation loss 7 % larger than it was before: a lower learning rate, "
        "schedule.adapt.learning_rate=0.0003",
    ),
    (
        "learning rate too high",
        {"adapt": stage("adapt", scores(0.93, 0.43), epochs(0.5, 0.43), diagnosis=diagnosis(mean=0.2))},
        {"adapt": stage("adapt", scores(0.93, 0.43), epochs(0.5, 0.43), diagnosis=diagnosis(mean=0.3))},
        "a lower learning rate, schedule.adapt.learning_rate=0.0003",
    ),
    (
        "learning rate too low",
        {"finetune": finetune(epochs(0.349, 0.349), scores(0.95, 0.349))},
        {"finetune": finetune(epochs(0.349, 0.349, accuracy=0.995), scores(0.995, 0.349))},
        "finetune hardly moved the validation loss: a higher learning rate, schedule.finetune.learning_rate=0.003",
    ),
    (
        "more epochs",
        {"finetune": finetune(epochs(0.32, 0.31, 0.3))},
        {"finetune": finetune(epochs(0.32, 0.305, 0.3))},
        "The validation loss of finetune was still falling in its last epoch (0.31 to 0.3): train longer, "
        "schedule.finetune.epochs=6",
    ),
    (
        "more epochs",
        {"finetune": finetune(epochs(0.3))},  # a single epoch falls from what the stage before left
        {"finetune": finetune(epochs(0.29, 0.34, 0.3))},  # falls, but not below what was reached before
        "(0.35 to 0.3): train longer, schedule.finetune.epochs=2",
    ),
    (
        "control as good",
        {"control": stage("control", scores(0.95))},
        {"control": stage("control", scores(0.949))},
        "More training without batch normalization does as well or better on the validation images (95.0 % "
        "against 95.0 % of finetune): put it elsewhere (placement=after_activation) or take other stages "
        "(schedule=...)",
    ),
    (
        "control as good",
        {"control": stage("control", scores(0.96)), "placement": "none"},
        {"control": None, "placement": "none"},
        "put some in: placement=before_activation",
    ),
    (
        "too little trains",
        {
            "finetune": None,
            "best": "adapt",
            "adapt": stage("adapt", scores(0.93, 0.35), epochs(0.35, 0.35, accuracy=0.92)),
        },
        {
            "finetune": None,
            "best": "adapt",
            "adapt": stage("adapt", scores(0.93, 0.35), epochs(0.35, 0.35, accuracy=0.94)),
        },
        "With batch_norm training, only 92.0 % of the training images are right: let more weights train, "
        "schedule=bn_then_all or schedule=gradual",
    ),
    (
        "learned by heart",
        {"finetune": finetune(epochs(0.31, 0.3, 0.3, accuracy=0.999), scores(0.94, 0.3))},
        {"finetune": finetune(epochs(0.31, 0.3, 0.3, accuracy=0.989), scores(0.94, 0.3))},
        "finetune is right on 99.9 % of the training images and 94.0 % of the validation images, so it learns by "
        "heart: fewer weights that train (schedule.finetune.train=[batch_norm]) or more labelled images",
    ),
    (
        "learned by heart",
        {
            "finetune": finetune(epochs(0.3, 0.3, accuracy=1.0), scores(0.9, 0.3)),
            "schedule": scheduled(train=["batch_norm"]),
        },
        # Of 20 images two wrong ones are chance.
        {"finetune": finetune(epochs(0.3, 0.3, accuracy=0.96), scores(0.9, 0.3, images=20))},
        "so it learns by heart: more labelled images",
    ),
    (
        "few labels",
        {"training_images": 490},
        {"training_images": 500},
        "There are 49 labelled training images for each class: more labels help most where there are few",
    ),
    (
        "stages too close",
        {
            "finetune": finetune(left=scores(0.95, 0.3, images=200)),
            "adapt": stage("adapt", scores(0.94, 0.35, images=200), epochs(0.37, 0.35)),
        },
        {"finetune": finetune(left=scores(0.95, 0.3, images=200)), "adapt": None, "baseline": None},
        "200 validation images cannot tell finetune from adapt (McNemar's p above 0.05): hold out more of them, "
        "data.validation_fraction",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "speaks", "silent", "sentence"), CASES, ids=[case[0] for case in CASES])
def test_a_rule_speaks_under_its_condition_only(
    rule: str, speaks: dict[str, object], silent: dict[str, object], sentence: str
) -> None:
    (found,) = (each for each in advise(evidence(**speaks)) if each.rule == rule)
    assert sentence in found.sentence
    assert rule not in {each.rule for each in advise(evidence(**silent))}


def test_every_rule_is_tested_and_says_what_it_looks_for() -> None:
    assert {name for name, _ in RULES} == {case[0] for case in CASES}
    assert all(re.search(r": .*\.$", rule.__doc__ or "") for _, rule in RULES)


def test_the_first_advice_is_the_most_pressing() -> None:
    found = advise(
        evidence(
            finetune=finetune(
                epochs(0.5, 0.45, 0.4), scores(0.95, 0.4), diagnosis=diagnosis(mean=1, batch=0.5)
            ),
            control=stage("control", scores(0.95)),
            training_images=100,
        )
    )
    assert [each.rule for each in found] == [
        "statistics do not fit",
        "batch and moving statistics disagree",
        "control as good",
        "few labels",
    ]


def test_the_test_images_have_no_say() -> None:
    for _, speaks, silent, _ in CASES:
        for changes in (speaks, silent):
            seen = evidence(**changes)
            peeking = replace(
                seen,
                results=[
                    replace(result, test=scores(share))
                    for result, share in zip(seen.results, (1.0, 0.0, 0.5, 0.2, 1.0), strict=False)
                ],
            )
            assert advise(peeking) == advise(seen)


def test_a_run_without_training_or_scores_gets_no_advice_about_them() -> None:
    bare = evidence(
        adapt=stage("adapt", scores(0.9)),
        finetune=stage("finetune", scores(0.9)),
        best="baseline",
        control=None,
    )
    assert advise(bare) == ()
    nothing = Evidence(
        [StageResult("adapt", 0, 1, 0.0, epochs(1.0))], "adapt", SCHEDULE, "none", 1000, 10, 8, True
    )
    assert advise(nothing) == ()


def test_stages_that_an_earlier_run_performed_may_be_missing_in_the_schedule() -> None:
    assert advise(evidence(schedule={"finetune": StageSettings()})) == ()


@pytest.mark.parametrize(
    ("placement", "remedy"),
    [
        ("before_activation, input", "placement=after_activation"),
        ("after_activation, input", "placement=before_activation"),
        ("input", "placement=after_activation"),
        ("none", "placement=before_activation"),
    ],
)
def test_another_place_is_another_one(placement: str, remedy: str) -> None:
    (found,) = advise(evidence(control=stage("control", scores(0.96)), placement=placement))
    assert remedy in found.sentence
