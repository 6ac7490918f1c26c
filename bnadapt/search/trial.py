"""One trial: from the shared baseline through insertion and the schedule, watched on the validation images."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import optuna
from rich.console import Console

from bnadapt.config import INSERT, Settings, StageSettings, takes_steps
from bnadapt.errors import StageError
from bnadapt.evaluation.results import Epoch, StageResult
from bnadapt.evaluation.verdict import best_stage
from bnadapt.models.load import load_file
from bnadapt.procedure import Listener, Procedure
from bnadapt.start import Start
from bnadapt.tracking.runs import StageRun
from bnadapt.training.progress import Display

PER_STAGE = (
    1000  # of the scale on which Optuna compares trials: so many marks for every stage that takes steps
)
STARTUP_TRIALS = 5  # that are never pruned
COMPARED = 3  # a trial is compared with at least so many others


def objective(accuracy: float, loss: float, images: int) -> float:
    """Accuracy, and of equal ones the lower loss: what a search maximizes.

    The loss, brought between 0 and 1, counts half an image at most, so that it never outweighs one.

    Args:
        accuracy: Share of the images that are right, 0 to 1.
        loss: Mean cross-entropy in nats; what is no number counts as the worst.
        images: Number of images that both are of.
    """
    part = loss / (1 + loss) if math.isfinite(loss) else 1.0
    return accuracy - 0.5 * part / images


def pruner(settings: Settings) -> optuna.pruners.BasePruner:
    """Stops what stays below the median of the others at the same mark, if ``search.pruning`` asks for it.

    Not in the first stage of several: what batch normalization alone reaches says little about what training
    every weight makes of it afterwards. Of a single stage, not in its first third.
    """
    if not settings.search.pruning:
        return optuna.pruners.NopPruner()
    several = sum(takes_steps(how) for how in settings.schedule.values()) > 1
    return optuna.pruners.MedianPruner(
        n_startup_trials=STARTUP_TRIALS,
        n_warmup_steps=PER_STAGE + 1 if several else PER_STAGE // 3,
        n_min_trials=COMPARED,
    )


@dataclass
class Looks:
    """The looks of one trial at the validation images: recorded, reported to Optuna, and its end where it lags.

    Attributes:
        run: The trial's run in MLflow.
        images: Number of validation images.
        trial: Optuna's; None for settings that are no trial.
        watch: Told in words where the trial is.
        accuracy: The best that was seen, 0 to 1.
        number: How many there were.
    """

    run: StageRun
    images: int
    trial: optuna.Trial | None
    watch: Callable[[str], None] = lambda text: None
    accuracy: float = 0.0
    number: int = 0
    _mark: int = field(default=0, repr=False)

    def look(self, epoch: Epoch, stage: str, mark: int) -> None:
        """Take in what was seen at a mark of the scale that all trials share.

        Raises:
            optuna.TrialPruned: the trial is not worth going on with.
        """
        metrics = asdict(epoch)
        metrics.pop("number")
        self.number += 1
        self.run.log_epoch(self.number, metrics)
        self.accuracy = max(self.accuracy, epoch.val_accuracy)
        self.watch(f"{stage} {epoch.number}")
        if self.trial is None or mark <= self._mark or not math.isfinite(epoch.loss):
            return
        self._mark = mark
        self.trial.report(objective(epoch.val_accuracy, epoch.val_loss, self.images), mark)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def try_settings(settings: Settings, start: Start, baseline: Path, looks: Looks) -> StageResult:
    """Insert and train as the settings say; returns the best stage by validation.

    Args:
        settings: With the values to try; its search is not looked at.
        start: The data and what else all trials share; test images are not read.
        baseline: The network file that all trials begin with.
        looks: Told of every look at the validation images.

    Raises:
        StageError: a loss is no longer a number.
        SurgeryError: the settings do not fit the network.
        optuna.TrialPruned: as ``looks`` decides.
    """
    procedure = Procedure(settings, start, Display(Console(quiet=True), "none"))
    validation = start.splits.validation
    began = time.monotonic()
    network = procedure.insert(load_file(baseline, settings.model, name=str(baseline))).network
    scores = procedure.scores(network, validation)
    looks.run.log_epoch(0, {"val_accuracy": scores.accuracy, "val_loss": scores.loss})
    results = [StageResult(INSERT, 0, 0, time.monotonic() - began, validation=scores)]
    before = 0  # stages that took steps
    for name, how in settings.schedule.items():
        began = time.monotonic()
        trained = procedure.train(network, name, how, Listener(epoch=_listener(looks, name, how, before)))
        before += takes_steps(how)
        scores = procedure.scores(network, validation)
        results.append(
            StageResult(
                name,
                trained.trainable,
                trained.steps,
                time.monotonic() - began,
                list(trained.history),
                scores,
                kept_epoch=trained.kept_epoch,
            )
        )
    best = best_stage(results)
    if best.validation is None or not math.isfinite(best.validation.loss):
        raise StageError(f"stage {best.name}: the loss on the validation images is no number")
    return best


def _listener(looks: Looks, name: str, how: StageSettings, before: int) -> Callable[[Epoch, str], None]:
    planned = how.epochs if how.steps is None else how.looks

    def listen(epoch: Epoch, prefix: str) -> None:
        # On a scale of its own for every stage, trials with more or fewer epochs can be compared.
        share = min(1.0, epoch.number / planned)
        looks.look(epoch, name, PER_STAGE * before + round(PER_STAGE * share))

    return listen
