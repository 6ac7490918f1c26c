"""The experiment, in stage order: baseline, insert, the schedule's training stages, control, evaluate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
from rich.console import Console

from bnadapt import account, already_done
from bnadapt.config import BASELINE, CONTROL, EVALUATE, INSERT, Settings, StageSettings, chosen_stages
from bnadapt.evaluation.results import StageResult, Verdict
from bnadapt.evaluation.verdict import judge
from bnadapt.journal import journals
from bnadapt.ledger import Ledger
from bnadapt.normalization.policy import ALL
from bnadapt.open_stage import OpenStage
from bnadapt.opening import opened_run
from bnadapt.procedure import Listener, Procedure
from bnadapt.report.subject import subject
from bnadapt.resuming import identity_of, look_back
from bnadapt.start import prepare
from bnadapt.tracking.store import Tracker
from bnadapt.training.fit import Trained
from bnadapt.training.progress import Display


@dataclass(frozen=True)
class Outcome:
    """What a pipeline left: its run in MLflow, every stage's result, and the verdict where it evaluated."""

    run_id: str
    results: list[StageResult]
    verdict: Verdict | None


def run_pipeline(
    settings: Settings,
    run_directory: Path,
    *,
    command: Sequence[str] = ("bnadapt",),
    tags: dict[str, str] | None = None,
) -> Outcome:
    """Run the chosen stages in order and record each as soon as it ends.

    Args:
        settings: Checked settings.
        run_directory: Gets the networks of all stages and ``best.keras``.
        command: The words that the user typed, recorded with the run and part of the advice how to go on.
        tags: What the run shall be found by beside its parameters.

    Raises:
        BnadaptError: something that the user can mend; the stages that had ended are recorded.
    """
    console = Console(markup=False, highlight=False)  # names and paths may hold brackets
    tracker = Tracker(settings.tracking, Path.cwd())
    start = prepare(settings, tracker, command)
    identity = identity_of(settings, start, tracker)
    with journals(Path.cwd() / settings.checkpoints.directory) as known:
        earlier = look_back(known, settings, identity, tracker)
        if earlier.ended:
            already_done.print_ended(console, settings, earlier.ended, tracker)
            return Outcome(earlier.ended.run_id, [], None)
        account.print_plan(console, settings, start)
        verdict = None
        with opened_run(
            known,
            earlier,
            identity,
            settings,
            tracker,
            console,
            name=start.run_name,
            parameters=start.parameters,
            tags={**(tags or {}), **earlier.tags(settings)},
            run_directory=run_directory,
            command=command,
        ) as (run, journal):
            account.record_start(run, settings, start)
            ledger = Ledger(settings, start, tracker, run, journal)
            procedure = Procedure(settings, start, Display(console, settings.progress), journal.fits)
            work = _Work(procedure, ledger)
            already_done.print_adopted(console, earlier, ledger.adopt_ended())
            network = start.network
            stages = chosen_stages(settings)

            if BASELINE in stages:
                network = _stage(work, BASELINE, network, _baseline, start.baseline)
            if INSERT in stages:
                network = _stage(work, INSERT, network, _insert)
            for name, how in settings.schedule.items():
                if name in stages:
                    network = _stage(work, name, network, _training(name, how), how)
            if EVALUATE in stages:
                ledger.adopt_earlier()
                if settings.evaluation.control:
                    _control(work)
                verdict = _evaluate(work)

            account.record(run, start, ledger, verdict)
        journal.finish(already_done.outcome_of(ledger, verdict))
    account.print_outcome(console, settings, ledger, verdict, tracker, command)
    return Outcome(run.run_id, ledger.results, verdict)


def _stage(
    work: "_Work",
    name: str,
    network: keras.Model,
    perform: Callable[["_Work", OpenStage, keras.Model], keras.Model],
    *how: StageSettings,
) -> keras.Model:
    """The network that a stage leaves: performed here, or by an earlier process."""
    if work.ledger.has(name):
        return work.ledger.network(name)
    with work.ledger.stage(name, *how) as stage:
        return perform(work, stage, network)


