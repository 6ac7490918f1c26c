"""What the command line does beside jobs: the pages of MLflow, and results that have not been delivered."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import hydra

from bnadapt.cli.composition import configuration_directory, settings_from
from bnadapt.cli.messages import FAILED
from bnadapt.config import TrackingSettings
from bnadapt.errors import TrackingError
from bnadapt.startup import start_tensorflow
from bnadapt.tracking.environment import holds_a_store, prepare_environment, resolve_uri, sqlite_path


def open_ui(overrides: list[str]) -> NoReturn:
    """Replace this process by MLflow's pages for the store that the settings name, on this machine alone."""
    tracking = _tracking(overrides)
    file = sqlite_path(resolve_uri(tracking.uri, Path.cwd()))
    if file is not None and not holds_a_store(file):
        raise TrackingError(
            f"tracking.uri={tracking.uri}: no runs are recorded in {file} yet; start the command in the directory "
            "where the runs were made, or name the store: bnadapt ui tracking.uri=sqlite:///DIRECTORY/mlflow.db"
        )
    prepare_environment(tracking.telemetry)
    start_tensorflow()
    from bnadapt.tracking.store import Tracker
    from bnadapt.tracking.ui import free_port, ui_command, ui_environment, ui_url

    tracker, port = Tracker(tracking, Path.cwd()), free_port()
    command = ui_command(tracker.uri, port=port)
    print(f"open {ui_url(tracker.uri, tracker.experiment_id, port=port)}", flush=True)
    if command is None:
        sys.exit(0)
    variables = ui_environment(tracker.uri, os.environ, telemetry=tracking.telemetry)
    os.execvpe(command[0], command, variables)


def deliver_results(overrides: list[str]) -> NoReturn:
    """Send what the tracking store has not taken from earlier runs; exits with 1 where something is left."""
    tracking = _tracking(overrides)
    prepare_environment(tracking.telemetry)
    start_tensorflow()
    from bnadapt.tracking.delivery import deliver

    deliveries = deliver(tracking, Path.cwd())
    for delivery in deliveries:
        print(delivery)
    if not deliveries:
        print(f"nothing waits to be delivered below {Path.cwd()}")
    sys.exit(FAILED if any(delivery.left for delivery in deliveries) else 0)


_COMMANDS: Mapping[str, tuple[Callable[[list[str]], NoReturn], str]] = {
    "deliver": (
        deliver_results,
        "send what the tracking server has not taken from runs that were started in this directory",
    ),
    "ui": (open_ui, "open MLflow's pages on the recorded runs, for this machine alone"),
}


def run_command(words: list[str]) -> None:
    """Run a command and exit, where the first word is the name of one; else return."""
    name, *overrides = words or [""]
    if name not in _COMMANDS:
        return
    command, purpose = _COMMANDS[name]
    if {"--help", "-h"} & set(overrides):
        print(f"bnadapt {name} [tracking.KEY=VALUE ...]: {purpose}")
        print(
            "tracking.uri=URI names the store, tracking.experiment=NAME the experiment; bnadapt --help has all else"
        )
        sys.exit(0)
    command(overrides)


def _tracking(overrides: list[str]) -> TrackingSettings:
    with hydra.initialize_config_dir(str(configuration_directory()), version_base="1.3"):
        return settings_from(hydra.compose("config", overrides=overrides)).tracking
