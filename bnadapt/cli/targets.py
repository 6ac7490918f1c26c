"""What a configuration may name for Hydra to call or import: Hydra's own plugins, and nothing else.

Hydra calls what stands behind ``_target_`` in its own part of a configuration, and Python's logging calls and
imports what its configuration names. Files of a configuration may come from anybody, so all of that is looked over
as soon as a configuration is composed, before Hydra acts on it. So are the names of the directories that it makes.
"""

import importlib
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.plugin import Plugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnadapt.secrets import redacted, variables_within

# Sections of Hydra's part whose contents are called, and those that logging calls and imports from.
_CALLED = ("callbacks", "launcher", "sweeper")
_LOGGING = ("hydra_logging", "job_logging")
_TARGET = "_target_"
_OF_HYDRA = re.compile(r"(hydra|hydra_plugins)\.")
_PACKAGES = re.compile(r"pkg://(hydra|hydra_plugins)([./]\w+)*")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_IMPORTED = re.compile(r"[a-z]+://")  # at the start of a text, for logging
# What is filled in later must not become anything but a part of a path or a name.
_FILLED_IN = re.compile(
    r"\$\{hydra\.runtime\.(output_dir|cwd)\}/|\$\{(hydra\.(job\.(name|num|id)|(sweep|run)\.\w*dir)|now:[^${}]*)\}"
)
# Handlers of Python's own that write to streams and files; others open sockets, send mail or take further classes.
_HANDLERS = {
    f"{each.__module__}.{each.__name__}"
    for each in (
        logging.StreamHandler,
        logging.FileHandler,
        logging.NullHandler,
        logging.handlers.RotatingFileHandler,
        logging.handlers.TimedRotatingFileHandler,
        logging.handlers.WatchedFileHandler,
    )
}
_FORMATTERS = {"logging.Formatter", "colorlog.ColoredFormatter"}
# Others name programs and libraries that this process or one of its own would load.
_VARIABLES = re.compile(
    r"(OMP|MKL|OPENBLAS|NUMEXPR|KMP)_\w+|TF_\w+|TFDS_\w+|MLFLOW_\w+|AWS_\w+|KERAS_BACKEND|CUDA_VISIBLE_DEVICES|"
    r"CUDA_DEVICE_ORDER|LANG|LC_\w+|TZ|COLUMNS|NO_COLOR"
)


_DIRECTORIES = (
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.output_subdir",
    "hydra.job.name",
)
_OWN_NAME = (
    "bnadapt bnadapt"  # hydra.job.name as it comes, written and filled in; a password may be the same word
)
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w+)[^${}]*\}")


class TargetError(HydraException):
    """A configuration names something for Hydra to call or import that is none of Hydra's plugins."""


class CheckingLoader(ConfigLoaderImpl):
    """Hydra's loader of configurations, which refuses those that would make Hydra run something of others."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        """Load from these places; one that would import a package of others raises a TargetError."""
        for each in config_search_path.get_path():
            _check_place("--config-path", each.path)
        super().__init__(config_search_path)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The configuration of a command, or of one job; one that names others' code raises a TargetError."""
        # A place to search is imported while the configuration is composed, so it must be found before.
        for override in OverridesParser.create().parse_overrides(overrides):
            if override.get_key_element().lstrip("+~") == "hydra.searchpath":
                _check_places(override.value())
        loaded = self.repository.load_config(config_name) if config_name else None
        if loaded is not None and OmegaConf.is_dict(loaded.config):
            _check_places(OmegaConf.select(loaded.config, "hydra.searchpath"))
        config = super().load_configuration(
            config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        )
        plain = OmegaConf.to_container(config.hydra, resolve=False)
        assert isinstance(plain, Mapping)
        check_hydra_part(plain)
        check_directories(config)
        return config


def refuse_foreign_targets() -> None:
    """Let every configuration that Hydra composes in this process be checked."""
    hydra._internal.hydra.ConfigLoaderImpl = CheckingLoader  # type: ignore[attr-defined]


