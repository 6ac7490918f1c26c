"""What a comparison keeps while it runs: data, baselines, networks to start from, results."""

import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
from rich.console import Console

from bnadapt.artifacts import attempt
from bnadapt.comparison import account
from bnadapt.comparison.arms import Repetition, trains
from bnadapt.config import (
    BASELINE,
    ArmSettings,
    DataSettings,
    InsertionSettings,
    PlacementSettings,
    Settings,
    inserts,
)
from bnadapt.data.load import load
from bnadapt.data.splits import Splits
from bnadapt.evaluation.arms import ArmResult, Comparison
from bnadapt.evaluation.results import Scores
from bnadapt.evaluation.verdict import rank_of
from bnadapt.procedure import Listener, Procedure, weights_digest
from bnadapt.report.tables import duration
from bnadapt.start import Start
from bnadapt.tracking.comparisons import ArmRun
from bnadapt.tracking.runs import PipelineRun
from bnadapt.training.progress import Display


@dataclass(frozen=True)
class Baseline:
    """A trained baseline: its file and the SHA-256 of its weights."""

    path: Path
    digest: str


@dataclass
class Networks:
    """What arms start from: the baseline, and the same with batch normalization put in, each made once."""

    directory: Path
    baseline: Baseline
    start: Start
    scores: dict[Path, Scores] = field(default_factory=dict)

    def begun(self, settings: Settings) -> Scores:
        """Validation scores of the network that an arm with these settings started from."""
        return self.scores[self._path(settings)]

    def inserted(self, procedure: Procedure) -> Path:
        """The file of the network that an arm with these settings starts from."""
        path = self._path(procedure.settings)
        if path not in self.scores:
            network = keras.saving.load_model(self.baseline.path, compile=False)
            if path != self.baseline.path:
                network = procedure.insert(network).network
                network.save(path)
            self.scores[path] = procedure.scores(network, self.start.splits.validation)
        return path

    def _path(self, settings: Settings) -> Path:
        if not inserts(settings.placement):
            return self.baseline.path
        return self.directory / inserted_file(settings.placement, settings.insertion)


@dataclass(frozen=True)
class Done:
    """What an arm left: its result, the file of its network, and its run in MLflow where there is one."""

    result: ArmResult
    path: Path
    run: ArmRun | None = None


