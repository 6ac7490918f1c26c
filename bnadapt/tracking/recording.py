"""One run in MLflow: numbers, files, how it ended, and what the machine did meanwhile."""

import csv
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking.context.registry import resolve_tags

from bnadapt.errors import TrackingError
from bnadapt.tracking import names
from bnadapt.tracking.outbox import Outbox, short_cause
from bnadapt.tracking.system import SystemMetrics

PARAMETERS_PER_CALL = 100  # MLflow takes no more in one


class Run:
    """One run in MLflow: metrics and files.

    Attributes:
        run_id: MLflow's id of the run.
        experiment_id: MLflow's id of its experiment.
    """

    def __init__(self, client: MlflowClient, outbox: Outbox, experiment_id: str, run_id: str) -> None:
        """Record to a run that was started in MLflow."""
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._client = client
        self._outbox = outbox
        self._last_timestamp = 0
        self._system: SystemMetrics | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a step; infinities as NaN. A server that is gone does not raise."""
        self._send(metrics, step)

    def log_text(self, name: str, text: str) -> None:
        """Record a text file under this path, such as ``summary.txt``."""
        self._send_written(name, lambda path: path.write_text(text, encoding="utf-8"))

    def log_bytes(self, name: str, content: bytes) -> None:
        """Record a file of these bytes under this path, such as ``plots/accuracy.png``."""
        self._send_written(name, lambda path: path.write_bytes(content))

    def log_table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """Record rows with the same keys under this path, ``stages.csv``, which MLflow shows as a table."""

        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
                table.writeheader()
                table.writerows(rows)

        self._send_written(name, write)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record what the run is searched by, in one call. A server that is gone does not raise."""
        entries = [RunTag(key, value) for key, value in names.tags_for_mlflow(tags).items()]
        self._outbox.attempt(lambda: self._client.log_batch(self.run_id, tags=entries))

    def _send(self, metrics: Mapping[str, float], step: int, **link: str | None) -> None:
        self._send_points([(step, metrics)], **link)

    def _send_points(self, points: Sequence[tuple[int, Mapping[str, float]]], **link: str | None) -> None:
        """Record numbers at several steps in one call."""
        entities = []
        for step, metrics in points:
            # Of several values at one step MLflow shows the newest, so no two may bear the same time.
            self._last_timestamp = max(time.time_ns() // 1_000_000, self._last_timestamp + 1)
            entities += [
                Metric(names.clean_key(key), names.finite(value), self._last_timestamp, step, **link)
                for key, value in metrics.items()
            ]
        # Measured in a thread, sent from here alone: the outbox is for one thread.
        measured = self._system.take() if self._system else []
        self._outbox.send_metrics(self.run_id, [*entities, *measured])

    def _send_written(self, name: str, write: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / Path(name).name
            write(path)
            folder = Path(name).parent.as_posix()
            self._outbox.send_file(self.run_id, path, "" if folder == "." else folder)

    @contextmanager
    def _until_end(self, system_metrics: bool = False) -> Iterator[None]:
        """Record how the block ended: FINISHED, FAILED with the error, or KILLED when it was stopped.

        With ``system_metrics`` the use of processor, memory and accelerator is recorded while it lasts.
        """
        if system_metrics:
            self._system = SystemMetrics.started(self.run_id, self._client.tracking_uri)
        try:
            yield
        except BaseException as error:
            self._stop_measuring()
            self._record_error(error)
            self._terminate("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self._stop_measuring()
        self._terminate("FINISHED")

    def _stop_measuring(self) -> None:
        if self._system is not None:
            self._system.finish()
            self._send_points([])
            self._system = None

    def _record_error(self, error: BaseException) -> None:
        self.set_tags({names.ERROR: f"{type(error).__name__}: {error}"})
        self.log_text("error.txt", "".join(traceback.format_exception(error)))

    def _terminate(self, status: str) -> None:
        self._outbox.flush()
        self._outbox.attempt(lambda: self._client.set_terminated(self.run_id, status))


def create_run(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, Any],
) -> str:
    """Start a run in MLflow and return its id.

    Raises:
        TrackingError: where the store does not take it.
    """
    try:
        context = resolve_tags(names.tags_for_mlflow(tags))
        run_id = client.create_run(experiment_id, tags=context, run_name=name).info.run_id
        entries = [Param(key, value) for key, value in names.parameters_for_mlflow(parameters).items()]
        for start in range(0, len(entries), PARAMETERS_PER_CALL):
            client.log_batch(run_id, params=entries[start : start + PARAMETERS_PER_CALL])
    except Exception as error:
        raise TrackingError(
            f"the run {name} could not be started in the tracking store {client.tracking_uri}: "
            f"{short_cause(error)}. Stages that are finished are recorded; from_run=RUN_ID goes on from them"
        ) from error
    return run_id
