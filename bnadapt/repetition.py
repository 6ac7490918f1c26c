"""What a run left that was recorded, so that it can be done again and compared."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bnadapt.errors import TrackingError
from bnadapt.identity import code_digest
from bnadapt.tracking.names import PARENT, PROVENANCE, WEIGHTS
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.versions import versions


@dataclass(frozen=True)
class Recorded:
    """A run as it was recorded.

    Attributes:
        run_id: MLflow's id of it.
        settings: Its resolved configuration.
        provenance: Versions and hashes.
        weights: SHA-256 of the weights that each run below it left, by its name.
    """

    run_id: str
    settings: dict[str, Any]
    provenance: Mapping[str, Any]
    weights: Mapping[str, str]

    @property
    def data(self) -> dict[str, str]:
        """SHA-256 of the data, by their name."""
        return dict(self.provenance["data_sha256"])

    @property
    def command(self) -> list[str]:
        """The words that made it."""
        return list(self.provenance["command"])


def read(tracker: Tracker, run_id: str) -> Recorded:
    """A recorded run.

    Raises:
        TrackingError: there is no such run, or it was made by a bnadapt that did not record what it takes.
    """
    try:
        with tempfile.TemporaryDirectory() as directory:
            texts = [
                Path(tracker.client.download_artifacts(run_id, name, directory)).read_text(encoding="utf-8")
                for name in ("config.yaml", PROVENANCE)
            ]
    except Exception as error:  # stores and their clients raise what they like
        raise TrackingError(
            f"repeat={run_id}: {tracker.uri} has no run of this id with config.yaml and {PROVENANCE}: {error}. "
            "Name a whole pipeline's or comparison's run"
        ) from error
    return Recorded(run_id, yaml.safe_load(texts[0]), json.loads(texts[1]), weights_of(tracker, run_id))


def weights_of(tracker: Tracker, run_id: str) -> dict[str, str]:
    """SHA-256 of the weights that each run below a run left, by the name of that run."""
    parent = tracker.client.get_run(run_id)
    taken_over = {
        key.removeprefix(f"{WEIGHTS}/"): value
        for key, value in parent.data.tags.items()
        if key.startswith(f"{WEIGHTS}/")
    }
    children = tracker.client.search_runs(
        [parent.info.experiment_id],
        f"tags.`{PARENT}` = '{run_id}'",
        max_results=5000,
        order_by=["attributes.start_time ASC"],
    )
    return taken_over | {
        run.info.run_name: run.data.tags[WEIGHTS] for run in children if WEIGHTS in run.data.tags
    }


def differences(earlier: Recorded) -> list[str]:
    """What is not as it was when the run was made, apart from the data."""
    before, now = earlier.provenance["versions"], versions()
    found = [
        f"{name} was {before.get(name, 'not there')}, is {now.get(name, 'not there')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if not found and earlier.provenance["code_sha256"] != code_digest():
        found.append("bnadapt's code has changed")
    return found


def compare(tracker: Tracker, earlier: Recorded, run_id: str) -> tuple[list[str], bool]:
    """A line for each stage or arm on whether its weights are those of the earlier run, and whether all are."""
    done = read(tracker, run_id)
    again = done.weights
    lines = [
        f"the data {name} have changed: SHA-256 was {_short(before)}, is {_short(done.data.get(name))}"
        for name, before in earlier.data.items()
        if done.data.get(name) != before
    ]
    for name in {**earlier.weights, **again}:
        pair = earlier.weights.get(name), again.get(name)
        said = (
            "the same weights"
            if pair[0] == pair[1]
            else f"other weights: {_short(pair[0])}, now {_short(pair[1])}"
        )
        lines.append(f"{name}: {said}")
    return lines, bool(again) and dict(earlier.weights) == again


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
