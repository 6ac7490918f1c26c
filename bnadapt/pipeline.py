"""The experiment, in stage order: baseline, insert, the schedule's training stages, control, evaluate."""

import math
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import yaml
from rich.console import Console

from bnadapt import account
from bnadapt.config import (
    BASELINE,
    CONTROL,
    EVALUATE,
    INSERT,
    STATISTICS,
    Settings,
    StageSettings,
    chosen_stages,
)
from bnadapt.data.splits import Splits
from bnadapt.evaluation.results import StageResult, Verdict
from bnadapt.evaluation.scores import largest_change, predict
from bnadapt.evaluation.verdict import judge
from bnadapt.ledger import Ledger, OpenStage
from bnadapt.models.fit_to_data import fit_to_data
from bnadapt.normalization.policy import ALL, BATCH_NORM, HEAD
from bnadapt.normalization.statistics import calibrate
from bnadapt.start import INSERTED, Start, find_chosen_sites, has_batch_norm, prepare
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.tracking.store import Tracker
from bnadapt.training.fit import Trained, momentum_for, train_stage
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
    account.print_plan(console, settings, start)
    verdict = None
    with tracker.pipeline(
        start.run_name,
        parameters=start.parameters,
        tags={**(tags or {}), **({"from_run": settings.from_run} if settings.from_run else {})},
        config_yaml=yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True),
        command=shlex.join(command),
    ) as run:
        account.record_start(run, settings, start)
        ledger = Ledger(settings, start, tracker, run, run_directory)
        work = _Work(settings, start.splits, ledger, Display(console, settings.progress), start.from_logits)
        network = start.network
        stages = chosen_stages(settings)

        if BASELINE in stages:
            with ledger.stage(BASELINE, start.baseline) as stage:
                network = _baseline(work, stage, network, start)
        if INSERT in stages:
            with ledger.stage(INSERT) as stage:
                network = _insert(work, stage, network, start)
        for name, how in settings.schedule.items():
            if name in stages:
                with ledger.stage(name, how) as stage:
                    _train(work, stage, network, name, how)
        if EVALUATE in stages:
            ledger.adopt_earlier()
            if settings.evaluation.control:
                _control(work)
            verdict = _evaluate(work)

        account.record(run, start, ledger, verdict)
    account.print_outcome(console, settings, ledger, verdict, tracker, command)
    return Outcome(run.run_id, ledger.results, verdict)


def _baseline(work: "_Work", stage: OpenStage, network: keras.Model, start: Start) -> keras.Model:
    """Train the network without batch normalization on the source; give it the target's head where that differs."""
    trained = work.fit(stage, network, BASELINE, start.baseline, source=start.source_splits)
    if start.new_head_for_target:
        keras.utils.set_random_seed(_seed(work.settings.seed, "head"))
        network = fit_to_data(network, work.splits.image_shape, len(work.splits.classes)).network
        head_only = replace(work.settings.baseline, train=[HEAD])
        trained = trained.then(work.fit(stage, network, f"{BASELINE}/{HEAD}", head_only, after=trained))
    # Accuracies on another data set would not belong on the same curve.
    stage.finish(network, trained, with_history=start.source_splits is work.splits)
    return network


def _insert(work: "_Work", stage: OpenStage, network: keras.Model, start: Start) -> keras.Model:
    """Put batch normalization into the network, calibrated so that its outputs stay; a new network."""
    insertion, train = work.settings.insertion, work.splits.train
    validation = work.splits.validation.batches(work.settings.evaluation.batch_size)
    calibrated = insertion.init == "calibrated"
    sites = find_chosen_sites(network, work.settings.placement)
    steps_per_epoch = train.steps(work.settings.data.batch_size)
    before, _ = predict(network, validation)
    network = insert_batch_norm(
        network,
        sites,
        init="identity" if calibrated else "standard",
        gamma=insertion.gamma,
        epsilon=insertion.epsilon,
        momentum=momentum_for(steps_per_epoch) if insertion.momentum is None else insertion.momentum,
    )
    if calibrated and sites:
        calibrated_on = start.source_splits if insertion.calibrate_on == "source" else work.splits
        images = calibrated_on.unlabelled.mixed(
            work.settings.evaluation.batch_size, seed=_seed(work.settings.seed, INSERT)
        )
        calibrate(network, images, layers=INSERTED, samples=insertion.samples)
    change, relative = largest_change(before, predict(network, validation)[0])
    stage.run.log_metrics({"largest_output_change": change, "largest_output_change_relative": relative})
    stage.run.log_text("sites.txt", str(sites))
    work.say(
        f"insert: {len(sites)} batch normalization layers; largest change of any output on the "
        f"{work.splits.validation.size:,} validation images {change:.1e} ({relative:.1e} of the outputs' "
        "standard deviation)"
    )
    stage.finish(network)
    return network


