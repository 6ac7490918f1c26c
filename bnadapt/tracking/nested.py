"""A run at the top level: what it shares with the runs below it."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlflow.tracking.context.registry import resolve_tags

from bnadapt.data.splits import Split, Splits
from bnadapt.errors import TrackingError
from bnadapt.tracking import names
from bnadapt.tracking.outbox import Outbox
from bnadapt.tracking.points import Points
from bnadapt.tracking.recording import SECONDS_TO_END, Run
from bnadapt.tracking.registry import VERSION_OF
from bnadapt.tracking.resuming import Earlier

if TYPE_CHECKING:
    from bnadapt.tracking.child import ChildRun

TRAINING, VALIDATION, TESTING, BASELINE_TRAINING = "training", "validation", "testing", "baseline training"


class ParentRun(Run):
    """A run at the top level, which shares its parameters, tags and data with the runs below it.

    Attributes:
        command: What the user typed.
        config_yaml: The resolved configuration.
        name: Of the run.
        parameters: What users vary.
        tags: What it is searched by, as far as it was known at the start.
        system_metrics: Whether the use of processor, memory and accelerator is recorded.
        cut_off: Ids of other runs whose processes are gone; they were marked as killed when this one began.
    """

    def __init__(
        self,
        outbox: Outbox,
        experiment_id: str,
        run_id: str,
        name: str,
        parameters: Mapping[str, Any],
        config_yaml: str,
        command: str,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
        earlier: Mapping[str, Earlier] | None = None,
        cut_off: Sequence[str] = (),
    ) -> None:
        """Record to a run that was started in MLflow, perhaps by an earlier process, with ``earlier`` by handle."""
        self._earlier = dict(earlier or {})
        super().__init__(outbox, experiment_id, run_id, self._points_of(run_id))
        self.name = name
        self.parameters = parameters
        self.tags = tags or {}
        self.config_yaml = config_yaml
        self.command = command
        self.system_metrics = system_metrics
        self.cut_off = tuple(cut_off)
        self._inputs: list[dict[str, str]] = []
        self._scored_on: dict[str, dict[str, str]] = {}
        self._children: list[ChildRun] = []
        self._opened: list[str] = []
        self._running: list[str] = []

    def log_dataset(
        self, name: str, digest: str, context: str, details: Mapping[str, str] | None = None
    ) -> None:
        """Record which data went in: a name, what identifies the content, what for (training, testing).

        Record it before the runs below this one, which get it too. In MLflow's list of models scores belong to
        the data of the context ``validation`` or ``testing``, or to the first data where there are none.
        """
        source = json.dumps({"tags": dict(details or {})})
        digest = digest[: names.MAXIMUM_DIGEST]
        link = {"dataset_name": name, "dataset_digest": digest}
        self._scored_on = {"": link} | self._scored_on | {context: link}
        self._inputs.append({"name": name, "digest": digest, "source": source, "context": context})
        self._outbox.put("inputs", self._handle, data=self._inputs[-1:])

    def log_splits(self, splits: Splits, *, source: bool = False, anew: bool = False) -> None:
        """Record the splits that went in, each with a digest of its own: training, validation and test images.

        Args:
            splits: The data adapted to, or those that the baseline trained on.
            source: Whether they are the latter, of which the training images alone are recorded.
            anew: Whether the runs below that start from now on get these and no longer the earlier ones.
        """
        if anew:
            self._inputs, self._scored_on = [], {}
        contexts: list[tuple[Split, str]] = [(splits.train, BASELINE_TRAINING)]
        if not source:
            contexts = [
                (splits.train, TRAINING),
                (splits.validation, VALIDATION),
                (splits.test, TESTING),
            ]
        for split, context in contexts:
            details = {"split": split.name, "images": str(split.size), "classes": str(len(splits.classes))}
            details |= {"data set": splits.name, "SHA-256": splits.digest}
            digest = split_digest(splits.digest, split.name)
            self.log_dataset(f"{splits.name} {split.name}", digest, context, details)

    def register(self, model_uri: str, name: str, alias: str | None = None) -> int | None:
        """Register a recorded network as the next version of ``name``, with an alias that points to it.

        The run gets the tag ``registered``, such as ``digits v3``. A registry that refuses does not raise, because
        the network is kept wherever it lies: a warning says how to register it later.

        Args:
            model_uri: As a run below this one has it in ``model_uri``; or ``models:/ID`` of an earlier run.
            name: Of the registered model; :func:`bnadapt.checks.registry_mistakes` says which ones MLflow takes.
            alias: Such as ``champion``; it is taken from the version that had it.

        Returns:
            The version's number; None where nothing is registered yet.
        """
        own = next((child for child in self._children if child.model_uri == model_uri), None)
        model = own.model if own is not None and own.model is not None else model_uri
        needs = None if own is None else own.upload
        self._outbox.put("register", self._handle, model=model, name=name, alias=alias, needs=needs)
        version = self._outbox.id_of(VERSION_OF.format(model=model, name=name))
        return None if version is None else int(version)

    def tag_all(self, tags: Mapping[str, Any]) -> None:
        """Set tags here and on the runs below, so that a filter finds them all."""
        for run in (self, *self._children):
            run.set_tags(tags)

    def scored_on(self, split: str) -> dict[str, str]:
        """What links scores to the data that they are of, ``val`` or ``test``."""
        context = {"val": VALIDATION, "test": TESTING}.get(split, "")
        return self._scored_on.get(context, self._scored_on.get("", {}))

    def show_model(self, model_id: str) -> None:
        """Name a network of a run below as the one that this run left, by MLflow's id; see also :meth:`show`."""
        own = (child for child in self._children if child.model_id == model_id)
        for child in own:
            self.show(child)

    def show(self, child: "ChildRun") -> None:
        """Name the network of a run below, where it was recorded, as the one that this run left."""
        if child.model is not None:
            self._outbox.put("output", self._handle, model=child.model)

    def _begin(self) -> None:
        """Record what is known at the start, or go on with what an earlier process began."""
        if self._handle in self._earlier:
            self._go_on(self._handle)
        else:
            self._describe(parameters=names.parameters_for_mlflow(self.parameters))
        self.log_text("config.yaml", self.config_yaml)

    def _open(self, label: str, tags: Mapping[str, Any]) -> str:
        """Start a run below this one, or go on with it where an earlier process had; returns its handle.

        It has this one's tags too.
        """
        self._opened.append(label)
        count = self._opened.count(label)
        handle = label if count == 1 else f"{label} ({count})"
        self._running.append(handle)
        if handle in self._earlier:
            self._go_on(handle)
            return handle
        own = {**self.tags, **tags, names.PARENT: self.run_id, names.HANDLE: handle}
        self._outbox.put(
            "start",
            handle,
            name=label,
            time=time.time_ns() // 1_000_000,
            tags=resolve_tags(names.tags_for_mlflow(own)),
        )
        return handle

    def _go_on(self, handle: str) -> None:
        """Let a run go on that an earlier process began, and no longer claim the error that ended it."""
        self._outbox.put("reopen", handle)
        if self._earlier[handle].failed:
            now = datetime.now().astimezone().isoformat(" ", "minutes")
            gone_on = Run(self._outbox, self.experiment_id, handle)
            gone_on.log_text("error.txt", f"The run goes on since {now}; what ended it before was mended.\n")

    def _ended(self, label: str) -> str:
        """The handle of a run below this one that ended in an earlier process, which MLflow may not know yet.

        That process may have been stopped in between: the run then counts as running still, or as killed.
        """
        if label not in self._earlier:
            raise TrackingError(
                f"run {self.run_id} has no run {label} below it to go on from; those it has: "
                f"{', '.join(handle for handle in self._earlier if handle != self._handle) or 'none'}"
            )
        earlier = self._earlier[label]
        if not earlier.finished:
            self._go_on(label)
            last = max((timestamp for _, timestamp in earlier.points.values()), default=None)
            ended = time.time_ns() // 1_000_000 if last is None else last
            self._outbox.put("end", label, status="FINISHED", time=ended)
        return label

    def _points_of(self, handle: str) -> Points:
        return self._earlier[handle].points if handle in self._earlier else {}

    def note_end(self, handle: str) -> None:
        """Take note that a run below this one has been ended."""
        self._running = [each for each in self._running if each != handle]

    def _terminate(self, status: str) -> None:
        # An interrupt may come after one of them was started, and before it was there to be ended.
        for handle in self._running:
            if self._outbox.knows(handle):
                self._end(handle, "FAILED" if status == "FINISHED" else status)
        super()._terminate(status)
        # Who stops a run waits for its end.
        self._outbox.flush(SECONDS_TO_END if status == "KILLED" else None)


def split_digest(digest: str, split: str) -> str:
    """What identifies one split of a data set with this digest: 12 hexadecimal digits, as many as MLflow shows."""
    return hashlib.sha256(f"{digest} {split}".encode()).hexdigest()[:12]
