"""The steps of a stage, from wherever it stands to its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from bnadapt.config import StageSettings
from bnadapt.evaluation.results import Epoch
from bnadapt.training.callbacks import Best, Keeper, Recorder
from bnadapt.training.checkpoint import Checkpoint, State, build_optimizer, values_of
from bnadapt.training.divergence import (
    Cause,
    DivergedError,
    NotFinite,
    explain,
    find_cause,
    find_cause_in,
    find_cause_of_weights,
)
from bnadapt.training.pace import Pace
from bnadapt.training.progress import Display
from bnadapt.training.repeat import Repeat


@dataclass(frozen=True)
class Clock:
    """Wall time of a fit.

    Attributes:
        before: Seconds that earlier processes spent.
        start: When this one began, by ``time.monotonic``.
    """

    before: float = 0.0
    start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Those of all processes so far."""
        return self.before + time.monotonic() - self.start


@dataclass(frozen=True, eq=False)
class Loop:
    """What the steps of a stage need.

    Attributes:
        network: Compiled.
        name: Of the stage, for messages.
        how: The stage.
        pace: When to look at the validation images.
        data: Gives the batches behind so many steps, so many of them.
        validation: Batches to look at.
        display: Shows progress.
        on_epoch: Called after every look.
        checkpoint: Where the state is kept.
        every_steps: Keep it also after so many steps.
        clock: Of the fit.
        rate_key: The setting that holds the learning rate, for messages.
    """

    network: keras.Model
    name: str
    how: StageSettings
    pace: Pace
    data: Callable[[int, int], Any]
    validation: Any
    display: Display
    on_epoch: Callable[[Epoch], None]
    checkpoint: Checkpoint
    every_steps: int | None
    clock: Clock
    rate_key: str

    def run(self, begin: State) -> tuple[tuple[Epoch, ...], int]:
        """Take the steps that are left, and give the network the weights that the stage keeps.

        Args:
            begin: The present state of the network.

        Returns:
            All looks of the stage, and the number of the one whose weights were kept.

        Raises:
            DivergedError: see ``train_stage``.
            StorageError: the state cannot be written.
        """
        network, pace = self.network, self.pace
        best = Best(begin, self.how.patience or len(pace.looks) + 1)
        if begin.metrics:
            self._build_metrics(begin.step)
        with self.display.stage(self.name, pace, begin.step) as progress:
            recorder = Recorder(begin, self.name, pace, progress, self.on_epoch)

            def take(in_look: bool) -> State:
                return State(
                    step=recorder.step,
                    network=values_of(network.variables),
                    optimizer=values_of(build_optimizer(network)),
                    metrics=values_of(network.metrics_variables) if in_look else (),
                    best=best.weights,
                    best_loss=best.loss,
                    best_look=best.look,
                    waited=best.waited,
                    stopped=best.stopped,
                    history=tuple(recorder.history),
                    learning_rate=self.how.learning_rate,
                    seconds=self.clock.seconds,
                    look_seconds=recorder.look_seconds if in_look else 0.0,
                )

            keeper = Keeper(begin, pace, self.every_steps, take, self.checkpoint.write)
            try:
                if not begin.stopped:
                    self._fit(begin.step, [recorder, best, keeper])
            except NotFinite as seen:
                raise self._diverged(seen, keeper.kept, best) from None
        history = tuple(recorder.history)
        if self.how.keep == "last":
            return history, len(history)
        if not best.look:
            raise self._explained(
                f"no validation loss is a number, the last one is {history[-1].val_loss}",
                recorder.step,
                keeper.kept,
                best,
                lambda repeat: find_cause_in(network, self.validation, recorder.step),
            )
        network.set_weights(list(best.weights))
        return history, best.look

    def _diverged(self, seen: NotFinite, kept: State, best: Best) -> DivergedError:
        step, at = seen.step, self.pace.at_step(seen.step)
        if seen.loss is None:
            what = f"weights are no numbers after {at}"
            return self._explained(what, step, kept, best, lambda repeat: find_cause_of_weights(repeat, step))
        return self._explained(
            f"the loss is {seen.loss} at {at}", step, kept, best, lambda repeat: find_cause(repeat, step)
        )

    def _explained(
        self, what: str, step: int, kept: State, best: Best, find: Callable[[Repeat], Cause]
    ) -> DivergedError:
        return explain(
            Repeat(self.network, kept, self.data),
            find,
            f"stage {self.name}: {what}",
            step=step,
            best=best.weights,
            best_epoch=best.look,
            best_at=self.pace.at(best.look) if best.look else "",
            rate_key=self.rate_key,
        )

    def _build_metrics(self, step: int) -> None:
        """Let the metrics make their variables, which Keras does in the first step; their values are reset by it."""
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(next(iter(self.data(step, 1))))
        self.network.compute_metrics(images, labels, self.network(images, training=False))

    def _fit(self, done: int, callbacks: list[keras.callbacks.Callback]) -> None:
        """Fit each part of the pace that is left as if all were one."""
        for part in self.pace.parts(done):
            self.network.fit(
                self.data(part.done, part.looks * part.steps),
                steps_per_epoch=part.steps,
                initial_epoch=part.first,
                epochs=part.first + part.looks,
                validation_data=self.validation,
                callbacks=callbacks,
                shuffle=False,
                verbose=0,
            )
            if self.network.stop_training:
                return
