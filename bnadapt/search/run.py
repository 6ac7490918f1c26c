"""The search, in order: the shared baseline, the settings as they stand, the trials, and what came out."""

import os
import shlex
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import optuna
import yaml
from rich.console import Console

from bnadapt import account
from bnadapt.already_done import ui_line
from bnadapt.artifacts import attempt
from bnadapt.checks import check
from bnadapt.config import BASELINE, INSERT, SearchSettings, Settings
from bnadapt.data.reading import reading
from bnadapt.errors import BnadaptError, StageError, TrackingError
from bnadapt.interruption import stops_held_back
from bnadapt.normalization.proof import weights_digest
from bnadapt.search import outcome
from bnadapt.search.baseline import make_baseline
from bnadapt.search.space import as_drawn, draw, standing
from bnadapt.search.study import (
    BASELINE_ACCURACY,
    RUN,
    STANDING,
    Tried,
    best_of,
    finished,
    folder_of,
    identity,
    opened,
    put_back,
    storage_url,
    study_name,
    tried,
)
from bnadapt.search.trial import Looks, objective, pruner, try_settings
from bnadapt.search.work import Work
from bnadapt.secrets import redacted_values
from bnadapt.setting_keys import with_values
from bnadapt.start import prepare
from bnadapt.tracking.store import Tracker

AS_THEY_STAND = "as_they_stand"


@dataclass(frozen=True)
class SearchOutcome:
    """What a search left.

    Attributes:
        run_id: Its run in MLflow.
        study: Name of the study in Optuna's storage.
        trials: All finished trials, those of earlier processes included, in order.
        best: The best of them on the validation images.
        standing: What the settings as they stand reached; None where that failed.
        command: The command that runs the whole procedure with the best settings, ready for a shell.
    """

    run_id: str
    study: str
    trials: list[Tried]
    best: Tried
    standing: Tried | None
    command: str


def run_search(
    settings: Settings,
    run_directory: Path,
    *,
    command: Sequence[str] = ("bnadapt",),
    tags: dict[str, str] | None = None,
) -> SearchOutcome:
    """Try settings from ``search.space``, all from one baseline, and score them on the validation images alone.

    A search that ended early goes on where it was when the same command runs again. The test images are not read.

    Args:
        settings: Checked settings.
        run_directory: Gets the plots.
        command: The words that the user typed.
        tags: What the run shall be found by beside its parameters.

    Raises:
        BnadaptError: something that the user can mend; the trials that had finished are kept.
    """
    console = Console(markup=False, highlight=False)  # names and paths may hold brackets
    tracker = Tracker(settings.tracking, Path.cwd())
    settings = replace(
        settings, stages=[BASELINE, INSERT, *settings.schedule]
    )  # nothing reads the test images
    start = prepare(settings, tracker, command)
    digests = {
        "data (SHA-256)": start.splits.digest,
        "baseline_data (SHA-256)": start.source_splits.digest,
        "first network (SHA-256)": weights_digest(start.network),
    }
    who = identity(settings, digests)
    name = study_name(settings, who, start.splits.name)
    url = storage_url(settings.search.storage, Path.cwd())
    folder = folder_of(url, name, Path.cwd())
    with (
        opened(settings, name, who, url, folder) as study,
        tracker.pipeline(
            f"search {start.run_name}",
            parameters=_shared(settings, start.parameters),
            tags={**_shared(settings, tags or {}), "kind": "search", "study": name},
            config_yaml=yaml.safe_dump(
                redacted_values(asdict(settings)), sort_keys=False, allow_unicode=True
            ),
            command=shlex.join(command),
        ) as run,
        reading(),
    ):
        account.print_plan(console, settings, start)
        account.record_start(run, settings, start)
        study.pruner = pruner(settings)
        work = Work(settings, start, study, run, tracker, console, folder / "baseline.keras")
        _take_up(work)
        if len(finished(study)) < settings.search.trials:
            make_baseline(work)
            _settings_as_they_stand(work)
            _trials(work)
        material = _material(work, command)
        outcome.record(run, run_directory, material, study)
        outcome.print_outcome(console, material, study)
        program = os.environ.get("BNADAPT_COMMAND", "bnadapt")
        console.print(f"run: {run.run_id}")
        console.print(f"look at the runs: {ui_line(program, settings, tracker)}", soft_wrap=True)
    return SearchOutcome(
        run.run_id, name, material.trials, material.best, material.standing, material.command
    )


def _shared(settings: Settings, words: Mapping[str, str]) -> dict[str, str]:
    """What is true of all trials: not what the space varies, which every trial's run says for itself."""
    varied = {each.key for each in settings.search.space.values()}
    groups = {key.partition(".")[0] for key in varied} | ({"init"} if "insertion.init" in varied else set())
    return {key: value for key, value in words.items() if key not in varied | (groups - {"data"})}


def _take_up(work: Work) -> None:
    """Say what is there already, queue again what a crash cut off, and mark its runs."""
    study, total = work.study, work.settings.search.trials
    there = len(finished(study))
    cut_off = put_back(study)
    left_running = [trial.user_attrs[RUN] for trial in cut_off if RUN in trial.user_attrs]
    if RUN in study.user_attrs:
        left_running.append(study.user_attrs[RUN])
    for run_id in left_running:
        attempt(f"the end of run {run_id}", partial(_mark_killed, work.tracker, run_id))
    study.set_user_attr(RUN, work.run.run_id)
    work.say(
        f"study {study.study_name}: {there} of {outcome.trials_in_words(total)} {'was' if there == 1 else 'were'} "
        "there already"
        if there or cut_off
        else f"study {study.study_name}: {outcome.trials_in_words(total)}, in {work.settings.search.storage}"
    )
    if cut_off:
        work.say(
            f"  {len(cut_off)} that had not ended are tried again"
            if len(cut_off) > 1
            else "  one that had not ended is tried again"
        )
    if not study.get_trials(deepcopy=False):
        first = as_drawn(work.settings)
        if first is not None:
            study.enqueue_trial(first)


