"""The tracking store: opened, created where it is missing, and an experiment in it."""

import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from bnadapt.config import TrackingSettings
from bnadapt.errors import StorageError, TrackingError
from bnadapt.interruption import stops_held_back
from bnadapt.locking import HeldElsewhereError, locked
from bnadapt.secrets import redacted
from bnadapt.tracking import names
from bnadapt.tracking.beginning import beginning, begun, take_up_beginnings
from bnadapt.tracking.database import require_database
from bnadapt.tracking.environment import (
    LOCAL_URI,
    holds_a_store,
    patience,
    resolve_uri,
    sqlite_path,
    sqlite_uri,
)
from bnadapt.tracking.leftovers import UNSENT, take_up
from bnadapt.tracking.outbox import SECONDS_FOR_AN_ANSWER, Outbox, short_cause
from bnadapt.tracking.queue import Queue, opened
from bnadapt.tracking.resuming import Earlier, earlier_runs, pipeline_to_resume
from bnadapt.tracking.runs import PipelineRun

SECONDS_FOR_OTHERS = 120.0
SECONDS_FOR_A_LOOK = 1.0  # that another process takes at a folder to see whether it is in use


class Tracker:
    """A tracking store and an experiment in it, opened as the settings say.

    A SQLite store that does not exist is created, with the directory for artifacts beside it.

    Attributes:
        uri: The store's URI, absolute.
        experiment_id: MLflow's id of the experiment.
        client: MLflow's client for this store.
        unsent: The folder that holds what has not arrived in the store.
    """

    def __init__(self, settings: TrackingSettings, working_directory: Path) -> None:
        """Open the store, relative paths being below ``working_directory``.

        Raises:
            TrackingError: where the store cannot be used; a server that does not answer is given up
                within ten seconds.
        """
        self.uri = resolve_uri(settings.uri, working_directory)
        file = sqlite_path(self.uri)
        with nullcontext() if file is None else _alone(file), patience(SECONDS_FOR_AN_ANSWER, retries=1):
            try:
                if file is not None and not holds_a_store(file):
                    _create(file)
                require_database(self.uri)
                self.client = MlflowClient(self.uri)
                self.experiment_id = _experiment(self.client, settings.experiment, file)
            except TrackingError:
                raise
            except Exception as error:
                # MLflow lets through what databases and their drivers raise.
                raise _unusable(self.uri, error) from error
        self.unsent = working_directory.absolute() / UNSENT
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
        identity: str = "",
        resume: str | None = None,
    ) -> Iterator[PipelineRun]:
        """A run at the top level that ends with the block: finished, failed with the error's text, or killed.

        Args:
            name: What differs between pipelines should come first: lists show some 17 characters.
            parameters: What users vary, no more: each becomes a column. The stages' runs get them too.
            tags: Anything else that runs are searched by, such as ``from_run`` or ``sweep``. The stages' runs
                get them too.
            config_yaml: The resolved configuration, kept as ``config.yaml`` with this run and every stage's.
            command: What the user typed, shown in the run's description.
            identity: What the run is, by which :meth:`begun` finds it.
            resume: Id of a run that an earlier process began: it goes on, and nothing is recorded twice. Its name,
                parameters and tags stay.

        What processes that are gone left below the working directory is delivered first; runs that they cut off are
        marked as killed and named in ``cut_off``.

        Raises:
            TrackingError: the store does not take the run, or does not have the one to go on with, or another process
                is going on with it.
        """
        parameters = parameters or {}
        tags = names.filter_tags(parameters, tags or {})
        before = None if resume is None else pipeline_to_resume(self.client, resume)
        left = take_up(self.client, self.unsent, besides=None if before is None else before.info.run_id)
        with self._queue(name, command, tags, identity, before) as queue:
            outbox = Outbox(self.client, queue, resumed=before is not None)
            assert queue.experiment_id is not None
            run = PipelineRun(
                outbox,
                queue.experiment_id,
                queue.folder.name,
                name,
                parameters,
                config_yaml,
                command,
                tags,
                self._system_metrics,
                {} if before is None else self._gone_on(outbox, before),
                [each.run_id for each in left if each.cut_off],
            )
            try:
                with run._until_end(self._system_metrics):
                    run._begin()
                    yield run
            finally:
                outbox.say_what_is_left()

    @contextmanager
    def _queue(
        self, name: str, command: str, tags: Mapping[str, Any], identity: str, before: Run | None
    ) -> Iterator[Queue]:
        """The queue of a run that is started here, or of the one from before."""

        def of(run_id: str, experiment_id: str) -> Queue:
            folder = self.unsent / run_id
            return stack.enter_context(opened(folder, experiment_id, identity, patience=SECONDS_FOR_A_LOOK))

        with ExitStack() as stack:
            try:
                if before is not None:
                    queue = of(before.info.run_id, before.info.experiment_id)
                else:
                    with (
                        stops_held_back(),
                        beginning(self.unsent, self.uri, self.experiment_id, identity) as handle,
                    ):
                        description = {names.DESCRIPTION: names.description(command)} if command else {}
                        own = {**tags, **description, names.HANDLE: handle}
                        queue = of(self._started(name, own), self.experiment_id)
            except (KeyboardInterrupt, SystemExit):
                # The run may be there already, and nobody else would know of it.
                stack.close()
                with suppress(Exception), stops_held_back():
                    take_up(self.client, self.unsent)
                raise
            except HeldElsewhereError as error:
                raise TrackingError(
                    f"{f'resume={before.info.run_id}' if before else name}: another process is going on with this "
                    "run. Wait for its end, or end it"
                ) from error
            except OSError as error:
                raise StorageError(
                    f"{self.unsent} cannot be written: {error.strerror or error}. Results are kept there until the "
                    "tracking store has them; start in a directory that can be written"
                ) from error
            yield queue

    def begun(self, identity: str) -> str | None:
        """The id of a run of this identity, started below the working directory and cut off; None without any."""
        if self.unsent.is_dir():
            take_up_beginnings(self.client, self.unsent)
        return begun(self.unsent, identity, self.has_run)

    def has_run(self, run_id: str) -> bool:
        """Whether the store has a run with this id that was not deleted.

        Raises:
            TrackingError: the store does not answer.
        """
        try:
            with patience(SECONDS_FOR_AN_ANSWER, retries=1):
                return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise _unusable(self.uri, error) from error

    def _started(self, name: str, tags: Mapping[str, Any]) -> str:
        """Start a run at the top level; returns its id."""
        try:
            with patience(SECONDS_FOR_AN_ANSWER, retries=1):
                context = resolve_tags(names.tags_for_mlflow(tags))
                return self.client.create_run(self.experiment_id, tags=context, run_name=name).info.run_id
        except Exception as error:
            raise TrackingError(
                f"the run {name} could not be started in the tracking store {redacted(self.uri)}: "
                f"{short_cause(error)}. Mend it, or record in a local file: tracking.uri={LOCAL_URI}"
            ) from error

    def _gone_on(self, outbox: Outbox, pipeline: Run) -> dict[str, Earlier]:
        """Send what an earlier process of a run left, and read what the store has of it."""
        try:
            if not outbox.flush():
                raise ConnectionError(outbox.problem)
            earlier = earlier_runs(self.client, self.client.get_run(pipeline.info.run_id))
        except Exception as error:
            raise TrackingError(
                f"resume={pipeline.info.run_id}: what was recorded before cannot be sent to the tracking store "
                f"{redacted(self.uri)}, or not be read there: {short_cause(error)}. Nothing is lost; try again once "
                "it answers"
            ) from error
        for handle, each in earlier.items():
            outbox.queue.ids |= {handle: each.run_id, **each.models}
        return earlier


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock beside the store: two processes that create its tables at once both fail.

    It shows at once, too, whether a database can be written there, which MLflow would try for 100 seconds.
    """
    lock = file.with_name(f".{file.name}.lock")
    try:
        with locked(lock, patience=SECONDS_FOR_OTHERS):
            with closing(sqlite3.connect(file)) as store:
                store.execute("PRAGMA schema_version")
            yield
    except (OSError, sqlite3.Error, HeldElsewhereError) as error:
        raise TrackingError(
            f"the tracking store {file} cannot be written or is no SQLite database: {error}. "
            "Name another file: tracking.uri=sqlite:////tmp/mlflow.db"
        ) from error


def _create(file: Path) -> None:
    """Fill an empty file with what MLflow's stores hold at first, all of it or nothing.

    MLflow takes a second or two for its tables, and never opens a database with half of them: a process that is killed
    meanwhile must not leave one.
    """
    # Not at the top: it takes long, and where the store is a server nothing of it is needed.
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        draft = Path(directory) / "mlflow.db"
        SqlAlchemyStore(sqlite_uri(draft), DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
        with closing(sqlite3.connect(draft)) as source, closing(sqlite3.connect(file)) as target:
            if not holds_a_store(file):  # still: a server of MLflow's may be making its tables there, too
                source.backup(target)  # one transaction


def connected(uri: str) -> MlflowClient:
    """A client of a store that exists.

    Raises:
        TrackingError: it does not answer.
    """
    try:
        with patience(SECONDS_FOR_AN_ANSWER, retries=1):
            require_database(uri)
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except Exception as error:
        # MLflow lets through what databases and their drivers raise.
        raise _unusable(uri, error) from error
    return client


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
            f"tracking.experiment={name} was deleted in {redacted(client.tracking_uri)}. "
            f"Choose another name, or restore it: MLFLOW_TRACKING_URI={redacted(client.tracking_uri)} "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return experiment.experiment_id


def _unusable(uri: str, error: Exception) -> TrackingError:
    if uri.startswith(("http://", "https://")):
        problem, remedy = "the tracking server {} does not answer as it should", "Start it, or "
    else:
        problem, remedy = "the tracking store {} cannot be used", "Mend it, or "
    if isinstance(error, ModuleNotFoundError):
        problem, remedy = "the tracking store {} needs a package that is not installed", "Install it, or "
    return TrackingError(
        f"tracking.uri: {problem.format(redacted(uri))}: {short_cause(error)}. "
        f"{remedy}record in a local file: tracking.uri={LOCAL_URI}"
    )
