"""What watches a fit: the record of its looks at the validation images, the choice of the best, and what is kept."""

import math
import time
import warnings
from collections.abc import Callable

import keras

from bnadapt.evaluation.results import Epoch
from bnadapt.interruption import check_for_stop
from bnadapt.training.checkpoint import State, assign, values_of
from bnadapt.training.divergence import NotFinite
from bnadapt.training.listening import is_finite
from bnadapt.training.pace import Pace
from bnadapt.training.progress import StageProgress


class Best(keras.callbacks.Callback):
    """Early stopping and the weights of the best look, from one ``fit`` to the next.

    A loss that is no number is never the best one; Keras' EarlyStopping keeps the first look whatever its loss.
    """

    def __init__(self, begin: State, patience: int) -> None:
        """Go on from ``begin``; stop after ``patience`` looks without a lower validation loss."""
        super().__init__()
        self.weights = begin.best
        self.loss = begin.best_loss
        self.look = begin.best_look
        self.waited = begin.waited
        self.stopped = begin.stopped
        self._patience = patience

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keep the weights of a look, or count it as one in vain."""
        loss = float((logs or {})["val_loss"])
        if loss < self.loss:
            self.weights = values_of(self.model.weights)
            self.loss, self.look, self.waited = loss, epoch + 1, 0
            return
        self.waited += 1
        if self.waited >= self._patience:
            self.stopped = self.model.stop_training = True


class Recorder(keras.callbacks.Callback):
    """Counts steps, turns Keras' logs into epochs, and ends the fit at a step whose loss is no number."""

    def __init__(
        self, begin: State, stage: str, pace: Pace, progress: StageProgress, on_epoch: Callable[[Epoch], None]
    ) -> None:
        """Go on from ``begin``, report to ``progress`` and ``on_epoch``, and name the stage in messages."""
        super().__init__()
        self.step = begin.step
        self.history = list(begin.history)
        self._stage = stage
        self._pace = pace
        self._progress = progress
        self._on_epoch = on_epoch
        self._metrics = begin.metrics
        self._before = begin.look_seconds
        self._start = time.monotonic()

    @property
    def look_seconds(self) -> float:
        """Wall time spent on the look in progress."""
        return time.monotonic() - self._start

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock, and go on with the means of a look that an earlier process began."""
        self._start = time.monotonic() - self._before
        self._before = 0.0
        if self._metrics:  # Keras has just set them to zero
            assign(self.model.metrics_variables, self._metrics)
            self._metrics = ()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Count a step; stop here at the latest where a signal asked for it, or where the loss is no number."""
        check_for_stop()
        self.step += 1
        loss = float((logs or {})["loss"])  # the mean since the look began
        if not math.isfinite(loss):
            raise NotFinite(self.step, loss)
        self._progress.step()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record a look; warn once where the validation loss is no number. Ends the fit where a weight is none."""
        logs = logs or {}
        # An activation that makes 0 of NaN can hide them from every loss.
        if not all(map(is_finite, self.model.trainable_variables)):
            raise NotFinite(self.step)
        record = Epoch(
            number=epoch + 1,
            accuracy=float(logs["accuracy"]),
            loss=float(logs["loss"]),
            val_accuracy=float(logs["val_accuracy"]),
            val_loss=float(logs["val_loss"]),
            learning_rate=float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            seconds=self.look_seconds,
        )
        earlier = bool(self.history) and not math.isfinite(self.history[-1].val_loss)
        self.history.append(record)
        self._progress.epoch(record)
        self._on_epoch(record)
        if not math.isfinite(record.val_loss) and not earlier:
            warnings.warn(
                f"stage {self._stage}: the validation loss is {record.val_loss} at {self._pace.at(record.number)}, "
                "which is never the best look; training goes on",
                stacklevel=2,
            )


class Keeper(keras.callbacks.Callback):
    """Keeps the state of a fit after every look, and after so many steps; comes behind the other callbacks."""

    def __init__(
        self,
        begin: State,
        pace: Pace,
        every_steps: int | None,
        take: Callable[[bool], State],
        write: Callable[[State], None],
    ) -> None:
        """Keep what ``take`` gives, told whether it is in the middle of a look.

        Args:
            begin: The first state kept.
            pace: Of the stage.
            every_steps: Keep the state also after so many steps.
            take: Gives the present state.
            write: Writes one.
        """
        super().__init__()
        self.kept = begin
        self._every_steps = every_steps
        self._pace = pace
        self._take = take
        self._write = write
        self._step = begin.step

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Keep the state in the middle of a look, where so many steps are done."""
        self._step += 1
        if self._every_steps and self._step % self._every_steps == 0 and self._step not in self._pace.looks:
            self._keep(in_look=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keep the state after a look."""
        self._keep(in_look=False)

    def _keep(self, *, in_look: bool) -> None:
        if not all(map(is_finite, self.model.trainable_variables)):
            raise NotFinite(self._step)
        self.kept = self._take(in_look)
        self._write(self.kept)
