"""Processes that are stopped while a run begins, or anywhere in it, when they are about to write something."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bnadapt.config import TrackingSettings
from bnadapt.errors import TrackingError
from bnadapt.tracking.beginning import beginning
from bnadapt.tracking.delivery import deliver
from bnadapt.tracking.sending import children
from bnadapt.tracking.store import Tracker
from tests.tracking.stopped import IDENTITY

FEW = (8, 13, 17, 19, 30)
MANY = range(1, 46, 3)


def stop(uri: str, directory: Path, numbers: Sequence[int], how: str) -> None:
    program = Path(__file__).with_name("stopped.py")
    words = [sys.executable, str(program), uri, str(directory), json.dumps(list(numbers)), how]
    subprocess.run(words, check=True, timeout=900)


def stopped(tracker: Tracker, directory: Path, numbers: Sequence[int], how: str = "killed") -> list[Tracker]:
    """Processes that were stopped, each in a working directory of its own; a tracker for each of these."""
    stop(tracker.uri, directory, numbers, how)
    settings = TrackingSettings(uri=tracker.uri, system_metrics=False)
    return [Tracker(settings, directory / str(number)) for number in numbers]


def runs_of(tracker: Tracker, names: Sequence[str]) -> dict[str, str]:
    found = tracker.client.search_runs([tracker.experiment_id], max_results=1000)
    return {run.info.run_id: run.info.status for run in found if run.info.run_name in names}


@pytest.fixture
def fresh(tmp_path: Path) -> Tracker:
    return Tracker(TrackingSettings(system_metrics=False), tmp_path)


@pytest.mark.fault(
    "process: killed at each of the first writes of a run, then gone on with",
    "one run at the top level, finished",
)
@pytest.mark.parametrize("numbers", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_run_that_had_only_begun_is_gone_on_with(
    numbers: Sequence[int], fresh: Tracker, tmp_path: Path
) -> None:
    found = 0
    for tracker in stopped(fresh, tmp_path, numbers):
        begun = tracker.begun(IDENTITY)
        found += begun is not None
        assert tracker.begun("another") is None
        with tracker.pipeline("begun", identity=IDENTITY, resume=begun) as run:
            assert begun in (None, run.run_id)
    assert 0 < found < len(numbers)
    runs = runs_of(fresh, ["begun"])
    assert len(runs) == len(numbers)
    assert set(runs.values()) == {"FINISHED"}


@pytest.mark.fault(
    "process: killed at each of the first writes of a run, and another one started there",
    "none counts as running for ever; nothing stays on the disk",
)
@pytest.mark.parametrize("numbers", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_run_that_had_only_begun_is_marked_as_killed(
    numbers: Sequence[int], fresh: Tracker, tmp_path: Path
) -> None:
    for tracker in stopped(fresh, tmp_path, numbers):
        unsent = tracker.unsent
        for folder in unsent.glob("begins-*"):  # as if it had been a minute ago
            os.utime(folder, (0, 0))
        with tracker.pipeline("another"):
            pass
        assert not unsent.exists()
    killed = runs_of(fresh, ["begun"])
    assert 0 < len(killed) < len(numbers)
    assert set(killed.values()) == {"KILLED"}


@pytest.mark.fault(
    "process: Ctrl-C at each thing that is written of a run and its stages",
    "all of its runs are marked as killed or finished, each there once; nothing stays on the disk",
)
@pytest.mark.parametrize(
    "numbers",
    [(21, 40, 69), pytest.param(range(1, 75, 3), marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_an_interrupt_anywhere_leaves_no_run_that_counts_as_running(
    numbers: Sequence[int], fresh: Tracker, tmp_path: Path
) -> None:
    trackers = stopped(fresh, tmp_path, numbers, "interrupted")
    assert_all_ended(trackers, numbers)


@pytest.mark.fault(
    "process: killed while the tracking store's tables are made",
    "the next start makes them anew; nothing stays of the half",
)
def test_a_store_that_was_half_made_is_made_anew(tmp_path: Path) -> None:
    numbers = (30, 70)
    stop("", tmp_path, numbers, "killed creating")
    for number in numbers:
        place = tmp_path / str(number)
        assert (place / "mlflow.db").stat().st_size == 0
        with pytest.raises(TrackingError, match="there is no such store"):
            deliver(TrackingSettings(), place)
        tracker = Tracker(TrackingSettings(system_metrics=False), place)
        with tracker.pipeline("after it"):
            pass
        assert set(runs_of(tracker, ["after it"]).values()) == {"FINISHED"}


@pytest.mark.fault(
    "process: Ctrl-C in the middle of a call to the tracking store's database",
    "the call ends first; all of the runs are marked as killed or finished",
)
def test_an_interrupt_in_an_open_transaction_does_not_lock_the_store(fresh: Tracker, tmp_path: Path) -> None:
    numbers = (5, 9, 35, 55, 60)  # each of these locked it
    assert_all_ended(stopped(fresh, tmp_path, numbers, "interrupted reading"), numbers)
    for number in numbers:
        assert set(runs_of(fresh, [f"interrupted {number}"]).values()) == {"KILLED"}, number


def assert_all_ended(trackers: Sequence[Tracker], numbers: Sequence[int]) -> None:
    """None of the runs that ``stopped`` recorded counts as running, and each is there once."""
    for number, tracker in zip(numbers, trackers, strict=True):
        filter_ = f"attributes.run_name = 'interrupted {number}'"
        pipelines = tracker.client.search_runs([tracker.experiment_id], filter_)
        assert len(pipelines) <= 1
        runs = [*pipelines]
        for pipeline in pipelines:
            runs += children(tracker.client, tracker.experiment_id, pipeline.info.run_id)
        names = [run.info.run_name for run in runs]
        assert len(set(names)) == len(names), number
        assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}, (number, names)
        if tracker.unsent.exists():  # interrupted when all was recorded, and about to be tidied up
            with tracker.pipeline("another") as run:
                assert run.cut_off == ()
            assert not tracker.unsent.exists(), number


def test_a_run_that_begins_elsewhere_just_now_is_left_alone(fresh: Tracker, tmp_path: Path) -> None:
    with fresh.pipeline("lives", identity=IDENTITY) as run:
        assert fresh.begun(IDENTITY) is None
        other = Tracker(TrackingSettings(uri=f"sqlite:///{tmp_path}/other.db"), tmp_path)
        with beginning(fresh.unsent, fresh.uri, fresh.experiment_id, IDENTITY):
            for tracker in (fresh, other):
                with tracker.pipeline("another"):
                    pass
            assert len(list(fresh.unsent.iterdir())) == 2
        assert runs_of(fresh, ["lives"]) == {run.run_id: "RUNNING"}
    assert not fresh.unsent.exists()


def test_what_begins_in_another_store_stays(fresh: Tracker, tmp_path: Path) -> None:
    def interrupted() -> None:
        with beginning(fresh.unsent, "sqlite:///elsewhere.db", "1", IDENTITY):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert fresh.begun(IDENTITY) is None
    (folder,) = fresh.unsent.iterdir()
    assert "elsewhere" not in (folder / "begins.json").read_text(encoding="utf-8")


def test_what_cannot_be_read_of_another_beginning_keeps_no_run_from_its_work(
    fresh: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fresh.unsent / "begins-0123"
    folder.mkdir(parents=True)
    (folder / "begins.json").write_text("{", encoding="utf-8")
    with fresh.pipeline("another") as run:
        pass
    assert runs_of(fresh, ["another"]) == {run.run_id: "FINISHED"}
    assert f"{folder} is passed over: JSONDecodeError" in caplog.text
