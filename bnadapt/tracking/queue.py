"""What has been handed in for a run and has not arrived in the store yet, kept on the disk: lines of JSON, and files.

A line is on the disk before anything is sent, and another one is written when it has arrived, so that a process may be
killed, and the power fail, at any moment: whoever opens the folder next knows what is left, in order.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bnadapt.files import flush
from bnadapt.locking import locked

LOCK, JOURNAL, REFUSED, FILES = "lock", "journal.jsonl", "refused.jsonl", "files"
REFUSED_FILES = "refused "  # and the entry's number
METRICS = "metrics"  # the one action of which several entries can be one

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One thing to do in the store.

    Attributes:
        number: Its place in the order.
        action: A name of :class:`bnadapt.tracking.sending.Sender`.
        run: The handle of the run that it is about.
        content: All else, as JSON holds it.
        again: Whether it may have arrived already, without a word that it did.
    """

    number: int
    action: str
    run: str
    content: dict[str, Any]
    again: bool = field(default=False, compare=False)

    @property
    def parts(self) -> list["Entry"]:
        """Metric by metric, each with the entry's number; all else as it is."""
        if self.action != METRICS:
            return [self]
        return [replace(self, content={METRICS: [each]}) for each in self.content[METRICS]]


class Queue:
    """The entries of one run at the top level and of the runs below it.

    Handles name runs and networks as long as MLflow has no id for them: that of a run below is its label.

    Attributes:
        folder: Where all of it lies; its name is MLflow's id of the run at the top level, and that run's handle.
        experiment_id: MLflow's id of its experiment; None where the folder holds no journal.
        identity: What the run is, of whoever began it; may be empty.
        pending: What has not arrived, by number, in order.
        ids: MLflow's ids by handle.
        ended: Whether the run at the top level has ended in the store.
        refused: How many entries the store does not take.
    """

    def __init__(self, folder: Path, experiment_id: str | None = None, identity: str = "") -> None:
        """Read what lies in the folder; with an experiment begin it where it is new."""
        self.folder = folder
        self.experiment_id: str | None = None
        self.identity = ""
        self.pending: dict[int, Entry] = {}
        self.ids = {folder.name: folder.name}
        self.ended = False
        self.refused = 0
        self._number = 0
        self._torn = False
        self._read()
        self._journal: int | None = None
        if self.experiment_id is None and experiment_id is not None:
            self.experiment_id, self.identity = experiment_id, identity
            self._write({"experiment": experiment_id, "identity": identity})

    @property
    def next_number(self) -> int:
        """The number that the next entry gets."""
        return self._number + 1

    def place(self, name: str, *, after: int = 0) -> Path:
        """Where a file or directory for the next entry is to be written, or for one that many others come before."""
        return self._files(self.next_number + after) / name

    def add(self, action: str, run: str, content: dict[str, Any], *, again: bool = False) -> Entry:
        """Keep one more thing to do; it is on the disk when this returns."""
        self._number += 1
        entry = Entry(self._number, action, run, content, again)
        self.pending[entry.number] = entry
        self._write({key: value for key, value in asdict(entry).items() if key != "again"})
        return entry

    def retry(self, entry: Entry) -> None:
        """Remember that an entry may have arrived without a word."""
        self.pending[entry.number] = replace(entry, again=True)

    def done(self, entry: Entry, made: dict[str, str] | None = None) -> None:
        """Take out what has arrived; ``made`` holds MLflow's ids of what it made, by handle."""
        self._take_out(entry, made or {})
        self._write({"done": entry.number, **({"made": made} if made else {})})
        shutil.rmtree(self._files(entry.number), ignore_errors=True)

    def set_aside(self, entry: Entry, reason: str) -> Path:
        """Write down what the store will never take, with the reason; its files stay. Returns the list's path."""
        self.refused += 1
        path = self.folder / REFUSED
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": reason, **asdict(entry)}) + "\n")
        kept = self._files(entry.number)
        if kept.exists():
            kept.rename(kept.with_name(f"{REFUSED_FILES}{entry.number}"))
        return path

    def close(self) -> None:
        """Let go of the files."""
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, now or later."""
        return self.ended and not self.pending

    def _files(self, number: int) -> Path:
        return self.folder / FILES / str(number)

    def _take_out(self, entry: Entry, made: dict[str, str]) -> None:
        self.pending.pop(entry.number, None)
        self.ids |= made
        if entry.run == self.folder.name and entry.action in ("end", "reopen"):
            self.ended = entry.action == "end"

    def _read(self) -> None:
        refused = self.folder / REFUSED
        if refused.is_file():
            self.refused = len(refused.read_bytes().splitlines())
        journal = self.folder / JOURNAL
        for line in journal.read_bytes().splitlines() if journal.is_file() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the process was killed, or the disk full, in the middle of this line: it was never sent
            if "experiment" in record:
                self.experiment_id, self.identity = record["experiment"], record.get("identity", "")
            elif "done" in record:
                entry = self.pending.get(record["done"])
                if entry is not None:
                    self._take_out(entry, record.get("made", {}))
            else:
                entry = Entry(**record, again=True)
                self.pending[entry.number] = entry
                self._number = entry.number
        self._torn = journal.is_file() and not journal.read_bytes().endswith(b"\n")

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        try:
            new = self._journal is None
            if self._journal is None:
                self._journal = os.open(
                    self.folder / JOURNAL, os.O_CREAT | os.O_APPEND | os.O_WRONLY | getattr(os, "O_BINARY", 0)
                )
            # In one call: an interrupt comes before or after it, not in the middle.
            whole = b"\n" + line if self._torn else line
            self._torn = os.write(self._journal, whole) != len(whole)
            if self._torn:
                raise OSError("the disk is full")
            # Where it is forgotten that something has arrived, it is sent once more, if its files are still there.
            if "done" not in record or self._files(record["done"]).exists():
                os.fsync(self._journal)
            if new:
                flush(self.folder)
        except OSError as error:
            # What is in memory can still be sent; only a killed process would now lose it.
            self._torn = True
            _log.warning("%s cannot be written: %s. Results are sent without", self.folder / JOURNAL, error)


@contextmanager
def opened(
    folder: Path, experiment_id: str | None = None, identity: str = "", *, patience: float = 0.0
) -> Iterator[Queue]:
    """The queue in a folder, for this process alone while the block lasts.

    At the end the folder is removed where nothing is left in it, but for the list of what the store refused.

    Raises:
        HeldElsewhereError: another process works on it.
        OSError: the folder cannot be made.
    """
    make_folder(folder)
    queue: Queue | None = None
    try:
        with locked(folder / LOCK, patience=patience):
            queue = Queue(folder, experiment_id, identity)
            try:
                yield queue
            finally:
                queue.close()
    finally:
        # After the lock is let go: Windows removes no file that is open.
        if queue is not None and (queue.finished or queue.experiment_id is None):
            remove(folder)


def make_folder(folder: Path) -> None:
    """Make a folder below one that another process may be removing because it is empty."""
    for _ in range(10):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except FileNotFoundError:
            continue
    folder.mkdir(parents=True, exist_ok=True)


def remove(folder: Path) -> None:
    """Remove what lies in a folder but what the store refused, and the folders that are empty then."""
    for path in (*folder.glob(f"{FILES}/*"), *folder.iterdir()):
        if path.name == FILES or path.name.startswith(REFUSED_FILES) or path.name == REFUSED:
            continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for empty in (folder / FILES, folder, folder.parent):
        with suppress(OSError):  # something is left in it, or another process was faster
            empty.rmdir()
