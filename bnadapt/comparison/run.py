"""The comparison, in order: repetitions with their baselines and arms, then the test images, then the choice."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
from rich.console import Console

from bnadapt.already_done import print_ended
from bnadapt.artifacts import attempt
from bnadapt.comparison import account
from bnadapt.comparison.arms import Repetition, repetitions, runnable, settings_of
from bnadapt.comparison.attempts import Attempt, attempt_rate
from bnadapt.comparison.look import look_closely
from bnadapt.comparison.memory import Keys, Memory, identity_of, look_back, others
from bnadapt.comparison.origins import Networks, Reader
from bnadapt.comparison.work import Done, Work
from bnadapt.config import ArmSettings, Settings
from bnadapt.errors import StageError
from bnadapt.evaluation.arms import ArmResult, Comparison, RateTried
from bnadapt.evaluation.compare import compare
from bnadapt.files import copy
from bnadapt.journal import journals
from bnadapt.models.load import load_file
from bnadapt.normalization.proof import weights_digest
from bnadapt.opening import opened_run
from bnadapt.procedure import Procedure
from bnadapt.report.subject import subject
from bnadapt.start import Start, prepare
from bnadapt.tracking.store import Tracker


@dataclass(frozen=True)
class ComparisonOutcome:
    """What a comparison left: its run in MLflow, every arm's results, and what follows for each number of labels."""

    run_id: str
    results: list[ArmResult]
    comparisons: list[Comparison]


def run_comparison(
    settings: Settings,
    run_directory: Path,
    *,
    command: Sequence[str] = ("bnadapt",),
    tags: dict[str, str] | None = None,
) -> ComparisonOutcome:
    """Run every arm from the same baseline with every seed, then read the test images once, and recommend an arm.

    Args:
        settings: Checked settings.
        run_directory: Gets the recommended network, the report and its plots; where a comparison is gone on with,
            the directory of its first process does.
        command: The words that the user typed.
        tags: What the run shall be found by beside its parameters.

    Raises:
        BnadaptError: something that the user can mend; the arms that had ended are recorded.
    """
    console = Console(markup=False, highlight=False)  # names and paths may hold brackets
    tracker = Tracker(settings.tracking, Path.cwd())
    began = time.monotonic()
    read = Reader()
    every = list(repetitions(settings))
    first = prepare(every[0].settings, tracker, command, read=read)
    identity = identity_of(settings, first, tracker)
    with journals(Path.cwd() / settings.checkpoints.directory) as known:
        earlier = look_back(known, settings, identity, tracker)
        if earlier.ended:
            print_ended(console, settings, earlier.ended, tracker)
            return ComparisonOutcome(earlier.ended.run_id, [], [])
        arms, left_out = runnable(settings, first)
        tags = {key: value for key, value in (tags or {}).items() if key != "schedule"}
        with opened_run(
            known,
            earlier,
            identity,
            settings,
            tracker,
            console,
            name=account.run_name(settings, first),
            parameters=account.parameters(settings, first),
            tags=tags | {"kind": "comparison"},
            run_directory=run_directory,
            command=command,
        ) as (run, journal):
            directory = journal.run_directory
            memory = Memory(journal, others(known, settings, identity, run.run_id))
            work = Work(settings, arms, run, memory, console, len(every) * len(arms), began)
            account.record_start(console, run, settings, first, arms, left_out)
            account.print_adopted(console, earlier)
            for repetition in every:
                again = repetition is not every[0]
                start = prepare(repetition.settings, tracker, command, read=read) if again else first
                _repeat(work, repetition, start)
            _test(work, first)
            comparisons = account.in_words_of_data(_compare(work), first)
            account.record(run, work.results, comparisons)
            # From here on nothing that fails may cost what was found.
            recommended = work.recommended(comparisons[-1])
            look = look_closely(work, recommended, first)
            best = attempt(
                "keeping the recommended network",
                lambda: work.keep(recommended, directory / "best.keras", first),
            )
            notes = (*left_out, *work.notes)
            material = account.material(work, first, notes, comparisons, look, work.seconds)
            report = account.record_report(run, directory, material)
        if best is not None:  # else the same command tries again
            journal.finish(account.outcome_of(comparisons, report))
            work.remove_networks()
    account.print_outcome(console, settings, tracker, material, report, best)
    return ComparisonOutcome(run.run_id, work.results, comparisons)


