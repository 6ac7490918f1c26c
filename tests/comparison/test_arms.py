"""Arms as settings: placements, shares of one budget, repetitions, and what a network cannot take."""

from dataclasses import replace
from pathlib import Path

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnadapt.comparison.account import parameters_of
from bnadapt.comparison.arms import chosen_arms, repetitions, runnable, settings_of, trains
from bnadapt.config import (
    ArmSettings,
    ArmStageSettings,
    ComparisonSettings,
    DataSettings,
    InsertionSettings,
    ModelSettings,
    PlacementSettings,
    Settings,
    TrackingSettings,
)
from bnadapt.start import Start, prepare
from bnadapt.tracking.store import Tracker
from tests.test_conf import compose


def arm(position: str = "none", **stages: list[str]) -> ArmSettings:
    return ArmSettings(
        position=position,
        schedule={
            name: ArmStageSettings(train=train, share=1 / len(stages)) for name, train in stages.items()
        },
    )


def started(settings: Settings, directory: Path) -> Start:
    tracking = TrackingSettings(uri=f"sqlite:///{directory}/mlflow.db")
    return prepare(settings, Tracker(tracking, directory))


def test_arms_put_batch_norm_where_they_say() -> None:
    settings = Settings(placement=PlacementSettings(exclude=["conv1"], on_input=True))
    places = {
        (each.placement.position, each.placement.on_input)
        for each in (settings_of(settings, arm(position), 0.1) for position in ("none", "chosen", "other"))
    }
    assert places == {("none", False), ("before_activation", True), ("after_activation", True)}
    after = replace(settings, placement=PlacementSettings(position="after_activation"))
    assert settings_of(after, arm("other"), 0.1).placement.position == "before_activation"
    on_input = settings_of(after, ArmSettings(on_input=True, init="standard"), 0.1)
    assert (on_input.placement.position, on_input.placement.on_input) == ("none", True)
    assert on_input.insertion.init == "standard"
    assert settings_of(settings, arm("chosen"), 0.1).placement.exclude == ["conv1"]


def test_gamma_is_for_standard_insertion_alone() -> None:
    settings = Settings(insertion=InsertionSettings(gamma=0.1, epsilon=1e-3))
    calibrated, standard = (
        settings_of(settings, ArmSettings(position="chosen", init=init), 0.1).insertion
        for init in ("calibrated", "standard")
    )
    assert (calibrated.init, calibrated.gamma, calibrated.epsilon) == ("calibrated", 1.0, 1e-3)
    assert (standard.init, standard.gamma, standard.epsilon) == ("standard", 0.1, 1e-3)


@given(st.integers(10, 5000), st.lists(st.floats(0.05, 1), min_size=1, max_size=6), st.floats(1e-6, 1))
def test_every_arm_takes_exactly_the_steps_of_the_comparison(
    steps: int, weights: list[float], rate: float
) -> None:
    stages = {
        f"s{number}": ArmStageSettings(share=weight / sum(weights), rate=0.5)
        for number, weight in enumerate(weights)
    }
    comparison = ComparisonSettings(steps=steps, optimizer="sgd")
    settings = settings_of(Settings(comparison=comparison), ArmSettings(schedule=stages), rate)
    taken = [stage.steps or 0 for stage in settings.schedule.values()]
    assert sum(taken) == steps
    for stage, count in zip(stages.values(), taken, strict=True):
        assert abs(count - stage.share * steps) <= 1
    assert {stage.learning_rate for stage in settings.schedule.values()} == {rate * 0.5}
    assert {stage.optimizer for stage in settings.schedule.values()} == {"sgd"}


def test_statistics_need_no_rate() -> None:
    assert not trains(arm("chosen", statistics=["statistics"]))
    assert not trains(ArmSettings())
    both = arm("chosen", statistics=["statistics"], affine=["batch_norm"])
    assert trains(both)
    both.schedule["affine"].share = 1.0
    schedule = settings_of(Settings(), both, 0.01).schedule
    assert (schedule["statistics"].steps, schedule["affine"].steps) == (None, 300)


