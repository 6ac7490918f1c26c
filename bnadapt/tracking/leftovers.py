"""What processes that are gone left behind: delivered, and their runs marked."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from bnadapt.locking import HeldElsewhereError
from bnadapt.tracking import names
from bnadapt.tracking.beginning import FOLDER, take_up_beginnings
from bnadapt.tracking.outbox import Outbox, short_cause
from bnadapt.tracking.queue import JOURNAL, REFUSED, Queue, opened
from bnadapt.tracking.sending import children

UNSENT = "bnadapt-unsent"
SECONDS_TO_BEGIN = 60.0  # after which a folder without a journal was left by a process that is gone

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """What became of the folder of one run.

    Attributes:
        run_id: MLflow's id of the run at the top level.
        delivered: How many entries have arrived now.
        left: How many still wait in the folder.
        refused: How many the store will never take; ``refused.jsonl`` in the folder holds them, with the reasons.
        cut_off: Whether the process was gone before the run had ended; it is marked as killed.
        folder: Where it lies, or lay.
        reason: Why something is left; empty where nothing is.
    """

    run_id: str
    delivered: int
    left: int
    refused: int
    cut_off: bool
    folder: Path
    reason: str = ""

    def __str__(self) -> str:
        """One line for a person."""
        parts = [f"{self.delivered:,} delivered"]
        if self.left:
            parts.append(f"{self.left:,} left in {self.folder}")
        if self.refused:
            parts.append(f"{self.refused:,} refused by the store, kept in {self.folder / REFUSED}")
        if self.cut_off:
            parts.append("the run was cut off and is marked as killed")
        if self.reason:
            parts.append(self.reason)
        return f"run {self.run_id}: {'; '.join(parts)}"


def take_up(client: MlflowClient, unsent: Path, *, besides: str | None = None) -> list[Delivery]:
    """Deliver what processes that are gone left in these folders, and mark runs that they cut off as killed.

    MLflow shows a run whose process was killed as running for ever. That its process is gone shows here: nobody holds
    the folder's lock. Folders of running processes, and of other stores, stay as they are.

    Args:
        client: Of the store.
        unsent: Holds a folder for each run.
        besides: Id of a run whose folder is left alone.
    """
    found = []
    if unsent.is_dir():
        take_up_beginnings(client, unsent)
    for folder in sorted(unsent.iterdir()) if unsent.is_dir() else []:
        if not folder.is_dir() or folder.name == besides or folder.name.startswith(FOLDER):
            continue
        try:
            delivery = _take_up(client, folder)
        except HeldElsewhereError:
            _log.info("run %s is being recorded by another process", folder.name)
        except Exception as error:
            # One folder that cannot be read must not keep the others, or a new run, from their work.
            found.append(_untouched(folder, f"{type(error).__name__}: {short_cause(error)}"))
        else:
            if delivery is not None:
                found.append(delivery)
    return found


def _take_up(client: MlflowClient, folder: Path) -> Delivery | None:
    journal = folder / JOURNAL
    if not journal.is_file():
        if (folder / REFUSED).is_file():
            return _untouched(folder, "")
        if time.time() - folder.stat().st_mtime > SECONDS_TO_BEGIN:
            with opened(folder):  # nobody uses it, so that it is removed
                pass
        return None
    last = int(journal.stat().st_mtime * 1000)
    with opened(folder) as queue:
        try:
            client.get_run(folder.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return _untouched(folder, "this store does not have the run: name its store, tracking.uri=URI")
        before = len(queue.pending)
        outbox = Outbox(client, queue, patient=True)
        outbox.flush()
        delivered = before - len(queue.pending)
        cut_off = not queue.ended and outbox.answers() and _mark_killed(client, outbox, last)
        reason = "" if not queue.pending else f"the store does not take it at the moment: {outbox.problem}"
        return Delivery(folder.name, delivered, len(queue.pending), queue.refused, cut_off, folder, reason)


def _mark_killed(client: MlflowClient, outbox: Outbox, milliseconds: int) -> bool:
    """End the runs that MLflow shows as running, as of the time when their process last wrote something.

    Says whether the one at the top level was among them.
    """
    queue = outbox.queue
    pipeline = client.get_run(queue.folder.name)
    for run in (*children(client, pipeline.info.experiment_id, queue.folder.name), pipeline):
        handle = queue.folder.name if run is pipeline else run.data.tags.get(names.HANDLE, run.info.run_id)
        queue.ids[handle] = run.info.run_id
        if run.info.status == "RUNNING":
            outbox.put("end", handle, status="KILLED", time=milliseconds)
    queue.ended = True
    return pipeline.info.status == "RUNNING"


def _untouched(folder: Path, reason: str) -> Delivery:
    queue = Queue(folder)
    queue.close()
    return Delivery(folder.name, 0, len(queue.pending), queue.refused, False, folder, reason)
