"""What a person sees of a pipeline: the plan before it, the outcome and the report after it, and all in MLflow."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from io import StringIO

import numpy as np
from rich.console import Console

from bnadapt.already_done import provenance, ui_line
from bnadapt.artifacts import attempt, keep_drawings, keep_report
from bnadapt.config import BASELINE, EVALUATE, INSERT, Settings, chosen_stages, length_of
from bnadapt.data.splits import Splits
from bnadapt.evaluation.advice import Evidence, advise
from bnadapt.evaluation.changes import Changes, changed_images, images_at
from bnadapt.evaluation.results import Advice, Verdict
from bnadapt.ledger import Ledger
from bnadapt.report.contents import contents
from bnadapt.report.drawings import drawings
from bnadapt.report.material import Material
from bnadapt.report.plan import POSITIONS, plan, stage_table
from bnadapt.report.subject import about_rows, are_rows, size_in_words, subject
from bnadapt.report.tables import (
    advice_text,
    diagnosis_rows,
    results_markdown,
    results_rows,
    results_table,
    verdict_text,
)
from bnadapt.stages import with_stages
from bnadapt.start import Start
from bnadapt.tracking.names import PROVENANCE
from bnadapt.tracking.runs import PipelineRun
from bnadapt.tracking.store import Tracker

PLAN_WIDTH = 120


def print_plan(console: Console, settings: Settings, start: Start) -> None:
    """Say what will be done: the data, what was changed to fit, where BN goes, what each stage trains."""
    splits = start.splits
    lines = [
        f"{start.parameters['baseline_data']} -> {splits.name}" if start.transfers else splits.name,
        f"  {sizes(splits)} {subject(splits.image_shape)} of {shape(splits)}, {len(splits.classes)} classes",
        f"  network: {start.parameters['model']}; stages: {', '.join(chosen_stages(settings))}",
        *(f"  {note}" for note in start.notes),
    ]
    console.print("\n".join(lines), soft_wrap=True)
    console.print()
    if INSERT in chosen_stages(settings):
        console.print(plan(start.sites, start.sites.passed_over, start.stages))
    elif start.stages:
        console.print(stage_table(start.stages))
    console.print()


def record_start(run: PipelineRun, settings: Settings, start: Start) -> None:
    """Put the plan, the data's identity, and what it takes to repeat the run, into the pipeline's run.

    Before the stages, because MLflow links their scores to the data that are named first.
    """
    written = StringIO()
    print_plan(Console(file=written, width=PLAN_WIDTH, markup=False, highlight=False), settings, start)
    run.log_text("plan.txt", written.getvalue())
    run.log_text(PROVENANCE, json.dumps(provenance(start, run.command), indent=1, ensure_ascii=False))
    run.log_splits(start.splits)
    if start.transfers:
        run.log_splits(start.source_splits, source=True)


def record(run: PipelineRun, start: Start, ledger: Ledger, verdict: Verdict | None) -> None:
    """Put the tables, the verdict and the report with its plots into the pipeline's run."""
    results, best = ledger.results, verdict.best if verdict else None
    run.log_table(results_rows(results, best), "stages.csv")
    run.log_text("stages.md", results_markdown(results, best))
    if verdict is not None:
        run.log_verdict(verdict.answer)
        run.log_text("verdict.txt", "\n".join(verdict.sentences))
        run.describe(f"{' '.join(verdict.sentences)}\n\n{results_markdown(results, best)}")
    attempt("the tables of layers", lambda: _record_layers(run, ledger))
    attempt("the report", lambda: _report(start, ledger, verdict))


def print_outcome(
    console: Console,
    settings: Settings,
    ledger: Ledger,
    verdict: Verdict | None,
    tracker: Tracker,
    command: Sequence[str],
) -> None:
    """Print the table of stages, the verdict, what to try next, and how to go on and to look at the runs."""
    program = os.environ.get("BNADAPT_COMMAND", "bnadapt")
    console.print()
    console.print(results_table(ledger.results, verdict.best if verdict else None))
    console.print()
    if verdict is not None:
        console.print(verdict_text(verdict))
        advice = attempt("the advice", lambda: _advice(ledger, verdict.best))
        if advice:
            console.print()
            console.print(advice_text(advice))
        console.print()
    if EVALUATE not in chosen_stages(settings):
        rest = [*ledger.remaining, EVALUATE]
        further = with_stages([program, *command[1:]], rest, ledger.run.run_id)
        console.print(f"go on: {further}", soft_wrap=True)
    if ledger.report is not None:
        console.print(f"report: {ledger.report}", soft_wrap=True)
    console.print(f"run: {ledger.run.run_id}")
    console.print(f"look at the runs: {ui_line(program, settings, tracker)}", soft_wrap=True)


def _record_layers(run: PipelineRun, ledger: Ledger) -> None:
    rows = diagnosis_rows(ledger.results)
    if rows:
        run.log_table(rows, "diagnosis.csv")
    if ledger.shifts:
        run.log_table([asdict(each) for each in ledger.shifts], "shift.csv")


