"""Tables: what is read from them, and what is wrong with those that are refused, by line and column."""

import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnadapt.checks.pipeline import contradictions
from bnadapt.config import DataSettings, Settings
from bnadapt.data.availability import check_available
from bnadapt.data.load import choose_image_shape, describe, load
from bnadapt.data.overlap import overlap_notes
from bnadapt.data.splits import Split, Splits, StreamedSplit
from bnadapt.data.table import TableSource
from bnadapt.errors import DataError

HEADER = "length,width,label"


def table(path: Path, **others: object) -> DataSettings:
    return DataSettings(source="table", path=str(path), **others)  # type: ignore[arg-type]


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8", newline="")
    return path


def numbers(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)


def lines(rows: np.ndarray, classes: tuple[str, ...] = ("a", "b")) -> list[str]:
    return [f"{one!r},{other!r},{classes[n % len(classes)]}" for n, (one, other) in enumerate(rows.tolist())]


def vectors(split: Split) -> np.ndarray:
    return np.concatenate([batch for batch, _ in split.batches(7).as_numpy_iterator()])


def whole(source: TableSource, part: str = "train") -> tuple[np.ndarray, list[str]]:
    """All rows of a part and the names of their classes."""
    records = source.read([part], source.channels)[0][part]
    rows = np.stack([row for row, _ in records.select(np.arange(len(records.labels))).as_numpy_iterator()])
    return rows, [source.classes[label] for label in records.labels]


def test_rows_arrive_as_they_were_written_and_unscaled(tmp_path: Path) -> None:
    rows = numbers(60) * 1000
    path = write(tmp_path / "measured.csv", *lines(rows))
    check_available(table(path))
    description = describe(table(path))
    assert (description.name, description.image_shape, description.channels) == ("measured", (2,), 2)
    assert description.sizes == {"train": 42, "validation": 6, "test": 12}
    splits = load(table(path), (2,))
    assert (splits.name, splits.classes, splits.image_shape) == ("measured", ("a", "b"), (2,))
    found = {split.name: vectors(split) for split in (splits.train, splits.validation, splits.test)}
    assert {name: len(each) for name, each in found.items()} == description.sizes
    assert all(each.dtype == np.float32 for each in found.values())
    together = np.concatenate(list(found.values()))
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, rows.tolist()))
    labels = {tuple(row): n % 2 for n, row in enumerate(rows.tolist())}
    for row, label in splits.test.examples.as_numpy_iterator():
        assert labels[tuple(row.tolist())] == label
    assert splits.notes[0].startswith(
        "test: 12 of the 60 rows of train, held out at random (data.test_fraction=0.2"
    )


@pytest.mark.parametrize("batches", ["batches", "shuffled", "mixed"])
def test_batches_are_float32_vectors_in_memory_and_streamed(tmp_path: Path, batches: str) -> None:
    path = write(tmp_path / "t.csv", *lines(numbers(4000) - 500))
    kept, streamed = load(table(path), (2,)), load(table(path, memory_limit=0), (2,))
    assert isinstance(streamed.train, StreamedSplit)
    assert not isinstance(kept.train, StreamedSplit)
    assert kept.digest == streamed.digest
    how = {"shuffled": {"seed": 1, "epochs": 2}, "mixed": {"seed": 1}}.get(batches, {})
    for one, other in zip(
        getattr(kept.train, batches)(64, **how), getattr(streamed.train, batches)(64, **how), strict=True
    ):
        assert one[0].dtype == np.float32
        assert one[0].shape[1:] == (2,)
        assert one[0].numpy().max() < -400
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_parts_of_their_own_with_columns_in_any_order(tmp_path: Path) -> None:
    rows = numbers(12)
    write(tmp_path / "iris" / "train.csv", *lines(rows[:6]))
    write(
        tmp_path / "iris" / "Val.csv",
        *[f"b,{y!r},{x!r}" for x, y in rows[6:9].tolist()],
        header="label,width,length",
    )
    write(tmp_path / "iris" / "test.csv", *lines(rows[9:]))
    (tmp_path / "iris" / "notes.csv").touch()
    splits = load(table(tmp_path / "iris"), (2,))
    assert splits.name == "iris"
    for split, expected in (
        (splits.train, rows[:6]),
        (splits.validation, rows[6:9]),
        (splits.test, rows[9:]),
    ):
        np.testing.assert_array_equal(vectors(split), expected)
    assert splits.validation.labels().tolist() == [1, 1, 1]
    assert splits.notes == ("validation has no row of a",)