def _baseline(work: "_Work", stage: OpenStage, network: keras.Model) -> keras.Model:
    """Train the network without batch normalization on the source; give it the target's head where that differs."""
    network, trained = work.procedure.train_baseline(network, _listener(stage))
    # Accuracies on another data set would not belong on the same curve.
    stage.finish(network, trained, with_history=not work.procedure.start.transfers)
    return network


def _insert(work: "_Work", stage: OpenStage, network: keras.Model) -> keras.Model:
    """Put batch normalization into the network, calibrated so that its outputs stay; a new network."""
    inserted = work.procedure.insert(network)
    sites, change, relative = inserted.sites, inserted.change, inserted.relative_change
    stage.run.log_metrics({"largest_output_change": change, "largest_output_change_relative": relative})
    stage.run.log_text("sites.txt", str(sites))
    validation, things = work.procedure.splits.validation, subject(work.procedure.splits.image_shape)
    work.procedure.say(
        f"insert: {len(sites)} batch normalization layers; largest change of any output on the {validation.size:,} "
        f"validation {things} {change:.1e} ({relative:.1e} of the outputs' standard deviation)"
    )
    stage.finish(inserted.network)
    return inserted.network


def _training(name: str, how: StageSettings) -> Callable[["_Work", OpenStage, keras.Model], keras.Model]:
    """What trains what a stage declares, and nothing else; it changes the network."""

    def train(work: "_Work", stage: OpenStage, network: keras.Model) -> keras.Model:
        stage.log_start(network)
        trained = work.procedure.train(network, name, how, _listener(stage))
        stage.run.log_text("moved.txt", "\n".join(trained.moved))
        stage.finish(network, trained)
        return network

    return train


def _control(work: "_Work") -> None:
    """Train the baseline further without batch normalization: the schedule again, with everything training.

    Every stage of the schedule is repeated with its own rate and optimizer for as many steps as it took, so
    that neither more steps nor another learning rate can be mistaken for an effect of batch normalization.
    """
    procedure, results = work.procedure, {result.name: result for result in work.ledger.results}
    schedule = procedure.settings.schedule
    scheduled = [name for name in schedule if name in results and results[name].steps]
    if not scheduled or CONTROL in results:
        return  # nothing was trained, or the run that is evaluated has its control already
    steps_per_epoch = procedure.splits.train.steps(procedure.settings.data.batch_size)
    parts = {}
    for name in scheduled:
        how, rate = schedule[name], results[name].learning_rate
        parts[name] = replace(
            how,
            train=[ALL],
            batch_norm={},
            epochs=math.ceil(results[name].steps / steps_per_epoch),
            steps=results[name].steps if how.steps else None,
            learning_rate=rate or how.learning_rate,
            find_rate=how.find_rate and rate is None,
            patience=None,  # as many steps, also where they no longer help
        )
    with work.ledger.stage(CONTROL, *parts.values()) as stage:
        network = work.ledger.network(BASELINE)
        stage.log_start(network)
        trained = Trained(0, (), 0, 0, ())
        for name, how in parts.items():
            further = procedure.train(network, f"{CONTROL}/{name}", how, _listener(stage), after=trained)
            trained = trained.then(further)
        stage.finish(network, trained)


def _evaluate(work: "_Work") -> Verdict:
    """Score every stage on the test images, which nothing has read before, and judge."""
    with work.ledger.stage(EVALUATE):
        for result in work.ledger.results:
            work.ledger.test(result.name)
        verdict = judge(
            work.ledger.results,
            resamples=work.procedure.settings.evaluation.bootstrap,
            things=subject(work.procedure.splits.image_shape),
        )
        path = work.ledger.keep_best(verdict.best)
        work.procedure.say(f"kept: {verdict.best} in {path}")
        patch = work.ledger.keep_patch(verdict.best)
        if patch is not None:
            size = math.ceil(patch.stat().st_size / 1024)
            work.procedure.say(f"      and as a patch of {size} kB for the baseline's network in {patch}")
    return verdict


@dataclass(frozen=True)
class _Work:
    """What every stage works with."""

    procedure: Procedure
    ledger: Ledger


def _listener(stage: OpenStage) -> Listener:
    return Listener(
        epoch=stage.run.log_look,
        policy=lambda table: stage.run.log_text("policy.txt", table),
        rate=stage.log_rate_test,
    )
