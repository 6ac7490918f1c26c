"""A lock between processes that ends with the process that holds it, however that ends."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


class HeldElsewhereError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(file: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock, a file that is made where it is missing, while the block lasts.

    A transaction of SQLite's own is the lock: every platform has it, and it ends with its process.

    Args:
        file: Of the lock, and of nothing else.
        patience: Seconds to wait for another process.

    Raises:
        HeldElsewhereError: another process holds it.
        OSError: the file cannot be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(file, timeout=patience)
    except sqlite3.Error as error:
        raise OSError(f"{file}: {error}") from error
    with closing(connection):
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise HeldElsewhereError(str(file)) from error
            raise OSError(f"{file}: {error}") from error
        yield