@pytest.mark.parametrize(
    ("header", "wanted", "classes"),
    [
        ("label,width,last", None, ("1", "2")),
        ("x,CLASS,last", None, ("3", "4")),
        ("x,y,z", None, ("5", "6")),
        ("x,y,label", "y", ("3", "4")),
        ("0,1,2", "0", ("1", "2")),
    ],
)
def test_the_column_of_the_class(
    tmp_path: Path, header: str, wanted: str | None, classes: tuple[str, ...]
) -> None:
    path = write(tmp_path / "t.csv", "1,3,5", "2,4,6", header=header)
    assert TableSource(table(path, label_column=wanted)).classes == classes


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "1.5", "-2"], ("-2", "1.5", "9", "10")),
        (["1", "1.0", "2", "02"], ("1", "2")),
        (["10", "9", "b", "A"], ("10", "9", "A", "b")),
        (["猫", "e\u0301", "\u00e9", " no ", "nil"], ("nil", "no", "\u00e9", "猫")),
        (['"two\nlines"', '"with, comma"', "\x1b[31m"], ("\\x1b[31m", "two\\nlines", "with, comma")),
    ],
)
def test_classes_are_sorted_numbers_as_numbers(
    tmp_path: Path, labels: list[str], classes: tuple[str, ...]
) -> None:
    path = write(tmp_path / "t.csv", *[f"1,{n},{label}" for n, label in enumerate(labels)])
    assert TableSource(table(path)).classes == classes


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
            st.sampled_from(["a", "b,c", 'with "quotes"', "two\nlines"]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_what_pythons_csv_writes_is_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["x", "y", "z", "label"], *([*each, label] for each, label in rows)])
    found, labels = whole(TableSource(table(path)))
    np.testing.assert_array_equal(found, np.array([each for each, _ in rows], np.float32))
    assert labels == [label.replace("\n", "\\n") for _, label in rows]


def test_a_byte_order_mark_empty_lines_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\ufefflabel,x\r\n\r\na,1\r\nb, 2.5 \r\n\r\n".encode())
    rows, labels = whole(TableSource(table(path)))
    assert (rows.tolist(), labels) == ([[1.0], [2.5]], ["a", "b"])


@pytest.mark.parametrize(("features", "labels"), [("x", "y"), ("features", "labels")])
@pytest.mark.parametrize("kind", [np.int64, np.float64, bool, "U5", "S5"])
def test_arrays(tmp_path: Path, features: str, labels: str, kind: type) -> None:
    classes = np.array([0, 1, 1, 0]).astype(kind)
    np.savez(tmp_path / "t.npz", **{features: numbers(4).astype(np.float64), labels: classes})
    check_available(table(tmp_path / "t.npz"))
    source = TableSource(table(tmp_path / "t.npz"))
    rows, names = whole(source)
    np.testing.assert_array_equal(rows, numbers(4))
    assert names == [source.classes[index] for index in (0, 1, 1, 0)]


