"""What results depend on: a change of any of it changes the keys of the stages that it can change, and no others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bnadapt.config import BASELINE, CONTROL, EVALUATE, INSERT, Settings, StageSettings, SwitchSettings
from bnadapt.identity import stage_keys, whole
from bnadapt.setting_keys import deciding_keys, settings_by_key, with_values

FACTS = {"network": "n", "source": "s", "target": "t", "test": "e"}
STAGES = [BASELINE, INSERT, "adapt", "finetune", CONTROL, EVALUATE]


def usual(**changes: Any) -> Settings:
    schedule = {"adapt": StageSettings(train=["batch_norm"]), "finetune": StageSettings()}
    return replace(Settings(schedule=schedule), **changes)


def keys(settings: Settings, **facts: str) -> dict[str, str]:
    return stage_keys(settings, replace(settings.baseline, train=["head"], epochs=0), **{**FACTS, **facts})


def changed(other: Settings, **facts: str) -> list[str]:
    before, after = keys(usual()), keys(other, **facts)
    assert list(before) == list(after) == STAGES
    return [name for name in STAGES if before[name] != after[name]]


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ({"schedule.finetune.learning_rate": 0.5}, "finetune"),
        ({"schedule.adapt.epochs": 9}, "adapt"),
        ({"placement.on_input": True}, INSERT),
        ({"insertion.epsilon": 0.1}, INSERT),
        ({"evaluation.bootstrap": 100}, EVALUATE),
        (
            {"baseline.epochs": 8},
            BASELINE,
        ),  # of the head for other data, too, where the baseline itself is loaded
        ({"seed": 1}, BASELINE),
        ({"data.batch_size": 8}, BASELINE),
        ({"data.class_weights": "balanced"}, BASELINE),
        ({"data.memory_limit": 1}, BASELINE),
        ({"deterministic": True}, BASELINE),
        ({"insertion.samples": 10}, BASELINE),
    ],
)
def test_a_setting_changes_what_depends_on_it_alone(values: dict[str, Any], first: str) -> None:
    assert changed(with_values(usual(), values)) == STAGES[STAGES.index(first) :]


@pytest.mark.parametrize(
    ("facts", "first"),
    [
        ({"network": "x"}, BASELINE),
        ({"source": "x"}, BASELINE),
        ({"target": "x"}, BASELINE),
        ({"test": "x"}, EVALUATE),
    ],
)
def test_data_and_network_change_what_depends_on_them(facts: dict[str, str], first: str) -> None:
    assert changed(usual(), **facts) == STAGES[STAGES.index(first) :]


def test_every_setting_is_in_a_key_or_in_the_whole_or_only_tells() -> None:
    """No setting can be forgotten: whatever is not said to decide nothing changes something."""
    settings = usual()
    values = settings_by_key(settings)
    deciding = deciding_keys(values)
    assert len(deciding) > 80
    for key in deciding:
        holder, each = values[key]
        value = getattr(holder, each.name)
        other = (
            f"{value}x"
            if isinstance(value, str)
            else [*value, 1]
            if isinstance(value, list)
            else (value or 0) + 1
        )
        assert whole(with_values(settings, {key: other})) != whole(settings), key


@pytest.mark.parametrize(
    "key",
    [
        "progress",
        "traceback",
        "resume",
        "tracking.uri",
        "tracking.system_metrics",
        "data.dir",
        "checkpoints.every_steps",
    ],
)
def test_what_only_tells_changes_nothing(key: str) -> None:
    other = with_values(usual(), {key: "other"})
    assert whole(other) == whole(usual())
    assert not changed(other)


@pytest.mark.parametrize(
    "key", ["tracking.register_as", "tracking.alias", "tracking.log_models", "tracking.run_name"]
)
def test_what_is_recorded_is_part_of_the_whole(key: str) -> None:
    other = with_values(usual(), {key: "other"})
    assert whole(other) != whole(usual())
    assert not changed(other)


def test_of_patterns_that_fit_one_layer_the_order_counts() -> None:
    patterns = {"conv.*": SwitchSettings(affine=True), "conv1": SwitchSettings(affine=False)}
    swapped = dict(reversed(patterns.items()))
    one, other = (
        usual(schedule={"adapt": StageSettings(batch_norm=each), "finetune": StageSettings()})
        for each in (patterns, swapped)
    )
    assert keys(one)["adapt"] != keys(other)["adapt"]
    assert whole(one) != whole(other)


def test_the_control_depends_on_the_whole_schedule_also_where_a_part_is_chosen() -> None:
    one = usual(stages=[EVALUATE], from_run="r")
    other = with_values(one, {"schedule.adapt.learning_rate": 0.5})
    before, after = (
        stage_keys(each, each.baseline, **FACTS)  # type: ignore[arg-type]
        for each in (one, other)
    )
    assert before[CONTROL] != after[CONTROL]


def test_a_users_code_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "layers.py"
    file.write_text("FACTOR = 1")
    settings = with_values(usual(), {"model.code": str(file)})
    before = keys(settings)
    file.write_text("FACTOR = 2")
    assert keys(settings)[BASELINE] != before[BASELINE]
    package = keys(with_values(usual(), {"model.code": "json"}))
    assert package[BASELINE] != keys(usual())[BASELINE]
