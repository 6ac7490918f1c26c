"""What all parts of a search work with."""

from dataclasses import dataclass
from pathlib import Path

import optuna
from rich.console import Console

from bnadapt.config import Settings
from bnadapt.start import Start
from bnadapt.tracking.runs import PipelineRun
from bnadapt.tracking.store import Tracker


@dataclass(frozen=True)
class Work:
    """What all parts of a search work with.

    Attributes:
        settings: What was asked for.
        start: The data and the first network.
        study: The trials, in Optuna's storage.
        run: The search's run in MLflow.
        tracker: MLflow's store.
        console: What a person reads.
        baseline: The file of the network that all trials begin with.
    """

    settings: Settings
    start: Start
    study: optuna.Study
    run: PipelineRun
    tracker: Tracker
    console: Console
    baseline: Path

    @property
    def images(self) -> int:
        """Number of validation images."""
        return self.start.splits.validation.size

    def say(self, text: str) -> None:
        """Print a line, however long."""
        self.console.print(text, soft_wrap=True)
