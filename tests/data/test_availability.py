import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from bnadapt.config import DataSettings
from bnadapt.data.availability import check_available, official_names
from bnadapt.errors import DataError

Make = Callable[..., DataSettings]


def message(settings: DataSettings) -> str:
    with pytest.raises(DataError) as raised:
        check_available(settings)
    return str(raised.value)


def test_prepared_sets_and_folders_are_available(settings: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    check_available(settings("mini"))
    check_available(settings("mini:1.2.3"))
    check_available(DataSettings(source="folder", path=str(tmp_path)))


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    with pytest.raises(DataError, match=r"holds one class folder \(a\); at least 2 are needed"):
        check_available(DataSettings(source="folder", path=str(tmp_path)))


def test_digits_and_downloads_are_left_to_loading(tmp_path: Path) -> None:
    check_available(DataSettings(name="digits", dir=str(tmp_path / "gone")))
    check_available(DataSettings(name="mnist", dir=str(tmp_path / "gone"), download=True))


def test_a_misspelt_name_gets_the_nearest_prepared_and_official_ones(settings: Make) -> None:
    text = message(settings("mini_integer"))
    assert "TensorFlow Datasets has no set of that name" in text
    assert "close names: mini_integers" in text
    assert "prepared there: mini, mini_hidden_test, " in text
    assert "close names: fashion_mnist" in message(settings("fashon_mnist"))
    assert "digits" in message(settings("digit"))


def test_an_official_set_that_is_missing_gets_the_command_that_fetches_it(tmp_path: Path) -> None:
    text = message(DataSettings(name="mnist", dir=str(tmp_path / "gone")))
    assert f"data.name=mnist: not prepared in {tmp_path / 'gone'}, which does not exist" in text
    assert "to fetch it: data.name=mnist data.download=true" in text
    assert "prepared there: nothing" in text


def test_a_missing_version_gets_those_there_are(settings: Make) -> None:
    text = message(settings("mini:9.0.0"))
    assert "versions prepared there: 1.2.3" in text
    assert "no set of that name" not in text


def test_a_missing_folder_is_named() -> None:
    assert "data.path=/no/such: /no/such does not exist" in message(
        DataSettings(source="folder", path="/no/such")
    )


def test_official_names_are_tensorflow_datasets_own() -> None:
    assert {"mnist", "cifar10", "cmaterdb"} <= set(official_names())
    assert set(official_names()) <= set(tfds.list_builders(with_community_datasets=False))


def test_neither_success_nor_failure_imports_tensorflow(tmp_path: Path) -> None:
    program = f"""
import sys
from bnadapt.config import DataSettings
from bnadapt.data.availability import check_available
from bnadapt.errors import DataError
check_available(DataSettings(name="digits"))
assert "tensorflow_datasets" not in sys.modules
try:
    check_available(DataSettings(name="mnst", dir={str(tmp_path)!r}))
except DataError:
    pass
assert "tensorflow" not in sys.modules and "numpy" not in dir()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