def _train(work: "_Work", stage: OpenStage, network: keras.Model, name: str, how: StageSettings) -> None:
    """Train what the stage declares, and nothing else; changes the network."""
    if how.train in ([BATCH_NORM], [STATISTICS]) and not has_batch_norm(network):
        work.say(f"{name}: nothing to do, the network has no batch normalization")
        how = replace(how, train=[BATCH_NORM], epochs=0)
    stage.log_start(network)
    trained = work.fit(stage, network, name, how)
    if how.train == [STATISTICS]:
        layers = {path.rpartition("/")[0] for path in trained.moved}
        work.say(f"{name}: new moving statistics in {len(layers)} batch normalization layers, without labels")
    stage.run.log_text("moved.txt", "\n".join(trained.moved))
    stage.finish(network, trained)


def _control(work: "_Work") -> None:
    """Train the baseline further without batch normalization: the schedule again, with everything training.

    Every stage of the schedule is repeated with its own rate and optimizer for as many steps as it took, so
    that neither more steps nor another learning rate can be mistaken for an effect of batch normalization.
    """
    results = {result.name: result for result in work.ledger.results}
    scheduled = [name for name in work.settings.schedule if name in results and results[name].steps]
    if not scheduled or CONTROL in results:
        return  # nothing was trained, or the run that is evaluated has its control already
    steps_per_epoch = work.splits.train.steps(work.settings.data.batch_size)
    parts = {
        name: replace(
            work.settings.schedule[name],
            train=[ALL],
            batch_norm={},
            epochs=math.ceil(results[name].steps / steps_per_epoch),
            patience=None,  # as many steps, also where they no longer help
        )
        for name in scheduled
    }
    with work.ledger.stage(CONTROL, *parts.values()) as stage:
        network = work.ledger.network(BASELINE)
        stage.log_start(network)
        trained = Trained(0, (), 0, 0, ())
        for name, how in parts.items():
            trained = trained.then(work.fit(stage, network, f"{CONTROL}/{name}", how, after=trained))
        stage.finish(network, trained)


def _evaluate(work: "_Work") -> Verdict:
    """Score every stage on the test images, which nothing has read before, and judge."""
    with work.ledger.stage(EVALUATE):
        for result in work.ledger.results:
            work.ledger.test(result.name)
        verdict = judge(work.ledger.results, resamples=work.settings.evaluation.bootstrap)
        path = work.ledger.keep_best(verdict.best)
        work.say(f"kept: {verdict.best} in {path}")
        patch = work.ledger.keep_patch(verdict.best)
        if patch is not None:
            size = math.ceil(patch.stat().st_size / 1024)
            work.say(f"      and as a patch of {size} kB for the baseline's network in {patch}")
    return verdict


@dataclass
class _Work:
    """What every stage works with."""

    settings: Settings
    splits: Splits
    ledger: Ledger
    display: Display
    from_logits: bool

    def fit(
        self,
        stage: OpenStage,
        network: keras.Model,
        name: str,
        how: StageSettings,
        *,
        source: Splits | None = None,
        after: Trained | None = None,
    ) -> Trained:
        """Train one stage, on the source where one is given, on the target otherwise.

        ``after`` is what the same stage trained before; its epochs are counted on. Epochs on other data than
        the target are recorded under other keys: they do not belong on the same curve.
        """
        splits = source or self.splits
        elsewhere = splits is not self.splits
        done = len(after.history) if after else 0
        return train_stage(
            network,
            splits,
            how,
            name=f"{name} on {splits.name}" if elsewhere else name,
            batch_size=self.settings.data.batch_size,
            evaluation_batch_size=self.settings.evaluation.batch_size,
            samples=self.settings.insertion.samples,
            from_logits=self.from_logits,
            seed=_seed(self.settings.seed, name),
            display=self.display,
            on_policy=lambda table: stage.run.log_text("policy.txt", table),
            on_epoch=lambda epoch: stage.log_epoch(
                replace(epoch, number=epoch.number + done), prefix="source_" if elsewhere else ""
            ),
        )

    def say(self, text: str) -> None:
        self.display.console.print(text, soft_wrap=True)


def _seed(seed: int, name: str) -> int:
    """A seed for one stage, so that a stage does the same whichever stages ran before it."""
    return (seed * 1_000_003 + zlib.crc32(name.encode())) % 2**31
