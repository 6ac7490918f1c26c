"""The study of a search in Optuna's storage: opened by one process, gone on with after a crash, never mixed."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bnadapt.config import Settings
from bnadapt.errors import SettingsError
from bnadapt.locking import HeldElsewhereError, locked
from bnadapt.setting_keys import settings_by_key

SQLITE = "sqlite:///"
IDENTITY, STANDING, BASELINE_DIGEST, BASELINE_ACCURACY, RUN = (
    "identity", "standing", "baseline", "baseline_accuracy", "run_id",
)  # fmt: skip
SECONDS_FOR_TABLES = 60.0
# What may change between two processes that work on one study: nothing of it changes what a trial does.
_UNRELATED = (
    "search.trials", "search.study", "search.storage", "search.pruning", "tracking.", "comparison.", "evaluation.",
    "progress", "traceback", "data.dir", "data.path", "data.download", "data.memory_limit", "baseline_data.dir",
    "baseline_data.path", "baseline_data.download", "baseline_data.memory_limit", "model.path", "model.patch",
)  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """One finished trial.

    Attributes:
        place: Its number among the finished trials, from 1; 0 for the settings as they stand outside the space.
        values: What it tried, by the keys of the settings.
        state: ``complete``, ``pruned`` or ``failed``.
        accuracy: On the validation images, 0 to 1: of its best stage, of a pruned trial the best that was seen;
            None where it failed.
        loss: Mean cross-entropy on the validation images of its best stage, nats; None where it did not end.
        stage: Its best stage by validation; empty where it did not end.
        seconds: Wall time.
        error: Why it failed, or an empty text.
        score: What Optuna maximizes; None where it did not end.
    """

    place: int
    values: dict[str, Any]
    state: str
    accuracy: float | None = None
    loss: float | None = None
    stage: str = ""
    seconds: float = 0.0
    error: str = ""
    score: float | None = None


def identity(settings: Settings, digests: Mapping[str, str]) -> dict[str, str]:
    """What two searches must agree in for their trials to be comparable: settings, space, data, first network."""
    # Ranges are no settings of a run: their names and limits are written out whole.
    found = {f"search.space.{name}": str(asdict(each)) for name, each in settings.search.space.items()}
    for key, (holder, field) in settings_by_key(settings).items():
        if not key.startswith((*_UNRELATED, "search.")):
            found[key] = str(getattr(holder, field.name))
    return found | dict(digests)


def study_name(settings: Settings, who: Mapping[str, str], data: str) -> str:
    """The study's name: the one asked for, else made of data, network and a hash of everything that counts."""
    if settings.search.study:
        return settings.search.study
    digest = hashlib.sha256(json.dumps(dict(who), sort_keys=True).encode()).hexdigest()
    return re.sub(r"[^\w.-]+", "_", f"{data}-{settings.model.kind}-{digest[:8]}")


def storage_url(storage: str, working_directory: Path) -> str:
    """Optuna's storage, a SQLite file made absolute below ``working_directory``."""
    if not storage.startswith(SQLITE):
        return storage
    path = working_directory.absolute() / Path(storage.removeprefix(SQLITE)).expanduser()
    return f"{SQLITE}{path.as_posix()}"


def folder_of(url: str, name: str, working_directory: Path) -> Path:
    """Where the files of a study lie: ``search/NAME`` beside ``search.db``; below the working directory for servers."""
    beside = (
        Path(url.removeprefix(SQLITE)).with_suffix("")
        if url.startswith(SQLITE)
        else working_directory / "search"
    )
    return beside / re.sub(r"[^\w.-]+", "_", name)


@contextmanager
def opened(
    settings: Settings, name: str, who: Mapping[str, str], url: str, folder: Path
) -> Iterator[optuna.Study]:
    """The study while the block lasts, new or with the trials that were there; nobody else works on it meanwhile.

    Raises:
        SettingsError: the storage cannot be used, the study is of other settings, or another process works on it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    busy = (
        f"search.study={name}: another process is searching in it; wait for its end, or take another name: "
        "search.study=NAME"
    )
    with _alone(folder / ".lock", busy, patience=0.0):
        try:
            if url.startswith(SQLITE):
                Path(url.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            with _alone(
                folder.parent / ".lock", f"search.storage: {url} is locked", patience=SECONDS_FOR_TABLES
            ):
                study = optuna.create_study(
                    storage=url, study_name=name, direction="maximize", load_if_exists=True
                )
        except SettingsError:
            raise
        except Exception as error:  # SQLAlchemy, Alembic and drivers raise what they like
            cause = str(error).splitlines()[0].rstrip(" .") if str(error) else type(error).__name__
            raise SettingsError(
                f"search.storage={settings.search.storage}: the storage cannot be used: {cause}. "
                "Name a file: search.storage=sqlite:///search.db"
            ) from error
        _require_the_same(study, name, who)
        yield study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: they ended, were pruned, or failed by themselves; not those that a crash cut off."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=ended)
        if trial.state is not TrialState.FAIL or "error" in trial.user_attrs
    ]


def tried(study: optuna.Study) -> list[Tried]:
    """The finished trials in the order in which they were drawn."""
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    found = []
    for trial in finished(study):
        known = {key: value for key, value in trial.user_attrs.items() if key in Tried.__dataclass_fields__}
        score = trial.value if trial.state is TrialState.COMPLETE else None
        found.append(Tried(**known, state=states[trial.state], score=score))
    return sorted(found, key=lambda each: each.place)


def best_of(trials: list[Tried]) -> Tried | None:
    """The trial with the highest score, of equal ones the first; None where none ended."""
    ended = [each for each in trials if each.score is not None]
    return max(ended, key=lambda each: (each.score, -each.place)) if ended else None


def put_back(study: optuna.Study) -> list[FrozenTrial]:
    """Mark the trials that a crash cut off as failed and queue their values again; returns them.

    No other process works on the study, so that whatever still runs in the storage runs no longer.
    """
    cut_off = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in cut_off:
        drawn = trial.system_attrs.get("fixed_params") or trial.params
        # Queued before it is marked: a crash in between costs a repetition, the other order a trial.
        if drawn:
            study.enqueue_trial(dict(drawn))
        study.tell(trial.number, state=TrialState.FAIL)
    return cut_off


def _require_the_same(study: optuna.Study, name: str, who: Mapping[str, str]) -> None:
    before = study.user_attrs.get(IDENTITY)
    if before is None:
        study.set_user_attr(IDENTITY, dict(who))
        return
    keys = sorted({*before, *who})
    changed = [
        f"{key} was {before.get(key, 'not there')}, is {who.get(key, 'not there')}"
        for key in keys
        if before.get(key) != who.get(key)
    ]
    if changed:
        raise SettingsError(
            f"search.study={name}: its trials were made with other settings and cannot be compared with new ones: "
            f"{'; '.join(changed[:4])}{f'; and {len(changed) - 4} more' if len(changed) > 4 else ''}. "
            "Repeat those settings, or begin another study: search.study=NAME"
        )


@contextmanager
def _alone(file: Path, busy: str, *, patience: float) -> Iterator[None]:
    """Hold the lock in a file; a SettingsError says ``busy`` where another process has it."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(file, patience=patience))
        except HeldElsewhereError as error:
            raise SettingsError(busy) from error
        except OSError as error:
            raise SettingsError(
                f"search.storage: {file.parent} cannot be written: {error}. Name another place: "
                "search.storage=sqlite:////tmp/search.db"
            ) from error
        yield
