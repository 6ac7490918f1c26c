"""One real SQLite store per test module: creating one takes seconds."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from bnadapt.tracking.environment import prepare_environment
from tests.processes import end

prepare_environment(telemetry=False)

from mlflow import MlflowClient  # noqa: E402

from bnadapt.config import TrackingSettings  # noqa: E402
from bnadapt.tracking.store import Tracker  # noqa: E402
from bnadapt.tracking.ui import ui_command, ui_environment  # noqa: E402


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    directory = tmp_path_factory.mktemp("store with space")
    return Tracker(TrackingSettings(system_metrics=False), directory)


class Server:
    """MLflow's own server on a store, started and stopped; it keeps files as well."""

    def __init__(self, store: str, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._store = store
        self._directory = directory
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        command = ui_command(self._store, port=self.port)
        assert command is not None
        self._process = subprocess.Popen(
            command,
            cwd=self._directory,
            env=ui_environment(self._store, os.environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.address}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def signal(self, number: signal.Signals) -> None:
        """To all its processes: SIGSTOP makes a server that takes connections and never answers."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)


@pytest.fixture(scope="module")
def running(tracker: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tracker.uri, tmp_path_factory.mktemp("server"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(running: Server) -> Server:
    """A server that answers when the test begins."""
    running.start()
    return running


def points(client: MlflowClient, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by key, in the order in which they were recorded; each step must be there once."""
    found = {}
    for key in client.get_run(run_id).data.metrics:
        history = sorted(client.get_metric_history(run_id, key), key=lambda each: (each.timestamp, each.step))
        steps = [each.step for each in history]
        assert len(set(steps)) == len(steps), f"{key} has several values at a step: {sorted(steps)}"
        found[key] = [(each.step, each.value) for each in history]
    return found


@pytest.fixture(name="points")
def _points():
    return points
