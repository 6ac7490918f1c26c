"""The comparison, in order: repetitions with their baselines and arms, then the test images, then the choice."""

import math
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import yaml
from rich.console import Console

from bnadapt.artifacts import attempt
from bnadapt.comparison import account
from bnadapt.comparison.arms import Repetition, repetitions, runnable, settings_of
from bnadapt.comparison.look import look_closely
from bnadapt.comparison.work import Done, Networks, Reader, Work
from bnadapt.config import BASELINE, STATISTICS, ArmSettings, Settings
from bnadapt.errors import StageError
from bnadapt.evaluation.arms import ArmResult, Comparison, RateTried
from bnadapt.evaluation.compare import compare
from bnadapt.evaluation.results import Scores
from bnadapt.evaluation.verdict import rank_of
from bnadapt.procedure import Listener, Procedure
from bnadapt.start import Start, prepare
from bnadapt.tracking.store import Tracker
from bnadapt.training.fit import Trained
from bnadapt.training.progress import Display


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
        run_directory: Gets the recommended network, the report and its plots.
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
    arms, left_out = runnable(settings, first)
    with tracker.pipeline(
        account.run_name(settings, first),
        parameters=account.parameters(settings, first),
        tags={key: value for key, value in (tags or {}).items() if key != "schedule"}
        | {"kind": "comparison"},
        config_yaml=yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True),
        command=shlex.join(command),
    ) as run:
        work = Work(settings, arms, run, run_directory / "models", console, len(every) * len(arms))
        account.record_start(console, run, settings, first, arms, left_out)
        for repetition in every:
            start = (
                first if repetition is every[0] else prepare(repetition.settings, tracker, command, read=read)
            )
            _repeat(work, repetition, start)
        _test(work, first)
        comparisons = _compare(work)
        account.record(run, work.results, comparisons)
        # From here on nothing that fails may cost what was found.
        recommended = work.recommended(comparisons[-1])
        look = look_closely(work, recommended, first)
        best = attempt(
            "keeping the recommended network",
            lambda: work.keep(recommended, run_directory / "best.keras", first),
        )
        seconds = time.monotonic() - began
        material = account.material(work, first, (*left_out, *work.notes), comparisons, look, seconds)
        report = account.record_report(run, run_directory, material)
    account.print_outcome(console, settings, tracker, material, report, best)
    return ComparisonOutcome(run.run_id, work.results, comparisons)


def _repeat(work: Work, repetition: Repetition, start: Start) -> None:
    """Train one baseline, unless it is there, and every arm from it."""
    work.begin(repetition, start)
    procedure = Procedure(repetition.settings, start, Display(work.console, work.settings.progress))
    baseline = work.baseline(repetition, start, procedure)
    networks = Networks(work.directory, baseline, start)
    for name, arm in list(work.arms.items()):
        with work.recording(name, account.parameters_of(repetition, arm)) as run:
            result = _run_arm(work, networks, repetition, start, name, arm)
            if isinstance(result, Done):
                work.finish(
                    replace(result, run=run), networks.begun(settings_of(repetition.settings, arm, None))
                )
            else:
                work.leave_out(name, repetition, result, run)


def _run_arm(
    work: Work, networks: Networks, repetition: Repetition, start: Start, name: str, arm: ArmSettings
) -> Done | StageError:
    """Try the arm's learning rates and keep the best on the validation images; the error where all ran away."""
    began = time.monotonic()
    kept: _Attempt | None = None
    failure = StageError(f"arm {name}: nothing was tried")
    tried: list[RateTried] = []
    rates = work.rates(name, arm, repetition)
    # A rate that another seed chose may run away here: then this one tries them all.
    for number, rate in enumerate([*rates, *(each for each in work.all_rates(arm) if each not in rates)]):
        if number >= len(rates) and kept is not None:
            break
        settings = settings_of(repetition.settings, arm, rate)
        try:
            made = _attempt(work, networks, settings, start, rate, work.file(f"try{number}"))
        except StageError as error:  # it ran away; the others have not
            work.console.print(f"  {name} at learning rate {rate:g}: {error}", soft_wrap=True)
            tried.append(RateTried(rate or 0.0, math.nan, math.nan))
            failure = error
            continue
        if rate is not None:
            tried.append(RateTried(rate, made.validation.accuracy, made.validation.loss))
        if kept is None or made.rank > kept.rank:
            kept = made
    if kept is None:
        return failure
    result = ArmResult(
        arm=name,
        seed=repetition.seed,
        labels=repetition.labels,
        baseline=networks.baseline.digest,
        learning_rate=kept.learning_rate,
        rates=tuple(tried) if len(tried) > 1 else (),
        trainable=kept.trained.trainable,
        steps=kept.trained.steps,
        seconds=time.monotonic() - began,
        kept=kept.stage,
        history=kept.trained.history,
        looks=kept.trained.looks,
        validation=kept.validation,
    )
    path = work.file(f"{name}_s{repetition.seed}_{repetition.labels or 'all'}")
    kept.path.replace(path) if kept.path.stem.startswith("try") else shutil.copyfile(kept.path, path)
    return Done(result, path)


@dataclass(frozen=True)
class _Attempt:
    """One arm at one learning rate."""

    learning_rate: float | None
    stage: str
    trained: Trained
    validation: Scores
    path: Path

    @property
    def rank(self) -> tuple[float, float]:
        return rank_of(self.validation)


def _attempt(
    work: Work, networks: Networks, settings: Settings, start: Start, rate: float | None, path: Path
) -> _Attempt:
    """Do the arm's stages one after the other; the best of them by validation is left in the file."""
    keras.utils.clear_session()  # else every network that was ever trained stays in memory
    procedure = Procedure(settings, start, work.silent)
    begin = networks.inserted(procedure)
    stage, scores = BASELINE, networks.scores[begin]
    trained = Trained(0, (), 0, 0, ())
    if not settings.schedule:
        return _Attempt(rate, stage, trained, scores, begin)
    network = keras.saving.load_model(begin, compile=False)
    best: Scores | None = None
    learns = any(how.train != [STATISTICS] for how in settings.schedule.values())
    for name, how in settings.schedule.items():
        trained = trained.then(procedure.train(network, name, how, Listener(), after=trained))
        if how.train == [STATISTICS] and learns:
            continue  # an arm that learns is judged by what it learned
        reached = procedure.scores(network, start.splits.validation)
        if best is None or rank_of(reached) > rank_of(best):
            stage, best = name, reached
            network.save(path)
    assert best is not None
    return _Attempt(rate, stage, trained, best, path)


def _test(work: Work, start: Start) -> None:
    """Score what every arm left on the test images, which nothing has read before."""
    work.console.print(
        f"test: {len(work.done)} networks on {start.splits.test.size:,} images", soft_wrap=True
    )
    procedure = Procedure(work.settings, start, work.silent)
    for number, done in enumerate(work.done):
        keras.utils.clear_session()
        scores = procedure.scores(keras.saving.load_model(done.path, compile=False), start.splits.test)
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
