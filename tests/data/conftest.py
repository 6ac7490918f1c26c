from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from small_sets import BUILDERS

from bnadapt.config import DataSettings


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which all the small sets are prepared."""
    directory = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for builder in BUILDERS:
        builder(data_dir=directory).download_and_prepare()
    return directory


@pytest.fixture
def settings(prepared: Path) -> Any:
    """Makes the settings of a prepared small set."""
    return lambda name="mini", **others: DataSettings(name=name, dir=str(prepared), **others)


@pytest.fixture
def no_default_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sends the user's home and cache to an empty directory, and forgets TFDS_DATA_DIR."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    return tmp_path
