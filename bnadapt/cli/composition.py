"""The configuration, composed with Hydra and checked, and the words of the command that it came from."""

import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bnadapt.checks import check
from bnadapt.config import Settings, names_a_run
from bnadapt.errors import SettingsError
from bnadapt.journal import Journals
from bnadapt.secrets import HIDDEN
from bnadapt.setting_keys import deciding_keys


def configuration_directory() -> Path:
    """The directory of the configuration: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise SettingsError(
        f"the configuration is missing: neither {package / 'conf'} nor {package.parent / 'conf'} "
        "holds config.yaml; install bnadapt again"
    )


def settings_from(config: DictConfig) -> Settings:
    """Typed and checked settings of a composed configuration.

    Raises:
        OmegaConfBaseException: a key is unknown, also one added with ``+``.
        SettingsError: a value is out of range, or two contradict each other.
    """
    # ``+key`` opens the composed configuration for anything; merging plain values into the schema does not.
    plain = OmegaConf.to_container(config, resolve=True)
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), plain))
    assert isinstance(settings, Settings)
    check(settings)
    return settings


def hydra_main(task: Callable[[DictConfig], None]) -> Callable[[], Any]:
    """Hydra's command line over bnadapt's configuration; it calls the task for every job."""
    return hydra.main(config_path=str(configuration_directory()), config_name="config", version_base="1.3")(
        task
    )


def tags_of_job() -> dict[str, str]:
    """The chosen options of all groups, and the sweep that the job belongs to: what runs are searched by."""
    hydra_settings = HydraConfig.get()
    choices = {
        group: option
        for group, option in hydra_settings.runtime.choices.items()
        if option is not None and not group.startswith("hydra/")
    }
    in_a_sweep = hydra_settings.mode is RunMode.MULTIRUN
    return choices | ({"sweep": Path(hydra_settings.sweep.dir).name} if in_a_sweep else {})


def command_of_job() -> list[str]:
    """The words of a command that repeats this job alone, also where it is one of a sweep."""
    options = []
    for word, following in pairwise([*sys.argv[1:], ""]):
        if word in ("--config-dir", "-cd", "--config-name", "-cn"):
            options += [word, following]
        elif word.startswith(("--config-dir=", "--config-name=")):
            options.append(word)
    return ["bnadapt", *options, *HydraConfig.get().overrides.task]


def settings_of_job(config: DictConfig) -> tuple[Settings, list[str]]:
    """Settings of the job at hand, and its words: composed, or those of the run that ``resume`` alone names.

    Raises:
        StageError: there is no run of the id that ``resume`` names.
    """
    settings = settings_from(config)
    if not names_a_run(settings.resume):
        return settings, command_of_job()
    assert settings.resume is not None
    journal = Journals(Path.cwd() / settings.checkpoints.directory).look_up(settings.resume)
    if _other_words():
        return settings, command_of_job()
    return recorded(journal.settings, "resume"), journal.command


def recorded(values: Mapping[str, Any], key: str) -> Settings:
    """Checked settings of an earlier run, with the words of this command that change no result on top.

    Raises:
        SettingsError: other words would change them.
    """
    other = _other_words()
    if other:
        raise SettingsError(f"{key}=RUN_ID takes the settings of that run; leave out {' '.join(other)}")
    telling = [word for word in HydraConfig.get().overrides.task if not word.startswith("repeat=")]
    # How that run itself began is no matter for one that goes on with it or repeats it.
    plain = OmegaConf.merge(OmegaConf.create({**values, "resume": None}), OmegaConf.from_dotlist(telling))
    assert isinstance(plain, DictConfig)
    if HIDDEN in plain.tracking.uri:
        raise SettingsError(
            f"{key}=RUN_ID: the run was recorded in {plain.tracking.uri}, and its password is not kept; give it again: "
            "tracking.uri=..."
        )
    return settings_from(plain)


def _other_words() -> list[str]:
    """The words of this job that are about more than which run, and where and how its results are told."""
    return [
        word for word in HydraConfig.get().overrides.task if deciding_keys([word.lstrip("+~").split("=")[0]])
    ]
