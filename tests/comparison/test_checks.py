"""Mistakes in a comparison are found before anything trains, with the full key and a remedy."""

import math
from collections.abc import Callable

import pytest

from bnadapt.checks import check
from bnadapt.config import ArmSettings, ArmStageSettings, RangeSettings, Settings
from bnadapt.errors import SettingsError
from tests.test_conf import compose

ALL_ARMS = (
    "untouched, further_training, finetune, head, biases, random_weights, input_statistics, statistics, "
    "statistics_then_affine, bn_only, procedure, procedure_other_placement, procedure_standard"
)


def change(key: str, value: object) -> Callable[[Settings], None]:
    return lambda settings: setattr(settings.comparison, key, value)


def valid() -> Settings:
    return compose("experiment=compare")


def test_the_comparison_as_it_comes_is_valid() -> None:
    check(valid())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change("only", ["nonsense"]), f"comparison.only: no arm is called nonsense; there are {ALL_ARMS}"),
        (
            change("reference", "control"),
            "comparison.arms.control is missing, which the other arms are compared with",
        ),
        (change("seeds", []), "comparison.seeds=[]: give at least one, each once"),
        (change("seeds", [0, 0]), "comparison.seeds=[0, 0]: give at least one, each once"),
        (
            change("seeds", [-1]),
            "comparison.seeds=[-1]: must be at least 0, and with seed=0 below 4294967296",
        ),
        (change("seeds", [2**32]), "comparison.seeds=[4294967296]: must be at least 0"),
        (change("learning_rates", []), "comparison.learning_rates=[]: give at least one, each once"),
        (change("learning_rates", [0.0]), "comparison.learning_rates=[0.0]: must be numbers greater than 0"),
        (
            change("learning_rates", [math.nan]),
            "comparison.learning_rates=[nan]: must be numbers greater than 0",
        ),
        (
            change("learning_rates", [math.inf]),
            "comparison.learning_rates=[inf]: must be numbers greater than 0",
        ),
        (change("labels_per_class", [5, 5]), "comparison.labels_per_class=[5, 5]: give each once"),
        (
            change("labels_per_class", [0]),
            "comparison.labels_per_class=[0]: must be at least 1, or null for all",
        ),
        (
            change("steps", 1),
            "comparison.steps=1: comparison.arms.finetune has a stage of 0.3 of them; give at least 4",
        ),
        (
            lambda s: (
                setattr(s.data, "labels_fraction", 0.1),
                setattr(s.comparison, "labels_per_class", [5]),
            ),
            "comparison.labels_per_class=[5] and data.labels_fraction=0.1 both say how many images have labels",
        ),
        (lambda s: setattr(s, "stages", ["baseline"]), "stages=['baseline'] is not used by a comparison"),
        (lambda s: setattr(s, "from_run", "f00"), "from_run=f00 is not used by a comparison"),
        (
            lambda s: s.search.space.update(rate=RangeSettings(key="insertion.momentum", low=0.5, high=0.9)),
            "comparison.arms and search.space both say what to run: one at a time",
        ),
        (
            lambda s: setattr(s.placement, "position", "none"),
            "comparison.arms.bn_only.position=chosen needs a placement; placement=none inserts nothing",
        ),
        (
            lambda s: s.comparison.arms.update(mine=ArmSettings(schedule={"a": ArmStageSettings(share=0.4)})),
            "comparison.arms.mine: the shares of its stages are 0.4 in all; every arm gets 1, the same steps",
        ),
        (
            lambda s: s.comparison.arms["bn_only"].schedule["adapt"].train.append("statistics"),
            "comparison.arms.bn_only.schedule.adapt.train=['batch_norm', 'statistics']: statistics stands alone",
        ),
        (
            lambda s: setattr(s.data, "batch_size", 1),
            "data.batch_size=1: comparison.arms.bn_only normalizes with the batch, which needs more than one image",
        ),
    ],
)
def test_mistakes_are_named(change: Callable[[Settings], None], message: str) -> None:
    settings = valid()
    change(settings)
    with pytest.raises(SettingsError) as caught:
        check(settings)
    assert message in str(caught.value)


def test_only_the_arms_that_run_are_checked() -> None:
    settings = valid()
    settings.comparison.only = ["head", "statistics_then_affine"]
    settings.data.batch_size = 1
    check(settings)
    settings.comparison.only = ["head"]
    settings.placement.position = "none"
    check(settings)


def test_a_gamma_is_for_arms_with_standard_insertion() -> None:
    settings = valid()
    settings.insertion.gamma = 0.1
    check(settings)
    settings.comparison.arms["procedure_standard"].init = "calibrated"
    with pytest.raises(
        SettingsError, match=r"insertion\.gamma=0\.1 is used by insertion\.init=standard only"
    ):
        check(settings)
