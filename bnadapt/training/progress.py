"""What a person sees while a stage trains: a bar with the time left, or a line per look."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bnadapt.evaluation.results import Epoch
from bnadapt.training.pace import Pace


class StageProgress(Protocol):
    """Told of every step of one stage, and of every look at its validation images."""

    def step(self) -> None:
        """One training step is done."""

    def epoch(self, epoch: Epoch) -> None:
        """One look at the validation images is done: of an epoch, or as often as the stage says."""


class Display:
    """Shows the progress of stages on a console.

    Args:
        console: Where to.
        mode: ``bars``, ``lines``, ``none``, or ``auto``: bars in a terminal, lines elsewhere.
    """

    def __init__(self, console: Console, mode: str = "auto") -> None:
        self.console = console
        self.mode = ("bars" if console.is_terminal else "lines") if mode == "auto" else mode

    @contextmanager
    def stage(self, name: str, pace: Pace, done: int = 0) -> Iterator[StageProgress]:
        """Show one stage, of which an earlier process took ``done`` steps, while the context lasts."""
        if self.mode == "lines":
            yield _Lines(self.console, name, pace, done)
        elif self.mode == "none":
            yield _Nothing()
        else:
            columns = (  # 80 characters in all
                TextColumn("{task.description:<16}"),
                BarColumn(bar_width=10),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(),
                TextColumn("left {task.fields[scores]}"),
            )
            with Progress(*columns, console=self.console, refresh_per_second=4) as progress:
                yield _Bar(progress, name, pace, done)


class _Bar:
    def __init__(self, progress: Progress, name: str, pace: Pace, done: int) -> None:
        self._progress = progress
        self._pace = pace
        self._task = progress.add_task(name, total=pace.steps, completed=done, scores="")

    def step(self) -> None:
        self._progress.advance(self._task)

    def epoch(self, epoch: Epoch) -> None:
        scores = f"{self._pace.at(epoch.number)} val_accuracy {epoch.val_accuracy:.4f}"
        self._progress.update(self._task, scores=scores)


class _Lines:
    def __init__(self, console: Console, name: str, pace: Pace, done: int) -> None:
        self._console = console
        self._name = name
        self._pace = pace
        self._before = done
        self._start = time.monotonic()

    def step(self) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        done = self._pace.looks[epoch.number - 1]
        left = (time.monotonic() - self._start) / (done - self._before) * (self._pace.steps - done)
        self._console.print(
            f"{self._name}: {self._pace.at(epoch.number)}  loss {epoch.loss:.4f}  "
            f"val_loss {epoch.val_loss:.4f}  val_accuracy {epoch.val_accuracy:.4f}  "
            f"({epoch.seconds:.1f} s, {left:.0f} s left)",
            highlight=False,
            soft_wrap=True,
        )


class _Nothing:
    def step(self) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        pass
