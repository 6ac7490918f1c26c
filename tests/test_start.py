"""What a pipeline finds out before it trains anything."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bnadapt import start as bnadapt_start
from bnadapt.config import DataSettings, ModelSettings, Settings, StageSettings, TrackingSettings
from bnadapt.data.load import load
from bnadapt.data.splits import Splits
from bnadapt.start import prepare
from bnadapt.tracking.store import Tracker


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(TrackingSettings(), tmp_path)


def settings(**baseline_data: object) -> Settings:
    return Settings(
        data=DataSettings(name="digits"),
        baseline_data=DataSettings(name="digits", **baseline_data) if baseline_data else None,  # type: ignore[arg-type]
        model=ModelSettings(widths=[8]),
        schedule={"adapt": StageSettings(train=["batch_norm"])},
    )


def test_images_that_the_baseline_trains_on_are_told_of(tracker: Tracker) -> None:
    notes = prepare(settings(split_seed=1), tracker).notes
    (told,) = [note for note in notes if "among the training images of baseline_data (digits)" in note]
    assert told.startswith("validation: ")
    for same in (settings(), settings(shift="contrast")):
        assert not [note for note in prepare(same, tracker).notes if "baseline_data" in note]
    further = replace(settings(split_seed=1), stages=["baseline"])
    assert [note for note in prepare(further, tracker).notes if "among the training" in note] == [told]


def test_versions_are_those_at_the_beginning(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data are read after the programs' versions, and whoever changes the checkout later is not named."""
    checkout = tmp_path / "checkout"
    (checkout / "bnadapt" / "tracking").mkdir(parents=True)
    (checkout / "bnadapt" / "__init__.py").write_text("")

    def git(*words: str) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", *names, *words], cwd=checkout, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    ran = git("rev-parse", "HEAD")

    def read(data: DataSettings, shape: tuple[int, int, int]) -> Splits:
        git("commit", "-qm", "meanwhile", "--allow-empty")
        return load(data, shape)

    place = str(checkout / "bnadapt" / "tracking" / "versions.py")
    monkeypatch.setattr("bnadapt.tracking.versions.__file__", place)
    start = bnadapt_start.prepare(settings(), tracker, read=read)
    assert start.versions["commit"] == ran != git("rev-parse", "HEAD")
    assert {"bnadapt", "python", "keras", "tensorflow"} <= set(start.versions)
