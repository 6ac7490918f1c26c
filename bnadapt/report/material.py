"""What a report is made of, gathered once the stages have ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bnadapt.evaluation.changes import Changes
from bnadapt.evaluation.results import Advice, LayerShift, StageResult, Verdict
from bnadapt.report.plan import PlanStage

if TYPE_CHECKING:
    from bnadapt.surgery.sites import Sites


@dataclass(frozen=True)
class Material:
    """Everything that a report tells of.

    Attributes:
        source: Name of the data that the baseline trained on.
        target: Name of the data adapted to; the same where it is the same.
        facts: A few words each on network, placement and time.
        classes: Names of the classes.
        data: What is known of the data adapted to, by name: numbers of images, their shape, digest.
        source_data: The same of the data that the baseline trained on; empty where they are the same.
        notes: Sentences of the plan about data and network.
        sites: Where batch normalization went; None where this run inserted none.
        stages: What the stages were to do.
        results: What the stages left, in order.
        best: Name of the stage that is kept, or would be; None where no stage has scores.
        verdict: None where nothing was evaluated.
        advice: What to try next.
        shifts: How the two data sets differ for each layer; empty where that was not measured.
        labels: Right classes of the test images, int64 of shape ``(images,)``; None where nothing was evaluated.
        changes: Test images that the baseline and the kept stage put into different classes; None where there
            is nothing to compare.
        changed_images: Those of them that are shown, ``(images, height, width, channels)``, or ``(rows, features)``.
        command: What repeats the run.
        versions: Of the programs that ran, by name.
        seeds: By setting.
        configuration: Every setting, as YAML.
        run_id: MLflow's id of the run.
        rows: Whether the data are rows of numbers and no images.
    """

    source: str
    target: str
    facts: tuple[str, ...]
    classes: tuple[str, ...]
    data: Mapping[str, str]
    source_data: Mapping[str, str]
    notes: tuple[str, ...]
    sites: "Sites | None"
    stages: tuple[PlanStage, ...]
    results: tuple[StageResult, ...]
    best: str | None
    verdict: Verdict | None
    advice: tuple[Advice, ...]
    shifts: tuple[LayerShift, ...]
    labels: np.ndarray | None
    changes: Changes | None
    changed_images: np.ndarray | None
    command: str
    versions: Mapping[str, str]
    seeds: Mapping[str, int]
    configuration: str
    run_id: str
    rows: bool = False

    @property
    def title(self) -> str:
        """What was adapted to what."""
        return self.target if self.source == self.target else f"{self.source} to {self.target}"

    def result(self, name: str | None) -> StageResult | None:
        """What the stage of this name left; None where there is none."""
        return next((each for each in self.results if each.name == name), None)

    def diagnosed(self) -> StageResult | None:
        """The kept stage where its batch normalization was looked at, else the last stage where it was."""
        kept = self.result(self.best)
        if kept is not None and kept.diagnosis is not None:
            return kept
        return next((each for each in reversed(self.results) if each.diagnosis is not None), None)