@dataclass
class Work:
    """What has been done of a comparison, and what is left of it."""

    settings: Settings
    arms: dict[str, ArmSettings]
    run: PipelineRun
    directory: Path
    console: Console
    total: int
    done: list[Done] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digests: dict[tuple[int | None, int], str] = field(default_factory=dict)
    _baselines: dict[tuple[int, int | str | None], Baseline] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    @property
    def inserted(self) -> Path | None:
        """A network with batch normalization put in that still computes what a baseline did; None without any."""
        calibrated = replace(self.settings.insertion, init="calibrated")
        path = self.directory / inserted_file(self.settings.placement, calibrated)
        return path if path.is_file() else None

    @property
    def silent(self) -> Display:
        """Hundreds of trainings: a line for each arm says enough."""
        return Display(Console(quiet=True), "none")

    def file(self, name: str) -> Path:
        """Where a network lies in the meantime."""
        return self.directory / f"{name}.keras"

    @property
    def results(self) -> list[ArmResult]:
        """What the arms left, in the order in which they ended."""
        return [each.result for each in self.done]

    def rates(self, name: str, arm: ArmSettings, repetition: Repetition) -> list[float | None]:
        """The learning rates to try: all of them, or the one that an earlier seed chose."""
        earlier = [
            result.learning_rate
            for result in self.results
            if result.arm == name and result.labels == repetition.labels
        ]
        if earlier and self.settings.comparison.choose_rate == "first":
            return earlier[:1]
        return self.all_rates(arm)

    def all_rates(self, arm: ArmSettings) -> list[float | None]:
        """Every learning rate of the comparison; None alone for an arm that takes no steps."""
        return list(self.settings.comparison.learning_rates) if trains(arm) else [None]

    def begin(self, repetition: Repetition, start: Start) -> None:
        """Record the data of a repetition, whose labelled images are its own, with the runs that follow."""
        self.run.log_splits(start.splits, anew=True)
        if start.transfers:
            self.run.log_splits(start.source_splits, source=True)
        if self.digests and repetition.labels not in {labels for labels, _ in self.digests}:
            self.notes += [note for note in start.splits.notes if note not in self.notes]
        self.digests[repetition.labels, repetition.seed] = start.splits.digest

    @contextmanager
    def recording(self, name: str, parameters: Mapping[str, str]) -> Iterator[ArmRun | None]:
        """A run for the arm of this name; None, with a warning, where the store does not take it just now."""
        with ExitStack() as stack:
            tags = {"placement": parameters["placement"]}
            yield attempt(
                f"the run of arm {name} in MLflow",
                lambda: stack.enter_context(self.run.arm(name, parameters=parameters, tags=tags)),
            )

    def baseline(self, repetition: Repetition, start: Start, procedure: Procedure) -> Baseline:
        """The trained baseline of a repetition; the same for all numbers of labels where it saw none of them."""
        depends = not start.transfers or start.new_head_for_target
        key = (repetition.seed, repetition.labels if depends else "any")
        if key in self._baselines:
            return self._baselines[key]
        path = self.file(f"{BASELINE}_s{key[0]}_{key[1] or 'all'}")
        with self.recording(BASELINE, account.parameters_of(repetition, ArmSettings())) as run:
            network, _ = procedure.train_baseline(
                start.network, Listener() if run is None else Listener(epoch=run.log_look)
            )
            network.save(path)
            self._baselines[key] = Baseline(path, weights_digest(network))
            if run is not None:
                run.set_tags({"baseline": self._baselines[key].digest[:12]})
                run.log_scores(procedure.scores(network, start.splits.validation))
                if self.settings.tracking.log_models:
                    run.log_model(network, next(iter(start.splits.validation.batches(1)))[0].numpy())
        return self._baselines[key]

    def finish(self, done: Done, before: Scores) -> None:
        """Keep and record what an arm left, and say so.

        Args:
            done: What it left.
            before: Validation scores of the network that it started from.
        """
        self.done.append(done)
        result, count = done.result, len(self.done)
        labels = f", {result.labels or 'all'} labels" if self.settings.comparison.labels_per_class else ""
        rate = "" if result.learning_rate is None else f"  rate {result.learning_rate:g}"
        left = (time.monotonic() - self._began) / count * (self.total - count)
        self.console.print(
            f"{count:3}/{self.total}  seed {result.seed}{labels}  {result.arm}: validation "
            f"{100 * result.validation.accuracy:.1f} %{rate}  ({result.seconds:.0f} s"
            f"{f', {duration(left)} left' if count < self.total else ''})",
            soft_wrap=True,
        )
        if done.run is not None:
            done.run.log_start(before)
            done.run.log_result(result)

    def leave_out(self, name: str, repetition: Repetition, reason: Exception, run: ArmRun | None) -> None:
        """Take an arm out of the comparison, with what it did for other seeds: it cannot be compared."""
        self.notes.append(
            f"arm {name} is left out, no learning rate kept its loss finite with seed {repetition.seed}: {reason}"
        )
        self.console.print(self.notes[-1], soft_wrap=True)
        if run is not None:
            run.set_tags({"left_out": str(reason)})
        self.total -= self.total // len(self.arms)
        self.done = [each for each in self.done if each.result.arm != name]
        self.arms = {each: arm for each, arm in self.arms.items() if each != name}

    def recommended(self, comparison: Comparison) -> int:
        """Place of the recommended arm's best result by validation among all results."""
        candidates = [
            number
            for number, result in enumerate(self.results)
            if result.arm == comparison.recommended and result.labels == comparison.labels
        ]
        return max(candidates, key=lambda number: rank_of(self.results[number].validation))

    def keep(self, best: int, path: Path, start: Start) -> Path:
        """Keep the network of the result at this place in a file, record it, and remove all others."""
        shutil.copyfile(self.done[best].path, path)
        if self.settings.tracking.log_models:
            network = keras.saving.load_model(path, compile=False)
            images = next(iter(start.splits.validation.batches(1)))[0]
            arm, how = self.done[best].run, self.settings.tracking
            if arm is not None:
                arm.log_model(network, images.numpy())
                if arm.model_id is not None:
                    self.run.show_model(arm.model_id)
                if how.register_as is not None:
                    arm.register(how.register_as, how.alias)
        shutil.rmtree(self.directory)  # a network for each arm and seed is much, and all are scored
        return path


class Reader:
    """Reads data sets and keeps the last two: the source, which stays, and the target with its present labels."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._read: OrderedDict[str, Splits] = OrderedDict()

    def __call__(self, settings: DataSettings, image_shape: tuple[int, int, int]) -> Splits:
        """The data set, as :func:`bnadapt.data.load.load` gives it."""
        key = repr((settings, image_shape))
        splits = self._read.pop(key, None) or load(settings, image_shape)
        self._read[key] = splits
        while len(self._read) > 2:
            self._read.popitem(last=False)
        return splits


def inserted_file(placement: PlacementSettings, insertion: InsertionSettings) -> str:
    """Name of the file of a baseline with batch normalization put in; arms differ in nothing else of these."""
    on_input = "_input" if placement.on_input else ""
    return f"inserted_{placement.position}{on_input}_{insertion.init}.keras"
