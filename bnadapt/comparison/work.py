"""What a comparison keeps while it runs: baselines, results, their networks and their runs in MLflow."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from bnadapt.artifacts import attempt
from bnadapt.comparison import account
from bnadapt.comparison.arms import Repetition, settings_of, trains
from bnadapt.comparison.memory import Entry, Keys, Memory
from bnadapt.comparison.origins import Baseline, Networks
from bnadapt.comparison.plain import plain_result, result_from
from bnadapt.config import (
    BASELINE,
    ArmSettings,
    Settings,
    inserts,
)
from bnadapt.errors import StageError
from bnadapt.evaluation.arms import ArmResult, Comparison
from bnadapt.evaluation.results import Scores
from bnadapt.evaluation.verdict import rank_of
from bnadapt.files import copy, remove_drafts, save
from bnadapt.models.load import load_file
from bnadapt.normalization.proof import weights_digest
from bnadapt.procedure import Listener, Procedure
from bnadapt.report.tables import duration
from bnadapt.start import Start
from bnadapt.tracking.comparisons import ArmRun
from bnadapt.tracking.names import FROM_RUN, WEIGHTS
from bnadapt.tracking.runs import PipelineRun
from bnadapt.training.progress import Display


@dataclass(frozen=True)
class Done:
    """What an arm left: its result, its network's file and hash, and its run in MLflow where there is one."""

    result: ArmResult
    path: Path
    weights: str
    run: ArmRun | None = None


