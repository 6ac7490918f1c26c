"""One arm at one learning rate: done, or remembered from a process that was interrupted."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from bnadapt.comparison.plain import Plain, plain_scores, scores_from
from bnadapt.config import BASELINE, STATISTICS, Settings
from bnadapt.errors import StageError
from bnadapt.evaluation.results import Scores
from bnadapt.evaluation.verdict import rank_of
from bnadapt.files import copy, save
from bnadapt.models.load import load_file
from bnadapt.procedure import Listener, Procedure
from bnadapt.training.fit import Trained
from bnadapt.training.trained import trained_from

if TYPE_CHECKING:
    from bnadapt.comparison.memory import Keys
    from bnadapt.comparison.origins import Networks
    from bnadapt.comparison.work import Work


@dataclass(frozen=True)
class Reached:
    """Where an arm came with one learning rate.

    Attributes:
        stage: The one whose network was kept.
        trained: What training did, all stages together.
        validation: Scores of the kept network on the validation images.
    """

    stage: str
    trained: Trained
    validation: Scores


@dataclass(frozen=True)
class Attempt:
    """One arm at one learning rate.

    Attributes:
        learning_rate: None for an arm that trains nothing by gradients.
        path: The file of the network that it left, or that it began with where it changes nothing.
        seconds: Wall time.
        reached: Where it came; None where it ran away.
        failure: How it ran away; empty where it did not.
    """

    learning_rate: float | None
    path: Path
    seconds: float
    reached: Reached | None
    failure: str = ""

    @property
    def rank(self) -> tuple[float, float]:
        """What attempts are chosen by; of one that did not run away."""
        assert self.reached is not None
        return rank_of(self.reached.validation)


def attempt_rate(
    work: "Work", networks: "Networks", keys: "Keys", settings: Settings, rate: float | None, path: Path
) -> Attempt:
    """Try one learning rate of an arm, unless it was tried before.

    Args:
        work: What the comparison has done so far.
        networks: What the arms of the repetition start from.
        keys: What its results depend on.
        settings: With which the procedure does what the arm says, at this rate.
        rate: The rate; None for an arm that trains nothing by gradients.
        path: Where the network shall lie.
    """
    key = keys.of(settings, networks.baseline.digest)
    known = None if rate is None else work.memory.find(path.stem, key)
    if known is not None:
        if "network" in known.content and known.origin is not None:
            copy(known.network, path)
        made = _attempt_from(known.content, rate, path)
    else:
        made = _attempt(work, networks, settings, rate, path)
    if rate is not None and (known is None or known.origin is not None):
        file = path if made.reached is not None else None
        work.memory.keep(path.stem, key, _plain(made), file, work.seconds)
    return made


def _attempt(
    work: "Work", networks: "Networks", settings: Settings, rate: float | None, path: Path
) -> Attempt:
    began = time.monotonic()
    try:
        reached, file = _do(work, networks, settings, path)
    except StageError as error:  # it ran away; others may not
        return Attempt(rate, path, time.monotonic() - began, None, str(error))
    return Attempt(rate, file, time.monotonic() - began, reached)


def _do(work: "Work", networks: "Networks", settings: Settings, path: Path) -> tuple[Reached, Path]:
    """Do the arm's stages one after the other; the best of them by validation is left in the file."""
    keras.utils.clear_session()  # else every network that was ever trained stays in memory
    start = networks.start
    procedure = Procedure(settings, start, work.silent)
    begin = networks.inserted(procedure)
    trained = Trained(0, (), 0, 0, ())
    if not settings.schedule:
        return Reached(BASELINE, trained, networks.scores[begin]), begin
    network = load_file(begin, settings.model)
    best: Reached | None = None
    learns = any(how.train != [STATISTICS] for how in settings.schedule.values())
    for name, how in settings.schedule.items():
        trained = trained.then(procedure.train(network, name, how, Listener(), after=trained))
        if how.train == [STATISTICS] and learns:
            continue  # an arm that learns is judged by what it learned
        scores = procedure.scores(network, start.splits.validation)
        if best is None or rank_of(scores) > rank_of(best.validation):
            best = Reached(name, trained, scores)
            save(network, path)
    assert best is not None
    return Reached(best.stage, trained, best.validation), path


def _plain(made: Attempt) -> Plain:
    if made.reached is None:
        return {"seconds": made.seconds, "failure": made.failure}
    return {
        "seconds": made.seconds,
        "stage": made.reached.stage,
        "trained": asdict(made.reached.trained),
        "validation": plain_scores(made.reached.validation),
    }


def _attempt_from(plain: Mapping[str, Any], rate: float | None, path: Path) -> Attempt:
    if "failure" in plain:
        return Attempt(rate, path, plain["seconds"], None, plain["failure"])
    reached = Reached(plain["stage"], trained_from(plain["trained"]), scores_from(plain["validation"]))
    return Attempt(rate, path, plain["seconds"], reached)
