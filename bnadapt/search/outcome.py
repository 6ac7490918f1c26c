"""What a person sees of a search: a line for every trial, the best settings, the command for them, and the plots."""

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from rich import box
from rich.console import Console
from rich.table import Table

from bnadapt.artifacts import attempt, keep_drawings
from bnadapt.checks.search import BATCH_SIZE
from bnadapt.config import Settings
from bnadapt.report.search_plots import TrialPoint, search_drawings
from bnadapt.report.tables import duration, percent
from bnadapt.search.space import as_override
from bnadapt.search.study import Tried
from bnadapt.tracking.runs import PipelineRun

AT_THE_END = 0.05  # share of an interval
ENOUGH_FOR_IMPORTANCES = 10  # ended trials; below, what seems to matter is chance
GROUP_OF_ITS_OWN = "experiment=search"


@dataclass(frozen=True)
class Material:
    """All that is told of a search.

    Attributes:
        settings: What was asked for.
        trials: All finished trials in order.
        best: The best of them by validation.
        standing: What the settings as they stand reached; None where that failed.
        as_they_were: Their values, by key.
        baseline: Validation accuracy of the baseline, 0 to 1.
        images: Number of validation images.
        command: Runs the whole procedure with the best settings, ready for a shell.
        more: Goes on with this search, ready for a shell.
    """

    settings: Settings
    trials: list[Tried]
    best: Tried
    standing: Tried | None
    as_they_were: dict[str, Any]
    baseline: float | None
    images: int
    command: str
    more: str


def line(found: Tried, best: Tried | None, settings: Settings) -> str:
    """One trial in one line: what it tried, what it reached, and the best so far."""
    names = {each.key: name for name, each in settings.search.space.items()}
    values = ", ".join(f"{names[key]} {as_override(value)}" for key, value in found.values.items())
    total = settings.search.trials
    so_far = (
        f"; best {percent(best.accuracy)} (trial {best.place})" if best and best.accuracy is not None else ""
    )
    number = f"{found.place:>{len(str(total))}}"
    return f"trial {number} of {total}: {values}: {result_in_words(found)}{so_far}; {duration(found.seconds)}"


def trials_in_words(count: int) -> str:
    """``1 trial``, ``20 trials``."""
    return f"{count:,} {'trial' if count == 1 else 'trials'}"


def result_in_words(found: Tried) -> str:
    """What came of a trial."""
    if found.error:
        return f"failed: {found.error.splitlines()[0]}"
    if found.accuracy is None:
        return found.state
    if found.state == "pruned":
        return f"{percent(found.accuracy)}, stopped early"
    return f"{percent(found.accuracy)} after {found.stage}"


def command_with(command: Sequence[str], values: Mapping[str, Any], ranges: Iterable[str] = ()) -> str:
    """The command as typed, without the search and with these values, ready for a shell.

    Args:
        command: The words that the user typed.
        values: By the keys of their settings.
        ranges: Names of all ranges of the space; they are taken out one by one where an experiment or a
            configuration of the user's own holds more than the search.
    """
    words = [word for word in command[1:] if not _of_search(word) and _key(word) not in values]
    if any(_key(word) in ("experiment", "--config-name", "-cn") for word in words):
        without = [word for word in command[1:] if word.startswith("~search.space.")]
        words += [*without, *(f"~search.space.{name}" for name in ranges)]
    words += [f"{key}={as_override(value)}" for key, value in values.items()]
    return shlex.join([_program(command), *words])


def command_for_more(command: Sequence[str], trials: int) -> str:
    """The command as typed with another number of trials, ready for a shell."""
    words = [word for word in command[1:] if _key(word) != "search.trials"]
    return shlex.join([_program(command), *words, f"search.trials={trials}"])


def rows(material: Material) -> list[dict[str, object]]:
    """All trials as rows of a table."""
    return [
        {
            "trial": each.place,
            **{key: as_override(value) for key, value in each.values.items()},
            "state": each.state,
            "best_stage": each.stage,
            "val_accuracy": "" if each.accuracy is None else each.accuracy,
            "val_loss": "" if each.loss is None else each.loss,
            "seconds": round(each.seconds, 1),
            "error": each.error,
        }
        for each in material.trials
    ]


def importances(study: optuna.Study, seed: int) -> dict[str, float]:
    """How much of the scores' variance each range explains, 0 to 1, by name, the largest first.

    By functional analysis of variance (Hutter, Hoos and Leyton-Brown, 2014) over the trials that ended; empty
    where they are too few, or all alike.
    """
    ended = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(ended) < ENOUGH_FOR_IMPORTANCES or len({trial.value for trial in ended}) < 2:
        return {}
    found = attempt(
        "the importance of the settings",
        lambda: get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed)),
    )
    return found or {}