@dataclass
class Work:
    """What has been done of a comparison, and what is left of it."""

    settings: Settings
    arms: dict[str, ArmSettings]
    run: PipelineRun
    memory: Memory
    console: Console
    total: int
    began: float
    done: list[Done] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digests: dict[tuple[int | None, int], str] = field(default_factory=dict)
    networks: Networks | None = None
    _baselines: dict[tuple[int, int | str | None], Baseline] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_drafts(self.directory)

    @property
    def directory(self) -> Path:
        """Where networks lie in the meantime."""
        return self.memory.journal.run_directory / "models"

    @property
    def seconds(self) -> float:
        """Wall time since the comparison began, that of earlier processes included."""
        return self.memory.seconds_before + time.monotonic() - self.began

    def calibrated(self) -> Path | None:
        """The last baseline with batch normalization put in, which still computes the same; None without any."""
        assert self.networks is not None
        for arm in self.arms.values():
            how = settings_of(self.networks.repetition.settings, arm, None)
            same = how.placement == self.settings.placement and how.insertion.init == "calibrated"
            if same and inserts(how.placement):
                return self.networks.inserted(Procedure(how, self.networks.start, self.silent))
        return None

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

    def ended_run(self, name: str, parameters: Mapping[str, str]) -> ArmRun | None:
        """The run of an arm that ended in an earlier process."""
        return attempt(
            f"the run of arm {name} in MLflow", lambda: self.run.ended_arm(name, parameters=parameters)
        )

    def baseline(self, repetition: Repetition, start: Start, keys: Keys) -> Baseline:
        """The trained baseline of a repetition; the same for all numbers of labels where it saw none of them."""
        depends = not start.transfers or start.new_head_for_target
        place = (repetition.seed, repetition.labels if depends else "any")
        if place in self._baselines:
            return self._baselines[place]
        path = self.file(f"{BASELINE}_s{place[0]}_{place[1] or 'all'}")
        key = keys.of_baseline(repetition.settings)
        known = self.memory.find(path.stem, key)
        parameters = account.parameters_of(repetition, ArmSettings())
        if known is not None and known.origin is None:
            self.ended_run(BASELINE, parameters)
            made = Baseline(path, known.content["weights"])
        else:
            with self.recording(BASELINE, parameters) as run:
                made = self._make_baseline(repetition, start, path, run, known)
            self.memory.keep(path.stem, key, {"weights": made.digest}, path, self.seconds)
        self._baselines[place] = made
        return made

    def _make_baseline(
        self, repetition: Repetition, start: Start, path: Path, run: ArmRun | None, known: Entry | None
    ) -> Baseline:
        """Train a baseline, or take over what another comparison trained, and record it."""
        display = Display(self.console, self.settings.progress)
        procedure = Procedure(repetition.settings, start, display, self.memory.journal.fits)
        if known is not None:
            copy(known.network, path)
            network = load_file(path, self.settings.model)
        else:
            listener = Listener() if run is None else Listener(epoch=run.log_look)
            network, _ = procedure.train_baseline(start.network, listener)
            save(network, path)
        digest = weights_digest(network)
        if run is not None:
            origin = {FROM_RUN: known.origin} if known is not None else {}
            run.set_tags({"baseline": digest[:12], WEIGHTS: digest, **origin})
            run.log_scores(procedure.scores(network, start.splits.validation))
            if self.settings.tracking.log_models:
                run.log_model(network, next(iter(start.splits.validation.batches(1)))[0].numpy())
        return Baseline(path, digest)

    def remembered(self, name: str, repetition: Repetition, known: Entry, path: Path) -> Done | StageError:
        """What an arm left in an earlier process; the error where all its rates ran away."""
        if "left_out" in known.content:
            return StageError(known.content["left_out"])
        if known.origin is not None:
            copy(known.network, path)
        seed, labels = repetition.seed, repetition.labels
        result = result_from(known.content["result"], arm=name, seed=seed, labels=labels)
        return Done(result, path, known.content["weights"])

    def record(self, made: Done | StageError, before: Scores, run: ArmRun | None, origin: str | None) -> None:
        """Record in MLflow what an arm left.

        Args:
            made: What it left, or why it is left out.
            before: Validation scores of the network that it started from.
            run: Its run; None where there is none.
            origin: Id of the other comparison that did it.
        """
        if run is None:
            return
        if origin is not None:
            run.set_tags({FROM_RUN: origin})
        if isinstance(made, StageError):
            run.set_tags({"left_out": str(made)})
            return
        run.log_start(before)
        run.log_result(made.result)
        run.set_tags({WEIGHTS: made.weights})

    def keep_entry(self, key: str, made: Done | StageError, path: Path, superseded: list[Path]) -> None:
        """Write down what an arm left; what its single rates left is no longer needed then."""
        self.memory.forget([each.stem for each in superseded])
        if isinstance(made, StageError):
            self.memory.keep(path.stem, key, {"left_out": str(made)}, None, self.seconds)
        else:
            content = {"weights": made.weights, "result": plain_result(made.result)}
            self.memory.keep(path.stem, key, content, path, self.seconds)
        for each in superseded:
            each.unlink(missing_ok=True)

    def finish(
        self, name: str, repetition: Repetition, made: Done | StageError, run: ArmRun | None, said: str = ""
    ) -> None:
        """Count what an arm left among the results, or take the arm out, and say so; ``said`` ends the line."""
        if isinstance(made, StageError):
            self._leave_out(name, repetition, made)
            return
        self.done.append(replace(made, run=run))
        result, count = made.result, len(self.done)
        labels = f", {result.labels or 'all'} labels" if self.settings.comparison.labels_per_class else ""
        rate = "" if result.learning_rate is None else f"  rate {result.learning_rate:g}"
        left = self.seconds / count * (self.total - count)
        time_said = f"{result.seconds:.0f} s{f', {duration(left)} left' if count < self.total else ''}"
        self.console.print(
            f"{count:3}/{self.total}  seed {result.seed}{labels}  {result.arm}: validation "
            f"{100 * result.validation.accuracy:.1f} %{rate}  ({said or time_said})",
            soft_wrap=True,
        )

    def _leave_out(self, name: str, repetition: Repetition, reason: StageError) -> None:
        """Take an arm out of the comparison, with what it did for other seeds: it cannot be compared."""
        self.notes.append(
            f"arm {name} is left out, no learning rate kept its loss finite with seed {repetition.seed}: {reason}"
        )
        self.console.print(self.notes[-1], soft_wrap=True)
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
        """Keep the network of the result at this place in a file, and record it."""
        copy(self.done[best].path, path)
        if self.settings.tracking.log_models:
            network = load_file(path, self.settings.model)
            images = next(iter(start.splits.validation.batches(1)))[0]
            arm, how = self.done[best].run, self.settings.tracking
            if arm is not None:
                arm.log_model(network, images.numpy())
                if arm.model_id is not None:
                    self.run.show_model(arm.model_id)
                if how.register_as is not None:
                    arm.register(how.register_as, how.alias)
        return path

    def remove_networks(self) -> None:
        """Remove all networks but the one that is kept: one for each arm and seed is much, and all are scored."""
        shutil.rmtree(self.directory, ignore_errors=True)
