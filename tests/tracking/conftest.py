"""One real SQLite store per test module: creating one takes seconds."""

import pytest

from bnadapt.tracking.environment import prepare_environment

prepare_environment(telemetry=False)

from bnadapt.config import TrackingSettings  # noqa: E402
from bnadapt.tracking.store import Tracker  # noqa: E402


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    directory = tmp_path_factory.mktemp("store with space")
    return Tracker(TrackingSettings(system_metrics=False), directory)
