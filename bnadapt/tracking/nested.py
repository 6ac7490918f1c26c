"""A run and the runs below it: what they share, and what every run that leaves a network records."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, LoggedModelOutput, Param
from mlflow.models import Model

from bnadapt.data.splits import Split, Splits
from bnadapt.evaluation.results import Epoch, Scores
from bnadapt.tracking import names
from bnadapt.tracking.models import save_model
from bnadapt.tracking.outbox import Outbox
from bnadapt.tracking.recording import Run, create_run
from bnadapt.tracking.registry import register

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
    """

    def __init__(
        self,
        client: MlflowClient,
        outbox: Outbox,
        experiment_id: str,
        run_id: str,
        name: str,
        parameters: Mapping[str, Any],
        config_yaml: str,
        command: str,
        tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
    ) -> None:
        """Record to a run that was started in MLflow."""
        super().__init__(client, outbox, experiment_id, run_id)
        self.name = name
        self.parameters = parameters
        self.tags = tags or {}
        self.config_yaml = config_yaml
        self.command = command
        self.system_metrics = system_metrics
        self._inputs: list[DatasetInput] = []
        self._scored_on: dict[str, dict[str, str]] = {}
        self._children: list[ChildRun] = []

    def log_dataset(
        self, name: str, digest: str, context: str, details: Mapping[str, str] | None = None
    ) -> None:
        """Record which data went in: a name, what identifies the content, what for (training, testing).

        Record it before the runs below this one, which get it too. In MLflow's list of models scores belong to
        the data of the context ``validation`` or ``testing``, or to the first data where there are none.
        """
        source = json.dumps({"tags": dict(details or {})})
        dataset = Dataset(name, digest[: names.MAXIMUM_DIGEST], source_type="code", source=source)
        link = {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
        self._scored_on = {"": link} | self._scored_on | {context: link}
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self._inputs.append(entry)
        self._outbox.attempt(lambda: self._client.log_inputs(self.run_id, [entry]))

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
        """Register a recorded network as the next version of ``name``; see :func:`tracking.registry.register`.

        The run gets the tag ``registered``, such as ``digits v3``.
        """
        version = register(self._client, model_uri, name, alias)
        if version is not None:
            self.set_tags({names.REGISTERED: f"{name} v{version}"})
        return version

    def tag_all(self, tags: Mapping[str, Any]) -> None:
        """Set tags here and on the runs below, so that a filter finds them all."""
        for run in (self, *self._children):
            run.set_tags(tags)

    def scored_on(self, split: str) -> dict[str, str]:
        """What links scores to the data that they are of, ``val`` or ``test``."""
        context = {"val": VALIDATION, "test": TESTING}.get(split, "")
        return self._scored_on.get(context, self._scored_on.get("", {}))

    def show_model(self, model_id: str) -> None:
        """Name a network of a run below as the one that this run left."""
        output = [LoggedModelOutput(model_id, step=0)]
        self._outbox.attempt(lambda: self._client.log_outputs(self.run_id, output))

    def _open(self, name: str, parameters: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
        """Start a run below this one, which has this one's parameters, tags and data too; returns its id."""
        run_id = create_run(
            self._client,
            self.experiment_id,
            name,
            {**self.parameters, **parameters},
            {**self.tags, **tags, names.PARENT: self.run_id},
        )
        if self._inputs:
            self._outbox.attempt(lambda: self._client.log_inputs(run_id, self._inputs))
        return run_id


class ChildRun(Run):
    """A run below another one, which trains a network and leaves it behind.

    Attributes:
        label: How it is called in MLflow, such as ``4_finetune``.
        model_uri: Where its network was recorded; None before :meth:`log_model`.
        model_id: MLflow's id of that network; None where the store did not take it.
    """

    def __init__(self, parent: ParentRun, label: str, run_id: str, parameters: Mapping[str, Any]) -> None:
        """Record to a run that the parent started, with these parameters of its own."""
        super().__init__(parent._client, parent._outbox, parent.experiment_id, run_id)
        self.label = label
        self.model_uri: str | None = None
        self.model_id: str | None = None
        self._parent = parent
        self._parameters = {**parent.parameters, **parameters}
        self._last_step = 0
        self._validation: dict[str, float] = {}
        parent._children.append(self)

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
            self._last_step = epochs[-1][0]
            # What MLflow compares runs by is the metric that was recorded first.
            self._send_points([(step, names.in_order(metrics)) for step, metrics in epochs])

    def log_scores(self, scores: Scores) -> None:
        """Record validation scores at the last epoch's step, after that epoch's own.

        MLflow shows the newest value of a key: what it shows is then the network that is left behind.
        """
        self._validation = names.score_metrics("val", scores)
        if self.model_id is None:
            self.log_metrics(self._validation, step=self._last_step)
        else:
            self.link_scores(self._validation, step=self._last_step)

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Record parameters that were not known at the start; those that were stay as they are."""
        new = {key: value for key, value in parameters.items() if key not in self._parameters}
        self._parameters |= new
        entries = [Param(key, value) for key, value in names.parameters_for_mlflow(new).items()]
        if entries:
            self._outbox.attempt(lambda: self._client.log_batch(self.run_id, params=entries))

    def link_scores(self, scores: Mapping[str, float], step: int = 0) -> None:
        """Record metrics that MLflow's list of models shows for this network; call once for each, at the end.

        It shows none that belongs to no data, so they are linked to what :meth:`ParentRun.log_dataset`
        recorded, validation scores to the validation images, test scores to the test images.
        """
        for split in dict.fromkeys(key.partition("_")[0] for key in scores):
            those = {key: value for key, value in scores.items() if key.partition("_")[0] == split}
            self._send(those, step, model_id=self.model_id, **self._parent.scored_on(split))

    def log_model(self, model: keras.Model, sample_images: np.ndarray | None = None) -> str:
        """Record the network; returns the URI with which MLflow loads it.

        Args:
            model: Any Keras network that can be saved.
            sample_images: Images as the network takes them; the first is kept with the network as MLflow's input
                example and, in the format of ``mlflow models predict``, as ``serving_input_example.json``.

        A network that the store does not take is kept in a local directory, whose path is returned.
        """
        recorded = self._new_model()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model"
            description = (
                Model(recorded.artifact_location, self.run_id, model_id=recorded.model_id)
                if recorded
                else Model(run_id=self.run_id)
            )
            save_model(model, path, description, sample_images)
            if recorded and self._outbox.attempt(lambda: self._send_model(recorded.model_id, path)):
                self.model_id = recorded.model_id
                self.model_uri = f"models:/{recorded.model_id}"
            else:
                self.model_uri = str(self._outbox.keep(path, Path(self.run_id)))
        if self.model_id is not None and self._validation:
            self.link_scores(self._validation, step=self._last_step)
        return self.model_uri

    def register(self, name: str, alias: str | None = None) -> int | None:
        """Register the recorded network as the next version of ``name``; None where it could not be.

        See :func:`bnadapt.tracking.registry.register`; the parent run is tagged.
        """
        return None if self.model_uri is None else self._parent.register(self.model_uri, name, alias)

    def _new_model(self) -> LoggedModel | None:
        created: list[LoggedModel] = []

        def create() -> None:
            model = self._client.create_logged_model(
                self.experiment_id,
                name=names.model_name(self.label, self._parent.name),
                source_run_id=self.run_id,
                params=names.parameters_for_mlflow(self._parameters),
            )
            created.append(model)

        self._outbox.attempt(create)
        return created[0] if created else None

    def _send_model(self, model_id: str, directory: Path) -> None:
        self._client.log_model_artifacts(model_id, str(directory))
        self._client.finalize_logged_model(model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step=0)])


def split_digest(digest: str, split: str) -> str:
    """What identifies one split of a data set with this digest: 12 hexadecimal digits, as many as MLflow shows."""
    return hashlib.sha256(f"{digest} {split}".encode()).hexdigest()[:12]