def _repeat(work: Work, repetition: Repetition, start: Start) -> None:
    """Train one baseline, unless it is there, and every arm from it that has not ended."""
    work.begin(repetition, start)
    keys = Keys(start, work.memory.code)
    baseline = work.baseline(repetition, start, keys)
    networks = work.networks = Networks(work.directory, repetition, start, baseline)
    for name, arm in list(work.arms.items()):
        settings = settings_of(repetition.settings, arm, None)
        path = work.file(f"{name}_s{repetition.seed}_{repetition.labels or 'all'}")
        rates = work.rates(name, arm, repetition)
        key = keys.of(settings, baseline.digest, rates, work.all_rates(arm))
        known = work.memory.find(path.stem, key)
        parameters = account.parameters_of(repetition, arm)
        if known is not None and known.origin is None:
            made = work.remembered(name, repetition, known, path)
            work.finish(name, repetition, made, work.ended_run(name, parameters), "had ended")
            continue
        with work.recording(name, parameters) as run:
            if known is not None:
                made = work.remembered(name, repetition, known, path)
            else:
                made = _run_arm(work, networks, keys, name, arm, path)
            before = networks.begun(Procedure(settings, start, work.silent))
            work.record(made, before, run, known.origin if known else None)
        work.keep_entry(
            key, made, path, [_rate_file(path, number) for number in range(len(work.all_rates(arm)))]
        )
        work.finish(name, repetition, made, run, f"from run {known.origin}" if known else "")


def _run_arm(
    work: Work, networks: Networks, keys: Keys, name: str, arm: ArmSettings, path: Path
) -> Done | StageError:
    """Try the arm's learning rates and keep the best on the validation images; the error where all ran away."""
    repetition = networks.repetition
    kept: Attempt | None = None
    failure = "nothing was tried"
    tried: list[RateTried] = []
    seconds = 0.0
    rates = work.rates(name, arm, repetition)
    # A rate that another seed chose may run away here: then this one tries them all.
    for number, rate in enumerate([*rates, *(each for each in work.all_rates(arm) if each not in rates)]):
        if number >= len(rates) and kept is not None:
            break
        settings = settings_of(repetition.settings, arm, rate)
        made = attempt_rate(work, networks, keys, settings, rate, _rate_file(path, number))
        seconds += made.seconds
        if made.reached is None:
            failure = made.failure
            work.console.print(f"  {name} at learning rate {rate:g}: {failure}", soft_wrap=True)
            tried.append(RateTried(rate or 0.0, math.nan, math.nan))
            continue
        if rate is not None:
            scores = made.reached.validation
            tried.append(RateTried(rate, scores.accuracy, scores.loss))
        if kept is None or made.rank > kept.rank:
            kept = made
    if kept is None or kept.reached is None:
        return StageError(failure)
    reached = kept.reached
    result = ArmResult(
        arm=name,
        seed=repetition.seed,
        labels=repetition.labels,
        baseline=networks.baseline.digest,
        learning_rate=kept.learning_rate,
        rates=tuple(tried) if len(tried) > 1 else (),
        trainable=reached.trained.trainable,
        steps=reached.trained.steps,
        seconds=seconds,
        kept=reached.stage,
        history=reached.trained.history,
        looks=reached.trained.looks,
        validation=reached.validation,
    )
    copy(kept.path, path)
    return Done(result, path, weights_digest(load_file(path, repetition.settings.model)))


def _rate_file(path: Path, number: int) -> Path:
    """Where the network of an arm's learning rate of this number lies until the arm has ended."""
    return path.with_stem(f"{path.stem}_rate{number}")


def _test(work: Work, start: Start) -> None:
    """Score what every arm left on the test images, which nothing has read before."""
    work.console.print(
        f"test: {len(work.done)} networks on {start.splits.test.size:,} {subject(start.splits.image_shape)}",
        soft_wrap=True,
    )
    procedure = Procedure(work.settings, start, work.silent)
    for number, done in enumerate(work.done):
        keras.utils.clear_session()
        scores = procedure.scores(load_file(done.path, work.settings.model), start.splits.test)
        work.done[number] = replace(done, result=replace(done.result, test=scores))
        if done.run is not None:
            done.run.log_test(scores)


def _compare(work: Work) -> list[Comparison]:
    descriptions = {name: arm.description for name, arm in work.arms.items()}
    return [
        compare(
            [result for result in work.results if result.labels == labels],
            reference=work.settings.comparison.reference,
            descriptions=descriptions,
            resamples=work.settings.comparison.bootstrap,
        )
        for labels in dict.fromkeys(result.labels for result in work.results)
    ]