WRONG: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "the file is empty"),
    "empty lines": ("\n\n", "the file is empty"),
    "header alone": (HEADER, "there are no rows; at least one of each class is needed"),
    "no header": ("5.1,3.5,setosa\n4.9,3.0,setosa\n", "the first line holds numbers (5.1, 3.5, setosa); put a line"),
    "no header, numbers": ("5,0,0,0\n4,0,0,1\n", "the first line holds numbers (5, 0, 0, 0)"),
    "semicolons": ("x;y;label\n1;2;a\n", "columns are separated by semicolons; separate them by commas"),
    "tabs": ("x\ty\tlabel\n1\t2\ta\n", "columns are separated by tabs"),
    "one column": ("label\na\nb\n", "there is one column, label; a class and numbers are needed"),
    "a name twice": ("x,x,label\n1,2,a\n", "several columns are called x; every name may be there once"),
    "no name": (",x,label\n0,1,a\n", "column 1 of 3 has no name; name it, or remove it where it only counts rows"),
    "two labels": ("Label,class,x\n0,1,2\n", "Label and class may both be the class; choose by data.label_column"),
    "ragged": (f"{HEADER}\n1,2,a\n1,2\n", "line 3: 2 cells, but the header has 3; give every row as many cells"),
    "too long": (f"{HEADER}\n1,2,a,\n", "line 2: 4 cells, but the header has 3"),
    "missing": (
        f"{HEADER}\n1,2,a\n1,,b\nNA,nan,b\n",
        "3 cells are missing, the first: line 3, column width: ''",
    ),
    "text": (f"{HEADER}\n1,wide,a\n1,'1',b\n", "2 cells are text and no number, the first: line 2, column width: 'wid"),
    "decimal comma": (f'{HEADER}\n"1,5",2,a\n', "1 cell is text and no number, the first: line 2, column length: '1"),
    "infinite": (f"{HEADER}\n1,2,a\n-inf,2,b\n", "1 cell is not finite, the first: line 3, column length: '-inf'"),
    "too large": (f"{HEADER}\n1,1e39,a\n", "1 cell is too large for 32 bits, the first: line 2, column width: '1e39'"),
    "no class": (f"{HEADER}\n1,2,a\n1,2, \n", "1 cell is missing where the class should be"),
    "several kinds": (f"{HEADER}\n1,x,a\n1,,a\n", "1 cell is missing, the first: line 3"),
    "quotes": (f'{HEADER}\n1,2,"a\n1,2,b\n', "a quote may not be closed"),
    "UTF-16": (f"{HEADER}\n1,2,a\n".encode("utf-16"), "no text in UTF-8 (byte 0xff); save it as CSV in UTF-8"),
    "binary": (os.urandom(0) + bytes(range(128, 256)), "no text in UTF-8"),
    "null": (bytes(100), "there is one column, \\x00"),
    "a cell without end": (f"{HEADER}\n1,2,{'a' * 200_000}\n", "field larger than field limit (131072)"),
    "one class": (f"{HEADER}\n1,2,a\n3,4,a\n", "has one class (a); at least two are needed"),
    "measurements as classes": (
        "x,y,z\n" + "".join(f"1,2,{n / 7}\n" for n in range(30)),
        "30 different values in 30 rows are no classes (0.0, 0.14285714285714285, 0.2857142857142857 and 27 more); "
        "choose the column of the class by data.label_column",
    ),
}  # fmt: skip


@pytest.mark.fault(
    "data: tables ragged, binary, with NaN, infinite or missing cells, of one class, or empty",
    "refused; names row, column and value",
)
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, case: str) -> None:
    content, message = WRONG[case]
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    started = time.monotonic()
    with pytest.raises(DataError) as raised:
        describe(table(path))
    assert time.monotonic() - started < 5
    text = str(raised.value)
    assert message in text
    assert text.startswith((f"{path}", f"data.path={path}", "t has one class"))
    assert len(text) < 600


def test_a_wanted_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data.label_column=kind: .*t.csv has no column of that name; it has length, w"
    ):
        check_available(table(write(tmp_path / "t.csv", "1,2,a"), label_column="kind"))


