"""What a person sees of a pipeline: the plan before it, the outcome after it, and both in MLflow."""

import os
import shlex
from collections.abc import Sequence
from io import StringIO

from rich.console import Console

from bnadapt.config import BASELINE, EVALUATE, INSERT, Settings, TrackingSettings, chosen_stages
from bnadapt.evaluation.results import Verdict
from bnadapt.ledger import Ledger
from bnadapt.report.comparisons import accuracy_by_stage, recall_change
from bnadapt.report.curves import accuracy_curve, loss_curves
from bnadapt.report.plan import plan, stage_table
from bnadapt.report.tables import results_markdown, results_rows, results_table, verdict_text
from bnadapt.stages import with_stages
from bnadapt.start import Start
from bnadapt.tracking.runs import PipelineRun
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.ui import ui_command, ui_url

PLAN_WIDTH = 120


def print_plan(console: Console, settings: Settings, start: Start) -> None:
    """Say what will be done: the data, what was changed to fit, where BN goes, what each stage trains."""
    splits = start.splits
    height, width, channels = splits.image_shape
    sizes = ", ".join(
        f"{split.size:,} {split.name}" for split in (splits.train, splits.validation, splits.test)
    )
    lines = [
        f"{start.parameters['baseline_data']} -> {splits.name}" if start.transfers else splits.name,
        f"  {sizes} images of {height}x{width}x{channels}, {len(splits.classes)} classes",
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
    """Put the plan and the data's identity into the pipeline's run.

    Before the stages, because MLflow links their scores to the data that are named first.
    """
    written = StringIO()
    print_plan(Console(file=written, width=PLAN_WIDTH, markup=False, highlight=False), settings, start)
    run.log_text("plan.txt", written.getvalue())
    classes = {"classes": str(len(start.splits.classes))}
    run.log_dataset(start.splits.name, start.splits.digest, "adaptation", classes)
    if start.transfers:
        run.log_dataset(start.source_splits.name, start.source_splits.digest, "baseline")


def record(run: PipelineRun, start: Start, ledger: Ledger, verdict: Verdict | None) -> None:
    """Put the table of stages and the plots into the pipeline's run."""
    results, best = ledger.results, verdict.best if verdict else None
    run.log_table(results_rows(results, best), "stages.csv")
    run.log_text("stages.md", results_markdown(results, best))
    run.log_figure(accuracy_curve(results, best), "plots/validation_accuracy.png")
    run.log_figure(loss_curves(results), "plots/loss.png")
    run.log_figure(accuracy_by_stage(results, best), "plots/accuracy_by_stage.png")
    by_name = {result.name: result for result in results}
    if verdict is not None:
        run.log_verdict(verdict.answer)
        run.log_text("verdict.txt", "\n".join(verdict.sentences))
        before, after = (by_name[name].test if name in by_name else None for name in (BASELINE, verdict.best))
        if before is not None and after is not None:
            figure = recall_change(before, after, start.splits.classes, after_name=verdict.best)
            run.log_figure(figure, "plots/recall_change.png")


def print_outcome(
    console: Console,
    settings: Settings,
    ledger: Ledger,
    verdict: Verdict | None,
    tracker: Tracker,
    command: Sequence[str],
) -> None:
    """Print the table of stages, the verdict, and how to go on and to look at the runs."""
    program = os.environ.get("BNADAPT_COMMAND", "bnadapt")
    console.print()
    console.print(results_table(ledger.results, verdict.best if verdict else None))
    console.print()
    if verdict is not None:
        console.print(verdict_text(verdict))
    if EVALUATE not in chosen_stages(settings):
        rest = [*ledger.remaining, EVALUATE]
        further = with_stages([program, *command[1:]], rest, ledger.run.run_id)
        console.print(f"go on: {further}", soft_wrap=True)
    console.print(f"run: {ledger.run.run_id}")
    console.print(f"look at the runs: {_ui_command(program, settings, tracker)}", soft_wrap=True)


def _ui_command(program: str, settings: Settings, tracker: Tracker) -> str:
    """The command that opens MLflow's pages, or their address where they are served already."""
    if ui_command(tracker.uri) is None:
        return ui_url(tracker.uri, tracker.experiment_id)
    default = TrackingSettings()
    changed = [
        f"tracking.{key}={getattr(settings.tracking, key)}"
        for key in ("uri", "experiment")
        if getattr(settings.tracking, key) != getattr(default, key)
    ]
    return shlex.join([program, "ui", *changed])
