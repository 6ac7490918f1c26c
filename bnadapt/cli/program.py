"""The command from beginning to end: whatever goes wrong is said in one message."""

import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bnadapt.checks.words import require_used_words
from bnadapt.cli.commands import run_command
from bnadapt.cli.composition import hydra_main, settings_of_job, tags_of_job
from bnadapt.cli.messages import FAILED, INTERRUPTED, TERMINATED, exit_code, print_error, print_stop
from bnadapt.cli.records import hide_secrets_in_records
from bnadapt.cli.targets import refuse_foreign_targets
from bnadapt.config import Settings
from bnadapt.errors import BnadaptError, SettingsError
from bnadapt.interruption import heed_signals
from bnadapt.secrets import hide_in_output, redacted, remember
from bnadapt.stages import require_stages
from bnadapt.startup import start_tensorflow
from bnadapt.tracking.environment import prepare_environment, resolve_uri

_log = logging.getLogger(__name__)


def main() -> NoReturn:
    """Run the command line and exit: 0, 1 for an error, 2 for a mistake on the command line itself."""
    # Hydra then raises instead of printing, so that every error reaches the user in one form.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1" or "traceback=true" in sys.argv[1:]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[0] = "bnadapt"
    ConfigStore.instance().store(name="schema", node=Settings)
    refuse_foreign_targets()
    remember(sys.argv[1:])
    hide_in_output()
    failures: list[Exception] = []
    heed_signals(TERMINATED)
    try:
        run_command(sys.argv[1:])
        hydra_main(lambda config: _run(config, failures, wants_traceback))()
    except (BnadaptError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        failures.append(error)
        print_error(error, wants_traceback)
    except KeyboardInterrupt as stop:
        print_stop("interrupted", stop)
        sys.exit(INTERRUPTED)
    except SystemExit as stop:
        if stop.code == TERMINATED:
            print_stop("terminated", stop)
        raise
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:
        # What jobs raise does not come here: this is Hydra over a command or a directory that it does not expect.
        failure = SettingsError(f"this command cannot be started: {type(error).__name__}: {error}")
        failures.append(failure.with_traceback(error.__traceback__))
        print_error(failure, wants_traceback)
    sys.exit(max(map(exit_code, failures), default=0))


def _run(config: DictConfig, failures: list[Exception], wants_traceback: bool) -> None:
    """Run one job; note its failure instead of raising it, so that the other jobs of a sweep still run."""
    run_directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        # This may be a process of its own, which a launcher has started.
        remember(HydraConfig.get().overrides.task)
        hide_in_output()
        hide_secrets_in_records()
        settings, words = settings_of_job(config)
        command = [redacted(word) for word in words]
        _check_before_tensorflow(settings, command)
        prepare_environment(settings.tracking.telemetry)
        print("starting TensorFlow ...", flush=True)  # seconds of silence otherwise
        start_tensorflow(settings.deterministic)
        try:
            _task(settings)(settings, run_directory, command=command, tags=tags_of_job())
        except (KeyboardInterrupt, SystemExit) as stop:
            _add_what_is_kept(stop, settings)
            raise
    except Exception as error:
        failures.append(error)
        _log.info("failed", exc_info=True)
        print_error(error, wants_traceback or config.traceback)


def _task(settings: Settings) -> Callable[..., object]:
    """What the settings ask for: the repetition of a run, a comparison, a search, or one pipeline."""
    if settings.repeat is not None:
        from bnadapt.cli.repetition import repeat

        return repeat(_task)
    if settings.comparison.arms:
        from bnadapt.comparison.run import run_comparison

        return run_comparison
    if settings.search.space:
        from bnadapt.search import run_search

        return run_search
    from bnadapt.pipeline import run_pipeline

    return run_pipeline


def _add_what_is_kept(stop: BaseException, settings: Settings) -> None:
    """Add to a request to stop how to go on where the job itself cannot say it."""
    if settings.search.space:
        stop.add_note("the trials that had ended are kept; the same command goes on with them")
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        words = [word for word in sys.argv[1:] if not word.startswith("resume=")]
        program = os.environ.get("BNADAPT_COMMAND", "bnadapt")
        stop.add_note(f"go on with the whole sweep: {shlex.join([program, *words, 'resume=true'])}")


def _check_before_tensorflow(settings: Settings, command: list[str]) -> None:
    """Find what is missing before seconds are spent on importing TensorFlow."""
    require_used_words(settings, command)
    resolve_uri(settings.tracking.uri, Path.cwd())
    if settings.repeat is not None:
        return  # whatever that run needed is not known yet
    if settings.from_run is None:
        require_stages(settings, (), command)
    from bnadapt.data.availability import check_available

    for data in (settings.data, settings.baseline_data):
        if data is not None:
            check_available(data)
    path, patch, code = settings.model.path, settings.model.patch, settings.model.code
    if path is not None and ":/" not in path:
        if not os.path.exists(path):
            raise SettingsError(
                f"model.path={path}: there is no such file; give a .keras file, or an MLflow model URI "
                "such as models:/NAME/1"
            )
        from bnadapt.models.archive import check_archive

        check_archive(Path(path))
    if code is not None and code.endswith(".py") and not Path(code).is_file():
        raise SettingsError(
            f"model.code={code}: there is no such file; give the Python code that the network needs"
        )
    if patch is not None and not Path(patch).is_file():
        raise SettingsError(f"model.patch={patch}: there is no such file; give best.patch of an earlier run")