@stops_held_back()
def _mark_killed(tracker: Tracker, run_id: str) -> None:
    """End a run whose process is gone; MLflow itself would show it as running for ever."""
    if tracker.client.get_run(run_id).info.status == "RUNNING":
        tracker.client.set_terminated(run_id, "KILLED")


def _settings_as_they_stand(work: Work) -> None:
    """Score the settings as they stand where the space leaves them out; else they are its first trial."""
    if as_drawn(work.settings) is not None or STANDING in work.study.user_attrs:
        return
    found = _try(work, None, 0, standing(work.settings))
    work.study.set_user_attr(STANDING, asdict(found))
    work.say(f"settings as they stand, outside the space: {outcome.result_in_words(found)}")


def _trials(work: Work) -> None:
    study, total = work.study, work.settings.search.trials
    while (place := len(finished(study)) + 1) <= total:
        # A sampler of its own for every place: a search that goes on draws what it would have drawn at once.
        study.sampler = optuna.samplers.TPESampler(seed=_seed(work.settings.seed, place))
        trial = study.ask()
        values = draw(trial, work.settings)
        trial.set_user_attr("place", place)
        trial.set_user_attr("values", values)
        found = _try(work, trial, place, values)
        for key in ("accuracy", "loss", "stage", "seconds", *(["error"] if found.error else [])):
            trial.set_user_attr(key, getattr(found, key))
        states = {"pruned": optuna.trial.TrialState.PRUNED, "failed": optuna.trial.TrialState.FAIL}
        study.tell(trial, found.score, states.get(found.state))
        best = best_of(tried(study))
        work.say(outcome.line(found, best, work.settings))
        if found.accuracy is not None:
            highest = {} if best is None or best.accuracy is None else {"best_val_accuracy": best.accuracy}
            work.run.log_metrics({"trial_val_accuracy": found.accuracy, **highest}, step=place)


def _try(work: Work, trial: optuna.Trial | None, place: int, values: dict[str, Any]) -> Tried:
    """Try values in a run of their own; what cannot work fails the trial and not the search."""
    keras.utils.clear_session()  # hundreds of networks would stay in memory; collects garbage, too
    began = time.monotonic()
    label = AS_THEY_STAND if trial is None else "trial"
    found = Tried(place, values, "failed")
    try:
        with (
            _status(work, place) as watch,
            work.run.stage(
                label, order=place, parameters=values, tags={"study": work.study.study_name}
            ) as stage,
        ):
            if trial is not None:
                trial.set_user_attr(RUN, stage.run_id)
            settings = replace(with_values(work.settings, values), search=SearchSettings())
            check(settings)
            looks = Looks(stage, work.images, trial, watch)
            try:
                best = try_settings(settings, work.start, work.baseline, looks)
            except optuna.TrialPruned:
                stage.set_tags({"pruned": "true"})
                found = replace(found, state="pruned", accuracy=looks.accuracy)
            else:
                scores = best.validation
                assert scores is not None  # try_settings has seen to it
                stage.log_scores(scores)
                stage.set_tags({"best_stage": best.name})
                found = replace(
                    found,
                    state="complete",
                    accuracy=scores.accuracy,
                    loss=scores.loss,
                    stage=best.name,
                    score=objective(scores.accuracy, scores.loss, work.images),
                )
            stage.set_tags({"state": found.state})
    except TrackingError:
        raise  # the next trial would fare no better
    except BnadaptError as error:
        found = replace(found, error=str(error))
    return replace(found, seconds=time.monotonic() - began)


@contextmanager
def _status(work: Work, place: int) -> Iterator[Callable[[str], None]]:
    """In a terminal, a line that says where the trial is and vanishes with it."""
    wanted = work.settings.progress in ("auto", "bars") and work.console.is_terminal
    if not wanted:
        yield lambda text: None
        return
    with work.console.status(f"trial {place} of {work.settings.search.trials}") as status:
        yield lambda text: status.update(f"trial {place} of {work.settings.search.trials}: {text}")


def _material(work: Work, command: Sequence[str]) -> outcome.Material:
    study = work.study
    trials = tried(study)
    best = best_of(trials)
    if best is None:
        last = next((each.error for each in reversed(trials) if each.error), "all were pruned")
        raise StageError(
            f"no trial of {len(trials)} reached its end; the last one: {last}. Narrow search.space, and begin another "
            "study: search.study=NAME"
        )
    kept = study.user_attrs.get(STANDING)
    now = standing(work.settings)
    as_they_were = Tried(**kept) if kept else next((each for each in trials if each.values == now), None)
    return outcome.Material(
        settings=work.settings,
        trials=trials,
        best=best,
        standing=as_they_were if as_they_were and as_they_were.accuracy is not None else None,
        as_they_were=now,
        baseline=study.user_attrs.get(BASELINE_ACCURACY),
        images=work.images,
        command=outcome.command_with(command, best.values, work.settings.search.space),
        more=outcome.command_for_more(command, 2 * work.settings.search.trials),
    )


def _seed(seed: int, place: int) -> int:
    return (seed * 1_000_003 + zlib.crc32(f"trial {place}".encode())) % 2**31
