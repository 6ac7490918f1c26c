"""What can be recorded about a pipeline and about each of its stages."""

import csv
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param
from mlflow.models import Model
from mlflow.tracking.context.registry import resolve_tags

from bnadapt.errors import TrackingError
from bnadapt.evaluation.results import Scores, StageResult
from bnadapt.tracking import names
from bnadapt.tracking.models import save_model
from bnadapt.tracking.outbox import Outbox, short_cause

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARAMETERS_PER_CALL = 100  # MLflow takes no more in one


class Run:
    """One run in MLflow: metrics and files.

    Attributes:
        run_id: MLflow's id of the run.
        experiment_id: MLflow's id of its experiment.
    """

    def __init__(self, client: MlflowClient, outbox: Outbox, experiment_id: str, run_id: str) -> None:
        """Record to a run that was started in MLflow."""
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._client = client
        self._outbox = outbox
        self._last_timestamp = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers at a step; infinities as NaN. A server that is gone does not raise."""
        self._send(metrics, step)

    def log_text(self, name: str, text: str) -> None:
        """Record a text file under this path, such as ``summary.txt``."""
        self._send_written(name, lambda path: path.write_text(text, encoding="utf-8"))

    def log_bytes(self, name: str, content: bytes) -> None:
        """Record a file of these bytes under this path, such as ``plots/accuracy.png``."""
        self._send_written(name, lambda path: path.write_bytes(content))

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Record a matplotlib figure under this path, such as ``plots/accuracy.png``."""
        self._send_written(name, figure.savefig)

    def log_table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """Record rows with the same keys under this path, ``stages.csv``, which MLflow shows as a table."""

        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
                table.writeheader()
                table.writerows(rows)

        self._send_written(name, write)

    def _send(self, metrics: Mapping[str, float], step: int, **link: str | None) -> None:
        # Of several values at one step MLflow shows the newest, so no two may bear the same time.
        self._last_timestamp = max(time.time_ns() // 1_000_000, self._last_timestamp + 1)
        entities = [
            Metric(names.clean_key(key), names.finite(value), self._last_timestamp, step, **link)
            for key, value in metrics.items()
        ]
        self._outbox.send_metrics(self.run_id, entities)

    def _send_written(self, name: str, write: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / Path(name).name
            write(path)
            folder = Path(name).parent.as_posix()
            self._outbox.send_file(self.run_id, path, "" if folder == "." else folder)

    @contextmanager
    def _until_end(self) -> Iterator[None]:
        """Record how the block ended: FINISHED, FAILED with the error, or KILLED when it was stopped."""
        try:
            yield
        except BaseException as error:
            self._record_error(error)
            self._terminate("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self._terminate("FINISHED")

    def _record_error(self, error: BaseException) -> None:
        text = names.cut(f"{type(error).__name__}: {error}", names.MAXIMUM_TAG)
        self._outbox.attempt(lambda: self._client.set_tag(self.run_id, names.ERROR, text))
        self.log_text("error.txt", "".join(traceback.format_exception(error)))

    def _terminate(self, status: str) -> None:
        self._outbox.flush()
        self._outbox.attempt(lambda: self._client.set_terminated(self.run_id, status))


class PipelineRun(Run):
    """The run of a whole pipeline, parent of its stages' runs."""

    def __init__(
        self,
        client: MlflowClient,
        outbox: Outbox,
        experiment_id: str,
        run_id: str,
        name: str,
        parameters: Mapping[str, Any],
        config_yaml: str,
    ) -> None:
        """Record to a run that was started in MLflow; its stages get the parameters and the configuration."""
        super().__init__(client, outbox, experiment_id, run_id)
        self._name = name
        self._dataset: dict[str, str] = {}
        self._parameters = parameters
        self._config_yaml = config_yaml

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        order: int,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator["StageRun"]:
        """A child run that ends with the block: finished, failed with the error's text, or killed.

        It bears the pipeline's parameters too, so that a filter finds parents and stages alike.
        """
        label = names.stage_label(order, name)
        run_id = create_run(
            self._client,
            self.experiment_id,
            label,
            {**self._parameters, **(parameters or {}), names.STAGE: label},
            {**(tags or {}), names.STAGE: label, names.PARENT: self.run_id},
        )
        stage = StageRun(self, label, run_id)
        with stage._until_end():
            stage.log_text("config.yaml", self._config_yaml)
            yield stage

    def log_dataset(
        self, name: str, digest: str, context: str, details: Mapping[str, str] | None = None
    ) -> None:
        """Record which data went in: a name, what identifies the content, what for (training, testing).

        The first is the data that scores belong to in MLflow's list of models: record it before the stages.
        """
        source = json.dumps({"tags": dict(details or {})})
        dataset = Dataset(name, digest[: names.MAXIMUM_DIGEST], source_type="code", source=source)
        self._dataset = self._dataset or {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self._outbox.attempt(lambda: self._client.log_inputs(self.run_id, [entry]))

    def log_test(self, label: str, scores: Scores) -> None:
        """Record a stage's test accuracy among those of all stages, as ``test/4_finetune``."""
        self.log_metrics({names.accuracy_key("test", label): scores.accuracy})

    def log_best(self, label: str, result: StageResult) -> None:
        """Record the scores of the stage that is kept as those of the pipeline, and its label as a tag."""
        for prefix, scores in (("val", result.validation), ("test", result.test)):
            if scores is not None:
                self.log_metrics(names.score_metrics(prefix, scores))
        self._outbox.attempt(lambda: self._client.set_tag(self.run_id, "best_stage", label))

    def log_verdict(self, answer: str) -> None:
        """Record in a word whether it helped, as a tag that runs can be searched by."""
        self._outbox.attempt(lambda: self._client.set_tag(self.run_id, "verdict", answer))


class StageRun(Run):
    """The run of one stage.

    Attributes:
        label: How it is called in MLflow, ``4_finetune``.
        model_uri: Where its network was recorded; None before :meth:`log_model`.
    """

    def __init__(self, pipeline: PipelineRun, label: str, run_id: str) -> None:
        """Record to a run that :meth:`PipelineRun.stage` started."""
        super().__init__(pipeline._client, pipeline._outbox, pipeline.experiment_id, run_id)
        self.label = label
        self.model_uri: str | None = None
        self._pipeline = pipeline
        self._model_id: str | None = None
        self._last_step = 0

    def log_epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Record one epoch's metrics in one call, at the step ``number``; 0 is the state before training.

        Every stage uses the same keys, so that their curves can be laid over each other: accuracy, loss,
        val_accuracy, val_loss, learning_rate, seconds.
        """
        self._last_step = number
        self.log_metrics(metrics, step=number)

    def log_result(self, result: StageResult) -> None:
        """Record how the stage ended, here and among the stages of the pipeline.

        The validation scores are recorded at the last epoch's step, after that epoch's own, because MLflow
        shows the newest value of a key: what it shows is then the network that the stage left behind.
        """
        totals = {
            names.TRAINABLE: result.trainable,
            names.STEPS: result.steps,
            names.SECONDS: result.seconds,
            names.KEPT_EPOCH: result.kept_epoch,
        }
        scores = {} if result.validation is None else names.score_metrics("val", result.validation)
        self.log_metrics(scores, step=self._last_step)
        self.log_metrics(totals)  # at step 0 everywhere, so that MLflow draws bars
        if result.validation is not None:
            self._pipeline.log_metrics({names.accuracy_key("val", self.label): result.validation.accuracy})

    def log_test(self, scores: Scores) -> None:
        """Record test scores, here, among the stages of the pipeline, and at the recorded network."""
        self.link_scores(names.score_metrics("test", scores))
        self._pipeline.log_test(self.label, scores)

    def link_scores(self, scores: Mapping[str, float]) -> None:
        """Record metrics that MLflow's list of models shows for this network; call once, at the end.

        It shows none that belongs to no data, so they are linked to what :meth:`PipelineRun.log_dataset`
        recorded first.
        """
        self._send(scores, 0, model_id=self._model_id, **self._pipeline._dataset)

    def log_model(self, model: keras.Model, sample_images: np.ndarray | None = None) -> str:
        """Record the network; returns the URI with which MLflow loads it.

        Args:
            model: Any Keras network that can be saved.
            sample_images: Images as the network takes them; the first is recorded as ``sample_input.json``,
                the input format of ``mlflow models predict`` and of a served model.

        A network that the store does not take is kept in a local directory, whose path is returned.
        """
        model_id = self._new_model_id()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model"
            save_model(model, path, Model(run_id=self.run_id, model_id=model_id))
            if model_id is not None and self._outbox.attempt(lambda: self._send_model(model_id, path)):
                self._model_id = model_id
                self.model_uri = f"models:/{model_id}"
            else:
                self.model_uri = str(self._outbox.keep(path, Path(self.run_id)))
        if sample_images is not None:
            first = np.asarray(sample_images[:1], np.float32).tolist()
            self.log_text("sample_input.json", json.dumps({"inputs": first}))
        return self.model_uri

    def _new_model_id(self) -> str | None:
        created: list[str] = []

        def create() -> None:
            model = self._client.create_logged_model(
                self.experiment_id,
                name=names.model_name(self.label, self._pipeline._name),
                source_run_id=self.run_id,
                params=names.parameters_for_mlflow({**self._pipeline._parameters, names.STAGE: self.label}),
            )
            created.append(model.model_id)

        self._outbox.attempt(create)
        return created[0] if created else None

    def _send_model(self, model_id: str, directory: Path) -> None:
        self._client.log_model_artifacts(model_id, str(directory))
        self._client.finalize_logged_model(model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step=0)])


def create_run(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, Any],
) -> str:
    """Start a run in MLflow and return its id.

    Raises:
        TrackingError: where the store does not take it.
    """
    try:
        context = resolve_tags(names.tags_for_mlflow(tags))
        run_id = client.create_run(experiment_id, tags=context, run_name=name).info.run_id
        entries = [Param(key, value) for key, value in names.parameters_for_mlflow(parameters).items()]
        for start in range(0, len(entries), PARAMETERS_PER_CALL):
            client.log_batch(run_id, params=entries[start : start + PARAMETERS_PER_CALL])
    except Exception as error:
        raise TrackingError(
            f"the run {name} could not be started in the tracking store {client.tracking_uri}: "
            f"{short_cause(error)}. Stages that are finished are recorded; from_run=RUN_ID goes on from them"
        ) from error
    return run_id
