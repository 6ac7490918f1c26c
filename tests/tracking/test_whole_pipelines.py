"""Whole pipelines, as processes of their own, with a server that goes away, and beside each other."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bnadapt.config import TrackingSettings
from bnadapt.tracking.store import Tracker
from tests.command import QUICK, Finished
from tests.interrupted import Left, comparable, ended_in, left, steps_that_repeat
from tests.tracking.conftest import Server
from tests.warm import bnadapt, start

WORDS = ["data.batch_size=16", "model.dropout=0.2", "evaluation.control=false", *QUICK]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """What the same pipeline leaves without a server."""
    finished = bnadapt(*WORDS, cwd=tmp_path_factory.mktemp("local"))
    assert finished.code == 0, finished.errors
    return left(finished.directory)


@pytest.fixture
def remote(tmp_path: Path) -> "tuple[Server, Path]":
    """A server that does not run yet, on a store of its own, and the file of that store."""
    (tmp_path / "server").mkdir()
    tracker = Tracker(TrackingSettings(), tmp_path / "server")
    return Server(tracker.uri, tmp_path / "server"), tmp_path / "server" / "mlflow.db"


def wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_nothing_is_missing(found: Left, local: Left) -> None:
    assert found.weights == local.weights
    assert comparable(found.metrics) == comparable(local.metrics)
    assert not steps_that_repeat(found.metrics)
    assert set(found.statuses.values()) == {"FINISHED"}
    assert found.parents == 1


@pytest.mark.slow
@pytest.mark.fault(
    "store: a server killed under a pipeline, back two stages later", "the pipeline goes on; all arrives"
)
def test_a_server_that_is_killed_under_a_pipeline_and_comes_back(
    remote: "tuple[Server, Path]", local: Left, tmp_path: Path
) -> None:
    server, store = remote
    server.start()
    try:
        process = start(*WORDS, f"tracking.uri={server.address}", cwd=tmp_path)
        wait(lambda: "baseline" in ended_in(tmp_path))
        server.stop()
        wait(lambda: "adapt" in ended_in(tmp_path))
        server.start()
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        again = bnadapt("deliver", f"tracking.uri={server.address}", cwd=tmp_path)
        assert again.code == 0, again.errors
    finally:
        server.stop()
    assert "The tracking store does not take" in errors, output
    assert_nothing_is_missing(left(tmp_path, store), local)


@pytest.mark.slow
@pytest.mark.fault(
    "store: a server killed under a pipeline for good",
    "the pipeline goes on; the printed command delivers all later",
)
def test_a_server_that_is_killed_for_good_gets_all_later(
    remote: "tuple[Server, Path]", local: Left, tmp_path: Path
) -> None:
    server, store = remote
    server.start()
    try:
        process = start(*WORDS, f"tracking.uri={server.address}", cwd=tmp_path)
        wait(lambda: "baseline" in ended_in(tmp_path))
        server.stop()
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        (said,) = [line for line in errors.splitlines() if "this delivers: " in line]
        words = shlex.split(said.partition("this delivers: ")[2])
        assert words[:3] == ["cd", str(tmp_path), "&&"]
        server.start()
        delivered = bnadapt(*words[4:], cwd=tmp_path)
        assert delivered.code == 0, delivered.errors
    finally:
        server.stop()
    assert_nothing_is_missing(left(tmp_path, store), local)


@pytest.mark.slow
@pytest.mark.fault("store: two pipelines at once on one SQLite store", "both record everything")
def test_two_pipelines_at_once_on_one_store(local: Left, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    store = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    for folder in folders:
        folder.mkdir()
    processes = [start(*WORDS, store, cwd=folder) for folder in folders]
    ends = [(*process.communicate(), process.returncode) for process in processes]
    for folder, (output, errors, code) in zip(folders, ends, strict=True):
        assert code == 0, errors
        finished = Finished(folder, output, errors, code)
        found = left(folder, tmp_path / "mlflow.db", parent=finished.run_id)
        assert_nothing_is_missing(found, local)
