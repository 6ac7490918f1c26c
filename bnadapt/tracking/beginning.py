"""The moment in which a run at the top level begins, so that a process killed in it leaves no run that nobody knows.

MLflow chooses a run's id, so the run is there before anything can be named after it. Until it has its folder of what
has not arrived, another folder says what to look for in the store.
"""

import hashlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient

from bnadapt.files import write_text
from bnadapt.locking import HeldElsewhereError, locked
from bnadapt.tracking import names
from bnadapt.tracking.queue import JOURNAL, LOCK, Queue, make_folder, opened

FOLDER = "begins-"  # and what the run bears as a tag
FILE = "begins.json"
SECONDS_TO_BEGIN = 60.0  # after which a folder without its file was left by a process that is gone

_log = logging.getLogger(__name__)


@contextmanager
def beginning(unsent: Path, uri: str, experiment_id: str, identity: str) -> Iterator[str]:
    """What a run that is started in the block has to bear as its handle; by the end of it the run has its folder.

    Raises:
        OSError: the folder cannot be written.
    """
    handle = uuid.uuid4().hex
    folder = unsent / f"{FOLDER}{handle}"
    begun = False
    try:
        make_folder(folder)
        with locked(folder / LOCK):
            content = {"store": _hash(uri), "experiment": experiment_id, "identity": identity}
            write_text(folder / FILE, json.dumps(content))
            begun = True
            yield handle
    except BaseException:
        # Once a run may have been started it stays, for take_up_beginnings.
        if not begun:
            _remove(folder)
        raise
    _remove(folder)


def take_up_beginnings(client: MlflowClient, unsent: Path) -> None:
    """Give runs their folder that processes had started which were killed right then."""
    for folder in unsent.glob(f"{FOLDER}*"):
        file = folder / FILE
        if not file.is_file() and time.time() - folder.stat().st_mtime < SECONDS_TO_BEGIN:
            continue
        try:
            with locked(folder / LOCK):
                if file.is_file():
                    content = json.loads(file.read_text(encoding="utf-8"))
                    if content["store"] != _hash(client.tracking_uri):
                        continue
                    _take_up(client, folder, content["experiment"], content["identity"])
        except HeldElsewhereError:
            continue
        except Exception as error:
            # What another run left must not keep a new one from its work.
            _log.warning("%s is passed over: %s: %s", folder, type(error).__name__, error)
            continue
        _remove(folder)


def begun(unsent: Path, identity: str, is_there: Callable[[str], bool]) -> str | None:
    """The id of a run of this identity that was cut off, and of which the store ``is_there``; None without any."""
    for journal in unsent.glob(f"*/{JOURNAL}"):
        folder = journal.parent
        try:
            with locked(folder / LOCK):
                queue = Queue(folder)
                queue.close()
        except HeldElsewhereError:
            continue
        if queue.identity == identity and not queue.ended and is_there(folder.name):
            return folder.name
    return None


def _take_up(client: MlflowClient, folder: Path, experiment_id: str, identity: str) -> None:
    handle = folder.name.removeprefix(FOLDER)
    for run in client.search_runs([experiment_id], f"tags.`{names.HANDLE}` = '{handle}'"):
        with opened(folder.parent / run.info.run_id, experiment_id, identity):
            pass  # it lies there now


def _hash(uri: str) -> str:
    """What tells stores apart, without the password that an address may hold."""
    return hashlib.sha256(uri.encode()).hexdigest()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # something else is left in it
        folder.parent.rmdir()
