"""The comparison, in order: repetitions with their baselines and arms, then the test images, then the choice."""

import gc
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import yaml
from rich.console import Console

from bnadapt.comparison import account
from bnadapt.comparison.arms import Repetition, repetitions, runnable, settings_of
from bnadapt.comparison.look import look_closely
from bnadapt.comparison.work import Networks, Reader, Work, rank_of
from bnadapt.config import BASELINE, ArmSettings, Settings
from bnadapt.errors import StageError
from bnadapt.evaluation.arms import ArmResult, Comparison, RateTried
from bnadapt.evaluation.compare import compare
from bnadapt.evaluation.results import Scores
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
        tags={**(tags or {}), "kind": "comparison"},
        config_yaml=yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True),
        command=shlex.join(command),
    ) as run:
        account.record_start(console, run, settings, first, arms, left_out)
        work = Work(settings, arms, run, run_directory / "models", console, len(every) * len(arms))
        for repetition in every:
            start = (
                first if repetition is every[0] else prepare(repetition.settings, tracker, command, read=read)
            )
            _repeat(work, repetition, start)
        _test(work, first)
        comparisons = _compare(work)
        recommended = work.recommended(comparisons[-1])
        look = look_closely(work, recommended, first)
        best = work.keep(recommended, run_directory / "best.keras", first)
        seconds = time.monotonic() - began
        material = account.material(
            run, settings, first, arms, left_out, work.results, comparisons, look, seconds
        )
        report = account.record(run, run_directory, material)
    account.print_outcome(console, settings, tracker, material, report, best)
    return ComparisonOutcome(run.run_id, work.results, comparisons)


def _repeat(work: Work, repetition: Repetition, start: Start) -> None:
    """Train one baseline, unless it is there, and every arm from it."""
    procedure = Procedure(repetition.settings, start, Display(work.console, work.settings.progress))
    baseline = work.baseline(repetition, start, procedure)
    networks = Networks(work.directory, baseline, start)
    for name, arm in work.arms.items():
        result, path = _run_arm(work, networks, repetition, start, name, arm)
        work.finish(result, path, networks.scores[baseline.path])


def _run_arm(
    work: Work, networks: Networks, repetition: Repetition, start: Start, name: str, arm: ArmSettings
) -> tuple[ArmResult, Path]:
    """Try the arm's learning rates and keep the best on the validation images."""
    began = time.monotonic()
    kept: _Attempt | None = None
    tried = []
    rates = work.rates(name, arm, repetition)
    for number, rate in enumerate(rates):
        settings = settings_of(repetition.settings, arm, rate)
        try:
            attempt = _attempt(work, networks, settings, start, rate, work.file(f"try{number}"))
        except StageError as error:  # it ran away; the others have not
            work.console.print(f"  {name} at learning rate {rate:g}: {error}", soft_wrap=True)
            tried.append(RateTried(rate or 0.0, math.nan, math.nan))
            continue
        if rate is not None:
            tried.append(RateTried(rate, attempt.validation.accuracy, attempt.validation.loss))
        if kept is None or attempt.rank > kept.rank:
            kept = attempt
    if kept is None:
        raise StageError(
            f"arm {name}: no learning rate of {list(rates)} kept the loss finite; try smaller ones, "
            f"comparison.learning_rates=[{min(rates, key=lambda rate: rate or 0) / 10:g}]"  # type: ignore[operator]
        )
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
    kept.path.replace(path) if kept.path.stem.startswith("try") else path.write_bytes(kept.path.read_bytes())
    return result, path


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
    gc.collect()
    procedure = Procedure(settings, start, work.silent)
    begin = networks.inserted(procedure)
    stage, scores = BASELINE, networks.scores[begin]
    trained = Trained(0, (), 0, 0, ())
    if not settings.schedule:
        return _Attempt(rate, stage, trained, scores, begin)
    network = keras.saving.load_model(begin, compile=False)
    best: Scores | None = None
    for name, how in settings.schedule.items():
        trained = trained.then(procedure.train(network, name, how, Listener(), after=trained))
        reached = procedure.scores(network, start.splits.validation)
        if best is None or rank_of(reached) > rank_of(best):
            stage, best = name, reached
            network.save(path)
    assert best is not None
    return _Attempt(rate, stage, trained, best, path)


def _test(work: Work, start: Start) -> None:
    """Score what every arm left on the test images, which nothing has read before."""
    work.console.print(
        f"test: {len(work.results)} networks on {start.splits.test.size:,} images", soft_wrap=True
    )
    procedure = Procedure(work.settings, start, work.silent)
    scores: dict[Path, Scores] = {}
    for number, result in enumerate(work.results):
        keras.utils.clear_session()
        network = keras.saving.load_model(work.paths[number], compile=False)
        scores[work.paths[number]] = procedure.scores(network, start.splits.test)
        work.results[number] = replace(result, test=scores[work.paths[number]])
        work.runs[number].log_test(scores[work.paths[number]])


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
