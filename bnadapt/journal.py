"""What runs have done so far, on disk, so that whatever ends a process costs no stage that had ended.

Each run has a directory with ``journal.json``, which says what the run is and which stages have ended, a lock, and a
file for each fit of the stage that is in progress.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bnadapt.errors import StageError, StorageError
from bnadapt.files import remove_drafts, write_text
from bnadapt.locking import HeldElsewhereError, locked

FILE, LOCK, STAGES = "journal.json", ".lock", "stages"
MAXIMUM_BYTES = 1 << 28

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a run is: two runs of the same identity do the same.

    Attributes:
        store: Which tracking store and experiment it is recorded in, as a hash.
        keys: For each stage, in order, a hash of everything that its result depends on.
        rest: A hash of what else the run does, such as its report.
    """

    store: str
    keys: Mapping[str, str]
    rest: str

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def is_that_of(self, journal: "Journal") -> bool:
        """Whether the run of a journal does the same."""
        return asdict(self) == journal.content["identity"]

    def begun_in(self, journal: "Journal") -> list[str]:
        """The stages, from the first one on, that have ended in a journal with the same result."""
        begun: list[str] = []
        if journal.content["identity"]["store"] == self.store:
            for name, key in self.keys.items():
                entry = journal.ended.get(name)
                if entry is None or entry["key"] != key or not Path(entry["network"]).is_file():
                    break
                begun.append(name)
        return begun


@dataclass
class Journal:
    """What one run has done so far.

    Attributes:
        directory: Where it lies; named after the run's id.
        content: What stands in it.
    """

    directory: Path
    content: dict[str, Any]

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        return str(self.content["run_id"])

    @property
    def run_directory(self) -> Path:
        """Where the run leaves its networks and its report."""
        return Path(self.content["run_directory"])

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was asked for, as plain values."""
        return dict(self.content["settings"])

    @property
    def ended(self) -> dict[str, dict[str, Any]]:
        """What the stages that have ended left, by name, in the order in which they ended."""
        return dict(self.content["ended"])

    @property
    def outcome(self) -> dict[str, Any] | None:
        """What the whole run left, once it has ended."""
        found = self.content["outcome"]
        return None if found is None else dict(found)

    @property
    def is_whole(self) -> bool:
        """Whether what the run left, once it has ended, is still there."""
        report = self.outcome.get("report") if self.outcome is not None else None
        return report is None or Path(report).is_file()

    @property
    def command(self) -> list[str]:
        """The words that the user typed."""
        return list(self.content["command"])

    @property
    def fits(self) -> Path:
        """The directory for the state of the stage in progress."""
        return self.directory / STAGES

    def end_stage(self, name: str, entry: Mapping[str, Any]) -> None:
        """Write down that a stage has ended; its state in progress is no longer needed."""
        self.content["ended"][name] = dict(entry)
        self._write()
        shutil.rmtree(self.fits, ignore_errors=True)

    def forget(self, name: str) -> list[str]:
        """Take a stage and those that ended after it out, because they have to be done again; returns their names."""
        names = list(self.content["ended"])
        names = names[names.index(name) :]
        for each in names:
            del self.content["ended"][each]
        self._write()
        return names

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Write down that the whole run has ended."""
        self.content["outcome"] = dict(outcome)
        self._write()

    def _write(self) -> None:
        write_text(self.directory / FILE, json.dumps(self.content, indent=1, ensure_ascii=False))


