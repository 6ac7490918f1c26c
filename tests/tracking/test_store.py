"""Stores: created once by several processes, and given up in time."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bnadapt.config import TrackingSettings
from bnadapt.errors import TrackingError
from bnadapt.tracking.store import Tracker


def test_artifacts_lie_beside_the_store_whatever_the_working_directory(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Path(tracker.uri.removeprefix("sqlite:///"))
    monkeypatch.chdir(tmp_path)
    with tracker.pipeline("elsewhere") as run:
        run.log_text("note.txt", "here")
    written = list(store.parent.glob("mlartifacts/bnadapt/*/artifacts/note.txt"))
    assert [path.read_text() for path in written] == ["here"]
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_opened_again_with_its_experiment(tracker: Tracker) -> None:
    assert Tracker(TrackingSettings(uri=tracker.uri), Path("/")).experiment_id == tracker.experiment_id
    other = Tracker(TrackingSettings(uri=tracker.uri, experiment="birds/2026"), Path("/"))
    assert other.experiment_id != tracker.experiment_id
    assert other.client.get_experiment(other.experiment_id).artifact_location.endswith(
        "mlartifacts/birds_2026"
    )


def test_a_deleted_experiment_is_named_with_the_remedy(tracker: Tracker) -> None:
    gone = Tracker(TrackingSettings(uri=tracker.uri, experiment="gone"), Path("/"))
    gone.client.delete_experiment(gone.experiment_id)
    with pytest.raises(TrackingError, match=r"tracking\.experiment=gone was deleted") as caught:
        Tracker(TrackingSettings(uri=tracker.uri, experiment="gone"), Path("/"))
    assert f"mlflow experiments restore --experiment-id {gone.experiment_id}" in str(caught.value)


@pytest.mark.fault(
    "store: two processes on one new SQLite store at once",
    "both end; every value of both is there once",
)
def test_processes_that_create_the_store_at_once_and_write_to_it_lose_nothing(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from bnadapt.tracking.environment import prepare_environment\n"
        "prepare_environment(telemetry=False)\n"
        "from bnadapt.config import TrackingSettings\n"
        "from bnadapt.tracking.store import Tracker\n"
        f"tracker = Tracker(TrackingSettings(), Path({str(tmp_path)!r}))\n"
        "with tracker.pipeline('one of several') as run, run.stage('adapt', order=3) as stage:\n"
        "    for number in range(60):\n"
        "        stage.log_epoch(number, {'val_accuracy': number, 'loss': number})\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    tracker = Tracker(TrackingSettings(), tmp_path)
    runs = tracker.client.search_runs([tracker.experiment_id], "tags.stage = '3_adapt'")
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    for run in runs:
        for key in ("val_accuracy", "loss"):
            history = tracker.client.get_metric_history(run.info.run_id, key)
            assert sorted((each.step, each.value) for each in history) == [(n, n) for n in range(60)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlartifacts", "mlflow.db"]


@pytest.mark.fault(
    "store: a file that is no database",
    "refused within 5 seconds, with what would work",
)
def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("these are notes, not tables\n" * 100)
    started = time.monotonic()
    with pytest.raises(
        TrackingError, match=r"mlflow\.db cannot be written or is no SQLite database"
    ) as caught:
        Tracker(TrackingSettings(), tmp_path)
    assert "tracking.uri=sqlite:////tmp/mlflow.db" in str(caught.value)
    assert time.monotonic() - started < 5


def test_a_directory_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match="cannot be written"):
        Tracker(TrackingSettings(uri="sqlite:///file/mlflow.db"), tmp_path)


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


def refused(uri: str, directory: Path) -> str:
    started = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        Tracker(TrackingSettings(uri=uri), directory)
    assert time.monotonic() - started < 10
    return str(caught.value)


@pytest.mark.fault(
    "store: MLflow server down at the start",
    "refused within 10 seconds, before anything trains, with what would work",
)
def test_an_absent_server_is_given_up_within_ten_seconds(tmp_path: Path) -> None:
    with silent_server() as port:
        pass  # closed again: nothing listens there now
    message = refused(f"http://127.0.0.1:{port}", tmp_path)
    assert f"tracking server http://127.0.0.1:{port} does not answer as it should" in message
    assert "refused" in message
    assert "tracking.uri=sqlite:///mlflow.db" in message


@pytest.mark.fault(
    "store: database server down at the start",
    "refused within 10 seconds, before anything trains, without the password",
)
def test_an_absent_database_is_given_up_within_ten_seconds(tmp_path: Path) -> None:
    with silent_server() as port:
        pass
    message = refused(f"postgresql+psycopg://ann:hunter22@127.0.0.1:{port}/runs", tmp_path)
    assert f"store postgresql+psycopg://ann:***@127.0.0.1:{port}/runs cannot be used: " in message
    assert "Connection refused" in message
    assert "tracking.uri=sqlite:///mlflow.db" in message


@pytest.mark.fault(
    "store: PostgreSQL server that never answers at the start",
    "refused within 10 seconds, before anything trains, without the password",
)
def test_a_silent_database_is_given_up_within_ten_seconds(tmp_path: Path) -> None:
    with silent_server() as port:
        message = refused(f"postgresql+psycopg://ann:hunter22@127.0.0.1:{port}/runs", tmp_path)
    assert "timeout expired" in message
    assert "hunter22" not in message


def test_a_driver_that_is_missing_is_named(tmp_path: Path) -> None:
    message = refused("postgresql+pg8000://ann:hunter22@127.0.0.1/runs", tmp_path)
    assert "needs a package that is not installed: No module named 'pg8000'. Install it, or record" in message


@pytest.mark.fault(
    "store: MLflow server that never answers at the start",
    "refused within 10 seconds, before anything trains",
)
def test_a_silent_server_is_given_up_within_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    with silent_server() as port:
        message = refused(f"http://127.0.0.1:{port}", tmp_path)
    assert "timed out" in message.lower()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"
