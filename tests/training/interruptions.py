"""Fits that are interrupted at a chosen moment, and what must be the same when they are gone on with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from rich.console import Console

from bnadapt.data.splits import ArraySplit, Splits
from bnadapt.evaluation.results import Epoch
from bnadapt.training.fit import Trained
from bnadapt.training.pace import Pace
from bnadapt.training.progress import Display, StageProgress


class Interrupting(Display):
    """Raises a KeyboardInterrupt where the progress of a stage tells of the step, or of the look, with a number.

    Step 0 is a stage's beginning, not that of one that is gone on with.
    """

    def __init__(self, step: int | None = None, look: int | None = None) -> None:
        super().__init__(Console(quiet=True), "none")
        self.at_step = step
        self.at_look = look

    @contextmanager
    def stage(self, name: str, pace: Pace, done: int = 0) -> Iterator[StageProgress]:
        if done == self.at_step:
            raise KeyboardInterrupt
        yield _Interrupting(self, done)


class _Interrupting:
    def __init__(self, display: Interrupting, done: int) -> None:
        self._display = display
        self._step = done

    def step(self) -> None:
        self._step += 1
        if self._step == self._display.at_step:
            raise KeyboardInterrupt

    def epoch(self, epoch: Epoch) -> None:
        if epoch.number == self._display.at_look:
            raise KeyboardInterrupt


class InterruptedAtTheEnd(ArraySplit):
    """Images that cannot be measured at the end of a stage, because an interrupt comes then."""

    def mixed(self, batch_size: int, *, seed: int) -> Any:
        raise KeyboardInterrupt


def interrupted_at_the_end(splits: Splits) -> Splits:
    images, labels = zip(*splits.unlabelled.examples.as_numpy_iterator(), strict=True)
    return replace(splits, unlabelled=InterruptedAtTheEnd("train", np.stack(images), np.stack(labels)))


def state_of(network: keras.Model) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Every bit of a network and of its optimizer, states of seed generators included."""
    optimizer = getattr(network, "optimizer", None)
    variables = [*network.variables, *(optimizer.variables if optimizer else ())]
    arrays = [keras.ops.convert_to_numpy(each) for each in variables]
    return [(str(array.dtype), array.shape, array.tobytes()) for array in arrays]


def without_times(trained: Trained) -> Trained:
    """What must be the same however often a fit was interrupted."""
    history = tuple(replace(look, seconds=0.0) for look in trained.history)
    return replace(trained, history=history, seconds_before=0.0)
