"""Cells of tables: labels that are missing or large, numbers in odd spellings, arrays that are none, infinity."""

import io
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from small_sets import CLASSES, Mini, write_folder

from bnadapt.config import DataSettings
from bnadapt.data.load import describe, load
from bnadapt.data.table import TableSource
from bnadapt.errors import DataError


def source(path: Path) -> TableSource:
    return TableSource(DataSettings(source="table", path=str(path)))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        source(path)
    return str(raised.value)


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def arrays(path: Path, x: Any, y: Any) -> Path:
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=True, x=x, y=y)
    return path


@pytest.mark.parametrize("label", ["nan", "NA", "null", "None", "n/a", "?", "", " "])
def test_a_missing_class_is_refused_with_its_place(tmp_path: Path, label: str) -> None:
    said = refusal(table(tmp_path / "t.csv", "x,kind", "1,a", f"2,{label}", "3,b", f"4,{label}"))
    assert "2 cells are missing where the class should be" in said
    assert f"the first: line 3, column kind: {label.strip()!r}" in said
    said = refusal(arrays(tmp_path / "t.npz", np.zeros((2, 1)), np.array(["a", label])))
    assert "1 cell is missing where the class should be" in said
    assert f"the first: row 1, counted from 0: {label.strip()!r}" in said


def test_classes_may_be_called_plus_and_minus(tmp_path: Path) -> None:
    assert source(table(tmp_path / "t.csv", "x,kind", "1,+", "2,-")).classes == ("+", "-")


LARGE = ("9007199254740992", "9007199254740993", "18446744073709551614", "18446744073709551615")


def test_large_integers_stay_classes_of_their_own(tmp_path: Path) -> None:
    rows = [f"{n},{label}" for n, label in enumerate(LARGE)]
    assert source(table(tmp_path / "t.csv", "x,label", *reversed(rows))).classes == LARGE
    for kind, labels in ((np.uint64, LARGE), (np.int64, LARGE[:2])):
        file = arrays(tmp_path / "t.npz", np.zeros((len(labels), 1)), np.array([*map(int, labels)], kind))
        assert source(file).classes == labels
    # More digits than Python makes integers of, and exponents that nothing but 0 is left of.
    odd = table(tmp_path / "t.csv", "x,label", f"1,{'0' * 5000}2", "2,2.0", f"3,1e-{'9' * 30}", "4,0", "5,-0")
    assert source(odd).classes == ("0", "2.0")


@pytest.mark.parametrize("number", ["1_0", "١٢", "\uff11\uff12", "1_0.5"])
def test_numbers_that_only_python_reads_are_none(tmp_path: Path, number: str) -> None:
    said = refusal(table(tmp_path / "t.csv", "x,y,label", "1,2,a", f"3,{number},b"))
    assert f"1 cell is text and no number, the first: line 3, column y: {number!r}" in said


def test_spaces_around_numbers_are_no_matter(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", "x,y,label", "\u00a01.5 , +2e0,a", "3,.5,b")
    chosen = source(file).read(["train"], 2)[0]["train"].select(np.arange(2))
    assert [row.tolist() for row, _ in chosen.as_numpy_iterator()] == [[1.5, 2.0], [3.0, 0.5]]


@pytest.mark.parametrize(
    ("header", "doubtful"), [("0,1,x", True), ("5.1,setosa", True), ("0,1,2", True), ("0,a,label", False)]
)
def test_a_header_that_looks_like_data_is_named(tmp_path: Path, header: str, doubtful: bool) -> None:
    rows = [",".join(["1"] * header.count(",") + [label]) for label in ("3", "4")]
    notes = source(table(tmp_path / "t.csv", header, *rows)).read(["train"], 1)[1]
    expected = f"t.csv: the first line ({', '.join(header.split(','))}) was taken for the names of the columns; where"
    assert [note.startswith(expected) for note in notes] == [True] * doubtful


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 2)))
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


LONG_HEADER = b"\x93NUMPY\x02\x00" + (20_000).to_bytes(4, "little") + b" " * 20_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            npy(),
            "cannot be read as .npz: it holds one array alone (.npy); write it with numpy.savez(FILE, x=..., y",
        ),
        (b"\x80\x04N.", "cannot be read as .npz: it is no archive of arrays, or not a whole one; write it"),
        (zipped(x=b"\x80\x04N.", y=npy()), "what it holds by these names is no array; write it"),
        (zipped(x=LONG_HEADER, y=npy()), "cannot be read as .npz: an array in it is no plain one; write it"),
    ],
)
def test_what_is_no_archive_of_arrays_is_said_in_plain_words(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "t.npz").write_bytes(content)
    said = refusal(tmp_path / "t.npz")
    assert message in said
    assert "pickle" not in said


@pytest.mark.parametrize("kind", ["m8[s]", "M8[s]", bool])
def test_features_are_real_numbers(tmp_path: Path, kind: Any) -> None:
    file = arrays(tmp_path / "t.npz", np.zeros((3, 2), np.int64).astype(kind), np.arange(3))
    assert f"x is {np.dtype(kind)} of shape (3, 2); it must be numbers" in refusal(file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinity_in_any_part_is_refused(tmp_path: Path, value: float) -> None:
    table(tmp_path / "train.csv", "0,1,label", "1,2,a", "3,4,b")
    test = table(tmp_path / "test.csv", "0,1,label", "1,2,a", f"3,{value},b")
    assert f"{test}: " in refusal(tmp_path)
    assert "the first: line 3, column 1" in refusal(tmp_path)
    test.unlink()
    test = arrays(tmp_path / "test.npz", np.array([[1, 2], [3, value]]), np.array(["a", "b"]))
    assert f"{test}: " in refusal(tmp_path)
    assert f"the first: row 1, column 1, counted from 0: {value}" in refusal(tmp_path)


class FloatTensors(Mini):
    """Pixels as plain numbers, some infinite, and no images."""

    SIZES: ClassVar[dict[str, int]] = {"train": 6}

    def features(self) -> dict[str, Any]:
        pixels = tfds.features.Tensor(shape=(6, 5, 3), dtype=np.float32)
        return {"image": pixels, "label": tfds.features.ClassLabel(names=CLASSES)}

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        return {"image": np.where(image > 9, image, np.inf).astype(np.float32), "label": label}


def test_pixels_that_may_be_infinite_are_refused_by_type(tmp_path: Path) -> None:
    FloatTensors(data_dir=tmp_path).download_and_prepare()
    with pytest.raises(
        DataError, match=r"no feature that is an image or a vector of numbers: it has image \(T"
    ):
        describe(DataSettings(name="float_tensors", dir=str(tmp_path)))


def test_image_files_of_floats_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    Image.fromarray(np.full((10, 12), np.inf, np.float32)).save(tmp_path / "cat" / "99.png", "TIFF")
    with pytest.raises(DataError, match=r"99.png: not an image of a known format \(JPEG, PNG"):
        load(DataSettings(source="folder", path=str(tmp_path)), (10, 12, 3))