def _report(start: Start, ledger: Ledger, verdict: Verdict | None) -> None:
    """Draw the plots, write the page, and keep both; a plot that fails is missing from the page, which says so."""
    material = _material(start, ledger, verdict)
    plots, missing = keep_drawings(ledger.run, ledger.directory, drawings(material))
    ledger.report = keep_report(ledger.run, ledger.directory, contents(material, plots, missing))


def _material(start: Start, ledger: Ledger, verdict: Verdict | None) -> Material:
    settings, parameters, splits = ledger.settings, start.parameters, ledger.splits
    best = verdict.best if verdict else None
    changes, images = attempt("the comparison of images", lambda: _changes(ledger, best)) or (None, None)
    inserted = INSERT in chosen_stages(settings)
    return Material(
        source=parameters["baseline_data"],
        target=parameters["data"],
        facts=_facts(start, ledger),
        classes=splits.classes,
        data=data_facts(splits),
        source_data=data_facts(start.source_splits) if start.transfers else {},
        notes=start.notes,
        sites=start.sites if inserted else None,
        stages=start.stages,
        results=tuple(ledger.results),
        best=best,
        verdict=verdict,
        advice=(attempt("the advice", lambda: _advice(ledger, best)) or ()) if best else (),
        shifts=ledger.shifts,
        labels=splits.test.labels() if verdict else None,
        changes=changes,
        changed_images=images,
        command=ledger.run.command,
        versions=start.versions,
        seeds=_seeds(settings),
        configuration=ledger.run.config_yaml,
        run_id=ledger.run.run_id,
        rows=are_rows(splits.image_shape),
    )


def _advice(ledger: Ledger, best: str) -> tuple[Advice, ...]:
    found = advise(
        Evidence(
            results=ledger.results,
            best=best,
            schedule=ledger.settings.schedule,
            placement=ledger.start.parameters["placement"],
            training_images=ledger.splits.train.size,
            classes=len(ledger.splits.classes),
            batch_size=ledger.settings.data.batch_size,
            calibrated=ledger.settings.insertion.init == "calibrated",
        )
    )
    rows = are_rows(ledger.splits.image_shape)
    return tuple(replace(each, sentence=about_rows(each.sentence)) for each in found) if rows else found


def _changes(ledger: Ledger, best: str | None) -> tuple[Changes, np.ndarray] | None:
    """The test images whose class changed from the baseline to the best stage; read only once both are scored."""
    tested = {result.name: result.test for result in ledger.results if result.test is not None}
    if best is None or best == BASELINE or best not in tested or BASELINE not in tested:
        return None
    test = ledger.splits.test
    changes = changed_images(test.labels(), tested[BASELINE], tested[best])
    batches = test.batches(ledger.settings.evaluation.batch_size)
    return changes, images_at(batches, [each.index for each in changes.shown])


def _facts(start: Start, ledger: Ledger) -> tuple[str, ...]:
    parameters, settings = start.parameters, ledger.settings
    place = _where(parameters["placement"])
    if INSERT in chosen_stages(settings) and start.sites:
        place += f" in {len(start.sites)} layers" if len(start.sites) > 1 else " in 1 layer"
    lengths = ", ".join(f"{name} {length_of(how)}".strip() for name, how in settings.schedule.items())
    return (
        parameters["model"],
        place,
        *((lengths,) if lengths else ()),
        f"seed {settings.seed}",
        datetime.now().astimezone().isoformat(" ", "minutes"),
    )


def _where(placement: str) -> str:
    """A placement as its run records it, such as ``before_activation, input``, in words."""
    places = [POSITIONS[each] for each in placement.split(", ") if each in POSITIONS]
    return f"BN {' and '.join(places)}" if places else "no BN inserted"


def data_facts(splits: Splits) -> dict[str, str]:
    """What identifies a data set, in words, by name."""
    unlabelled = splits.unlabelled.size - splits.train.size
    return {
        "name": splits.name,
        subject(splits.image_shape): sizes(splits)
        + (f", {unlabelled:,} more without labels" if unlabelled else ""),
        "size": shape(splits),
        "classes": f"{len(splits.classes):,}",
        "SHA-256": splits.digest,
    }


def _seeds(settings: Settings) -> dict[str, int]:
    seeds = {"seed": settings.seed, "data.split_seed": settings.data.split_seed}
    if settings.data.labels_per_class is not None or settings.data.labels_fraction is not None:
        seeds["data.labels_seed"] = settings.data.labels_seed
    if settings.data.shift != "none":
        seeds["data.shift_seed"] = settings.data.shift_seed
    return seeds


def sizes(splits: Splits) -> str:
    """Numbers of images of the three splits in words."""
    return ", ".join(
        f"{split.size:,} {split.name}" for split in (splits.train, splits.validation, splits.test)
    )


def shape(splits: Splits) -> str:
    """Height, width and channels of the images, ``28x28x1``, or the length of the rows, ``4 numbers``."""
    return size_in_words(splits.image_shape)
