"""What a person sees of a comparison: the plan before it, the choice and the report after it, and all in MLflow."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from datetime import datetime
from pathlib import Path

from rich.console import Console

from bnadapt.account import data_facts, shape, sizes, ui_line
from bnadapt.artifacts import attempt, keep_drawings, keep_report
from bnadapt.comparison.look import CloserLook
from bnadapt.config import ArmSettings, Settings
from bnadapt.evaluation.arms import ArmResult, Comparison
from bnadapt.evaluation.compare_advice import comparison_advice
from bnadapt.report.comparison_contents import comparison_contents
from bnadapt.report.comparison_drawings import comparison_drawings
from bnadapt.report.comparison_material import ComparisonMaterial
from bnadapt.report.comparison_tables import comparison_table, comparison_text
from bnadapt.report.tables import advice_text, duration
from bnadapt.start import Start
from bnadapt.tracking.runs import PipelineRun
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.versions import versions


def run_name(settings: Settings, start: Start) -> str:
    """Of the comparison's run, what differs between comparisons first."""
    if settings.tracking.run_name:
        return settings.tracking.run_name
    source, target = start.parameters["baseline_data"], start.parameters["data"]
    data = target if source == target else f"{source}>{target}"
    labels = ",".join(str(each or "all") for each in _labels(settings))
    return f"{data} {labels} labels {start.parameters['model'].split(' ')[0]} arms"


def parameters(settings: Settings, start: Start) -> dict[str, str]:
    """What describes the comparison in a word each."""
    comparison = settings.comparison
    return {
        **{key: value for key, value in start.parameters.items() if key not in ("schedule", "init")},
        "seed": ", ".join(str(settings.seed + seed) for seed in comparison.seeds),
        "labels_per_class": ", ".join(str(each or "all") for each in _labels(settings)),
        "steps": str(comparison.steps),
        "learning_rates": ", ".join(f"{rate:g}" for rate in comparison.learning_rates),
    }


def parameters_of(result: ArmResult) -> dict[str, str]:
    """What tells an arm's run from the others."""
    return {
        "arm": result.arm,
        "seed": str(result.seed),
        "labels_per_class": str(result.labels or "all"),
    }


def record_start(
    console: Console,
    run: PipelineRun,
    settings: Settings,
    start: Start,
    arms: Mapping[str, ArmSettings],
    left_out: Sequence[str],
) -> None:
    """Say what will be compared, and put it and the data's identity into the comparison's run."""
    splits, comparison = start.splits, settings.comparison
    rates = ", ".join(f"{rate:g}" for rate in comparison.learning_rates)
    seeds = ", ".join(str(settings.seed + seed) for seed in comparison.seeds)
    name = f"{start.source_splits.name} -> {splits.name}" if start.transfers else splits.name
    lines = [
        name,
        f"  {sizes(splits)} images of {shape(splits)}, {len(splits.classes)} classes",
        f"  network: {start.parameters['model']}",
        f"  every arm: {comparison.steps:,} steps of {settings.data.batch_size} images, learning rates {rates}; "
        f"seeds {seeds}",
        *(f"  {note}" for note in (*start.notes, *left_out)),
        "",
        *(f"  {arm:{max(map(len, arms))}}  {how.description}" for arm, how in arms.items()),
        "",
    ]
    console.print("\n".join(lines), soft_wrap=True)
    run.log_text("plan.txt", "\n".join(lines))
    run.log_splits(splits)
    if start.transfers:
        run.log_splits(start.source_splits, source=True)


def record(run: PipelineRun, directory: Path, material: ComparisonMaterial) -> Path | None:
    """Put the choice, the table and the report into the comparison's run; returns where the page lies."""
    run.log_comparisons(material.comparisons)
    last = material.comparisons[-1]
    run.log_table([_row(result) for result in material.results], "arms.csv")
    run.log_text("verdict.txt", "\n".join(last.sentences))
    run.describe(" ".join(last.sentences))
    return attempt("the report", lambda: _report(run, directory, material))


