"""A run below another one: what every run that trains a network and leaves it behind records."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from mlflow.models import Model

from bnadapt.errors import StorageError
from bnadapt.evaluation.results import Epoch, Scores
from bnadapt.tracking import names
from bnadapt.tracking.models import save_model
from bnadapt.tracking.nested import ParentRun
from bnadapt.tracking.points import Points
from bnadapt.tracking.recording import Run
from bnadapt.tracking.sending import point

AFTER_THE_LAST = "val_macro_f1"  # only the scores of what is left behind have it


class ChildRun(Run):
    """A run below another one, which trains a network and leaves it behind.

    Attributes:
        label: How it is called in MLflow, such as ``4_finetune``.
        model: The handle of its network; None before :meth:`log_model`.
        upload: The number of the queue's entry that holds the network's files; None where it is not of this process.
    """

    def __init__(self, parent: ParentRun, label: str, handle: str, parameters: Mapping[str, Any]) -> None:
        """Record to a run that the parent started or goes on with, with these parameters of its own."""
        super().__init__(parent._outbox, parent.experiment_id, handle, parent._points_of(handle))
        self.label = label
        self.model: str | None = None
        self.upload: int | None = None
        self._parent = parent
        self._parameters: dict[str, Any] = {**parent.parameters, **parameters}
        self._last_step = last_step(self._steps.earlier)
        self._validation = last_scores(self._steps.earlier)
        self._models = 0
        self._recorded = list(parent._earlier[handle].models) if handle in parent._earlier else []
        parent._children.append(self)
        # An earlier process may have been killed after it had started the run, and before it could describe it.
        there = parent._earlier[handle].parameters if handle in parent._earlier else {}
        wanted = names.parameters_for_mlflow(self._parameters)
        missing = {key: value for key, value in wanted.items() if key not in there}
        if missing:
            self._describe(parameters=missing)
        if parent._inputs:
            self._outbox.put("inputs", handle, data=parent._inputs)

    @property
    def model_id(self) -> str | None:
        """MLflow's id of its network; None before :meth:`log_model`, and as long as the store has not taken it."""
        return None if self.model is None else self._outbox.id_of(self.model)

    @property
    def model_uri(self) -> str | None:
        """What loads its network: ``models:/ID``, or the directory in which it waits; None before :meth:`log_model`."""
        if self.model is None:
            return None
        waiting = self._outbox.queue.pending.get(self.upload or 0)
        if waiting is not None:
            return str(self._outbox.queue.folder / waiting.content["path"])
        return f"models:/{self.model_id}" if self.model_id else None

    def log_epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Record one epoch's metrics in one call, at the step ``number``; 0 is the state before training.

        All runs use the same keys, so that their curves can be laid over each other: val_accuracy, val_loss,
        accuracy, loss, learning_rate, seconds.
        """
        self.log_epochs([(number, metrics)])

    def log_look(self, epoch: Epoch, prefix: str = "") -> None:
        """Record an epoch, or a look at the validation images, its metrics' keys behind the prefix."""
        metrics = asdict(epoch)
        self.log_epoch(metrics.pop("number"), {prefix + key: value for key, value in metrics.items()})

    def log_epochs(self, epochs: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Record several epochs' metrics in one call, each with its step, in ascending order."""
        if epochs:
            self._last_step = max(epochs[-1][0], self._last_step or 0)
            # What MLflow compares runs by is the metric that was recorded first.
            self._send_points([(step, names.in_order(metrics)) for step, metrics in epochs])

    def log_scores(self, scores: Scores) -> None:
        """Record the validation scores of the network that is left behind, once, one step after the last epoch.

        MLflow shows the value at the highest step: what it shows is then that network. Without any epoch it is step 0.
        They are linked to the network, whether :meth:`log_model` comes before or after.
        """
        step = 0 if self._last_step is None else self._last_step + 1
        values = names.score_metrics("val", scores)
        link = {} if self.model is None else {"model": self.model, **self._parent.scored_on("val")}
        self._validation = self._send(values, step, **link)
        if self.model is not None:
            self._link_validation()

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Record parameters that were not known at the start; those that were stay as they are."""
        new = {key: value for key, value in parameters.items() if key not in self._parameters}
        self._parameters |= new
        self._describe(parameters=names.parameters_for_mlflow(new))

    def link_scores(self, scores: Mapping[str, float], step: int = 0) -> None:
        """Record metrics that MLflow's list of models shows for this network; call once for each, at the end.

        It shows none that belongs to no data, so they are linked to what :meth:`ParentRun.log_dataset`
        recorded, validation scores to the validation images, test scores to the test images.
        """
        for split in dict.fromkeys(key.partition("_")[0] for key in scores):
            those = {key: value for key, value in scores.items() if key.partition("_")[0] == split}
            link = {} if self.model is None else {"model": self.model, **self._parent.scored_on(split)}
            self._send(those, step, **link)

    def log_model(self, model: keras.Model, sample_images: np.ndarray | None = None) -> str | None:
        """Record the network; returns what loads it, as ``model_uri``.

        Args:
            model: Any Keras network that can be saved.
            sample_images: Images as the network takes them; the first is kept with the network as MLflow's input
                example and, in the format of ``mlflow models predict``, as ``serving_input_example.json``.

        Where an earlier process of this run recorded it, that one stays.

        Raises:
            StorageError: the network cannot be written.
        """
        self._models += 1
        self.model = f"{self._handle} network {self._models}"
        if self.model not in self._recorded:
            self._send_model(model, sample_images)
        self._link_validation()
        return self.model_uri

    def register(self, name: str, alias: str | None = None) -> int | None:
        """Register the recorded network as the next version of ``name``; None where it is not registered yet.

        See :meth:`ParentRun.register`; the parent run is tagged.
        """
        return None if self.model_uri is None else self._parent.register(self.model_uri, name, alias)

    def _send_model(self, model: keras.Model, sample_images: np.ndarray | None) -> None:
        name = names.model_name(self.label, self._parent.name)
        parameters = names.parameters_for_mlflow(self._parameters)
        queue = self._outbox.queue
        directory = queue.place("model", after=1)  # it is announced first
        try:
            save_model(model, directory, Model(), sample_images)
        except OSError as error:
            raise StorageError(
                f"{directory} cannot be written: {error.strerror or error}. Make room, or keep no networks in MLflow: "
                "tracking.log_models=false"
            ) from error
        self._outbox.put("model", self._handle, model=self.model, name=name, parameters=parameters)
        self.upload = queue.next_number
        path = directory.relative_to(queue.folder).as_posix()
        self._outbox.put("upload", self._handle, model=self.model, path=path)

    def _link_validation(self) -> None:
        """Link validation scores that were recorded to the network; the same point again is one point in MLflow."""
        scored_on = self._parent.scored_on("val")
        self._put_metrics(
            [
                point(key, value, timestamp, step, model=self.model, **scored_on)
                for key, value, timestamp, step, *_ in self._validation
            ]
        )

    def _terminate(self, status: str) -> None:
        super()._terminate(status)
        self._parent.note_end(self._handle)

    def _attach(self) -> None:
        """Take over the network that an earlier process recorded, if it did."""
        self.model = self._recorded[-1] if self._recorded else None


def last_step(points: Points) -> int | None:
    """The step of the last epoch or look that is recorded; None where there is none."""
    kept = {step for key, step in points if key == AFTER_THE_LAST}
    looks = (step for key, step in points if key.endswith("val_loss") and step not in kept)
    return max(looks, default=None)


def last_scores(points: Points) -> list[list[Any]]:
    """The validation scores of the network that was left behind, as the queue holds metrics."""
    kept = {step for key, step in points if key == AFTER_THE_LAST}
    return [
        point(key, value, timestamp, step)
        for (key, step), (value, timestamp) in points.items()
        if step in kept and key.startswith("val_")
    ]
