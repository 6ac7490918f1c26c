"""What all tests share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Two test processes on two cores: more threads than that only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import signal
from pathlib import Path

import pytest

from tests.processes import end_all


def pytest_configure() -> None:
    """Let commands that tests start hear Ctrl-C, which a shell has those ignore that it starts in the background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hand what the marker ``fault`` says to the results file, from which scripts/inject_faults makes its table."""
    for item in items:
        for mark in item.iter_markers("fault"):
            injected, happened = mark.args
            item.user_properties.append((f"fault: {injected}", happened))


def pytest_runtest_teardown() -> None:
    """Whatever became of a test, the commands that it started end with it."""
    end_all()


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real data sets and weights that BNADAPT_TEST_DATA names."""
    directory = os.environ.get("BNADAPT_TEST_DATA")
    if directory is None:
        pytest.skip("BNADAPT_TEST_DATA names no directory of real data")
    return Path(directory)
