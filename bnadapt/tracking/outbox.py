"""The one door through which results leave for the store; what the store does not take waits here, on the disk.

A tracking server may go away in the middle of a training run, and the run itself may be killed. Neither must lose a
number, and the former must not stop the training: everything is written down before it is sent, in order, and sent
again with what comes next.
"""

import logging
import os
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from bnadapt.interruption import stops_held_back
from bnadapt.secrets import redacted
from bnadapt.tracking.environment import patience, sqlite_path
from bnadapt.tracking.pause import Pause
from bnadapt.tracking.queue import METRICS, Entry, Queue
from bnadapt.tracking.sending import TO_THE_FILES, NeverError, Sender

INVALID_VALUE = "INVALID_PARAMETER_VALUE"
# What a store that answers will not take at any later time either.
REFUSALS = {INVALID_VALUE, "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST", "ENDPOINT_NOT_FOUND"}
METRICS_PER_CALL = 1000  # MLflow takes no more in one
SECONDS_FOR_AN_ANSWER = 3

logger = logging.getLogger(__name__)


class Outbox:
    """Sends what the queue of one run at the top level holds, and leaves in it what does not arrive.

    It is for one thread.

    Attributes:
        queue: What has not arrived.
        uri: Of the store.
        problem: Why the last failure failed, in a line.
    """

    def __init__(
        self, client: MlflowClient, queue: Queue, *, resumed: bool = False, patient: bool = False
    ) -> None:
        """Send with this client what stands in the queue.

        Args:
            client: Of the store.
            queue: Of this process alone.
            resumed: An earlier process may have sent the same things.
            patient: Nothing else waits meanwhile, so that a slow store may take its time.
        """
        self.queue = queue
        self.uri = client.tracking_uri
        self._client = client
        self._sender = Sender(client, queue)
        self._resumed = resumed
        self._patient = patient
        self._database = sqlite_path(self.uri)
        self._store, self._files = Pause(), Pause()
        self.problem = ""
        self._answered = time.monotonic()

    def put(self, action: str, run: str, **content: Any) -> bool:
        """Hand in one thing to do, and say whether it has arrived.

        Args:
            action: A name of :class:`bnadapt.tracking.sending.Sender`.
            run: The handle of the run that it is about.
            content: All else that it needs, as JSON holds it.

        Raises:
            MlflowException: MLflow finds a value of it invalid, which no later attempt would mend.
        """
        entry = self.queue.add(action, run, content, again=self._resumed)
        self._work(just_now=entry.number)
        return entry.number not in self.queue.pending

    def id_of(self, handle: str) -> str | None:
        """MLflow's id of a run or network; None as long as it has none."""
        return self.queue.ids.get(handle)

    def knows(self, handle: str) -> bool:
        """Whether a run was started, or waits to be."""
        waits = any(entry.action == "start" and entry.run == handle for entry in self.queue.pending.values())
        return waits or handle in self.queue.ids

    def flush(self, seconds: float | None = None) -> bool:
        """Send what waits, now; says whether all has arrived.

        Args:
            seconds: Begin nothing more after so long; None: go on as long as the store takes something.
        """
        if not (self._store.recent_and_slow() and seconds is not None):
            self._store.over()
            self._files.over()
            self._work(seconds=seconds)
        return not self.queue.pending

    def say_what_is_left(self) -> None:
        """Warn of what has not arrived, with the command that delivers it later."""
        count = len(self.queue.pending)
        if count:
            logger.warning(
                "%s of run %s %s not arrived in the tracking store and %s in %s. Once the store answers, this "
                "delivers: %s",
                f"{count:,} {'entry' if count == 1 else 'entries'}",
                self.queue.folder.name,
                "has" if count == 1 else "have",
                "lies" if count == 1 else "lie",
                self.queue.folder,
                command(self.uri, self.queue.folder.parent.parent),
            )

    def answers(self) -> bool:
        """Whether the store answers in a few seconds and knows the run."""
        try:
            with patience(SECONDS_FOR_AN_ANSWER), stops_held_back():
                self._require_free_database()
                self._client.get_run(self.queue.folder.name)
        except Exception:  # databases and their drivers raise their own types
            return False
        self._answered = time.monotonic()
        return True

    def _work(self, *, just_now: int | None = None, seconds: float | None = None) -> None:
        """Send in order what may be tried now; a failure ends it, but one of the files' own store."""
        if self._store.lasts():
            return
        began = time.monotonic()
        for entries in self._next():
            pause = self._files if entries[0].action in TO_THE_FILES else self._store
            if seconds is not None and time.monotonic() - began > seconds:
                return
            if pause.lasts() or entries[0].content.get("needs") in self.queue.pending:
                continue
            with stops_held_back():
                go_on = self._try(entries, pause, just_now)
            if not go_on:
                return

    def _try(self, entries: list[Entry], pause: Pause, just_now: int | None) -> bool:
        """Send entries, and let what fails begin a pause; says whether those after them may be tried."""
        files = pause is self._files
        started = time.monotonic()
        try:
            invalid = self._deliver(entries, just_now)
        except Exception as error:
            # Artifact stores raise whatever their own client libraries raise, so the net is wide here.
            self.problem = short_cause(error)
            if not (files and self.answers()):
                pause = self._store
            if pause.begin(time.monotonic() - started):
                self._warn(error, files and pause is self._files)
            return pause is self._files
        self._answered = time.monotonic()
        for each in {self._store, pause}:
            if each.end():
                logger.info("the tracking store takes results again")
        if invalid is not None:
            raise invalid
        return True

    def _next(self) -> Iterator[list[Entry]]:
        """Entries to be sent together, in order: metrics of one run that follow each other, all else one by one."""
        together: list[Entry] = []
        count = 0
        for entry in list(self.queue.pending.values()):
            size = len(entry.content[METRICS]) if entry.action == METRICS else METRICS_PER_CALL
            fits = together and (entry.action, entry.run) == (together[0].action, together[0].run)
            if together and not (fits and count + size <= METRICS_PER_CALL):
                yield together
                together, count = [], 0
            together.append(entry)
            count += size
        if together:
            yield together

    def _deliver(self, entries: list[Entry], just_now: int | None) -> MlflowException | None:
        """Send entries and take them out; returns why MLflow finds what was just handed in invalid, if it does."""
        entry = entries[0]
        for each in entries:
            self.queue.retry(each)  # from here on an interrupt may leave it sent without a word
        slow = entry.action in TO_THE_FILES or self._patient or self._store.failing
        if slow and time.monotonic() - self._answered > SECONDS_FOR_AN_ANSWER and not self.answers():
            raise ConnectionError("it does not answer")
        self._require_free_database()
        try:
            # A server that answers may need its time for a large file; any other must not hold up the training.
            with patience(None if slow else SECONDS_FOR_AN_ANSWER):
                made = self._sender.send(entries)
        except Exception as error:
            if not self._is_refusal(entry, error):
                raise
            return self._part(entries, error, just_now)
        for each in entries:
            self.queue.done(each, made)
        return None

    def _part(self, entries: list[Entry], error: Exception, just_now: int | None) -> MlflowException | None:
        """Send metrics one by one, of which one was refused; set aside what is refused by itself."""
        parts = [part for entry in entries for part in entry.parts]
        invalid: MlflowException | None = None
        for part in parts:
            if len(parts) > 1:
                try:
                    self._sender.send([part])
                    continue
                except Exception as reason:
                    if not self._is_refusal(part, reason):
                        raise
                    error = reason
            if part.action == "register":
                self._tell_unregistered(part, error)
                continue
            path = self.queue.set_aside(part, short_cause(error))
            if part.number == just_now and is_invalid(error):
                assert isinstance(error, MlflowException)
                invalid = error
                continue
            logger.warning(
                "the tracking store refuses an entry (%s of %s), which is kept in %s: %s",
                part.action,
                part.run,
                path,
                short_cause(error),
            )
        for entry in entries:
            self.queue.done(entry)
        return invalid

    def _is_refusal(self, entry: Entry, error: Exception) -> bool:
        """Whether the store answers, and will never take this; something in between may only look like it."""
        if isinstance(error, NeverError):
            return True
        # A registry may be a server of its own; the network is kept in the tracking store.
        refusal = isinstance(error, MlflowException) and error.error_code in REFUSALS
        return (refusal or entry.action == "register") and self.answers()

    def _tell_unregistered(self, entry: Entry, error: Exception) -> None:
        model, name, alias = (entry.content[key] for key in ("model", "name", "alias"))
        uri = f"models:/{self.id_of(model)}" if self.id_of(model) else model
        logger.warning(
            "%s is not registered as %s%s: %s. The network is kept; to register it later: "
            "mlflow.register_model(%r, %r)",
            uri,
            name,
            f"@{alias}" if alias else "",
            short_cause(error),
            uri,
            name,
        )

    def _require_free_database(self) -> None:
        """Raise where another process holds a SQLite store; MLflow itself would wait for 20 seconds."""
        if self._database is None:
            return
        uri = f"{self._database.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=SECONDS_FOR_AN_ANSWER)) as connection:
            connection.execute("BEGIN IMMEDIATE")

    def _warn(self, error: Exception, files: bool) -> None:
        logger.warning(
            "The tracking store does not take %s at the moment; the work goes on. What does not arrive waits in %s and "
            "is sent again. (%s: %s)",
            "files" if files else "results",
            self.queue.folder,
            type(error).__name__,
            short_cause(error),
        )


def command(uri: str, directory: Path) -> str:
    """The command, ready for a shell, that delivers what waits below a working directory; a password is left out."""
    program = os.environ.get("BNADAPT_COMMAND", "bnadapt")
    return f"cd {shlex.quote(str(directory))} && {shlex.join([program, 'deliver', f'tracking.uri={redacted(uri)}'])}"


def short_cause(error: BaseException) -> str:
    """What went wrong in a line: the innermost cause of a chain of exceptions, at most 200 characters."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return redacted(" ".join(str(error).split()))[:200] or type(error).__name__


def is_invalid(error: Exception) -> bool:
    """Whether MLflow finds a value invalid, and not only that what it belongs to was deleted by somebody."""
    invalid = isinstance(error, MlflowException) and error.error_code == INVALID_VALUE
    return invalid and "'active' state" not in str(error)
