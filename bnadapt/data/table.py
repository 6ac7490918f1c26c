"""Rows of numbers with a class each, from .csv and .npz files."""

import hashlib
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bnadapt.config import DataSettings
from bnadapt.data.records import Records
from bnadapt.data.table_arrays import CLASSES, FEATURES, arrays_of
from bnadapt.data.table_files import (
    Rows,
    csv_rows,
    header_notes,
    header_of,
    is_number,
    label_column,
    number_of,
    table_parts,
)
from bnadapt.data.wording import listing, printable
from bnadapt.errors import DataError

_ROWS_AT_ONCE = 4096
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))
# Some data sets call their classes + and -.
_NO_CLASS = _MISSING - {"-"}
_WITHOUT_CLASS = "missing where the class should be (nan, none and the like name no class)"
# More classes than half of the rows are none, unless there are so few that it may be a trial.
_FEW_CLASSES = 20


@dataclass(frozen=True)
class _Table:
    """One file: names of the columns of numbers, float32 ``(rows, columns)``, and a label for each row."""

    columns: tuple[str, ...]
    features: np.ndarray
    labels: list[str]
    notes: list[str] = field(default_factory=list)


class TableSource:
    """A :class:`~bnadapt.data.records.Source` over one table, or a folder of a table for each part."""

    def __init__(self, settings: DataSettings):
        """Read the files; ``path`` and ``label_column`` of the settings are used.

        Raises:
            DataError: a file is missing or no table, its columns differ from those of train, a cell is empty or no
                finite number, or a label stands in validation or test alone.
        """
        files = table_parts(settings.path or "")
        train = files["train"]
        self.name = printable(
            train.stem if len(files) == 1 and train.stem.lower() != "train" else train.parent.name
        )
        self._tables = {part: _read(file, settings.label_column) for part, file in files.items()}
        columns = self._tables["train"].columns
        for part, table in self._tables.items():
            _require_same_columns(files[part], table.columns, train, columns)
        names = _names_of(chain.from_iterable(table.labels for table in self._tables.values()))
        own = {names[label] for label in self._tables["train"].labels}
        self.classes = tuple(sorted(own, key=_order(own)))
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._labels = {
            part: np.array([numbers.get(names[label], -1) for label in table.labels], np.int64)
            for part, table in self._tables.items()
        }
        self._require_classes(files, names)
        self.sizes = {part: len(table.labels) for part, table in self._tables.items()}
        self.channels = len(columns)
        self.image_shape: tuple[int, ...] | None = (len(columns),)
        self._columns = columns

    def part(self, role: str) -> str | None:
        """The part of the same name, where there is a file for it."""
        return role if role in self.sizes else None

    def read(self, parts: list[str], channels: int) -> tuple[dict[str, Records], list[str]]:
        """The rows, which were read before."""
        notes = [note for part in parts for note in self._tables[part].notes]
        return {part: self._records(part) for part in parts}, notes

    def _records(self, part: str) -> Records:
        table, labels = self._tables[part], self._labels[part]
        order = [table.columns.index(name) for name in self._columns]
        features = np.ascontiguousarray(table.features[:, order])

        def select(indices: np.ndarray) -> tf.data.Dataset:
            with tf.device("CPU:0"):
                return tf.data.Dataset.from_tensor_slices((features[indices], labels[indices]))

        digests = [hashlib.sha256(row.tobytes()).digest() for row in features]
        return Records(labels, digests, select, lambda row: row, block=max(1, len(labels)))

    def _require_classes(self, files: dict[str, Path], names: dict[str, str]) -> None:
        for part, labels in self._labels.items():
            unknown = sorted({names[self._tables[part].labels[row]] for row in np.flatnonzero(labels < 0)})
            if unknown:
                raise DataError(
                    f"{printable(files[part])} has rows of {listing(unknown)}, which {printable(files['train'].name)} "
                    "has none of; every class needs rows to train on"
                )
        rows = len(self._labels["train"])
        if len(self.classes) > max(_FEW_CLASSES, rows // 2):
            raise DataError(
                f"{printable(files['train'])}: {len(self.classes):,} different values in {rows:,} rows are no classes "
                f"({listing(self.classes, 3)}); choose the column of the class by data.label_column"
            )


def _require_same_columns(file: Path, found: Sequence[str], train: Path, expected: Sequence[str]) -> None:
    for missing, lacks, has in (
        ([name for name in expected if name not in found], file, train),
        ([name for name in found if name not in expected], train, file),
    ):
        if missing:
            raise DataError(
                f"{printable(lacks)} has no column {listing(missing)}, which {printable(has.name)} has; every part "
                "needs the same columns"
            )


def _names_of(labels: Iterator[str]) -> dict[str, str]:
    """The class that each label means: 1 and 1.0 are one, as are two spellings of a word in Unicode."""
    distinct = sorted(set(labels), key=lambda label: (len(label), label))
    if not all(map(is_number, distinct)):
        return {label: printable(unicodedata.normalize("NFC", label)) for label in distinct}
    by_value: dict[float, str] = {}
    return {label: by_value.setdefault(_value(label), label) for label in distinct}


def _value(label: str) -> float:
    """Integers as such: as floats, large ones that differ are one. Python takes 1 and 1.0 for one key."""
    try:
        return int(label)
    except ValueError:
        return float(label)


def _order(names: set[str]) -> Any:
    return _value if all(map(is_number, names)) else str


def _read(file: Path, wanted: str | None) -> _Table:
    table = _read_npz(file) if file.suffix.lower() == ".npz" else _read_csv(file, wanted)
    if not table.labels:
        raise DataError(f"{printable(file)}: there are no rows; at least one of each class is needed")
    return table


@dataclass
class _Problems:
    """Cells that are no finite number, counted by kind, each kind with the first of them."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, first: str) -> None:
        count, known = self.found.get(kind, (0, first))
        self.found[kind] = count + 1, known

    def judge(self, file: Path) -> None:
        if self.found:
            each = [
                f"\n  {count:,} {'cell is' if count == 1 else 'cells are'} {kind}, the first: {first}"
                for kind, (count, first) in self.found.items()
            ]
            raise DataError(
                f"{printable(file)}: every row needs a class, and every other cell must be a finite number; mend "
                f"or remove these rows or columns (data.label_column says which one is the class):{''.join(each)}"
            )


def _read_csv(file: Path, wanted: str | None) -> _Table:
    blocks, labels, problems = [], [], _Problems()
    with csv_rows(file) as rows:
        names = header_of(file, rows)
        position = label_column(file, names, wanted)
        columns = names[:position] + names[position + 1 :]
        checked = _with_all_cells(file, rows, len(names))
        while block := list(islice(checked, _ROWS_AT_ONCE)):
            for line, row in block:
                labels.append(row.pop(position).strip())
                if labels[-1].lower() in _NO_CLASS:
                    where = f"line {line}, column {names[position]}: {labels[-1]!r}"
                    problems.add(_WITHOUT_CLASS, where)
            numbers = _numbers([cell for _, row in block for cell in row])
            blocks.append(_as_float32(numbers.reshape(len(block), len(columns))))
            for number, column in np.argwhere(~np.isfinite(blocks[-1])):
                line, row = block[number]
                where = (
                    f"line {line}, column {columns[column]}: {listing([printable(row[column].strip())])!r}"
                )
                problems.add(_kind(row[column]), where)
    problems.judge(file)
    features = np.concatenate(blocks or [np.zeros((0, len(columns)), np.float32)])
    return _Table(columns, features, labels, header_notes(file, names))


def _with_all_cells(file: Path, rows: Rows, expected: int) -> Rows:
    for line, row in rows:
        if len(row) != expected:
            raise DataError(
                f"{printable(file)}, line {line}: {len(row)} cells, but the header has {expected}; give every row as "
                "many cells as there are names (text with commas in it stands in quotes)"
            )
        yield line, row


def _numbers(cells: list[str]) -> np.ndarray:
    """float64 of all cells, NaN for those that are none."""
    text = "".join(cells)
    if text.isascii() and "_" not in text:  # else Python takes more for numbers than other programs do
        try:
            return np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            pass
    return np.array([math.nan if number is None else number for number in map(number_of, cells)], np.float64)


def _as_float32(numbers: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _kind(cell: str) -> str:
    if cell.strip().lower() in _MISSING:
        return "missing"
    number = number_of(cell)
    if number is None:
        return "text and no number"
    return "too large for 32 bits" if math.isfinite(number) else "not finite"


def _read_npz(file: Path) -> _Table:
    features, labels = arrays_of(file)
    where = printable(file)
    if features.ndim != 2 or not features.shape[1] or features.dtype.kind not in "iufc":
        raise DataError(
            f"{where}: {FEATURES[0]} is {features.dtype} of shape {features.shape}; it must be numbers of shape "
            "(rows, columns). Images are read from folders (data=folder) or as TensorFlow Datasets sets (data=tfds)"
        )
    if np.iscomplexobj(features):
        raise DataError(f"{where}: {FEATURES[0]} holds complex numbers; give real ones, such as their parts")
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "biufUS":
        raise DataError(
            f"{where}: {CLASSES[0]} is {labels.dtype} of shape {labels.shape}; it must be one number or word for "
            f"each of the {len(features)} rows"
        )
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "backslashreplace")
    numbers, problems = _as_float32(features), _Problems()
    for row, column in np.argwhere(~np.isfinite(numbers)):
        kind = "too large for 32 bits" if np.isfinite(features[row, column]) else "not finite"
        problems.add(kind, f"row {row}, column {column}, counted from 0: {features[row, column]}")
    if labels.dtype.kind == "f":
        for row in np.flatnonzero(~np.isfinite(labels)):
            problems.add("not finite where the class should be", f"row {row}, counted from 0: {labels[row]}")
    words = [str(label).strip() for label in labels]
    if labels.dtype.kind in "US":
        for row, word in enumerate(words):
            if word.lower() in _NO_CLASS:
                problems.add(_WITHOUT_CLASS, f"row {row}, counted from 0: {word!r}")
    problems.judge(file)
    return _Table(tuple(map(str, range(numbers.shape[1]))), numbers, words)