def record(run: PipelineRun, run_directory: Path, material: Material, study: optuna.Study) -> None:
    """Put the trials, the best settings and the plots into the search's run, and the plots into its directory."""
    run.log_table(rows(material), "trials.csv")
    run.log_text("command.txt", material.command + "\n")
    best = material.best
    run.log_metrics(
        {"val_accuracy": best.accuracy or 0.0, "val_loss": best.loss or 0.0, "best_trial": best.place}
    )
    values = "\n".join(f"* `{key}={as_override(value)}`" for key, value in best.values.items())
    run.describe(
        f"Best of {trials_in_words(len(material.trials))}: {best.place}, {result_in_words(best)}, on the validation "
        f"images alone.\n\n{values}\n\nWith these settings: `{material.command}`"
    )
    matters = importances(study, material.settings.seed)
    if matters:
        run.log_table(
            [{"setting": name, "share": share} for name, share in matters.items()], "importances.csv"
        )
    drawings = search_drawings(
        [_point(each, material) for each in material.trials],
        standing=material.standing.accuracy if material.standing else None,
        baseline=material.baseline,
        logarithmic=[name for name, each in material.settings.search.space.items() if each.log],
    )
    keep_drawings(run, run_directory, drawings)


def print_outcome(console: Console, material: Material, study: optuna.Study) -> None:
    """Print the best settings beside those that were, what mattered, and the command to go on with."""
    best = material.best
    console.print()
    console.print(
        f"best by validation: trial {best.place} of {len(material.trials)}, {percent(best.accuracy or 0)} of "
        f"{_images(material.images)} right after {best.stage} (loss {best.loss:.4f})"
    )
    for text in _compared(material):
        console.print(text, soft_wrap=True)
    console.print()
    console.print(_table(material, importances(study, material.settings.seed)))
    console.print()
    for text in _at_an_end(material):
        console.print(text, soft_wrap=True)
    console.print(
        "The test images have not been looked at. The best of many trials looks better on the validation images than "
        "it is; this command runs the whole procedure with it, control and test images included:",
        soft_wrap=True,
    )
    console.print(f"  {material.command}", soft_wrap=True)
    if BATCH_SIZE in best.values and best.values[BATCH_SIZE] != material.as_they_were[BATCH_SIZE]:
        console.print(
            f"  (its baseline is trained with batches of {best.values[BATCH_SIZE]} as well, the search's was with "
            f"{material.as_they_were[BATCH_SIZE]})",
            soft_wrap=True,
        )
    console.print(f"more trials: {material.more}", soft_wrap=True)


def _compared(material: Material) -> list[str]:
    best, before = material.best, material.standing
    texts = []
    if before is None or before.accuracy is None:
        texts.append("  the settings as they stand: failed, or stopped early")
    elif before.place == best.place:
        texts.append("  those are the settings as they stand: no other trial did better")
    else:
        texts.append(
            f"  the settings as they stand: {percent(before.accuracy)}, {_difference(best, before, material.images)}"
        )
    if material.baseline is not None:
        texts.append(f"  the baseline, without batch normalization: {percent(material.baseline)}")
    return texts


def _difference(best: Tried, before: Tried, images: int) -> str:
    gain = (best.accuracy or 0) - (before.accuracy or 0)
    count = round(gain * images)
    # Outside the space they are no trial, and may be better than all of them.
    unbeaten = best.score is not None and before.score is not None and before.score >= best.score
    end = ": no trial did better, leave them as they stand" if unbeaten else ""
    if count == 0:
        return "as many" + (end or "; the lower loss decided")
    return f"{100 * abs(gain):.2f} points {'less' if count > 0 else 'more'}, {_images(abs(count))}{end}"


def _images(count: int) -> str:
    return f"{count:,} {'image' if count == 1 else 'images'}"


def _at_an_end(material: Material) -> list[str]:
    """Where the best value lies so near to an end of its interval that a wider one may hold a better."""
    texts = []
    for name, each in material.settings.search.space.items():
        if each.choices or each.low is None or each.high is None:
            continue
        scale = math.log if each.log else float
        low, best, high = (scale(value) for value in (each.low, material.best.values[each.key], each.high))
        share = (best - low) / (high - low)
        if min(share, 1 - share) < AT_THE_END:
            end = "low" if share < 0.5 else "high"
            texts.append(
                f"{each.key}: the best value lies at the end of its interval; search.space.{name}.{end}=... widens it"
            )
    return texts


def _table(material: Material, matters: Mapping[str, float]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting")
    table.add_column("as it stands", justify="right")
    table.add_column("best", justify="right")
    if matters:
        table.add_column("share of the variance", justify="right")
    for name, each in material.settings.search.space.items():
        values = (material.as_they_were[each.key], material.best.values[each.key])
        share = [f"{100 * matters.get(name, 0):.0f} %"] if matters else []
        table.add_row(each.key, *map(as_override, values), *share)
    return table


def _point(each: Tried, material: Material) -> TrialPoint:
    names = {settings.key: name for name, settings in material.settings.search.space.items()}
    values = {
        names[key]: value if _numeric(value, names[key], material.settings) else as_override(value)
        for key, value in each.values.items()
    }
    return TrialPoint(each.place, values, each.state, each.accuracy, each.place == material.best.place)


def _numeric(value: Any, name: str, settings: Settings) -> bool:
    return not settings.search.space[name].choices and isinstance(value, int | float)


def _of_search(word: str) -> bool:
    return word == GROUP_OF_ITS_OWN or bool(re.match(r"[+~]*search[.=]|~search$", word))


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _program(command: Sequence[str]) -> str:
    return os.environ.get("BNADAPT_COMMAND", command[0])
