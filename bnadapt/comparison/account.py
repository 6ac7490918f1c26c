"""What a person sees of a comparison: the plan before it, the choice and the report after it, and all in MLflow."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bnadapt.account import data_facts, shape, sizes
from bnadapt.already_done import provenance, ui_line
from bnadapt.artifacts import attempt, keep_drawings, keep_report
from bnadapt.comparison.arms import Repetition, settings_of
from bnadapt.comparison.look import CloserLook
from bnadapt.config import ArmSettings, Settings, inserts, length_of
from bnadapt.evaluation.arms import ArmResult, Comparison
from bnadapt.evaluation.compare_advice import comparison_advice
from bnadapt.identity import placement_name
from bnadapt.report.comparison_contents import comparison_contents
from bnadapt.report.comparison_drawings import comparison_drawings
from bnadapt.report.comparison_material import ComparisonMaterial
from bnadapt.report.comparison_tables import comparison_table, comparison_text
from bnadapt.report.subject import about_rows, are_rows, subject
from bnadapt.report.tables import advice_text, duration
from bnadapt.resuming import Earlier
from bnadapt.start import Start
from bnadapt.tracking.names import PROVENANCE
from bnadapt.tracking.runs import PipelineRun
from bnadapt.tracking.store import Tracker

if TYPE_CHECKING:
    from bnadapt.comparison.work import Work


def run_name(settings: Settings, start: Start) -> str:
    """Of the comparison's run, what differs between comparisons first."""
    if settings.tracking.run_name:
        return settings.tracking.run_name
    source, target = start.parameters["baseline_data"], start.parameters["data"]
    data = target if source == target else f"{source}>{target}"
    labels = ",".join(_labels(settings))
    return f"{data} {labels} labels {start.parameters['model'].split(' ')[0]} arms"


def parameters(settings: Settings, start: Start) -> dict[str, str]:
    """What describes the comparison in a word each."""
    comparison = settings.comparison
    return {
        **{key: value for key, value in start.parameters.items() if key not in ("schedule", "init")},
        "seed": ", ".join(str(settings.seed + seed) for seed in comparison.seeds),
        "labels_per_class": ", ".join(_labels(settings)),
        "steps": str(comparison.steps),
        "learning_rates": ", ".join(f"{rate:g}" for rate in comparison.learning_rates),
    }


