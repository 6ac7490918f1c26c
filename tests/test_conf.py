"""Every file under conf/ composes into valid settings, and groups, fields and files bear the same names."""

import itertools
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException

from bnadapt.cli import configuration_directory, settings_from
from bnadapt.config import Settings, SwitchSettings

CONF = configuration_directory()
GROUPS = ("data", "model", "placement", "schedule", "comparison", "search", "experiment")
# What an option needs on the command line beside its name.
NEEDS = {
    "tfds": ["data.name=any"],
    "folder": ["data.path=any"],
    "table": ["data.path=any"],
    "file": ["model.path=any"],
}


def compose(*overrides: str) -> Settings:
    ConfigStore.instance().store(name="schema", node=Settings)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return settings_from(hydra.compose("config", overrides=list(overrides)))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


OPTIONS = [(group, option) for group in GROUPS for option in options(group)]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    compose(f"{group}={option}", *NEEDS.get(option, []))


@pytest.mark.parametrize("option", options("data"))
def test_every_data_set_can_be_the_baselines_too(option: str) -> None:
    needs = [each.replace("data.", "baseline_data.") for each in NEEDS.get(option, [])]
    settings = compose(f"data@baseline_data={option}", *needs)
    assert settings.baseline_data is not None
    assert settings.data.name == "digits"


def test_no_file_under_conf_is_left_out() -> None:
    files = {path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*") if path.is_file()}
    of_hydra = {"hydra/help/bnadapt", "hydra/job_logging/bnadapt", "hydra/hydra_logging/bnadapt"}
    assert files == {f"{group}/{option}" for group, option in OPTIONS} | of_hydra | {"config"}


def test_groups_are_fields_of_the_settings() -> None:
    assert set(GROUPS) - {"experiment"} <= set(Settings.__dataclass_fields__)


@pytest.mark.parametrize("option", options("placement"))
def test_a_placements_file_bears_its_name(option: str) -> None:
    placement = compose(f"placement={option}").placement
    expected = ("none", True) if option == "input_only" else (option, False)
    assert (placement.position, placement.on_input) == expected


@pytest.mark.parametrize("option", options("model"))
def test_a_models_file_bears_its_name(option: str) -> None:
    assert compose(f"model={option}", *NEEDS.get(option, [])).model.kind == option


def test_a_stage_takes_switches_for_some_layers(tmp_path: Path) -> None:
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "mine.yaml").write_text(
        "# Mine.\nadapt:\n  train: [batch_norm]\n  batch_norm:\n    conv1.*: {statistics: stay}\n"
    )
    settings = compose("schedule=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert settings.schedule["adapt"].batch_norm == {"conv1.*": SwitchSettings(statistics="stay")}
    (tmp_path / "schedule" / "typo.yaml").write_text("adapt:\n  batch_norm:\n    a: {statistic: stay}\n")
    with pytest.raises(Exception, match="Key 'statistic' not in 'SwitchSettings'"):
        compose("schedule=typo", f"hydra.searchpath=[file://{tmp_path}]")


def test_the_defaults_stand_in_the_dataclasses_alone() -> None:
    composed = compose()
    default = Settings()
    for name in ("insertion", "baseline", "evaluation", "tracking", "seed", "stages", "from_run"):
        assert getattr(composed, name) == getattr(default, name)


@pytest.mark.parametrize(
    ("experiment", "data"), list(itertools.product(options("experiment"), ["mnist", "cifar10", "digits"]))
)
def test_every_experiment_runs_on_any_data_set(experiment: str, data: str) -> None:
    settings = compose(f"experiment={experiment}", f"data={data}")
    assert settings.data.name == data
    if experiment in ("compare", "search"):
        assert bool(settings.comparison.arms) == (experiment == "compare")
        assert bool(settings.search.space) == (experiment == "search")
        return
    assert settings.baseline.epochs == 0
    assert settings.insertion.init == "standard"
    assert list(settings.schedule) == ["scratch"]


def test_the_classics_are_the_networks_that_they_are_known_for() -> None:
    assert compose("experiment=mlp_512_256_bn").model.widths == [512, 256]
    assert compose("experiment=mlp_128_64_bn").model.widths == [128, 64]
    cifar = compose("experiment=cifar10_cnn_bn")
    assert (cifar.data.name, cifar.model.filters, cifar.model.dense) == ("cifar10", [32], 64)
    both = compose("experiment=mlp_with_and_without_bn")
    assert (both.model.widths, both.schedule["scratch"].epochs) == ([256, 128], 5)


def test_a_plus_does_not_pass_by_the_schema() -> None:
    with pytest.raises(Exception, match="Key 'bogus' not in 'DataSettings'"):
        compose("+data.bogus=3")
    with pytest.raises(ConfigCompositionException):
        compose("data.bogus=3")


def test_every_file_says_what_it_is(project: Path) -> None:
    for path in (project / "conf").rglob("*.yaml"):
        if "hydra" not in path.parts:
            assert any(line.startswith("# ") for line in path.read_text(encoding="utf-8").splitlines()), path
