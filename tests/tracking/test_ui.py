"""The command and the link that open MLflow's pages."""

import socket
import sys

from bnadapt.tracking.ui import free_port, ui_command, ui_url


def test_a_port_that_is_taken_is_passed_over() -> None:
    first = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first))
        listener.listen()
        assert free_port() > first


def test_a_database_is_served_on_this_machine_by_the_python_in_use() -> None:
    command = ui_command("sqlite:////tmp/mlflow.db", port=5001)
    assert command == [
        "env",
        "MLFLOW_DISABLE_TELEMETRY=true",
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
    assert ui_command("sqlite:////tmp/mlflow.db", port=5001, telemetry=True) == command[2:]


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
