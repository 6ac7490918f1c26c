"""The command and the link that open MLflow's pages."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from bnadapt.config import TrackingSettings
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.ui import free_port, ui_command, ui_environment, ui_url


def test_a_port_that_is_taken_is_passed_over() -> None:
    first = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first))
        listener.listen()
        assert free_port() > first


def test_a_database_is_served_on_this_machine_by_the_python_in_use() -> None:
    assert ui_command("sqlite:////tmp/mlflow.db", port=5001) == [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        "sqlite:////tmp/mlflow.db",
        "--host",
        "127.0.0.1",
        "--port",
        "5001",
        "--workers",
        "1",
    ]


@pytest.mark.parametrize("telemetry", [False, True])
def test_a_password_is_where_other_users_cannot_read_it(telemetry: bool) -> None:
    assert "secret" not in " ".join(ui_command("postgresql://ann:secret@db/runs") or ["secret"])
    assert ui_environment("postgresql://ann:secret@db/runs", {"HOME": "/home/ann"}, telemetry=telemetry) == {
        "HOME": "/home/ann",
        "MLFLOW_BACKEND_STORE_URI": "postgresql://ann:secret@db/runs",
        "MLFLOW_DISABLE_TELEMETRY": "false" if telemetry else "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


OPENING = {
    "MLFLOW_HOST": "0.0.0.0",
    "MLFLOW_GUNICORN_OPTS": "--bind 0.0.0.0:5999",
    "MLFLOW_UVICORN_OPTS": "--uds pages.socket",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "GUNICORN_CMD_ARGS": "--bind 0.0.0.0:5999",
    "UVICORN_HOST": "0.0.0.0",
    "UVICORN_UDS": "pages.socket",
    "UVICORN_APP_DIR": "/tmp",
    "FORWARDED_ALLOW_IPS": "*",
}


@pytest.mark.fault(
    "attack: variables that would open the UI to others",
    "left out",
)
def test_variables_that_would_open_it_to_others_are_left_out() -> None:
    assert ui_environment("sqlite:////tmp/mlflow.db", OPENING).keys() == {
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_DISABLE_TELEMETRY",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
    }


@pytest.mark.fault(
    "attack: variables and a foreign Host that would open the UI to others",
    "listens on 127.0.0.1 alone, answers a foreign Host with 403",
)
@pytest.mark.slow
def test_the_pages_are_served_to_this_machine_alone(tmp_path: Path) -> None:
    Tracker(TrackingSettings(), tmp_path)
    variables = {**os.environ, **OPENING}
    words = [sys.executable, "-m", "bnadapt", "ui"]
    process = subprocess.Popen(words, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("open ").partition("#")[0]
        wait_for(address)
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = {
            each.laddr
            for one in everyone
            for each in one.net_connections()
            if each.status == psutil.CONN_LISTEN
        }
        assert {place.ip for place in listening} == {"127.0.0.1"}
        assert {place.port for place in listening} == {urlsplit(address).port}
        request = urllib.request.Request(address, headers={"Host": "evil.example.org"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=10)
    finally:
        for each in psutil.Process(process.pid).children(recursive=True):
            each.kill()
        process.kill()
        process.wait()


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=10).close()
            return
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"nothing answers at {address}")


def test_a_server_needs_no_command() -> None:
    assert ui_command("https://runs.example.org/mlflow/") is None
    assert ui_url("https://runs.example.org/mlflow/", "7") == (
        "https://runs.example.org/mlflow/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
    )


def test_the_link_opens_the_experiment_s_charts() -> None:
    assert ui_url("postgresql://host/runs", "7", port=5001) == (
        "http://127.0.0.1:5001/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
    )


def test_a_link_to_the_curves_of_one_comparison_s_arms() -> None:
    assert ui_url("sqlite:////tmp/mlflow.db", "7", below="a1b2") == (
        "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&searchFilter=tags.%60mlflow.parentRunId%60%20%3D%20%27a1b2%27"
        "&orderByKey=metrics.%60val_accuracy%60&orderByAsc=false"
    )
