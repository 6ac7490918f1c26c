"""The tracking store: opened, created where it is missing, and an experiment in it."""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from bnadapt.config import TrackingSettings
from bnadapt.errors import TrackingError
from bnadapt.tracking import names
from bnadapt.tracking.environment import LOCAL_URI, resolve_uri, sqlite_path
from bnadapt.tracking.outbox import Outbox, short_cause
from bnadapt.tracking.recording import create_run
from bnadapt.tracking.runs import PipelineRun

UNSENT = "bnadapt-unsent"
SECONDS_FOR_OTHERS = 120.0


class Tracker:
    """A tracking store and an experiment in it, opened as the settings say.

    A SQLite store that does not exist is created, with the directory for artifacts beside it.

    Attributes:
        uri: The store's URI, absolute.
        experiment_id: MLflow's id of the experiment.
        client: MLflow's client for this store.
    """

    def __init__(self, settings: TrackingSettings, working_directory: Path) -> None:
        """Open the store, relative paths being below ``working_directory``.

        Raises:
            TrackingError: where the store cannot be used; a server that does not answer is given up
                within ten seconds.
        """
        self.uri = resolve_uri(settings.uri, working_directory)
        file = sqlite_path(self.uri)
        with nullcontext() if file is None else _alone(file), _little_patience():
            try:
                self.client = MlflowClient(self.uri)
                self.experiment_id = _experiment(self.client, settings.experiment, file)
            except TrackingError:
                raise
            except Exception as error:
                # MLflow lets through what databases and their drivers raise.
                raise _unusable(self.uri, error) from error
        self._outbox = Outbox(self.client, working_directory.absolute() / UNSENT)
        self._system_metrics = settings.system_metrics

    @contextmanager
    def pipeline(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        config_yaml: str = "",
        command: str = "",
    ) -> Iterator[PipelineRun]:
        """A run at the top level that ends with the block: finished, failed with the error's text, or killed.

        Args:
            name: What differs between pipelines should come first: lists show some 17 characters.
            parameters: What users vary, no more: each becomes a column. The stages' runs get them too.
            tags: Anything else that runs are searched by, such as ``from_run`` or ``sweep``. The stages' runs
                get them too.
            config_yaml: The resolved configuration, kept as ``config.yaml`` with this run and every stage's.
            command: What the user typed, shown in the run's description.
        """
        description = {names.DESCRIPTION: names.description(command)} if command else {}
        parameters = parameters or {}
        tags = names.filter_tags(parameters, tags or {})
        run_id = create_run(self.client, self.experiment_id, name, parameters, {**tags, **description})
        run = PipelineRun(
            self.client,
            self._outbox,
            self.experiment_id,
            run_id,
            name,
            parameters,
            config_yaml,
            command,
            tags,
            self._system_metrics,
        )
        with run._until_end(self._system_metrics):
            run.log_text("config.yaml", config_yaml)
            yield run


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock beside the store: two processes that create its tables at once both fail.

    A transaction of SQLite's own is the lock: every platform has it, and it ends with its process. It
    shows at once, too, whether a database can be written there, which MLflow would try for 100 seconds.
    """
    lock = file.with_name(f".{file.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(lock, timeout=SECONDS_FOR_OTHERS)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            with closing(sqlite3.connect(file)) as store:
                store.execute("PRAGMA schema_version")
            yield
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"the tracking store {file} cannot be written or is no SQLite database: {error}. "
            "Name another file: tracking.uri=sqlite:////tmp/mlflow.db"
        ) from error


@contextmanager
def _little_patience() -> Iterator[None]:
    """Let MLflow try a server twice for three seconds while the store is opened."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    before = {key: os.environ.get(key) for key in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _experiment(client: MlflowClient, name: str, file: Path | None) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # Without a place of its own an experiment's files would go to the working directory of the moment.
        place = None if file is None else str(file.parent / "mlartifacts" / re.sub(r"[^\w\-.]+", "_", name))
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return _experiment(client, name, file)  # another process was faster on the same server
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"tracking.experiment={name} was deleted in {client.tracking_uri}. "
            f"Choose another name, or restore it: MLFLOW_TRACKING_URI={client.tracking_uri} "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return experiment.experiment_id


def _unusable(uri: str, error: Exception) -> TrackingError:
    if uri.startswith(("http://", "https://")):
        problem, remedy = "the tracking server {} does not answer as it should", "Start it, or "
    else:
        problem, remedy = "the tracking store {} cannot be used", "Mend it, or "
    return TrackingError(
        f"tracking.uri: {problem.format(uri)}: {short_cause(error)}. "
        f"{remedy}record in a local file: tracking.uri={LOCAL_URI}"
    )
