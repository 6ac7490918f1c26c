"""A server that goes away in the middle: training goes on and nothing is lost."""

import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest
import requests
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from bnadapt.config import TrackingSettings
from bnadapt.evaluation.results import StageResult
from bnadapt.tracking.models import load_model
from bnadapt.tracking.outbox import Outbox, short_cause
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.ui import ui_command


class Server:
    """MLflow's own server on a store, started and stopped."""

    def __init__(self, store: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._store = store

    def start(self) -> None:
        command = ui_command(self._store, port=self.port)
        assert command is not None
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.address}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module")
def server(tracker: Tracker) -> Iterator[Server]:
    server = Server(tracker.uri)
    server.start()
    yield server
    server.stop()


def test_a_server_that_goes_away_and_comes_back(
    server: Server,
    tracker: Tracker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    remote = Tracker(TrackingSettings(uri=server.address, system_metrics=False), tmp_path)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with remote.pipeline("remote") as run:
        with run.stage("adapt", order=3) as stage:
            stage.log_epoch(1, {"val_accuracy": 0.1})
            server.stop()
            with caplog.at_level(logging.WARNING, logger="bnadapt"):
                started = time.monotonic()
                for number in (2, 3, 4):
                    stage.log_epoch(number, {"val_accuracy": number / 10})
                kept = stage.log_model(model)
                stage.log_result(StageResult("adapt", trainable=8, steps=4, seconds=1))
                assert time.monotonic() - started < 5
            server.start()
        assert run.run_id

    warnings = [record for record in caplog.records if record.name == "bnadapt.tracking.outbox"]
    assert len(warnings) == 1
    assert str(tmp_path / "bnadapt-unsent") in warnings[0].getMessage()
    history = tracker.client.get_metric_history(stage.run_id, "val_accuracy")
    assert [(each.step, each.value) for each in history] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert tracker.client.get_run(stage.run_id).info.status == "FINISHED"
    lines = (tmp_path / "bnadapt-unsent" / "metrics.jsonl").read_text().splitlines()
    unsent = [json.loads(line) for line in lines]
    assert [(each["key"], each["step"]) for each in unsent[:3]] == [
        ("val_accuracy", step) for step in (2, 3, 4)
    ]
    assert {each["run_id"] for each in unsent} == {stage.run_id}
    assert Path(kept).is_dir()
    assert load_model(tracker.uri, kept).count_params() == 8


def test_a_value_that_mlflow_finds_invalid_is_a_defect_and_raises(tracker: Tracker, tmp_path: Path) -> None:
    outbox = Outbox(tracker.client, tmp_path)
    with tracker.pipeline("invalid") as run, pytest.raises(MlflowException, match="Invalid value"):
        outbox.send_metrics(run.run_id, [Metric("a(b)", 1.0, 0, 0)])
    assert list(tmp_path.iterdir()) == []


def test_the_innermost_cause_is_told() -> None:
    error = RuntimeError("outer")
    error.__cause__ = OSError("disk full\n  really")
    assert short_cause(error) == "disk full really"
    assert short_cause(KeyError()) == "KeyError"
    assert len(short_cause(ValueError("x" * 999))) == 200