@pytest.mark.fault(
    "data: arrays with NaN or infinite values, wrong shapes or pickles",
    "refused; names the first bad place",
)
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "it holds a; name one array x or features and one y or labels"),
        ({"x": np.zeros((3, 2)), "features": np.zeros(3), "y": np.zeros(3)}, "name one array x or features"),
        ({"x": np.zeros((3, 4, 4)), "y": np.zeros(3)}, "x is float64 of shape (3, 4, 4); it must be numbers of shape"),
        ({"x": np.full((3, 2), "a"), "y": np.zeros(3)}, "x is <U1 of shape (3, 2); it must be numbers"),
        ({"x": np.zeros((3, 2), complex), "y": np.arange(3)}, "x holds complex numbers; give real ones"),
        ({"x": np.zeros((3, 2)), "y": np.eye(3)}, "y is float64 of shape (3, 3); it must be one number or word"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2)}, "y is float64 of shape (2,)"),
        ({"x": np.array([[1], [np.nan], [np.inf]]), "y": np.arange(3)}, "2 cells are not finite, the first: row 1"),
        ({"x": np.array([[1.0], [1e39]]), "y": np.arange(2)}, "1 cell is too large for 32 bits, the first: row 1"),
        ({"x": np.zeros((2, 1)), "y": np.array([0, np.nan])}, "1 cell is not finite where the class should be"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "there are no rows"),
        ({"x": np.array([[None]]), "y": np.zeros(1)}, "t.npz holds Python objects, which are never loaded; save plain"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "t.npz", allow_pickle=True, **arrays)
    with pytest.raises(DataError) as raised:
        describe(table(tmp_path / "t.npz"))
    assert message in str(raised.value)


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros((3, 2)), y=np.arange(3))
    for content in (b"no archive", buffer.getvalue()[:-40]):
        (tmp_path / "t.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"t.npz cannot be read as .npz: "):
            describe(table(tmp_path / "t.npz"))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (
            "gone.csv",
            lambda path: None,
            "there is no such file; give a .csv file with a header and commas, a .npz",
        ),
        ("t.xlsx", Path.touch, "no .csv and no .npz file; give a .csv file with a header"),
        ("t.csv.gz", Path.touch, "no .csv and no .npz file"),
        ("t.csv", Path.touch, "the file is empty"),
        ("t.csv", os.mkfifo, "a named pipe and no file"),
        ("t.csv", lambda path: path.symlink_to("t.csv"), "too many levels of symbolic links"),
        ("folder", Path.mkdir, "there is no train.csv or train.npz, it holds no table"),
        ("x" * 300, lambda path: None, "file name too long"),
    ],
)
def test_paths_that_are_no_tables(tmp_path: Path, name: str, make: object, message: str) -> None:
    make(tmp_path / name)  # type: ignore[operator]
    with pytest.raises(DataError) as raised:
        check_available(table(tmp_path / name))
    assert f"data.path={tmp_path / name}: {message}" in str(raised.value)


def test_folders_with_parts_that_do_not_fit(tmp_path: Path) -> None:
    def message() -> str:
        with pytest.raises(DataError) as raised:
            describe(table(tmp_path))
        return str(raised.value)

    write(tmp_path / "test.csv", "1,2,a")
    assert "there is no train.csv or train.npz, it holds test.csv; give" in message()
    write(tmp_path / "train.csv", "1,2,a", "3,4,b")
    write(tmp_path / "test.csv", "1,a", header="length,label")
    assert (
        f"{tmp_path / 'test.csv'} has no column width, which train.csv has; every part needs the same"
        in message()
    )
    write(tmp_path / "test.csv", "1,2,3,a", header="length,width,depth,label")
    assert f"{tmp_path / 'train.csv'} has no column depth, which test.csv has" in message()
    write(tmp_path / "test.csv", "1,2,c", "1,2,d")
    assert (
        f"{tmp_path / 'test.csv'} has rows of c, d, which train.csv has none of; every class needs"
        in message()
    )
    write(tmp_path / "test.csv")
    assert f"{tmp_path / 'test.csv'}: there are no rows" in message()
    (tmp_path / "test.csv").write_bytes(b"")
    assert f"{tmp_path / 'test.csv'}: the file is empty" in message()
    write(tmp_path / "test.csv", "1,2,a")
    write(tmp_path / "TRAIN.CSV", "1,2,a")
    if len(list(tmp_path.iterdir())) == 3:
        assert "TRAIN.CSV and train.csv both mean train; keep one of them" in message()


