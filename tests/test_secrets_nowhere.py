"""Real commands with secrets in their settings and environment: the secrets are found nowhere afterwards."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.command import QUICK
from tests.processes import end

PASSWORD = "s3cr3t/pa55@word!"
ENVIRONMENT = {
    "MLFLOW_TRACKING_TOKEN": "t0ken-of-mlflow-aaaa",
    "AWS_SECRET_ACCESS_KEY": "aws/key+bbbbbbbb",
    "MY_API_KEY": "my-own-key-cccccccc",
    "DATABASE_URL": "postgresql://ann:db-pa55-dddd@db/runs",
}
SECRETS = [PASSWORD, quote(PASSWORD, safe=""), "s3cr3t", *list(ENVIRONMENT.values())[:3], "db-pa55-dddd"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of an MLflow server that asks nobody for a password, and its directory."""
    directory = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "--backend-store-uri",
        f"sqlite:///{directory}/mlflow.db",
        "--host",
        "127.0.0.1",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words, "--port", str(port)],
        cwd=directory,
        # Without its jobs for language models, whose processes leave its group and would stay behind.
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.25)
        yield f"127.0.0.1:{port}", directory
    finally:
        end(process)


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "mine" / "placement").mkdir(parents=True, exist_ok=True)
    (directory / "mine" / "placement" / "own.yaml").write_text("# @package _global_\nprogress: lines\n")
    return subprocess.run(
        [sys.executable, "-m", "bnadapt", "--config-dir", "mine", *arguments, *QUICK],
        cwd=directory,
        env={**os.environ, **ENVIRONMENT, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def found_in(directory: Path) -> list[str]:
    """Every file below a directory, and name of one, that holds a secret; what was written by the test itself aside."""
    found = []
    for path in directory.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        found += [f"{path}: {each}" for each in SECRETS if each.encode() in content or each in path.name]
    return found


@pytest.mark.fault(
    "attack: passwords and tokens in settings and environment of a whole run",
    "found nowhere: not in output, files, names or MLflow",
)
@pytest.mark.slow
def test_a_whole_run_and_a_failing_one_in_a_sweep(tmp_path: Path, server: tuple[str, Path]) -> None:
    address, directory = server
    uri = f"tracking.uri='http://ann:{quote(PASSWORD, safe='')}@{address}'"
    finished = run(tmp_path, uri, "placement=own")
    assert finished.returncode == 0, finished.stderr
    assert "http://ann:***@" in finished.stdout
    swept = run(
        tmp_path,
        "-m",
        uri,
        "data=folder",
        f"data.path=/nowhere/{ENVIRONMENT['MY_API_KEY']}",
        "traceback=true",
    )
    assert "Traceback" in swept.stderr
    assert "/nowhere/***" in swept.stderr
    for text in (finished.stdout, finished.stderr, swept.stdout, swept.stderr):
        assert not [each for each in SECRETS if each in text]
    assert list(tmp_path.rglob("report.html"))
    assert list(tmp_path.rglob("multirun.yaml"))
    assert found_in(tmp_path) == []
    assert found_in(directory) == []


@pytest.mark.fault(
    "attack: passwords in the address of a store that is not there",
    "found nowhere, also not in the traceback",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "uri",
    [
        f"http://ann:{PASSWORD}@127.0.0.1:9",
        f"ftp://ann:{PASSWORD}@host/x",
        f"postgresql://ann:{PASSWORD}@127.0.0.1:9/runs",
        f"http://127.0.0.1:9/?token={ENVIRONMENT['MY_API_KEY']}",
    ],
    ids=["server", "no store", "database", "query"],
)
@pytest.mark.parametrize("words", [[], ["ui"]], ids=["run", "ui"])
def test_a_store_that_is_not_there(uri: str, words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bnadapt", *words, f"tracking.uri='{uri}'", "traceback=true"],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not [each for each in SECRETS if each in done.stdout + done.stderr]
    assert found_in(tmp_path) == []
    assert "***" in done.stderr + done.stdout
