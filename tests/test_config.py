"""Values out of range and contradictions are found, all at once, with the full key and a remedy."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass

import pytest

from bnadapt.checks import check
from bnadapt.config import (
    Settings,
    StageSettings,
    SwitchSettings,
    chosen_stages,
    inserts,
    length_of,
    stage_order,
    takes_steps,
)
from bnadapt.errors import SettingsError


def valid() -> Settings:
    settings = Settings(schedule={"adapt": StageSettings(train=["batch_norm"]), "finetune": StageSettings()})
    settings.data.name = "digits"
    return settings


def test_valid_settings_pass() -> None:
    check(valid())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: setattr(s.data, "batch_size", 0), "data.batch_size=0: must be at least 1"),
        (
            lambda s: setattr(s.data, "validation_fraction", 0.0),
            "data.validation_fraction=0.0: must be greater than 0",
        ),
        (lambda s: setattr(s.data, "test_fraction", 1.0), "data.test_fraction=1.0: must be less than 1"),
        (lambda s: setattr(s.data, "test_fraction", 0.95), "leave nothing to train on"),
        (lambda s: setattr(s.data, "name", None), "data.name is missing: data=tfds needs data.name=NAME"),
        (lambda s: setattr(s.data, "path", "x"), "data.path=x is used by data=folder and data=table only"),
        (
            lambda s: setattr(s.data, "shift", "fog"),
            "data.shift=fog: choose one of none, contrast, brightness",
        ),
        (lambda s: setattr(s.data, "severity", 6), "data.severity=6: must be less than 6"),
        (
            lambda s: s.data.__dict__.update(labels_per_class=10, labels_fraction=0.1),
            "data.labels_per_class=10 and data.labels_fraction=0.1 both say how many images have labels",
        ),
        (
            lambda s: setattr(s.data, "source", "folder"),
            "data.path is missing: data=folder needs data.path=DIR",
        ),
        (lambda s: setattr(s.data, "image_size", [3]), r"data.image_size=[3]: give [height,width] in pixels"),
        (lambda s: setattr(s.model, "kind", "vit"), "model.kind=vit: choose one of mlp, cnn, file"),
        (
            lambda s: setattr(s.model, "kind", "file"),
            "model.path is missing: model=file needs model.path=FILE.keras",
        ),
        (lambda s: setattr(s.model, "path", "a.keras"), "model.path=a.keras is used by model=file only"),
        (
            lambda s: setattr(s.model, "allow_lambda", True),
            "model.allow_lambda=true is used by model=file only",
        ),
        (lambda s: setattr(s.model, "code", "a.py"), "model.code=a.py is used by model=file only"),
        (
            lambda s: setattr(s.model, "widths", [5, 0]),
            "model.widths=[5, 0]: every number must be at least 1",
        ),
        (lambda s: setattr(s.model, "input_range", [1, 0]), "give the lowest and the highest pixel value"),
        (
            lambda s: setattr(s.insertion, "gamma", 0.1),
            "insertion.gamma=0.1 is used by insertion.init=standard only",
        ),
        (lambda s: setattr(s.insertion, "momentum", 1.0), "insertion.momentum=1.0: must be less than 1"),
        (lambda s: setattr(s.insertion, "epsilon", float("nan")), "insertion.epsilon=nan: must be a number"),
        (lambda s: setattr(s.placement, "include", ["a("]), "placement.include=a(: not a regular expression"),
        (lambda s: setattr(s.schedule["adapt"], "train", []), "schedule.adapt.train is empty"),
        (
            lambda s: setattr(s.schedule["adapt"], "optimizer", "lion"),
            "schedule.adapt.optimizer=lion: choose one of",
        ),
        (
            lambda s: setattr(s.schedule["adapt"], "train", ["statistics", "head"]),
            "schedule.adapt.train=['statistics', 'head']: statistics stands alone",
        ),
        (
            lambda s: setattr(s.baseline, "train", ["statistics"]),
            "baseline.train=[statistics]: the baseline has no batch normalization",
        ),
        (lambda s: setattr(s.schedule["adapt"], "prior", 16.0), "schedule.adapt.prior=16 is used by train="),
        (
            lambda s: setattr(s.schedule["adapt"], "train", ["0 per channel"]),
            "schedule.adapt.train=0 per channel: must be at least 1",
        ),
        (lambda s: setattr(s.schedule["adapt"], "steps", 0), "schedule.adapt.steps=0: must be at least 1"),
        (lambda s: setattr(s.schedule["adapt"], "looks", 0), "schedule.adapt.looks=0: must be at least 1"),
        (
            lambda s: setattr(s.schedule["adapt"], "layerwise_decay", 0.0),
            "schedule.adapt.layerwise_decay=0.0: must be greater than 0",
        ),
        (
            lambda s: setattr(s.schedule["adapt"], "layerwise_decay", 1.1),
            "schedule.adapt.layerwise_decay=1.1: must be at most 1",
        ),
        (
            lambda s: s.schedule.update(only=StageSettings(train=["statistics"], find_rate=True)),
            "schedule.only.find_rate is not used by train=[statistics]: there is no learning rate",
        ),
        (
            lambda s: s.schedule.update(only=StageSettings(train=["statistics"], layerwise_decay=0.5)),
            "schedule.only.layerwise_decay is not used by train=[statistics]: there is no learning rate",
        ),
        (
            lambda s: setattr(s.schedule["adapt"], "statistics", "frozen"),
            "schedule.adapt.statistics=frozen: choose one of move, stay",
        ),
        (
            lambda s: s.schedule["adapt"].batch_norm.update({"conv.*": SwitchSettings(normalize="bath")}),
            "schedule.adapt.batch_norm.conv.*.normalize=bath: choose one of batch, moving",
        ),
        (
            lambda s: s.schedule["adapt"].batch_norm.update({"conv(": SwitchSettings()}),
            "schedule.adapt.batch_norm=conv(: not a regular expression",
        ),
        (
            lambda s: s.schedule.update(
                only=StageSettings(train=["statistics"], batch_norm={".*": SwitchSettings()})
            ),
            "schedule.only.batch_norm is not used by train=[statistics]",
        ),
        (lambda s: s.schedule.update(insert=StageSettings()), "schedule.insert: a stage's name is a word"),
        (
            lambda s: setattr(s, "stages", ["adpt"]),
            "no stage is called adpt; there are baseline, insert, adapt, finetune",
        ),
        (lambda s: setattr(s, "stages", []), "stages is empty: name some of baseline, insert"),
    ],
)
def test_mistakes_are_named(change: Callable[[Settings], None], message: str) -> None:
    settings = valid()
    change(settings)
    with pytest.raises(SettingsError) as error:
        check(settings)
    assert message in str(error.value)


def test_a_batch_of_one_needs_moving_statistics_wherever_something_trains() -> None:
    settings = valid()
    settings.data.batch_size = 1
    with pytest.raises(SettingsError, match=r"data.batch_size=1: .* schedule.adapt.normalize=moving"):
        check(settings)
    settings.schedule["adapt"].train = ["statistics"]
    settings.schedule["finetune"].normalize = "moving"
    check(settings)


def test_a_batch_of_one_is_refused_where_steps_are_counted_too() -> None:
    settings = valid()
    settings.data.batch_size = 1
    settings.schedule = {"adapt": StageSettings(epochs=0)}
    check(settings)
    settings.schedule["adapt"].steps = 5
    with pytest.raises(SettingsError, match=r"data.batch_size=1: "):
        check(settings)


@pytest.mark.parametrize(
    ("how", "takes"),
    [
        (StageSettings(), True),
        (StageSettings(epochs=0), False),
        (StageSettings(epochs=0, steps=1), True),
        (StageSettings(train=["statistics"], steps=1), False),
        (StageSettings(train=["2 per channel", "head"], epochs=1), True),
    ],
)
def test_a_stage_takes_steps_by_steps_or_epochs(how: StageSettings, takes: bool) -> None:
    assert takes_steps(how) == takes


def test_so_many_weights_per_channel_is_a_selector() -> None:
    settings = valid()
    settings.schedule["adapt"].train = ["2 per channel", "head"]
    check(settings)


def test_a_placement_asks_for_layers_the_input_both_or_nothing() -> None:
    settings = valid()
    assert inserts(settings.placement)
    settings.placement.position = "none"
    assert not inserts(settings.placement)
    settings.placement.on_input = True
    assert inserts(settings.placement)


def test_every_mistake_is_reported_at_once() -> None:
    settings = valid()
    settings.data.batch_size = 0
    settings.seed = -1
    settings.schedule["finetune"].epochs = -2
    with pytest.raises(SettingsError) as error:
        check(settings)
    assert str(error.value).splitlines() == [
        "data.batch_size=0: must be at least 1",
        "schedule.finetune.epochs=-2: must be at least 0",
        "seed=-1: must be at least 0",
    ]


def test_stages_run_in_the_pipelines_order_whatever_order_they_are_named_in() -> None:
    settings = valid()
    assert stage_order(settings) == ["baseline", "insert", "adapt", "finetune", "evaluate"]
    assert chosen_stages(settings) == stage_order(settings)
    settings.stages = ["finetune", "insert"]
    assert chosen_stages(settings) == ["insert", "finetune"]


def test_every_setting_says_what_it_means() -> None:
    def undocumented(settings: object, prefix: str = "") -> list[str]:
        missing = []
        for each in fields(settings):  # type: ignore[arg-type]
            value = getattr(settings, each.name)
            if is_dataclass(value):
                missing += undocumented(value, f"{prefix}{each.name}.")
            elif not each.metadata.get("help") and each.name not in ("baseline_data", "schedule"):
                missing.append(prefix + each.name)
        return missing

    assert not undocumented(valid())
    assert not undocumented(StageSettings())
    assert not undocumented(SwitchSettings())


def test_lengths_of_stages_are_added_by_their_units() -> None:
    some = [
        StageSettings(epochs=5),
        StageSettings(steps=1200),
        StageSettings(epochs=1),
        StageSettings(epochs=0),
    ]
    assert [length_of(each) for each in some] == ["5 epochs", "1,200 steps", "1 epoch", ""]
    assert length_of(*some) == "1,200 steps + 6 epochs"
    assert length_of(StageSettings(train=["statistics"])) == ""
