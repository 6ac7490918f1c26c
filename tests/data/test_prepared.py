import json
from pathlib import Path

import pytest

from bnadapt.config import DataSettings
from bnadapt.data.prepared import SetName, data_directory, find_prepared, parse_name, prepared_names
from bnadapt.errors import DataError


def prepare(directory: Path, *parts: str) -> Path:
    folder = directory.joinpath(*parts)
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mnist", SetName("mnist")),
        ("cmaterdb/bangla", SetName("cmaterdb", "bangla")),
        ("mnist:3.0.1", SetName("mnist", None, "3.0.1")),
        ("cifar10_1/v4:1.0.0", SetName("cifar10_1", "v4", "1.0.0")),
        ("visual_domain_decathlon/aircraft", SetName("visual_domain_decathlon", "aircraft")),
    ],
)
def test_names_are_taken_apart_and_put_together(text: str, name: SetName) -> None:
    assert parse_name(text) == name
    assert str(name) == text


@pytest.mark.parametrize("text", ["", "../mnist", "mnist:latest", "huggingface:mnist", "/mnist", "mnist/"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"not a TensorFlow Datasets name; write NAME, NAME/CONFIG"):
        parse_name(text)


def test_digits_are_known_in_any_version_but_in_no_configuration() -> None:
    assert parse_name("digits:1.0.0").is_digits
    assert not parse_name("digits/other").is_digits


def test_the_setting_comes_before_the_variable_and_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert data_directory(DataSettings()) == tmp_path / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "variable"))
    assert data_directory(DataSettings()) == tmp_path / "variable"
    assert data_directory(DataSettings(dir="~/own")) == tmp_path / "own"


def test_the_highest_version_is_taken_by_number_not_by_letter(tmp_path: Path) -> None:
    for version in ("2.0.0", "10.0.0", "9.9.9", "11.0.0.incompleteXYZ"):
        prepare(tmp_path, "set", version)
    assert find_prepared(tmp_path, SetName("set")) == tmp_path / "set" / "10.0.0"
    assert find_prepared(tmp_path, SetName("set", None, "2.0.0")) == tmp_path / "set" / "2.0.0"
    assert find_prepared(tmp_path, SetName("set", None, "3.0.0")) is None


def test_an_unfinished_version_is_not_prepared(tmp_path: Path) -> None:
    (tmp_path / "set" / "1.0.0").mkdir(parents=True)
    assert find_prepared(tmp_path, SetName("set")) is None
    assert find_prepared(tmp_path / "nowhere", SetName("set")) is None


def test_the_only_configuration_is_taken(tmp_path: Path) -> None:
    prepare(tmp_path, "set", "b", "1.0.0")
    assert find_prepared(tmp_path, SetName("set")) == tmp_path / "set" / "b" / "1.0.0"
    assert find_prepared(tmp_path, SetName("set", "b")) == tmp_path / "set" / "b" / "1.0.0"
    assert find_prepared(tmp_path, SetName("set", "a")) is None


def test_several_configurations_must_be_chosen_from(tmp_path: Path) -> None:
    prepare(tmp_path, "set", "a", "1.0.0")
    prepare(tmp_path, "set", "b", "1.0.0")
    with pytest.raises(
        DataError, match=r"data.name=set: the set has several configurations; choose one of set/a, set/b"
    ):
        find_prepared(tmp_path, SetName("set"))


def test_the_default_configuration_is_never_replaced_by_another_one(tmp_path: Path) -> None:
    prepare(tmp_path, "set", "b", "1.0.0")
    (tmp_path / "set" / ".config").mkdir()
    (tmp_path / "set" / ".config" / "metadata.json").write_text(json.dumps({"default_config_name": "a"}))
    assert find_prepared(tmp_path, SetName("set")) is None
    prepare(tmp_path, "set", "a", "1.0.0")
    assert find_prepared(tmp_path, SetName("set")) == tmp_path / "set" / "a" / "1.0.0"


def test_names_of_prepared_sets(tmp_path: Path) -> None:
    prepare(tmp_path, "plain", "1.0.0")
    prepare(tmp_path, "configured", "b", "1.0.0")
    prepare(tmp_path, "configured", "a", "1.0.0")
    (tmp_path / "downloads" / "extracted").mkdir(parents=True)
    assert prepared_names(tmp_path) == ["configured/a", "configured/b", "plain"]
    assert prepared_names(tmp_path / "nowhere") == []
