"""What the stages of a pipeline leave behind: results, network files, and their runs in MLflow."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import keras

from bnadapt import files
from bnadapt.artifacts import attempt
from bnadapt.config import BASELINE, CONTROL, EVALUATE, INSERT, Settings, StageSettings, chosen_stages
from bnadapt.data.splits import Split
from bnadapt.errors import ModelError, SurgeryError
from bnadapt.evaluation.diagnostics import diagnose, measure_shift
from bnadapt.evaluation.results import Diagnosis, Epoch, LayerShift, Scores, StageResult
from bnadapt.evaluation.scores import score
from bnadapt.journal import Journal
from bnadapt.models.load import load_file
from bnadapt.normalization.patch import save_patch
from bnadapt.normalization.proof import weights_digest
from bnadapt.open_stage import OpenStage
from bnadapt.start import Start
from bnadapt.tracking.models import load_model
from bnadapt.tracking.names import WEIGHTS, diagnosis_metrics, shift_metrics, stage_label, stage_parameters
from bnadapt.tracking.runs import PipelineRun, StageRun
from bnadapt.tracking.store import Tracker
from bnadapt.training.divergence import DivergedError

_log = logging.getLogger(__name__)


class Ledger:
    """Keeps every stage's result and network as soon as the stage ends, here and in MLflow.

    Attributes:
        run: The pipeline's run in MLflow.
        settings: What the run was asked for.
        start: What it started from.
        splits: The data adapted to.
        results: What the stages left, in the pipeline's order, those of earlier runs included.
        shifts: How the baseline's data and those adapted to differ for each layer; empty before insertion, and
            where they are the same.
        directory: The run's directory.
        journal: What the run has done so far, on disk.
        report: The page that tells of the run, once it is written.
    """

    def __init__(
        self,
        settings: Settings,
        start: Start,
        tracker: Tracker,
        run: PipelineRun,
        journal: Journal,
    ) -> None:
        self.run = run
        self.splits = start.splits
        self.settings = settings
        self.start = start
        self.shifts: tuple[LayerShift, ...] = ()
        self.report: Path | None = None
        self._tracker = tracker
        # What an earlier run did after the stage that is done anew here belongs to another network.
        first = self.order.index(chosen_stages(settings)[0])
        self._earlier = {name: start.earlier[name] for name in self.order[:first] if name in start.earlier}
        self.journal = journal
        self.directory = journal.run_directory
        self._models = self.directory / "models"
        self._models.mkdir(parents=True, exist_ok=True)
        files.remove_drafts(self._models)
        self._results: dict[str, StageResult] = {}
        self._runs: dict[str, StageRun] = {}

    @property
    def order(self) -> list[str]:
        """Names of all stages that a pipeline with these settings can have, in order."""
        return [BASELINE, INSERT, *self.settings.schedule, CONTROL, EVALUATE]

    @property
    def remaining(self) -> list[str]:
        """Names of the schedule's stages after the last one that has a result."""
        done = [name for name in self.order if name in self._results or name in self._earlier]
        after = self.order[self.order.index(done[-1]) + 1 :] if done else self.order
        return [name for name in after if name not in (CONTROL, EVALUATE)]

    @property
    def results(self) -> list[StageResult]:
        """What the stages left, in the pipeline's order."""
        return [self._results[name] for name in self.order if name in self._results]

    def has(self, name: str) -> bool:
        """Whether a stage of this run has ended, in this process or in an earlier one."""
        return name in self.journal.ended

    @contextmanager
    def stage(self, name: str, *how: StageSettings) -> Iterator[OpenStage]:
        """Record one stage while the block lasts; an error in it marks the stage's run as failed.

        ``how`` is what trains, one after the other; its settings are the run's parameters.
        """
        with self.run.stage(name, order=self._place(name), parameters=stage_parameters(*how)) as run:
            self._runs[name] = run
            try:
                yield OpenStage(name, run, self._validate, self.keep)
            except DivergedError as error:
                self._keep_best_so_far(name, error)
                raise

    def network(self, name: str) -> keras.Model:
        """The network as the stage left it, freshly loaded: from this run, else from an earlier one."""
        path = self._path(name)
        if path.is_file():
            return load_file(path, self.settings.model, name=str(path))
        uri = self._earlier[name].model_uri
        assert uri is not None  # adopt_earlier takes no stage without
        return load_model(self._tracker.uri, uri, self.settings.model)

    def adopt_ended(self) -> list[str]:
        """Take the results of the stages of this run that have ended in earlier processes; returns their names.

        A stage whose network is gone or damaged has to be done again, and so have those after it.
        """
        for name, entry in self.journal.ended.items():
            network = self._as_it_was(name, entry["weights"])
            if network is None:
                again = ", ".join(self.journal.forget(name))
                _log.warning(
                    "%s no longer holds what stage %s left; done again: %s", entry["network"], name, again
                )
                break
            if entry["run_id"] == self.run.run_id:
                self._runs[name] = self.run.ended_stage(name, order=self._place(name))
            else:
                self.run.set_tags({f"{WEIGHTS}/{stage_label(self._place(name), name)}": entry["weights"]})
            self._results[name] = StageResult(
                name=name,
                trainable=entry["trainable"],
                steps=entry["steps"],
                seconds=entry["seconds"],
                history=[Epoch(**epoch) for epoch in entry["history"]],
                validation=self.scores(network, self.splits.validation),
                kept_epoch=entry["kept_epoch"],
                learning_rate=entry["learning_rate"],
                diagnosis=self._diagnosis(name, network),
            )
            if name == INSERT:
                self.shifts = self._shifts(network)
        return list(self.journal.ended)

    def _as_it_was(self, name: str, digest: str) -> keras.Model | None:
        """The network that an ended stage left, from its file; None where it is not there any more."""
        path = self._path(name)
        try:
            network = load_file(path, self.settings.model, name=str(path)) if path.is_file() else None
        except ModelError:
            return None
        return network if network is not None and weights_digest(network) == digest else None

    def adopt_earlier(self) -> None:
        """Take the results of the stages that earlier runs performed before the first one of this run."""
        for name, stored in self._earlier.items():
            if stored.model_uri is not None and name not in self._results:
                network = self.network(name)
                self._results[name] = StageResult(
                    name=name,
                    trainable=stored.trainable,
                    steps=stored.steps,
                    seconds=stored.seconds,
                    history=list(stored.history),
                    validation=self.scores(network, self.splits.validation),
                    kept_epoch=stored.kept_epoch,
                    diagnosis=self._diagnosis(name, network),
                )

    def test(self, name: str) -> Scores:
        """Score the stage's network on the test images, and record it."""
        scores = self.scores(self.network(name), self.splits.test)
        self._results[name] = replace(self._results[name], test=scores)
        if name in self._runs:
            self._runs[name].log_test(scores)
        else:
            self.run.log_test(stage_label(self._place(name), name), scores)
        return scores

    def keep_best(self, name: str) -> Path:
        """Copy the stage's network to ``best.keras`` and name it in MLflow."""
        path = self.directory / "best.keras"
        if self._path(name).is_file():
            files.copy(self._path(name), path)
        else:
            files.save(self.network(name), path)
        self.run.log_best(stage_label(self._place(name), name), self._results[name])
        how = self.settings.tracking
        uri = self._model_uri(name)
        if how.register_as is not None:
            if uri is not None:
                self.run.register(uri, how.register_as, how.alias)
            else:
                _log.warning(
                    "tracking.register_as=%s: nothing is registered, because the tracking store does not hold the "
                    "network of stage %s; it is kept in %s",
                    how.register_as,
                    name,
                    path,
                )
        return path

    def keep_patch(self, name: str) -> Path | None:
        """Write ``best.patch``, which makes the stage's network of the baseline's, and record it.

        None where more than batch normalization and the head differ between the two, or nothing does.
        """
        if name == BASELINE or BASELINE not in self._results:
            return None
        path = self._models.parent / "best.patch"
        try:
            save_patch(path, self.network(BASELINE), self.network(name))
        except SurgeryError as reason:
            _log.info("no patch: %s", reason)
            return None
        self.run.log_bytes(path.name, path.read_bytes())
        return path

    def scores(self, network: keras.Model, split: Split) -> Scores:
        """Scores of a network on a split."""
        return score(
            network, split.batches(self.settings.evaluation.batch_size), from_logits=self.start.from_logits
        )

    def _validate(self, network: keras.Model) -> Scores:
        return self.scores(network, self.splits.validation)

    def keep(self, network: keras.Model, result: StageResult) -> None:
        """Keep what a stage of this run left: its network in a file and in MLflow, and its result."""
        name = result.name
        self._results[name] = result
        files.save(network, self._path(name))
        run, digest = self._runs[name], weights_digest(network)
        if self.settings.tracking.log_models:
            images = next(iter(self.splits.validation.batches(1)))[0]
            run.log_model(network, images.numpy())
        run.log_result(result)
        run.set_tags({WEIGHTS: digest})
        self._look_at(network, name)
        # Last: what has ended is not done again.
        self.journal.end_stage(
            name,
            {
                "key": self.journal.content["identity"]["keys"][name],
                "run_id": self.run.run_id,
                "model_uri": run.model_uri,
                "network": str(self._path(name).absolute()),
                "weights": digest,
                "trainable": result.trainable,
                "steps": result.steps,
                "seconds": result.seconds,
                "history": [asdict(epoch) for epoch in result.history],
                "kept_epoch": result.kept_epoch,
                "learning_rate": result.learning_rate,
            },
        )

    def _keep_best_so_far(self, name: str, error: DivergedError) -> None:
        """Keep the best state of a stage that broke in a file, and add to the error where that is."""
        path = self._models / f"{stage_label(self._place(name), name)}_best_before_it_broke.keras"
        attempt("keeping the best state", lambda: files.save(error.network, path))
        if path.is_file():
            error.add_note(f"the best state so far is kept in {path}")

    def _look_at(self, network: keras.Model, name: str) -> None:
        """Diagnose what a stage left, once it is kept; what fails is missing and costs nothing else."""
        diagnosis = self._diagnosis(name, network)
        if diagnosis is not None:
            self._results[name] = replace(self._results[name], diagnosis=diagnosis)
            self._runs[name].log_metrics(diagnosis_metrics(diagnosis))
        if name == INSERT:
            self.shifts = self._shifts(network)
            if self.shifts:
                self._runs[name].log_metrics(shift_metrics(self.shifts))

    def _diagnosis(self, name: str, network: keras.Model) -> Diagnosis | None:
        how = self.settings
        return attempt(
            f"the diagnosis of stage {name}",
            lambda: diagnose(
                network,
                self.splits.unlabelled.mixed(how.evaluation.batch_size, seed=how.seed),
                self.splits.validation.mixed(how.data.batch_size, seed=how.seed),
            ),
        )

    def _shifts(self, network: keras.Model) -> tuple[LayerShift, ...]:
        """How the two data sets differ for each layer of the network that insertion left.

        Behind insertion the network still computes what the baseline did, and every place has its layer.
        """
        if not self.start.transfers:
            return ()
        size, seed = self.settings.evaluation.batch_size, self.settings.seed
        before, after = self.start.source_splits.unlabelled, self.splits.unlabelled
        measured = attempt(
            "the shift between the data sets",
            lambda: measure_shift(network, before.mixed(size, seed=seed), after.mixed(size, seed=seed)),
        )
        return measured or ()

    def _model_uri(self, name: str) -> str | None:
        """Where MLflow has the network of a stage, of this run or of an earlier one."""
        if name in self._runs:
            return self._runs[name].model_uri
        if self.has(name):
            uri = self.journal.ended[name]["model_uri"]
            return None if uri is None else str(uri)
        return self._earlier[name].model_uri

    def _path(self, name: str) -> Path:
        return self._models / f"{stage_label(self._place(name), name)}.keras"

    def _place(self, name: str) -> int:
        return self.order.index(name) + 1
