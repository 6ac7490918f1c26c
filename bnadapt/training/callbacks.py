"""What watches a fit: the record of its looks at the validation images, and the choice of the best."""

import math
import time
from collections.abc import Callable

import keras

from bnadapt.errors import StageError
from bnadapt.evaluation.results import Epoch
from bnadapt.interruption import check_for_stop
from bnadapt.training.pace import Pace
from bnadapt.training.progress import StageProgress


class Best(keras.callbacks.EarlyStopping):
    """Early stopping that goes on from one ``fit`` to the next, until ``restore``."""

    def __init__(self, *, patience: int, restore_best_weights: bool) -> None:
        """Stop after ``patience`` looks without a lower validation loss."""
        super().__init__(
            monitor="val_loss", mode="min", patience=patience, restore_best_weights=restore_best_weights
        )
        self._begun = False

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begin once, with the first fit."""
        if not self._begun:
            super().on_train_begin(logs)
        self._begun = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Wait for ``restore``: another fit may follow."""

    def restore(self) -> None:
        """Give the network the best weights back, where they are to be kept."""
        super().on_train_end()


class Recorder(keras.callbacks.Callback):
    """Turns Keras' logs into epochs, and stops with a message when the loss is no longer a number."""

    def __init__(
        self, stage: str, pace: Pace, progress: StageProgress, on_epoch: Callable[[Epoch], None]
    ) -> None:
        """Report to ``progress`` and ``on_epoch``, and name the stage in messages."""
        super().__init__()
        self.history: list[Epoch] = []
        self._stage = stage
        self._pace = pace
        self._progress = progress
        self._on_epoch = on_epoch
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Count a step; stop here at the latest where a signal asked for it."""
        check_for_stop()
        self._progress.step()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record a look; raise a StageError where the loss is no number."""
        logs = logs or {}
        record = Epoch(
            number=epoch + 1,
            accuracy=float(logs["accuracy"]),
            loss=float(logs["loss"]),
            val_accuracy=float(logs["val_accuracy"]),
            val_loss=float(logs["val_loss"]),
            learning_rate=float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            seconds=time.monotonic() - self._start,
        )
        self.history.append(record)
        self._progress.epoch(record)
        self._on_epoch(record)
        if not math.isfinite(record.loss):
            raise StageError(
                f"stage {self._stage}: the loss is {record.loss} {self._where(record)}; lower its "
                f"learning_rate (now {record.learning_rate:g}), or look for broken images"
            )

    def _where(self, record: Epoch) -> str:
        return f"{'in' if self._pace.counts == 'epoch' else 'at'} {self._pace.at(record.number)}"
