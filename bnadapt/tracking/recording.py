"""One run in MLflow: numbers, files, how it ended, and what the machine did meanwhile."""

import csv
import io
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnadapt.errors import StorageError
from bnadapt.files import write_bytes, write_text
from bnadapt.interruption import stops_held_back
from bnadapt.secrets import redacted
from bnadapt.tracking import names
from bnadapt.tracking.outbox import METRICS_PER_CALL, Outbox, logger
from bnadapt.tracking.points import Points, Steps
from bnadapt.tracking.queue import METRICS
from bnadapt.tracking.sending import point
from bnadapt.tracking.system import PREFIX, SystemMetrics

ENTRIES_PER_CALL = 100  # MLflow takes no more parameters, and no more tags, in one
SECONDS_TO_END = 5.0  # of a run that is stopped


class Run:
    """One run in MLflow: metrics and files.

    Nothing that is recorded stops the work where the store is away, and nothing of it is lost: it waits on the disk.

    Attributes:
        experiment_id: MLflow's id of its experiment.
    """

    def __init__(
        self, outbox: Outbox, experiment_id: str, handle: str, earlier: Points | None = None
    ) -> None:
        """Record to the run with this handle, to which an earlier process may have recorded."""
        self.experiment_id = experiment_id
        self._outbox = outbox
        self._handle = handle
        self._steps = Steps(earlier)
        self._last_timestamp = 0
        self._system: SystemMetrics | None = None

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; its label as long as the store has not made it."""
        return self._outbox.id_of(self._handle) or self._handle

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a step, or where there is one already at the next; infinities as NaN."""
        self._send(metrics, step)

    def log_text(self, name: str, text: str) -> None:
        """Record a text file under this path, such as ``summary.txt``, without secrets."""
        self._send_file(write_text(self._place(name), redacted(text)), name)

    def log_bytes(self, name: str, content: bytes) -> None:
        """Record a file of these bytes under this path, such as ``plots/accuracy.png``."""
        self._send_file(write_bytes(self._place(name), content), name)

    def log_table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """Record rows with the same keys under this path, ``stages.csv``, which MLflow shows as a table."""
        written = io.StringIO(newline="")
        table = csv.DictWriter(written, fieldnames=list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)
        self.log_text(name, written.getvalue())

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record what the run is searched by."""
        self._describe(tags=names.tags_for_mlflow(tags))

    def _describe(self, **entries: Mapping[str, str]) -> None:
        """Record ``parameters`` or ``tags``, as many in one call as MLflow takes."""
        for what, each in entries.items():
            items = list(each.items())
            for start in range(0, len(items), ENTRIES_PER_CALL):
                part = dict(items[start : start + ENTRIES_PER_CALL])
                self._outbox.put("describe", self._handle, **{what: part})

    def _send(self, metrics: Mapping[str, float], step: int, **link: str | None) -> list[list[Any]]:
        return self._send_points([(step, metrics)], **link)

    def _send_points(
        self, points: Sequence[tuple[int, Mapping[str, float]]], **link: str | None
    ) -> list[list[Any]]:
        """Record numbers at several steps in one call; returns what MLflow then has of them, as the queue holds it."""
        new, there = [], []
        for step, metrics in points:
            # Of several values MLflow shows the newest, so no two steps may bear the same time.
            self._last_timestamp = max(time.time_ns() // 1_000_000, self._last_timestamp + 1)
            for key, value in metrics.items():
                key = names.clean_key(key)
                place = self._steps.place(key, step)
                if (key, place) in self._steps.earlier:
                    before, timestamp = self._steps.earlier[key, place]
                    there.append(point(key, before, timestamp, place, **link))
                else:
                    new.append(point(key, names.finite(value), self._last_timestamp, place, **link))
        # Measured in a thread, sent from here alone: the outbox is for one thread.
        measured = self._system.take() if self._system else []
        self._put_metrics([*new, *measured])
        return [*there, *new]

    def _put_metrics(self, points: Sequence[list[Any]]) -> None:
        for start in range(0, len(points), METRICS_PER_CALL):
            part = points[start : start + METRICS_PER_CALL]
            self._outbox.put(METRICS, self._handle, **{METRICS: part})

    def _place(self, name: str) -> Path:
        return self._outbox.queue.place(Path(name).name)

    def _send_file(self, path: Path, name: str) -> None:
        folder = Path(name).parent.as_posix()
        self._outbox.put(
            "file",
            self._handle,
            path=path.relative_to(self._outbox.queue.folder).as_posix(),
            folder="" if folder == "." else folder,
        )

    @contextmanager
    def _until_end(self, system_metrics: bool = False) -> Iterator[None]:
        """Record how the block ended: FINISHED, FAILED with the error, or KILLED when it was stopped.

        With ``system_metrics`` the use of processor, memory and accelerator is recorded while it lasts.
        """
        try:
            if system_metrics:
                last = self._steps.highest(PREFIX)
                self._system = SystemMetrics.started(self.run_id, 0 if last is None else last + 1)
            yield
            self._stop_measuring()
            self._terminate("FINISHED")
        except BaseException as error:
            with stops_held_back():  # who asks twice must not undo what the first time began
                self._stop_measuring()
                self._record_error(error)
                self._terminate("FAILED" if isinstance(error, Exception) else "KILLED")
            raise

    def _stop_measuring(self) -> None:
        if self._system is not None:
            self._system.finish()
            self._put_metrics(self._system.take())
            self._system = None

    def _record_error(self, error: BaseException) -> None:
        self.set_tags({names.ERROR: f"{type(error).__name__}: {error}"})
        try:
            self.log_text("error.txt", "".join(traceback.format_exception(error)))
        except StorageError as full:
            logger.warning("the traceback is not recorded: %s", full)

    def _terminate(self, status: str) -> None:
        """Record how and when it ended."""
        self._end(self._handle, status)

    def _end(self, handle: str, status: str) -> None:
        self._outbox.put("end", handle, status=status, time=time.time_ns() // 1_000_000)