def check_hydra_part(part: Mapping[Any, Any]) -> None:
    """Look over Hydra's own part of a configuration, its interpolations not yet filled in.

    Raises:
        TargetError: names the key that would call or import something of others.
    """
    for path, value in _texts(part, ()):
        section, key = path[0], ".".join(("hydra", *path))
        if section in (*_CALLED, *_LOGGING) and "${" in _FILLED_IN.sub("", value):
            raise TargetError(
                f"{key}={value}: what Hydra calls must be written out, without another setting's value"
            )
        if _TARGET in path and (section in _LOGGING or not _is_plugin(value)):
            raise TargetError(
                f"{key}={value}: nothing of others is called; only Hydra's own plugins may stand there (classes of "
                "hydra.* and hydra_plugins.*)"
            )
        if section in _LOGGING:
            _check_logging(key, path, value)
    for name in part.get("job", {}).get("env_set") or {}:
        if not _VARIABLES.fullmatch(str(name)):
            raise TargetError(
                f"hydra.job.env_set.{name}: this variable may change which programs run; set it for the whole command: "
                f"{name}=... bnadapt ..."
            )


def check_directories(config: DictConfig) -> None:
    """Look over the names of directories that Hydra makes for a composed configuration.

    Raises:
        TargetError: names the key whose directory would be called after a secret.
    """
    for key in _DIRECTORIES:
        text = _ENVIRONMENT.sub(lambda match: os.environ.get(match[1], ""), _written(config, key))
        # Some parts are not known before a job of a sweep starts.
        with suppress(OmegaConfBaseException):
            text += f" {OmegaConf.select(config, key)}"
        if text != _OWN_NAME and redacted(text) != text:
            names = variables_within(text)
            origin = f"the value of the environment variable {' and '.join(names)}" if names else "a password"
            raise TargetError(f"{key}: a directory would be called after {origin}; leave it out")


def _written(config: DictConfig, key: str) -> str:
    parent, _, name = key.rpartition(".")
    return str(OmegaConf.to_container(OmegaConf.select(config, parent), resolve=False)[name])  # type: ignore[call-overload,index]


def _check_logging(key: str, path: tuple[str, ...], value: str) -> None:
    if "()" in path:
        raise TargetError(
            f"{key}={value}: logging calls nothing of others; name the class of a handler instead"
        )
    if path[-1] == "class" and value not in (_FORMATTERS if "formatters" in path else _HANDLERS):
        raise TargetError(
            f"{key}={value}: logging takes {', '.join(sorted(_HANDLERS | _FORMATTERS))}, and nothing of others"
        )
    if _IMPORTED.match(value) and value not in _STREAMS:
        raise TargetError(
            f"{key}={value}: logging imports nothing; only {' and '.join(_STREAMS)} may stand there"
        )


def _is_plugin(target: str) -> bool:
    """Whether a name is that of a plugin's or callback's class, in the module that defines it."""
    module, _, name = target.rpartition(".")
    if not _OF_HYDRA.match(target):
        return False
    # Hydra has imported its plugins when it started; one that it has not found is not imported for a name's sake.
    if module not in sys.modules and module.startswith("hydra_plugins"):
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, (Plugin, Callback)) and found.__module__ == module


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text within a configuration, with the names that lead to it."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _texts(each, (*path, str(name)))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, (*path, str(number)))
    elif isinstance(value, str):
        yield path, value


def _check_places(places: Any) -> None:
    for place in [places] if isinstance(places, str) else places or ():
        _check_place("hydra.searchpath", str(place))


def _check_place(key: str, place: str | None) -> None:
    if place is not None and place.startswith("pkg:") and not _PACKAGES.fullmatch(place):
        raise TargetError(
            f"{key}={place}: no package is imported for its settings; name a folder: --config-dir DIR"
        )