@dataclass
class Journals:
    """The journals below a directory; those that this process works on are locked until :meth:`close`."""

    directory: Path
    _locks: ExitStack = field(default_factory=ExitStack)

    def find(self, identity: Identity) -> Journal | None:
        """The newest journal of a run that does the same, locked for this process where it has not ended.

        One that has ended and whose report is gone is none.

        Raises:
            StageError: another process works on it.
        """
        for journal in self._read_all():
            if identity.is_that_of(journal) and journal.is_whole:
                return journal if journal.outcome is not None else self._hold(journal)
        return None

    def named(self, run_id: str) -> Journal:
        """The journal of a run, locked for this process where it has not ended.

        Raises:
            StageError: there is none, or another process works on it.
        """
        journal = self.look_up(run_id)
        return journal if journal.outcome is not None else self._hold(journal)

    def look_up(self, run_id: str) -> Journal:
        """The journal of a run, to read in; raises a StageError where there is none."""
        journal = _read(self.directory / run_id / FILE) if _is_name(run_id) else None
        if journal is None:
            known = [f"\n  {each.run_id}  {' '.join(each.command)}" for each in self.unfinished()[:5]]
            have = f"Unfinished runs here are:{''.join(known)}" if known else "No unfinished run is there"
            raise StageError(
                f"resume={run_id}: {self.directory} has no run of this id to go on with. {have}; "
                "checkpoints.directory names another place"
            )
        return journal

    def has(self, run_id: str) -> bool:
        """Whether a run has a journal here."""
        return _is_name(run_id) and (self.directory / run_id / FILE).is_file()

    def reusable(self, identity: Identity) -> tuple[Journal, list[str]] | None:
        """The journal in which most stages of a run have ended already, and which; None where none has any."""
        found = [(journal, identity.begun_in(journal)) for journal in self._read_all()]
        best = max(found, key=lambda each: len(each[1]), default=None)
        return best if best is not None and best[1] else None

    def begin(
        self, run_id: str, identity: Identity, *, run_directory: Path, command: Sequence[str], settings: Any
    ) -> Journal:
        """Start the journal of a new run, locked for this process."""
        journal = Journal(
            self.directory / run_id,
            {
                "run_id": run_id,
                "run_directory": str(run_directory.absolute()),
                "command": list(command),
                "settings": settings,
                "identity": asdict(identity),
                "ended": {},
                "outcome": None,
            },
        )
        self._hold(journal)
        journal._write()
        return journal

    def unfinished(self) -> list[Journal]:
        """Journals of runs that have not ended, the newest first, those that are being worked on included."""
        return [journal for journal in self._read_all() if journal.outcome is None]

    def close(self) -> None:
        """Release what this process holds."""
        self._locks.close()

    def _hold(self, journal: Journal) -> Journal:
        try:
            self._locks.enter_context(locked(journal.directory / LOCK))
        except HeldElsewhereError as error:
            raise StageError(
                f"run {journal.run_id} is in progress in another process; wait for its end, or stop it before"
            ) from error
        except OSError as error:
            raise StorageError(
                f"checkpoints.directory: {journal.directory} cannot be written: {error}. Name another place: "
                "checkpoints.directory=/tmp/checkpoints"
            ) from error
        remove_drafts(journal.directory)
        # What another process wrote between our reading and our lock counts.
        return _read(journal.directory / FILE) or journal

    def _read_all(self) -> list[Journal]:
        files = sorted(
            self.directory.glob(f"*/{FILE}"), key=lambda file: file.stat().st_mtime_ns, reverse=True
        )
        return [journal for journal in map(_read, files) if journal is not None]


@contextmanager
def journals(directory: Path) -> Iterator[Journals]:
    """The journals below a directory, while the block lasts."""
    found = Journals(directory)
    try:
        yield found
    finally:
        found.close()


def _is_name(run_id: str) -> bool:
    return run_id.isalnum()


def _read(file: Path) -> Journal | None:
    """A journal; None, with a warning, for what is none, because a broken file must not stop other runs."""
    try:
        if file.stat().st_size > MAXIMUM_BYTES:
            raise ValueError("too large")
        content = json.loads(file.read_text(encoding="utf-8"))
        journal = Journal(file.parent, content)
        _ = journal.run_id, journal.run_directory, journal.ended, journal.outcome, content["identity"]["keys"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s is no journal of a run and is passed over: %s", file, error)
        return None
    return journal
