"""The one door through which results leave for the store; what the store does not take stays here.

A tracking server may go away in the middle of a training run. That must neither stop the training nor
lose a number: metrics wait and are sent again with the next ones, and everything that was refused lies
in a local directory, metrics as lines of JSON, files as they are.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

INVALID_VALUE = "INVALID_PARAMETER_VALUE"
METRICS_PER_CALL = 1000  # MLflow takes no more in one
SECONDS_BETWEEN_ATTEMPTS = 30.0

logger = logging.getLogger(__name__)


class Outbox:
    """Sends metrics, files and states to the store and keeps what does not arrive."""

    def __init__(self, client: MlflowClient, directory: Path) -> None:
        """Send with this client; ``directory`` is made when something has to be kept in it."""
        self._client = client
        self._directory = directory
        self._waiting: dict[str, list[Metric]] = {}
        self._next_attempt = 0.0
        self._warned = False

    def send_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Send metrics, after those of the same run that still wait. Every metric passes here."""
        batch = [*self._waiting.pop(run_id, []), *metrics]
        for start in range(0, len(batch), METRICS_PER_CALL):
            part = batch[start : start + METRICS_PER_CALL]
            if not self.attempt(partial(self._client.log_batch, run_id, metrics=part)):
                self._waiting[run_id] = batch[start:]
                self._write_down(run_id, metrics)
                return

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        """Send a file to a folder of the run's artifacts."""
        if not self.attempt(lambda: self._client.log_artifact(run_id, str(file), folder or None)):
            self.keep(file, Path(run_id) / folder)

    def keep(self, source: Path, place: Path) -> Path:
        """Copy a file or directory into the local directory, below ``place``; returns where it lies."""
        target = self._directory / place / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
        return target

    def attempt(self, send: Callable[[], object]) -> bool:
        """Call ``send`` and say whether it arrived; after a failure nothing is tried for a while.

        Raises:
            MlflowException: where MLflow finds a value invalid, which no later attempt would mend.
        """
        if time.monotonic() < self._next_attempt:
            return False
        try:
            send()
        except Exception as error:
            # Artifact stores raise whatever their own client libraries raise, so the net is wide here.
            if isinstance(error, MlflowException) and error.error_code == INVALID_VALUE:
                raise
            self._next_attempt = time.monotonic() + SECONDS_BETWEEN_ATTEMPTS
            self._warn(error)
            return False
        return True

    def flush(self) -> None:
        """Send every metric that still waits, now."""
        self._next_attempt = 0.0
        for run_id in list(self._waiting):
            self.send_metrics(run_id, [])

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            logger.warning(
                "The tracking store does not take results at the moment; the work goes on. What does not "
                "arrive is kept in %s. (%s: %s)",
                self._directory,
                type(error).__name__,
                short_cause(error),
            )
        self._warned = True

    def _write_down(self, run_id: str, metrics: Sequence[Metric]) -> None:
        if not metrics:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            for metric in metrics:
                record = {"run_id": run_id, "key": metric.key, "value": metric.value}
                record |= {"step": metric.step, "timestamp": metric.timestamp, "model_id": metric.model_id}
                file.write(json.dumps(record) + "\n")


def short_cause(error: BaseException) -> str:
    """What went wrong in a line: the innermost cause of a chain of exceptions, at most 200 characters."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(str(error).split())[:200] or type(error).__name__