def test_repetitions_differ_in_seed_and_in_the_images_with_labels_and_in_nothing_else() -> None:
    settings = Settings(
        data=DataSettings(labels_per_class=7, labels_seed=5, split_seed=3),
        seed=40,
        comparison=ComparisonSettings(seeds=[0, 2]),
    )
    found = list(repetitions(settings))
    assert [(each.seed, each.labels, each.settings.data.labels_seed) for each in found] == [
        (40, 7, 5),
        (42, 7, 7),
    ]
    assert {each.settings.data.split_seed for each in found} == {3}
    settings.comparison.labels_per_class = [1, None]
    assert [(each.seed, each.labels) for each in repetitions(settings)] == [
        (40, 1),
        (42, 1),
        (40, None),
        (42, None),
    ]
    assert [each.settings.data.labels_per_class for each in repetitions(settings)] == [1, 1, None, None]


def test_what_arms_are_compared_with_is_always_among_them() -> None:
    comparison = ComparisonSettings(
        arms={name: ArmSettings() for name in ("untouched", "a", "further_training", "b")}, only=["b"]
    )
    assert list(chosen_arms(comparison)) == ["untouched", "further_training", "b"]
    comparison.only = None
    assert list(chosen_arms(comparison)) == ["untouched", "a", "further_training", "b"]


def test_all_arms_run_where_the_baseline_was_trained_on_other_data(tmp_path: Path) -> None:
    settings = compose("experiment=compare", "data@baseline_data=digits", "baseline_data.split_seed=1")
    arms, left_out = runnable(settings, started(settings, tmp_path))
    assert list(arms) == list(settings.comparison.arms)
    assert left_out == []


def test_statistics_alone_are_left_out_where_they_could_not_change(tmp_path: Path) -> None:
    settings = compose("experiment=compare")
    arms, left_out = runnable(settings, started(settings, tmp_path))
    assert set(settings.comparison.arms) - set(arms) == {"statistics", "input_statistics"}
    assert all("random weights" not in each for each in left_out)
    assert [
        each
        for each in left_out
        if "arm statistics is left out: batch normalization is calibrated on" in each
    ]
    assert all("data@baseline_data=NAME" in each for each in left_out)


def test_arms_that_are_the_same_on_a_network_run_once(tmp_path: Path) -> None:
    network = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Dense(10, activation="softmax", use_bias=False, name="head"),
        ]
    )
    network.save(tmp_path / "own.keras")
    settings = replace(
        compose("experiment=compare"), model=ModelSettings(kind="file", path=str(tmp_path / "own.keras"))
    )
    arms, left_out = runnable(settings, started(settings, tmp_path))
    assert "arm procedure_standard is left out: on this network it is the same as procedure" in left_out
    assert (
        "arm procedure_other_placement is left out: on this network it is the same as procedure" in left_out
    )
    restricted = replace(settings, placement=PlacementSettings(exclude=["head"]))
    assert runnable(restricted, started(restricted, tmp_path))[1][-1].startswith(
        "random weights are drawn in every"
    )
    assert any(each.startswith("arm biases is left out: 'biases' selects no layer") for each in left_out)
    assert {"bn_only", "statistics", "further_training", "untouched"} <= set(arms)


@pytest.mark.parametrize(
    "position", ["before_activation", pytest.param("after_activation", marks=pytest.mark.slow)]
)
def test_both_placements_are_compared_whichever_was_chosen(position: str, tmp_path: Path) -> None:
    settings = compose("experiment=compare", f"placement={position}", "data@baseline_data=digits")
    arms, _ = runnable(settings, started(settings, tmp_path))
    positions = {
        name: settings_of(settings, arms[name], 1.0).placement.position
        for name in ("procedure", "procedure_other_placement")
    }
    assert set(positions.values()) == {"before_activation", "after_activation"}
    assert positions["procedure"] == position


def test_an_arms_run_says_how_many_labels_it_had() -> None:
    few = Settings(data=DataSettings(labels_per_class=10))
    part = Settings(data=DataSettings(labels_fraction=0.02))
    words = [
        parameters_of(next(repetitions(settings)), ArmSettings())["labels_per_class"]
        for settings in (few, part, Settings())
    ]
    assert words == ["10", "2%", "all"]