def parameters_of(repetition: Repetition, arm: ArmSettings) -> dict[str, str]:
    """What tells an arm's run from the others; its learning rate is known only when it has ended."""
    settings = settings_of(repetition.settings, arm, None)
    stages = settings.schedule
    return {
        "seed": str(repetition.seed),
        "labels_per_class": _level(repetition.settings, repetition.labels),
        "placement": placement_name(settings.placement),
        "init": settings.insertion.init if inserts(settings.placement) else "none",
        "stages": ", ".join(f"{name} {length_of(how)}".strip() for name, how in stages.items()) or "none",
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
    what = subject(splits.image_shape)
    rates = ", ".join(f"{rate:g}" for rate in comparison.learning_rates)
    seeds = ", ".join(str(settings.seed + seed) for seed in comparison.seeds)
    name = f"{start.source_splits.name} -> {splits.name}" if start.transfers else splits.name
    lines = [
        name,
        f"  {sizes(splits)} {what} of {shape(splits)}, {len(splits.classes)} classes",
        f"  network: {start.parameters['model']}",
        f"  every arm: {comparison.steps:,} steps of {settings.data.batch_size} {what}, learning rates {rates}; "
        f"seeds {seeds}",
        *(f"  {note}" for note in (*start.notes, *_about_data(left_out, start))),
        "",
        *(f"  {arm:{max(map(len, arms))}}  {how.description}" for arm, how in arms.items()),
        "",
    ]
    console.print("\n".join(lines), soft_wrap=True)
    run.log_text("plan.txt", "\n".join(lines))
    run.log_text(PROVENANCE, json.dumps(provenance(start, run.command), indent=1, ensure_ascii=False))


def print_adopted(console: Console, earlier: Earlier) -> None:
    """Say that an interrupted comparison is gone on with; every arm that had ended says so in its own line."""
    if earlier.journal is not None:
        console.print(f"goes on with run {earlier.journal.run_id}", soft_wrap=True)
        console.print(f"  in {earlier.journal.run_directory}\n", soft_wrap=True)


def in_words_of_data(comparisons: Sequence[Comparison], start: Start) -> list[Comparison]:
    """The same comparisons with sentences about what the data consist of: images or rows."""
    return [replace(each, sentences=_about_data(each.sentences, start)) for each in comparisons]


def _about_data(sentences: Sequence[str], start: Start) -> tuple[str, ...]:
    return tuple(map(about_rows, sentences) if are_rows(start.splits.image_shape) else sentences)


def outcome_of(comparisons: Sequence[Comparison], report: Path | None) -> dict[str, Any]:
    """What a comparison that has ended leaves in its journal."""
    last = comparisons[-1]
    return {
        "sentences": list(last.sentences),
        "best": last.recommended,
        "report": None if report is None else str(report.absolute()),
    }


def record(run: PipelineRun, results: Sequence[ArmResult], comparisons: Sequence[Comparison]) -> None:
    """Put the choice and the table into the comparison's run."""
    run.log_comparisons(comparisons)
    last = comparisons[-1]
    run.log_table([_row(result) for result in results], "arms.csv")
    run.log_text("verdict.txt", "\n".join(last.sentences))
    run.describe(" ".join(last.sentences))


def record_report(run: PipelineRun, directory: Path, material: ComparisonMaterial) -> Path | None:
    """Put the report into the run's directory and into MLflow; returns where the page lies."""
    return attempt("the report", lambda: _report(run, directory, material))


def material(
    work: "Work",
    start: Start,
    notes: Sequence[str],
    comparisons: Sequence[Comparison],
    look: CloserLook,
    seconds: float,
) -> ComparisonMaterial:
    """Everything that the report tells of."""
    settings, run = work.settings, work.run
    comparison, results = settings.comparison, work.results
    fraction = settings.data.labels_fraction
    few = (
        fraction is not None or settings.data.labels_per_class is not None or any(comparison.labels_per_class)
    )
    return ComparisonMaterial(
        title=f"{start.source_splits.name} to {start.splits.name}" if start.transfers else start.splits.name,
        facts=(
            start.parameters["model"],
            f"{comparison.steps:,} steps" if comparison.steps > 1 else "1 step",
            f"{len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "1 seed",
            duration(seconds),
            datetime.now().astimezone().isoformat(" ", "minutes"),
        ),
        comparisons=tuple(comparisons),
        results=tuple(results),
        descriptions={name: arm.description for name, arm in work.arms.items()},
        data=_data(work, start),
        source_data=data_facts(start.source_splits) if start.transfers else {},
        notes=(*start.notes, *_about_data(notes, start)),
        advice=tuple(
            replace(each, sentence=_about_data([each.sentence], start)[0])
            for each in attempt(
                "the advice",
                lambda: comparison_advice(
                    comparisons,
                    results,
                    validation_limit=settings.data.validation_limit,
                    training_images=start.splits.train.size if few else None,
                ),
            )
            or ()
        ),
        look=look.look,
        diagnosis=look.diagnosis,
        shifts=look.shifts,
        command=run.command,
        versions=start.versions,
        seeds={
            "seed": ", ".join(str(settings.seed + seed) for seed in comparison.seeds),
            "data.labels_seed": ", ".join(str(settings.data.labels_seed + seed) for seed in comparison.seeds),
            "data.split_seed": str(settings.data.split_seed),
        },
        configuration=run.config_yaml,
        run_id=run.run_id,
        seconds=seconds,
        labels=f"{100 * fraction:g} % of the labels" if fraction is not None else "",
        rows=are_rows(start.splits.image_shape),
    )


def print_outcome(
    console: Console,
    settings: Settings,
    tracker: Tracker,
    material: ComparisonMaterial,
    report: Path | None,
    best: Path | None,
) -> None:
    """Print the arms, which one to use, what to try next, and where everything lies."""
    for comparison in material.comparisons:
        console.print()
        console.print(comparison_table(comparison, material.labels))
        console.print()
        console.print(comparison_text(comparison))
    if material.advice:
        console.print()
        console.print(advice_text(material.advice))
    console.print()
    if best is not None:
        recommended = material.comparisons[-1].recommended
        console.print(f"kept: {recommended}, the best of its seeds by validation, in {best}", soft_wrap=True)
    console.print(f"took {duration(material.seconds)}")
    if report is not None:
        console.print(f"report: {report}", soft_wrap=True)
    console.print(f"run: {material.run_id}")
    program = os.environ.get("BNADAPT_COMMAND", "bnadapt")
    console.print(f"look at the runs: {ui_line(program, settings, tracker)}", soft_wrap=True)


def _data(work: "Work", start: Start) -> dict[str, str]:
    """What is known of the data adapted to; which images have labels depends on their number and the seed."""
    facts = data_facts(start.splits)
    if len(set(work.digests.values())) == 1:
        return facts
    del facts["SHA-256"]
    each = {
        f"SHA-256 with {'all labels' if labels is None else f'{labels:,} per class'}, seed {seed}": digest
        for (labels, seed), digest in work.digests.items()
    }
    return facts | each


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


def _labels(settings: Settings) -> list[str]:
    levels = settings.comparison.labels_per_class or [settings.data.labels_per_class]
    return [_level(settings, each) for each in levels]


def _level(settings: Settings, labels: int | None) -> str:
    """How many labels of each class in a word: ``10``, ``2%``, ``all``."""
    if labels is not None:
        return str(labels)
    fraction = settings.data.labels_fraction
    return "all" if fraction is None else f"{100 * fraction:g}%"
