"""The command line: compose settings with Hydra, check them, run the pipeline. Only this module knows Hydra."""

import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import bnadapt.config
from bnadapt.checks import check
from bnadapt.checks.words import require_used_words
from bnadapt.config import Settings
from bnadapt.errors import BnadaptError, SettingsError, TrackingError
from bnadapt.interruption import heed_signals
from bnadapt.stages import require_stages
from bnadapt.startup import start_tensorflow
from bnadapt.tracking.environment import prepare_environment, resolve_uri, sqlite_path

FAILED, MISTAKE_ON_THE_COMMAND_LINE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

# By the class of their settings: what entries are, their group, and what a file of it holds.
_IN_FILES = {
    "StageSettings": ("a stage", "schedule", "a schedule"),
    "RangeSettings": ("a range", "search", "a space"),
    "ArmSettings": ("an arm", "comparison", "arms"),
    "ArmStageSettings": ("a stage of an arm", "comparison", "arms"),
}

_log = logging.getLogger(__name__)


def main() -> NoReturn:
    """Run the command line and exit: 0, 1 for an error, 2 for a mistake on the command line itself."""
    # Hydra then raises instead of printing, so that every error reaches the user in one form.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1" or "traceback=true" in sys.argv[1:]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[0] = "bnadapt"
    ConfigStore.instance().store(name="schema", node=Settings)
    failures: list[Exception] = []
    heed_signals(TERMINATED)
    try:
        if sys.argv[1:2] == ["ui"]:
            _open_ui(sys.argv[2:])
        _hydra_main(lambda config: _run(config, failures, wants_traceback))()
    except (BnadaptError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        failures.append(error)
        _print_error(error, wants_traceback)
    except KeyboardInterrupt as interrupt:
        print("; ".join(["\nbnadapt: interrupted", *interrupt.args]), file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:
        # What jobs raise does not come here: this is Hydra over a command or a directory that it does not expect.
        failure = SettingsError(f"this command cannot be started: {type(error).__name__}: {error}")
        failures.append(failure.with_traceback(error.__traceback__))
        _print_error(failure, wants_traceback)
    sys.exit(max(map(_exit_code, failures), default=0))


def configuration_directory() -> Path:
    """The directory of the configuration: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
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


def _hydra_main(task: Callable[[DictConfig], None]) -> Callable[[], Any]:
    return hydra.main(config_path=str(configuration_directory()), config_name="config", version_base="1.3")(
        task
    )


def _run(config: DictConfig, failures: list[Exception], wants_traceback: bool) -> None:
    """Run one job; note its failure instead of raising it, so that the other jobs of a sweep still run."""
    run_directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        settings = settings_from(config)
        command = _command()
        _check_before_tensorflow(settings, command)
        prepare_environment(settings.tracking.telemetry)
        print("starting TensorFlow ...", flush=True)  # seconds of silence otherwise
        start_tensorflow()
        try:
            _task(settings)(settings, run_directory, command=command, tags=_tags())
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(settings)) from None
    except Exception as error:
        failures.append(error)
        _log.info("failed", exc_info=True)
        _print_error(error, wants_traceback or config.traceback)


def _task(settings: Settings) -> Callable[..., object]:
    """What the settings ask for: a comparison, a search, or one pipeline."""
    if settings.comparison.arms:
        from bnadapt.comparison.run import run_comparison

        return run_comparison
    if settings.search.space:
        from bnadapt.search import run_search

        return run_search
    from bnadapt.pipeline import run_pipeline

    return run_pipeline


def _kept(settings: Settings) -> str:
    """What is left of a run that was interrupted."""
    if settings.comparison.arms:
        return "the arms that had ended are in MLflow; the same command begins anew."
    if settings.search.space:
        return "the trials that had ended are kept; the same command goes on with them."
    return "the stages that had finished are in MLflow."


def _tags() -> dict[str, str]:
    """The chosen options of all groups, and the sweep that the job belongs to: what runs are searched by."""
    hydra_settings = HydraConfig.get()
    choices = {
        group: option
        for group, option in hydra_settings.runtime.choices.items()
        if option is not None and not group.startswith("hydra/")
    }
    in_a_sweep = hydra_settings.mode is RunMode.MULTIRUN
    return choices | ({"sweep": Path(hydra_settings.sweep.dir).name} if in_a_sweep else {})


def _command() -> list[str]:
    """The words of a command that repeats this job alone, also where it is one of a sweep."""
    options = []
    for word, following in pairwise([*sys.argv[1:], ""]):
        if word in ("--config-dir", "-cd", "--config-name", "-cn"):
            options += [word, following]
        elif word.startswith(("--config-dir=", "--config-name=")):
            options.append(word)
    return ["bnadapt", *options, *HydraConfig.get().overrides.task]


def _check_before_tensorflow(settings: Settings, command: list[str]) -> None:
    """Find what is missing before seconds are spent on importing TensorFlow."""
    require_used_words(settings, command)
    resolve_uri(settings.tracking.uri, Path.cwd())
    if settings.from_run is None:
        require_stages(settings, (), command)
    from bnadapt.data.availability import check_available

    for data in (settings.data, settings.baseline_data):
        if data is not None:
            check_available(data)
    path, patch = settings.model.path, settings.model.patch
    if path is not None and ":/" not in path and not Path(path).is_file():
        raise SettingsError(
            f"model.path={path}: there is no such file; give a .keras file, or an MLflow model URI "
            "such as models:/NAME/1"
        )
    if patch is not None and not Path(patch).is_file():
        raise SettingsError(f"model.patch={patch}: there is no such file; give best.patch of an earlier run")


def _open_ui(overrides: list[str]) -> NoReturn:
    """Replace this process by MLflow's pages for the store that the settings name, on this machine alone."""
    with hydra.initialize_config_dir(str(configuration_directory()), version_base="1.3"):
        tracking = settings_from(hydra.compose("config", overrides=overrides)).tracking
    file = sqlite_path(resolve_uri(tracking.uri, Path.cwd()))
    if file is not None and not file.is_file():
        raise TrackingError(
            f"tracking.uri={tracking.uri}: no runs are recorded in {file} yet; start the command in the directory "
            "where the runs were made, or name the store: bnadapt ui tracking.uri=sqlite:///DIRECTORY/mlflow.db"
        )
    prepare_environment(tracking.telemetry)
    start_tensorflow()
    from bnadapt.tracking.store import Tracker
    from bnadapt.tracking.ui import free_port, ui_command, ui_url

    tracker, port = Tracker(tracking, Path.cwd()), free_port()
    command = ui_command(tracker.uri, port=port, telemetry=tracking.telemetry)
    print(f"open {ui_url(tracker.uri, tracker.experiment_id, port=port)}", flush=True)
    if command is None:
        sys.exit(0)
    os.execvp(command[0], command)


def _print_error(error: Exception, with_traceback: bool) -> None:
    if with_traceback:
        traceback.print_exception(error)
    print("bnadapt: " + _explain(error).strip().replace("\n", "\n  "), file=sys.stderr)


def _exit_code(error: Exception) -> int:
    composing = isinstance(error, (HydraException, OmegaConfBaseException))
    return MISTAKE_ON_THE_COMMAND_LINE if composing and not _file_of(error) else FAILED


def _file_of(error: Exception) -> str | None:
    """The configuration file that an error of composition is about; None where an override is at fault."""
    match = re.match(r"In '([^']+)'", str(error))
    return match[1] if match and not isinstance(error, MissingConfigException) else None


def _explain(error: Exception) -> str:
    """One message: what was wrong, what was received, what would work."""
    if isinstance(error, BnadaptError):
        return str(error)
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {error}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: there is no such option; choose one of {_choices(option, error.options)}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_composition(error)
    return (
        f"unexpected {type(error).__name__}: {error}\n"
        "This is a defect of bnadapt or of a library below it; traceback=true prints where."
    )


def _explain_composition(error: Exception) -> str:
    text = f"{error}\n{error.__cause__ or ''}"
    key = re.search(r"full_key: (\S+)", text)
    place = f"{_file_of(error)}.yaml: " if _file_of(error) else ""
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as key=value ({str(error).splitlines()[0]}); quote what holds "
            "brackets, spaces or commas: 'placement.include=[\"conv.*\"]'"
        )
    if "is not a ListConfig" in text and key is not None:
        return f"{place}{key[1]}: must be a list; write {key[1]}=[...]"
    if key is None:
        return place + re.split(r"\s*(?:\nSee https|\n\s*Config search path)", str(error))[0]
    entry = re.search(r"is not a subclass of (\w+)", text)
    if entry is not None and entry[1] in _IN_FILES:
        what, group, whole = _IN_FILES[entry[1]]
        return (
            f"{what} cannot be added on the command line; put {whole} of your own into a file, "
            f"mine/{group}/NAME.yaml, and choose it: --config-dir mine {group}=NAME"
        )
    unknown = re.search(r"Key '([^']*)' (?:not in '(\w+)'|is not in struct)", text)
    if unknown is None:
        problem = next(
            line
            for line in reversed(text.splitlines())
            if line.strip() and not re.match(r"\s+\w+(_\w+)?[:=]", line)
        )
        return f"{place}{key[1]}: {problem.strip()}"
    parent = key[1].rpartition(".")[0]
    schema = getattr(bnadapt.config, unknown[2] or "", None)
    known = [each.name for each in fields(schema)] if schema else []
    if not known and isinstance(error.__cause__, OmegaConfBaseException):
        node = error.__cause__.parent_node
        known = [str(name) for name in node] if isinstance(node, DictConfig) else []
    return (
        f"{place}{key[1]}: there is no such setting; {parent or 'at the top level'} "
        f"{'has' if parent else 'there are'} {_choices(unknown[1], known)}"
    )


def _choices(received: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(received, known, n=1)
    return ", ".join(known) + (f" (did you mean {close[0]}?)" if close else "")
