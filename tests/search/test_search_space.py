"""What the space of a search may hold, and what is drawn from it."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bnadapt.checks import check
from bnadapt.config import RangeSettings, Settings
from bnadapt.errors import SettingsError
from bnadapt.search.space import as_drawn, as_override, draw, standing
from bnadapt.setting_keys import settings_by_key, with_values
from tests.searches import ADAPT, FINETUNE, in_memory, small, with_range


def test_a_sound_space_passes() -> None:
    check(small())
    check(with_range(key="data.batch_size", low=16, high=64))
    check(with_range(key="insertion.momentum", choices=[None, 0.9]))
    check(with_range(key="schedule.adapt.train", choices=[["batch_norm"], ["batch_norm", "head"]]))
    check(with_range(key="schedule.adapt.learning_rate", choices=[1, 0.1]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"key": "schedule.adapt.learnin_rate", "low": 0.1, "high": 1},
            "search.space.x.key=schedule.adapt.learnin_rate: there is no such setting; did you mean "
            "schedule.adapt.learning_rate",
        ),
        (
            {"key": "schedule.adpt.learning_rate", "low": 0.1, "high": 1},
            "did you mean schedule.adapt.learning_rate or ",
        ),
        ({"key": "schedule.adapt", "choices": [1]}, "or leave the range out: ~search.space.x"),
        ({"key": "", "choices": [1]}, "search.space.x.key=: there is no such setting; give a key such as"),
        ({"key": "seed", "choices": [1, 2]}, "cannot be searched: a lucky seed is no better setting"),
        ({"key": "stages", "choices": [None]}, "cannot be searched: it changes nothing that a trial does"),
        (
            {"key": "search.trials", "low": 1, "high": 2},
            "cannot be searched: it changes nothing that a trial",
        ),
        ({"key": "tracking.experiment", "choices": ["a"]}, "cannot be searched: it changes nothing"),
        ({"key": "data.validation_fraction", "low": 0.1, "high": 0.2}, "other data would not be comparable"),
        (
            {"key": "model.dropout", "low": 0.1, "high": 0.2},
            "the baseline is trained once for the whole search",
        ),
        (
            {"key": "baseline.epochs", "low": 1, "high": 2},
            "the baseline is trained once for the whole search",
        ),
        ({"key": ADAPT}, "search.space.x: give either low and high or choices, and not neither"),
        ({"key": ADAPT, "low": 0.1, "choices": [0.2]}, "give either low and high or choices, and not both"),
        ({"key": ADAPT, "low": 0.1}, "search.space.x: low and high make an interval; high is missing"),
        ({"key": ADAPT, "high": 0.1}, "search.space.x: low and high make an interval; low is missing"),
        ({"key": ADAPT, "low": 0.2, "high": 0.1}, "search.space.x: low=0.2 must be less than high=0.1"),
        ({"key": ADAPT, "low": 0.2, "high": math.inf}, "low=0.2 must be less than high=inf"),
        ({"key": ADAPT, "low": math.nan, "high": 1}, "low=nan must be less than high=1"),
        ({"key": "placement.position", "low": 0, "high": 1}, "placement.position takes no numbers"),
        ({"key": "placement.on_input", "low": 0, "high": 1}, "placement.on_input takes no numbers"),
        (
            {"key": "insertion.momentum", "low": 0, "high": 0.5, "log": True},
            "search.space.x: low=0 must be greater than 0 with log=true",
        ),
        (
            {"key": "schedule.adapt.epochs", "low": 1.5, "high": 3},
            "schedule.adapt.epochs takes whole numbers: low=1.5 and high=3 must be some",
        ),
        (
            {"key": ADAPT, "low": -1, "high": 0.5},
            "search.space.x: schedule.adapt.learning_rate=-1: must be greater than 0",
        ),
        (
            {"key": "insertion.momentum", "low": 0.5, "high": 1},
            "search.space.x: insertion.momentum=1: must be less than 1",
        ),
        (
            {"key": "placement.position", "choices": ["before_activation", "between"]},
            "search.space.x: placement.position=between: choose one of before_activation, after_activation, none",
        ),
        (
            {"key": "placement.on_input", "choices": [True, 1]},
            "search.space.x.choices: 1 is no value for placement.on_input, which takes true or false",
        ),
        (
            {"key": "schedule.adapt.epochs", "choices": [2, None]},
            "None is no value for schedule.adapt.epochs, which takes a whole number",
        ),
        (
            {"key": "schedule.adapt.epochs", "choices": [2, True]},
            "True is no value for schedule.adapt.epochs, which takes a whole number",
        ),
        (
            {"key": "schedule.adapt.train", "choices": ["batch_norm"]},
            "'batch_norm' is no value for schedule.adapt.train, which takes a list",
        ),
        ({"key": ADAPT, "choices": [0.1, 0.1]}, "search.space.x.choices=[0.1, 0.1]: give each value once"),
        ({"key": ADAPT, "choices": [0.1], "log": True}, "log=true is used with low and high only"),
        (
            {"key": "insertion.gamma", "low": 0.1, "high": 0.9},
            "search.space.x: insertion.gamma=0.1 is used by insertion.init=standard only",
        ),
        (
            {"key": "schedule.adapt.train", "choices": [["batch_norm"], ["(("]]},
            "search.space.x: schedule.adapt.train=((: not a regular expression",
        ),
    ],
)
def test_what_no_range_can_be_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        check(with_range(**values))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: setattr(s, "stages", ["baseline"]), "stages=['baseline'] is not used by a search"),
        (lambda s: setattr(s, "from_run", "1a"), "from_run=1a is not used by a search"),
        (
            lambda s: setattr(s.search, "storage", "sqlite:///mlflow.db"),
            "search.storage=sqlite:///mlflow.db is MLflow's store (tracking.uri): Optuna needs one of its own",
        ),
        (lambda s: setattr(s.search, "storage", "search.db"), "search.storage=search.db: name a database"),
        (lambda s: setattr(s.search, "storage", "sqlite:///:memory:"), "name a database that outlives"),
        (lambda s: setattr(s.search, "trials", 0), "search.trials=0: must be at least 1"),
        (
            lambda s: s.search.space.update(again=RangeSettings(key=ADAPT, choices=[0.1])),
            f"search.space.again.key={ADAPT}: another range has the same setting",
        ),
    ],
)
def test_what_contradicts_a_search_is_named(change: Callable[[Settings], object], message: str) -> None:
    settings = small()
    change(settings)
    with pytest.raises(SettingsError) as error:
        check(settings)
    assert message in str(error.value)


def test_without_a_space_nothing_of_the_search_is_checked() -> None:
    settings = small(storage="nonsense")
    settings.search.space = {}
    check(settings)


def test_every_setting_has_a_key_and_other_values_leave_the_first_settings_alone() -> None:
    settings = small()
    known = settings_by_key(settings)
    assert {"seed", "data.batch_size", "schedule.finetune.decay", "search.space.adapt_rate.low"} <= set(known)
    assert not {"data", "schedule", "schedule.adapt", "schedule.adapt.batch_norm"} & set(known)
    before = asdict(settings)
    changed = with_values(settings, {FINETUNE: 0.5, "schedule.adapt.train": ["head"], "data.batch_size": 8})
    assert asdict(settings) == before
    assert changed.schedule["finetune"].learning_rate == 0.5
    assert (changed.schedule["adapt"].train, changed.data.batch_size) == (["head"], 8)
    after = with_values(
        changed, {FINETUNE: 0.0001, "schedule.adapt.train": ["batch_norm"], "data.batch_size": 256}
    )
    assert asdict(after) == before
    with pytest.raises(KeyError):
        with_values(settings, {"schedule.adapt.rate": 1})


# What is drawn.


def test_draws_lie_in_their_ranges_and_can_be_typed_again() -> None:
    settings = small()
    settings.search.space = {
        "rate": RangeSettings(key=ADAPT, low=1.23456e-4, high=9.87654e-2, log=True),
        "epochs": RangeSettings(key="schedule.finetune.epochs", low=1, high=3),
        "train": RangeSettings(key="schedule.adapt.train", choices=[["batch_norm"], ["upper 50%", "head"]]),
        "patience": RangeSettings(key="schedule.finetune.patience", choices=[None, 2]),
        "input": RangeSettings(key="placement.on_input", choices=[False, True]),
    }
    check(settings)
    study = in_memory()
    drawn = [draw(study.ask(), settings) for _ in range(60)]
    rates = [values[ADAPT] for values in drawn]
    assert all(1.23456e-4 <= rate <= 9.87654e-2 for rate in rates)
    assert all(float(f"{rate:.3g}") == rate for rate in rates)
    assert np.median(np.log10(rates)) == pytest.approx(-2.46, abs=0.4)
    assert {values["schedule.finetune.epochs"] for values in drawn} == {1, 2, 3}
    assert all(type(values["schedule.finetune.epochs"]) is int for values in drawn)
    assert ["upper 50%", "head"] in [values["schedule.adapt.train"] for values in drawn]
    assert {values["schedule.finetune.patience"] for values in drawn} == {None, 2}
    assert {values["placement.on_input"] for values in drawn} == {False, True}


def test_rounding_does_not_leave_the_interval() -> None:
    settings = with_range(key=ADAPT, low=0.12345, high=0.123456)
    study = in_memory()
    assert {draw(study.ask(), settings)[ADAPT] for _ in range(20)} <= {0.12345, 0.123456}


def test_the_settings_as_they_stand_are_drawn_as_they_stand() -> None:
    settings = small()
    settings.schedule["finetune"].learning_rate = 0.000123456
    study = in_memory()
    first = as_drawn(settings)
    assert first == {"adapt_rate": "0.001", "finetune_rate": 0.000123456}
    study.enqueue_trial(first)
    assert draw(study.ask(), settings) == {ADAPT: 0.001, FINETUNE: 0.000123456} == standing(settings)


@pytest.mark.parametrize(
    "values",
    [
        {"key": "insertion.momentum", "low": 0.5, "high": 0.9},
        {"key": ADAPT, "low": 0.1, "high": 0.9},
        {"key": ADAPT, "choices": [0.1, 0.9]},
    ],
)
def test_settings_outside_the_space_are_not_drawn(values: dict[str, Any]) -> None:
    assert as_drawn(with_range(**values)) is None


OVERRIDES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abz09 _.-/%*()[]{}'\",:=$^+|\\", max_size=12).filter(lambda text: "${" not in text),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(OVERRIDES)
@hypothesis_settings(deadline=None, max_examples=50)
def test_a_value_read_from_the_command_line_is_what_was_written(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([f"key={as_override(value)}"])
    read = parsed.value()
    assert as_plain(read) == value


def as_plain(value: Any) -> Any:
    """Hydra's quoted strings and lists of them as plain ones."""
    if isinstance(value, list):
        return [as_plain(each) for each in value]
    return value.text if hasattr(value, "text") else value
