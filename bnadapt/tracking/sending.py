"""What entries of the queue mean in MLflow, done so that doing it again changes nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.models import Model

from bnadapt.tracking import names
from bnadapt.tracking.queue import METRICS, Entry, Queue
from bnadapt.tracking.registry import VERSION_OF, register

# Files go to a store of their own, which may be away while the other one answers.
TO_THE_FILES = {"file", "upload"}


class NeverError(Exception):
    """An entry cannot arrive any more, because of what it needs."""


class Sender:
    """Does what entries say; one public method for each action.

    Each returns MLflow's ids of what it made, by handle.
    """

    def __init__(self, client: MlflowClient, queue: Queue) -> None:
        """Send with this client what stands in the queue."""
        self._client = client
        self._queue = queue

    def send(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Do what one entry says, or several ones of metrics of one run, in one call.

        Raises:
            NeverError: what the entry needs is not there, and never will be.
        """
        entry = entries[0]
        if entry.action == METRICS:
            self.metrics(entry.run, [point for each in entries for point in each.content[METRICS]])
            return {}
        action: Callable[[Entry], dict[str, str] | None] = getattr(self, entry.action)
        return action(entry) or {}

    def metrics(self, run: str, points: Sequence[Sequence[Any]]) -> None:
        """Record numbers, as :func:`point` writes them; MLflow drops what it has already."""
        metrics = [
            # A network that was refused must not cost its scores.
            Metric(key, value, timestamp, step, self._queue.ids.get(model) if model else None, name, digest)
            for key, value, timestamp, step, model, name, digest in points
        ]
        self._client.log_batch(self._id(run), metrics=metrics)

    def start(self, entry: Entry) -> dict[str, str]:
        """Start a run below the one at the top level, as of the time when it began."""
        if entry.again:
            for run in children(self._client, self._experiment, self._queue.folder.name):
                if run.data.tags.get(names.HANDLE) == entry.run:
                    return {entry.run: run.info.run_id}
        run = self._client.create_run(
            self._experiment,
            start_time=entry.content["time"],
            tags=entry.content["tags"],
            run_name=entry.content["name"],
        )
        return {entry.run: run.info.run_id}

    def describe(self, entry: Entry) -> None:
        """Record parameters and tags."""
        content = entry.content
        self._client.log_batch(
            self._id(entry.run),
            params=[Param(key, value) for key, value in content.get("parameters", {}).items()],
            tags=[RunTag(key, value) for key, value in content.get("tags", {}).items()],
        )

    def inputs(self, entry: Entry) -> None:
        """Record which data went in; MLflow drops what it has already."""
        entries = [
            DatasetInput(
                Dataset(each["name"], each["digest"], source_type="code", source=each["source"]),
                [InputTag("mlflow.data.context", each["context"])],
            )
            for each in entry.content["data"]
        ]
        self._client.log_inputs(self._id(entry.run), entries)

    def file(self, entry: Entry) -> None:
        """Put a file into a folder of the run's artifacts."""
        path = self._kept(entry)
        self._client.log_artifact(self._id(entry.run), str(path), entry.content["folder"] or None)

    def model(self, entry: Entry) -> dict[str, str]:
        """Announce a network, whose files :meth:`upload` sends."""
        handle, run_id = entry.content["model"], self._id(entry.run)
        if entry.again:
            for model in models_of(self._client, self._experiment, run_id):
                if model.tags.get(names.HANDLE) == handle:
                    return {handle: model.model_id}
        made = self._client.create_logged_model(
            self._experiment,
            name=entry.content["name"],
            source_run_id=run_id,
            tags={names.HANDLE: handle},
            params=entry.content["parameters"],
        )
        return {handle: made.model_id}

    def upload(self, entry: Entry) -> None:
        """Send the files of an announced network."""
        directory, model_id = self._kept(entry), self._id(entry.content["model"])
        run_id = self._id(entry.run)
        place = self._client.get_logged_model(model_id).artifact_location
        _name_its_origin(directory, run_id, model_id, place)
        self._client.log_model_artifacts(model_id, str(directory))
        self._client.finalize_logged_model(model_id, "READY")
        self._show(run_id, model_id, entry.again)

    def output(self, entry: Entry) -> None:
        """Name a network as one that the run left."""
        self._show(self._id(entry.run), self._id(entry.content["model"]), entry.again)

    def register(self, entry: Entry) -> dict[str, str]:
        """Register a network, point an alias to it, and say so in a tag of the run."""
        model = entry.content["model"]
        model_id = model.removeprefix("models:/") if model.startswith("models:/") else self._id(model)
        name, alias = entry.content["name"], entry.content["alias"]
        version = register(self._client, model_id, name, alias, again=entry.again)
        self._client.set_tag(self._id(entry.run), names.REGISTERED, f"{name} v{version}")
        return {VERSION_OF.format(model=model, name=name): str(version)}

    def reopen(self, entry: Entry) -> None:
        """Let a run go on that an earlier process left."""
        run_id = self._id(entry.run)
        self._client.update_run(run_id, status="RUNNING")
        if names.ERROR in self._client.get_run(run_id).data.tags:
            self._client.delete_tag(run_id, names.ERROR)

    def end(self, entry: Entry) -> None:
        """Say how a run ended, and when."""
        self._client.set_terminated(
            self._id(entry.run), entry.content["status"], end_time=entry.content["time"]
        )

    @property
    def _experiment(self) -> str:
        assert self._queue.experiment_id is not None  # a queue that is sent from has begun
        return self._queue.experiment_id

    def _id(self, handle: str) -> str:
        if handle not in self._queue.ids:
            raise NeverError(f"the store did not take {handle}")
        return self._queue.ids[handle]

    def _kept(self, entry: Entry) -> Path:
        path = self._queue.folder / entry.content["path"]
        if not path.exists():
            raise NeverError(f"{path} is gone")
        return path

    def _show(self, run_id: str, model_id: str, again: bool) -> None:
        # MLflow raises for what it has already, in words that differ between databases.
        if again:
            outputs = self._client.get_run(run_id).outputs
            if any(each.model_id == model_id for each in (outputs.model_outputs if outputs else [])):
                return
        self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _name_its_origin(directory: Path, run_id: str, model_id: str, place: str) -> None:
    """Write into a saved network what MLflow calls it, which was not known yet when it was saved."""
    file = directory / "MLmodel"
    description = Model.load(str(file))
    description.run_id, description.model_id, description.artifact_path = run_id, model_id, place
    description.save(str(file))


def point(
    key: str,
    value: float,
    timestamp: int,
    step: int,
    *,
    model: str | None = None,
    dataset_name: str | None = None,
    dataset_digest: str | None = None,
) -> list[Any]:
    """A metric as the queue holds it; ``model`` is a handle."""
    return [key, value, timestamp, step, model, dataset_name, dataset_digest]


def children(client: MlflowClient, experiment_id: str, run_id: str) -> list[Run]:
    """All runs below one at the top level, those first that began first."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id],
            f"tags.`{names.PARENT}` = '{run_id}'",
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def models_of(client: MlflowClient, experiment_id: str, run_id: str) -> list[LoggedModel]:
    """The networks that a run announced, those first that came first."""
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    return sorted(found, key=lambda model: model.creation_timestamp)
