"""Which files a table consists of, and what its columns are called; standard library only.

A table is one ``.csv`` or ``.npz`` file, or a folder that holds ``train.csv`` and, where there are parts of their
own, ``validation.csv`` (or ``val.csv``) and ``test.csv``.
"""

import csv
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnadapt.data.regular import hindrance
from bnadapt.data.wording import listing, printable
from bnadapt.errors import DataError

SUFFIXES = (".csv", ".npz")
_PARTS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_LABELS = ("label", "class")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_LAYOUT = (
    "give a .csv file with a header and commas, a .npz file with x and y, or a folder that holds train.csv"
)

Rows = Iterator[tuple[int, list[str]]]


def table_parts(path: str) -> dict[str, Path]:
    """The files of a table by ``train``, ``validation`` and ``test``; a single file is ``train``.

    Raises:
        DataError: there is no such file or folder, it is of another kind, or two files are one part.
    """
    root = Path(os.path.expanduser(path)).absolute()
    if os.path.isdir(root):
        return _parts_of_folder(root)
    why = hindrance(root)
    if why is not None:
        raise DataError(f"data.path={printable(path)}: {why}; {_LAYOUT}")
    if root.suffix.lower() not in SUFFIXES:
        raise DataError(f"data.path={printable(path)}: no .csv and no .npz file; {_LAYOUT}")
    if not root.stat().st_size:
        raise DataError(f"data.path={printable(path)}: the file is empty; {_LAYOUT}")
    return {"train": root}


def _parts_of_folder(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    try:
        files = sorted(each for each in root.iterdir() if each.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise DataError(f"data.path={printable(root)} cannot be read: {error.strerror}") from error
    for file in files:
        part = _PARTS.get(file.stem.lower())
        if part is None:
            continue
        if part in found:
            both = f"{found[part].name} and {file.name}"
            raise DataError(f"data.path={printable(root)}: {both} both mean {part}; keep one of them")
        found[part] = Path(file)
    if "train" not in found:
        present = (
            f"it holds {listing([printable(each.name) for each in files])}" if files else "it holds no table"
        )
        raise DataError(
            f"data.path={printable(root)}: there is no train.csv or train.npz, {present}; {_LAYOUT}"
        )
    for file in found.values():
        why = hindrance(file) or (None if file.stat().st_size else "the file is empty")
        if why is not None:
            raise DataError(f"{printable(file)}: {why}; {_LAYOUT}")
    return found


@contextmanager
def csv_rows(path: Path) -> Iterator[Rows]:
    """The rows of a .csv file with the numbers of the lines where they end, without empty lines.

    Raises:
        DataError: it cannot be read, is no text in UTF-8, or quotes are not closed.
    """
    try:
        # A byte order mark, which spreadsheets write, is no part of the first name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            yield ((reader.line_num, row) for row in reader if row)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{printable(path)}: no text in UTF-8 (byte {error.object[error.start]:#04x}); save it as CSV in UTF-8"
        ) from error
    except csv.Error as error:
        raise DataError(
            f"{printable(path)}, line {reader.line_num}: {error}; a quote may not be closed: save it anew as CSV"
        ) from error
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error


def header_of(path: Path, rows: Rows) -> tuple[str, ...]:
    """The names of the columns, from the first of the rows.

    Raises:
        DataError: there are no names, some are missing or there twice, or commas do not separate them.
    """
    _, cells = next(rows, (0, []))
    names = tuple(printable(cell.strip()) for cell in cells)
    where = printable(path)
    if not names:
        raise DataError(f"{where}: the file is empty; {_LAYOUT}")
    if len(names) == 1:
        for separator, word in _SEPARATORS.items():
            if separator in cells[0].strip():
                raise DataError(f"{where}: columns are separated by {word}; separate them by commas")
        raise DataError(f"{where}: there is one column, {listing(names)}; a class and numbers are needed")
    numbers = [float(name) for name in names if is_number(name)]
    if numbers and numbers != [numbers[0] + step for step in range(len(numbers))]:
        raise DataError(
            f"{where}: the first line holds numbers ({listing(names, 5)}); put a line with the names of the columns "
            "before it"
        )
    unnamed = [number for number, name in enumerate(names, 1) if not name]
    if unnamed:
        raise DataError(
            f"{where}: column {unnamed[0]} of {len(names)} has no name; name it, or remove it where it only counts rows"
        )
    repeated = (
        sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    )
    if repeated:
        raise DataError(
            f"{where}: several columns are called {listing(repeated)}; every name may be there once"
        )
    return names


def label_column(path: Path, names: tuple[str, ...], wanted: str | None) -> int:
    """Position of the column that holds the class: the wanted one, else ``label`` or ``class``, else the last.

    Raises:
        DataError: there is no wanted one, or both a label and a class.
    """
    if wanted is not None:
        if wanted not in names:
            raise DataError(
                f"data.label_column={printable(wanted)}: {printable(path)} has no column of that name; it has "
                f"{listing(names, 20)}"
            )
        return names.index(wanted)
    likely = [name for name in names if name.lower() in _LABELS]
    if len(likely) > 1:
        raise DataError(
            f"{printable(path)}: {' and '.join(likely)} may both be the class; choose by data.label_column"
        )
    return names.index(likely[0]) if likely else len(names) - 1


def number_of(text: str) -> float | None:
    """The number in a cell, finite or not; None for text, also for 1_0 and digits of other scripts."""
    plain = text.strip()
    if "_" in plain or not plain.isascii():
        return None
    try:
        return float(plain)
    except ValueError:
        return None


def is_number(text: str) -> bool:
    """Whether a cell is a number that is finite."""
    number = number_of(text)
    return number is not None and math.isfinite(number)


def header_notes(path: Path, names: tuple[str, ...]) -> list[str]:
    """A sentence where the names of the columns, all numbers or all but one, may be a row of data."""
    if sum(map(is_number, names)) < len(names) - 1:
        return []
    return [
        f"{printable(path.name)}: the first line ({listing(names, 5)}) was taken for the names of the columns; where "
        "it is a row of data, put a line with names before it"
    ]


def require_table(path: str, wanted: str | None) -> None:
    """Raise a DataError where it shows without reading further than to the names that a table cannot be read."""
    for file in table_parts(path).values():
        if file.suffix.lower() == ".csv":
            with csv_rows(file) as rows:
                label_column(file, header_of(file, rows), wanted)
