"""What earlier processes have done of a comparison: found by what it depends on, and kept as soon as it ends."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnadapt import resuming
from bnadapt.config import BASELINE, INSERT, PlacementSettings, Settings, StageSettings, inserts, names_a_run
from bnadapt.identity import code_digest, hash_of, stage_keys
from bnadapt.journal import Identity, Journal, Journals
from bnadapt.normalization.proof import weights_digest
from bnadapt.resuming import Earlier
from bnadapt.setting_keys import settings_by_key
from bnadapt.start import Start
from bnadapt.tracking.store import Tracker


def identity_of(settings: Settings, first: Start, tracker: Tracker) -> Identity:
    """What a comparison is.

    Its single arms are found by :class:`Keys`, which are known only when their repetition begins.

    Args:
        settings: Checked settings.
        first: What the first repetition starts from.
        tracker: Where it is recorded.
    """
    alike = resuming.identity_of(settings, first, tracker)
    values = settings_by_key(settings.comparison)
    own = {key: repr(getattr(holder, each.name)) for key, (holder, each) in values.items()}
    return Identity(store=alike.store, keys={}, rest=hash_of([alike.rest, dict(alike.keys), own]))


def look_back(known: Journals, settings: Settings, identity: Identity, tracker: Tracker) -> Earlier:
    """What earlier processes have done of a comparison, as far as ``resume`` asks for it.

    Raises:
        StageError: ``resume`` names a run that is not there, was made with other settings, data or code, or is in
            progress elsewhere.
    """
    return resuming.look_back(known, settings, identity, tracker, also=("comparison.",), parts="arms")


class Keys:
    """Hashes of everything that the results of one repetition depend on."""

    def __init__(self, start: Start, code: str) -> None:
        """Make them before the baseline trains, which changes the network.

        Args:
            start: What the repetition starts from.
            code: Digest of the code that was there when the process began; a checkout may change meanwhile.
        """
        structure = hashlib.sha256(start.network.to_json().encode()).hexdigest()
        self._network = f"{weights_digest(start.network)} {structure}"
        self._start = start
        self._code = code

    def of_baseline(self, settings: Settings) -> str:
        """Of the trained baseline, which sees the target's labels only where they are its own, or its head is new."""
        sees_target = not self._start.transfers or self._start.new_head_for_target
        target = self._start.splits.training_digest if sees_target else ""
        return hash_of([self._stages(settings, target)[BASELINE], self._code])

    def of(self, settings: Settings, *more: object) -> str:
        """Of what the procedure leaves with the settings of an arm, and of whatever else it depends on."""
        if not inserts(settings.placement):
            # What is not inserted depends on no setting of it; the samples are in every key.
            settings = replace(
                settings,
                placement=PlacementSettings(position="none"),
                insertion=replace(type(settings.insertion)(), samples=settings.insertion.samples),
            )
        keys = self._stages(settings, self._start.splits.training_digest)
        return hash_of([keys[[INSERT, *settings.schedule][-1]], self._code, more])

    def _stages(self, settings: Settings, target: str) -> dict[str, str]:
        baseline: StageSettings = self._start.baseline
        source = self._start.source_splits.training_digest
        return stage_keys(settings, baseline, network=self._network, source=source, target=target, test="")


@dataclass(frozen=True)
class Entry:
    """What the journal of a comparison says of a baseline, an arm, or an arm at one learning rate.

    Attributes:
        content: What it left.
        origin: Id of the other comparison that did it; None where it was this one.
    """

    content: Mapping[str, Any]
    origin: str | None = None

    @property
    def network(self) -> Path:
        """The file of the network."""
        return Path(self.content["network"])


class Memory:
    """What has ended of a comparison, on the disk.

    Attributes:
        journal: Of this comparison.
        seconds_before: Wall time of the processes before this one, up to what ended last.
    """

    def __init__(self, journal: Journal, others: Sequence[Journal] = ()) -> None:
        """Remember in a journal; what is the same in others, which have not ended, can be taken over."""
        self.journal = journal
        self.seconds_before = max((each["elapsed"] for each in journal.ended.values()), default=0.0)
        self.code = code_digest()
        self._others = others

    def find(self, name: str, key: str) -> Entry | None:
        """What depends on the same, in this comparison under its name, in others under any; None where nothing does.

        An entry whose network is not to the last byte what was written is none.
        """
        own = self.journal.ended.get(name)
        if own is not None and own["key"] == key and _is_whole(own):
            return Entry(own)
        for other in self._others:
            for entry in other.ended.values():
                if entry.get("key") == key and _is_whole(entry):
                    return Entry(entry, other.run_id)
        return None

    def keep(
        self, name: str, key: str, content: Mapping[str, Any], network: Path | None, elapsed: float
    ) -> None:
        """Write down what has ended.

        Args:
            name: Of the baseline, arm, or arm at one learning rate.
            key: Hash of what it depends on.
            content: What it left, as JSON can hold it.
            network: The file of its network; None where it left none.
            elapsed: Seconds since the comparison began, those of earlier processes included.
        """
        file = None if network is None else {"network": str(network.absolute()), "sha256": _sha256(network)}
        self.journal.end_stage(name, {"key": key, **(file or {}), **content, "elapsed": elapsed})

    def forget(self, names: Sequence[str]) -> None:
        """Leave out entries, as those of single learning rates, from what is written next."""
        for name in names:
            self.journal.content["ended"].pop(name, None)


def others(known: Journals, settings: Settings, identity: Identity, run_id: str) -> list[Journal]:
    """The journals of other unfinished runs in the same store, where ``resume=true`` allows to take over from them."""
    if settings.resume is None or names_a_run(settings.resume):
        return []
    return [
        journal
        for journal in known.unfinished()
        if journal.run_id != run_id and journal.content["identity"]["store"] == identity.store
    ]


def _is_whole(entry: Mapping[str, Any]) -> bool:
    if "network" not in entry:
        return True
    try:
        return _sha256(Path(entry["network"])) == entry["sha256"]
    except OSError:
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
