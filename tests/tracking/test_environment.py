"""What is settled before MLflow is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnadapt.errors import TrackingError
from bnadapt.tracking.environment import patience, resolve_uri, sqlite_path

HERE = Path("/somewhere")


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("sqlite:///mlflow.db", "sqlite:////somewhere/mlflow.db"),
        ("sqlite:///runs/a b.db", "sqlite:////somewhere/runs/a b.db"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("sqlite:///x.db?timeout=30", "sqlite:////somewhere/x.db?timeout=30"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("postgresql://user@host/runs", "postgresql://user@host/runs"),
    ],
)
def test_paths_become_absolute_and_addresses_stay(uri: str, resolved: str) -> None:
    assert resolve_uri(uri, HERE) == resolved
    assert resolve_uri(resolved, Path("/elsewhere")) == resolved


@pytest.mark.parametrize(
    "uri", ["file:./mlruns", "file:///tmp/mlruns", "./mlruns", "mlflow.db", "", "sqlite://"]
)
def test_directories_are_refused_with_the_remedy(uri: str) -> None:
    with pytest.raises(TrackingError, match="not in a directory") as caught:
        resolve_uri(uri, HERE)
    assert f"tracking.uri={uri}:" in str(caught.value)
    assert "tracking.uri=sqlite:///mlflow.db" in str(caught.value)


@pytest.mark.parametrize("uri", ["sqlite:///", "sqlite:///:memory:"])
def test_memory_is_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match="in memory is lost"):
        resolve_uri(uri, HERE)


def test_paths_that_a_database_uri_cannot_hold_are_refused() -> None:
    with pytest.raises(TrackingError, match=r"/somewhere/50%/mlflow.db, and a database URI cannot hold"):
        resolve_uri("sqlite:///mlflow.db", HERE / "50%")


def test_file_of_a_resolved_uri() -> None:
    assert sqlite_path("sqlite:////tmp/x.db?timeout=30") == Path("/tmp/x.db")
    assert sqlite_path("http://127.0.0.1:5000") is None


@pytest.mark.parametrize(("telemetry", "disabled"), [(False, True), (True, False)])
def test_telemetry_follows_the_setting_and_mlflow_is_not_imported(telemetry: bool, disabled: bool) -> None:
    program = (
        "import sys\n"
        "from bnadapt.tracking.environment import prepare_environment\n"
        f"prepare_environment(telemetry={telemetry})\n"
        "assert 'mlflow' not in sys.modules and 'tensorflow' not in sys.modules\n"
        "from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY\n"
        "print(MLFLOW_DISABLE_TELEMETRY.get())\n"
    )
    # A run of the tests may stand under variables that switch telemetry off: the setting decides here.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(disabled)


def test_patience_ends_with_its_block_and_is_never_longer_than_the_user_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeout, retries = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    monkeypatch.setenv(timeout, "30")
    monkeypatch.delenv(retries, raising=False)
    with patience(3):
        assert (os.environ[timeout], os.environ[retries]) == ("3", "0")
        with patience(None, retries=2):
            assert (os.environ[timeout], os.environ[retries]) == ("3", "2")
        with patience(9):
            assert os.environ[timeout] == "3"
    assert (os.environ[timeout], os.environ.get(retries)) == ("30", None)
