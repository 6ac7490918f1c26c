"""What a person sees of what was done before, and what a run leaves so that it can be found and repeated."""

import os
import shlex
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bnadapt.config import Settings, TrackingSettings
from bnadapt.evaluation.results import Verdict
from bnadapt.identity import code_digest
from bnadapt.journal import Journal, Journals
from bnadapt.ledger import Ledger
from bnadapt.resuming import Earlier, command_to_go_on
from bnadapt.start import Start
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.ui import ui_command, ui_url


def print_cut_off(console: Console, known: Journals, settings: Settings, run_ids: Sequence[str]) -> None:
    """Name the runs whose processes ended without a word, and how to go on with those that can be."""
    for run_id in run_ids:
        how = (
            f"this goes on with it: {command_to_go_on(run_id, settings)}"
            if known.has(run_id)
            else "it is over"
        )
        console.print(f"run {run_id} was cut off; {how}", soft_wrap=True)


def print_adopted(console: Console, earlier: Earlier, names: Sequence[str]) -> None:
    """Say what is not done again because it was done before."""
    if earlier.journal is not None:
        done = f"{', '.join(names)} had ended" if names else "no stage had ended"
        console.print(f"goes on with run {earlier.journal.run_id}: {done}", soft_wrap=True)
        console.print(f"  in {earlier.journal.run_directory}\n", soft_wrap=True)
    elif earlier.reusable is not None:
        origin = f"run {earlier.reusable.journal.run_id}"
        if not earlier.reusable.recorded:
            origin += ", which is no longer in the tracking store"
        console.print(f"taken over from {origin}, the same there: {', '.join(names)}\n", soft_wrap=True)


def print_ended(console: Console, settings: Settings, journal: Journal, tracker: Tracker) -> None:
    """Say that a run of the same settings, data and code has ended before, and what it found."""
    outcome = journal.outcome or {}
    said = f"run {journal.run_id} did this before, and nothing has changed since: it is not repeated"
    console.print(said, soft_wrap=True)
    console.print("\n".join(outcome["sentences"]), soft_wrap=True)
    if outcome["report"]:
        console.print(f"report: {outcome['report']}", soft_wrap=True)
    console.print(f"run: {journal.run_id}")
    program = os.environ.get("BNADAPT_COMMAND", "bnadapt")
    console.print(f"look at the runs: {ui_line(program, settings, tracker)}", soft_wrap=True)


def outcome_of(ledger: Ledger, verdict: Verdict | None) -> dict[str, Any]:
    """What a run that has ended leaves in its journal."""
    return {
        "sentences": list(verdict.sentences) if verdict else [],
        "best": verdict.best if verdict else None,
        "report": None if ledger.report is None else str(ledger.report.absolute()),
    }


def provenance(start: Start, command: str) -> dict[str, Any]:
    """Beside the configuration what decides the weights: versions, commit, hashes of code and data."""
    return {
        "versions": dict(start.versions),
        "code_sha256": code_digest(),
        "command": shlex.split(command),
        "data_sha256": {start.splits.name: start.splits.digest}
        | ({start.source_splits.name: start.source_splits.digest} if start.transfers else {}),
    }


def ui_line(program: str, settings: Settings, tracker: Tracker) -> str:
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