@pytest.mark.fault(
    "data: the same row in train and test",
    "said (the run goes on)",
)
def test_rows_that_are_there_twice_and_labels_that_differ(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", *lines(numbers(40)))
    write(tmp_path / "validation.csv", *lines(numbers(8, seed=1)))
    write(tmp_path / "test.csv", *lines(numbers(8, seed=2)), lines(numbers(40))[3], "1,2,a", "1,2,a")
    assert load(table(tmp_path), (2,)).notes == ("test: 1 of 11 rows is in train as well, number for number",)
    write(tmp_path / "test.csv", *lines(numbers(40)[:6], classes=("b", "a")))
    assert load(table(tmp_path), (2,)).notes == (
        "test: 6 of 6 rows are in train as well, number for number",
        "test: 6 of these have another label there, such as b in test and a in train: one of the two is wrong",
    )


def test_rows_that_the_baseline_saw_are_counted(tmp_path: Path) -> None:
    def splits(name: str, rows: np.ndarray) -> Splits:
        write(tmp_path / name / "train.csv", *lines(rows))
        write(tmp_path / name / "validation.csv", *lines(numbers(4, seed=9)))
        write(tmp_path / name / "test.csv", *lines(numbers(8)))
        return load(table(tmp_path / name), (2,))

    assert overlap_notes(splits("source", numbers(6)), splits("target", numbers(20, seed=1))) == [
        "test: 6 of 8 rows are among the training rows of baseline_data (source), number for number: scores on them "
        "flatter every stage"
    ]


def test_the_digest_tells_tables_apart(tmp_path: Path) -> None:
    def digest(*rows: str, header: str = HEADER, **others: object) -> str:
        return load(table(write(tmp_path / "t.csv", *rows, header=header), **others), (2,)).digest

    rows = lines(numbers(20))
    found = [
        digest(*rows),
        digest(*rows[1:]),
        digest(*lines(numbers(20), ("b", "a"))),
        digest(*lines(numbers(20), ("a", "c"))),
        digest(*rows, split_seed=1),
        digest(*rows[:-1], "0,0,a"),
    ]
    assert len(set(found)) == len(found)
    assert digest(*rows) == found[0]


def test_a_network_gets_the_vectors_that_it_takes(tmp_path: Path) -> None:
    data = table(write(tmp_path / "t.csv", *lines(numbers(20))))
    description = describe(data)
    for fits in (None, (2,), (None,)):
        assert choose_image_shape(data, description, fits) == (2,)
    for network, message in (
        (
            (3,),
            "the network takes vectors of 3 numbers and t holds vectors of 2; choose another network, or data",
        ),
        (
            (28, 28, 1),
            "the network takes images and t holds vectors of 2 numbers; choose another network or other",
        ),
    ):
        with pytest.raises(DataError, match=message):
            choose_image_shape(data, description, network)
        with pytest.raises(DataError, match=message):
            load(data, network)


def test_settings_that_do_nothing_to_tables_are_mistakes() -> None:
    def mistakes(**others: object) -> list[str]:
        chosen = Settings(data=DataSettings(**others))  # type: ignore[arg-type]
        return [each for each in contradictions(chosen) if each.startswith("data.")]

    assert mistakes(source="table", path="t.csv", label_column="kind", labels_per_class=3) == []
    assert mistakes(source="table") == [
        "data.path is missing: data=table needs data.path=FILE.csv, FILE.npz, or a folder with train.csv"
    ]
    assert mistakes(source="table", path="t.csv", image_size=[8, 8], shift="noise", name="mnist") == [
        "data.name=mnist is used by TensorFlow Datasets sets only, not by data=table: leave it out",
        "data.image_size=[8, 8] is used by images only, not by data=table: leave it out",
        "data.shift=noise is used by images only, not by data=table: leave it out",
    ]
    for source, own in (("tfds", {"name": "mnist"}), ("folder", {"path": "d"})):
        assert mistakes(source=source, label_column="kind", **own) == [
            "data.label_column=kind is used by data=table only; data.label_feature chooses the label of a TensorFlow "
            "Datasets set"
        ]


def test_names_are_checked_without_numpy(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "1,2,a")
    program = f"""
import sys
from bnadapt.config import DataSettings
from bnadapt.data.availability import check_available
check_available(DataSettings(source="table", path={str(path)!r}))
assert not {{"numpy", "tensorflow"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