def material(
    run: PipelineRun,
    settings: Settings,
    start: Start,
    arms: Mapping[str, ArmSettings],
    left_out: Sequence[str],
    results: Sequence[ArmResult],
    comparisons: Sequence[Comparison],
    look: CloserLook,
    seconds: float,
) -> ComparisonMaterial:
    """Everything that the report tells of."""
    comparison = settings.comparison
    return ComparisonMaterial(
        title=f"{start.source_splits.name} to {start.splits.name}" if start.transfers else start.splits.name,
        facts=(
            start.parameters["model"],
            f"{comparison.steps:,} steps",
            f"{len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "1 seed",
            duration(seconds),
            datetime.now().astimezone().isoformat(" ", "minutes"),
        ),
        comparisons=tuple(comparisons),
        results=tuple(results),
        descriptions={name: arm.description for name, arm in arms.items()},
        data=data_facts(start.splits),
        source_data=data_facts(start.source_splits) if start.transfers else {},
        notes=(*start.notes, *left_out),
        advice=attempt("the advice", lambda: comparison_advice(comparisons, results)) or (),
        look=look.look,
        diagnosis=look.diagnosis,
        shifts=look.shifts,
        command=run.command,
        versions=versions(),
        seeds={
            "seed": ", ".join(str(settings.seed + seed) for seed in comparison.seeds),
            "data.labels_seed": ", ".join(str(settings.data.labels_seed + seed) for seed in comparison.seeds),
            "data.split_seed": str(settings.data.split_seed),
        },
        configuration=run.config_yaml,
        run_id=run.run_id,
        seconds=seconds,
    )


def print_outcome(
    console: Console,
    settings: Settings,
    tracker: Tracker,
    material: ComparisonMaterial,
    report: Path | None,
    best: Path,
) -> None:
    """Print the arms, which one to use, what to try next, and where everything lies."""
    for comparison in material.comparisons:
        console.print()
        console.print(comparison_table(comparison))
        console.print()
        console.print(comparison_text(comparison))
    if material.advice:
        console.print()
        console.print(advice_text(material.advice))
    console.print()
    recommended = material.comparisons[-1].recommended
    console.print(f"kept: {recommended}, the best of its seeds by validation, in {best}", soft_wrap=True)
    console.print(f"took {duration(material.seconds)}")
    if report is not None:
        console.print(f"report: {report}", soft_wrap=True)
    console.print(f"run: {material.run_id}")
    program = os.environ.get("BNADAPT_COMMAND", "bnadapt")
    console.print(f"look at the runs: {ui_line(program, settings, tracker)}", soft_wrap=True)


def _report(run: PipelineRun, directory: Path, material: ComparisonMaterial) -> Path:
    plots, missing = keep_drawings(run, directory, comparison_drawings(material))
    return keep_report(run, directory, comparison_contents(material, plots, missing))


def _row(result: ArmResult) -> dict[str, object]:
    test = result.test
    assert test is not None  # all arms are scored before anything is recorded
    return {
        "arm": result.arm,
        "labels_per_class": result.labels or "all",
        "seed": result.seed,
        "learning_rate": "" if result.learning_rate is None else result.learning_rate,
        "val_accuracy": round(result.validation.accuracy, 6),
        "val_loss": round(result.validation.loss, 6),
        "test_accuracy": round(test.accuracy, 6),
        "test_loss": round(test.loss, 6),
        "test_macro_f1": round(test.macro_f1, 6),
        "test_calibration_error": round(test.calibration_error, 6),
        "trainable_parameters": result.trainable,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "kept": result.kept,
        "baseline": result.baseline,
        # Rate, validation accuracy and loss of everything that was tried; a rate that ran away has null scores.
        "rates": json.dumps([[_number(value) for value in astuple(tried)] for tried in result.rates]),
    }


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _labels(settings: Settings) -> list[int | None]:
    return settings.comparison.labels_per_class or [settings.data.labels_per_class]
