"""Files that are whole or not there: written under another name, flushed to the disk, and renamed.

A process may be killed, and a disk may run full, at any moment; whatever stood under a name before then still stands
there, to the last byte.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from bnadapt.errors import StorageError

# Some libraries, HDF5's among them, raise errors of their own that name the system's error in their text.
_IN_A_TEXT = re.compile(r"errno = (\d+)")


class Savable(Protocol):
    """What can save itself under a path, such as a Keras network."""

    def save(self, path: Path) -> object:
        """Write a file."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; at the end of the block what was written there takes its place at once.

    The folder is made where it is missing. Where the block raises, nothing of what it wrote stays.

    Raises:
        StorageError: the file cannot be written; the one that was there before is as it was.
    """
    # With the same extension, because Keras chooses the format by it.
    draft = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield draft
            flush(draft)
            draft.replace(path)
            flush(path.parent)
        except (OSError, RuntimeError) as error:
            code = _system_error(error)
            if code is None:
                raise
            raise StorageError(
                f"{path} cannot be written: {os.strerror(code)}. What was there before is as it was; make room, or "
                "name another place"
            ) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file, whole or not at all; returns its path. Raises a StorageError as :func:`replacing` does."""
    with replacing(path) as draft:
        draft.write_bytes(content)
    return path


def write_text(path: Path, content: str) -> Path:
    """Write a text in UTF-8, as :func:`write_bytes` does; letters that cannot be written become question marks."""
    return write_bytes(path, content.encode("utf-8", "replace"))


def save(network: Savable, path: Path) -> Path:
    """Save a network, whole or not at all; returns its path. Raises a StorageError as :func:`replacing` does."""
    with replacing(path) as draft:
        network.save(draft)
    return path


def copy(source: Path, path: Path) -> Path:
    """Copy a file, whole or not at all; returns its path. Raises a StorageError as :func:`replacing` does."""
    with replacing(path) as draft:
        shutil.copyfile(source, draft)
    return path


def remove_drafts(directory: Path) -> None:
    """Remove what killed processes left half-written in a directory that this process alone uses."""
    for draft in directory.glob(".*.part*"):
        draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Make the system write a file, or the list of files in a directory, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directories, and keeps their lists in order by itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _system_error(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _IN_A_TEXT.search(str(error))
    return int(found[1]) if found else None
