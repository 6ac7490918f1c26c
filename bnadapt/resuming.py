"""Going on with runs that were interrupted, and finding what was done before."""

import hashlib
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras

from bnadapt.config import CheckpointSettings, Settings, names_a_run
from bnadapt.errors import StageError
from bnadapt.identity import stage_keys, whole
from bnadapt.journal import Identity, Journal, Journals
from bnadapt.normalization.proof import weights_digest
from bnadapt.secrets import redacted_values
from bnadapt.setting_keys import deciding_keys
from bnadapt.start import Start
from bnadapt.tracking.store import Tracker


@dataclass(frozen=True)
class Reusable:
    """Stages of another run that would be the same here.

    Attributes:
        journal: Of the other run.
        names: Of the stages.
        recorded: Whether the tracking store has that run, and with it the networks that the journal says are there.
    """

    journal: Journal
    names: list[str]
    recorded: bool


@dataclass(frozen=True)
class Earlier:
    """What earlier processes have done of a run.

    Attributes:
        journal: Of a run that does the same: to go on with, or ended; None where there is none.
        begun: Id of such a run that was cut off before it had a journal; None where there is none.
        reusable: Stages of another run that would be the same here; None without any.
    """

    journal: Journal | None = None
    begun: str | None = None
    reusable: Reusable | None = None

    @property
    def run_id(self) -> str | None:
        """Id of the run that is to be gone on with; None where one begins."""
        return self.journal.run_id if self.journal is not None else self.begun

    @property
    def ended(self) -> Journal | None:
        """The journal of a run that does the same and has ended; None where there is none."""
        return self.journal if self.journal is not None and self.journal.outcome is not None else None

    def tags(self, settings: Settings) -> dict[str, str]:
        """What the run is tagged with: the run that its first stages are from."""
        if self.reusable is None:
            return {"from_run": settings.from_run} if settings.from_run else {}
        return {"from_run": self.reusable.journal.run_id} if self.reusable.recorded else {}


def identity_of(settings: Settings, start: Start, tracker: Tracker) -> Identity:
    """What a run with these settings, data and code is."""
    structure = hashlib.sha256(start.network.to_json().encode()).hexdigest()
    devices = sorted({device.partition(":")[0] for device in keras.distribution.list_devices()})
    keys = stage_keys(
        settings,
        start.baseline,
        network=f"{weights_digest(start.network)} {structure} {devices}",
        source=start.source_splits.training_digest,
        target=start.splits.training_digest,
        test=start.splits.digest,
    )
    store = hashlib.sha256(f"{tracker.uri} {settings.tracking.experiment}".encode()).hexdigest()
    return Identity(store=store, keys=keys, rest=whole(settings))


def look_back(
    known: Journals,
    settings: Settings,
    identity: Identity,
    tracker: Tracker,
    *,
    also: tuple[str, ...] = (),
    parts: str = "stages",
) -> Earlier:
    """What earlier processes have done of a run, as far as ``resume`` asks for it.

    Args:
        known: Journals of earlier runs.
        settings: Checked settings.
        identity: What the run is.
        tracker: MLflow's store.
        also: How the keys of settings begin that decide here beside those that decide in a pipeline.
        parts: What the run consists of, for messages.

    Raises:
        StageError: ``resume`` names a run that is not there, was made with other settings, data or code, or is in
            progress elsewhere.
    """
    if settings.resume is None:
        return Earlier()
    if names_a_run(settings.resume):
        journal = known.named(settings.resume)
        if not identity.is_that_of(journal):
            raise _other(journal, settings, identity, also, parts)
        return Earlier(journal)
    found = known.find(identity)
    if found is not None and tracker.has_run(found.run_id):
        return Earlier(found)
    same = known.reusable(identity)
    return Earlier(
        begun=tracker.begun(identity.digest),
        reusable=None if same is None else Reusable(*same, recorded=tracker.has_run(same[0].run_id)),
    )


def command_to_go_on(run_id: str, settings: Settings) -> str:
    """The command that goes on with a run, ready for a shell."""
    place = settings.checkpoints.directory
    other = [] if place == CheckpointSettings().directory else [f"checkpoints.directory={place}"]
    return shlex.join([os.environ.get("BNADAPT_COMMAND", "bnadapt"), f"resume={run_id}", *other])


def _other(
    journal: Journal, settings: Settings, identity: Identity, also: tuple[str, ...], parts: str
) -> StageError:
    """What says in which settings a run differs from the one of a journal."""
    before, now = _flat(journal.settings), _flat(redacted_values(asdict(settings)))
    every = sorted({*before, *now})
    changed = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in [*deciding_keys(every), *(key for key in every if key.startswith(also))]
        if before.get(key) != now.get(key)
    ]
    if journal.content["identity"]["store"] != identity.store:
        changed.append("it was recorded in another tracking store or experiment")
    more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
    what = (
        "; ".join(changed[:4]) + more or "the data, the network's file or bnadapt's code have changed since"
    )
    return StageError(
        f"resume={journal.run_id}: that run cannot be gone on with like this: {what}. bnadapt resume="
        f"{journal.run_id} alone takes its own settings; resume=true takes over whatever {parts} are still the same"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
