"""A file of arrays: a line that says what it is, a checksum, a header in JSON, and the bytes of the arrays."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from bnadapt.files import replacing

FLOATS = ("float16", "bfloat16", "float32", "float64")
NUMBERS = (*FLOATS, "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
LARGEST_HEADER = 1 << 26
_LENGTH = 8
_DIGEST = hashlib.sha256().digest_size


class UnusableFileError(Exception):
    """A file that is there cannot be used; its message goes on from the file's name ("is damaged: ...")."""


def write(
    path: Path,
    magic: bytes,
    header: Mapping[str, Any],
    arrays: Sequence[np.ndarray] | Mapping[str, np.ndarray],
    *,
    key: str = "arrays",
) -> None:
    """Write a file, whole or not at all.

    Nothing in it is a program, compressed, or a name of a file: magic line, SHA-256 of all that follows, length of
    the header (8 bytes, little-endian), header, and the arrays one after the other.

    Args:
        path: Of the file; what was there before is replaced.
        magic: What the file begins with: its kind, its version and the end of the line.
        header: Whatever JSON can say.
        arrays: Of any shape; of booleans, integers or floats of 16 bits and more; perhaps each with a path.
        key: Of the header, under which the arrays are listed.

    Raises:
        StorageError: the file cannot be written; the one that was there before is as it was.
    """
    named: list[tuple[dict[str, str], np.ndarray]] = (
        [({"path": name}, array) for name, array in arrays.items()]
        if isinstance(arrays, Mapping)
        else [({}, array) for array in arrays]
    )
    listed = [{**name, "shape": list(array.shape), "dtype": str(array.dtype)} for name, array in named]
    text = json.dumps({**header, key: listed}).encode()
    # Bytes as they lie in memory: networks are large, and one more copy of all weights would be felt.
    parts: list[Any] = [len(text).to_bytes(_LENGTH, "little"), text, *(_bytes(array) for _, array in named)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    with replacing(path) as draft, draft.open("wb") as file:
        for part in (magic, digest.digest(), *parts):
            file.write(part)


def read(path: Path, magic: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The header and the arrays of a file; the arrays cannot be written to.

    Raises:
        FileNotFoundError: the file is not there.
        UnusableFileError: it cannot be read, is of another kind, cut off, or changed by a single bit.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableFileError(f"cannot be read: {error.strerror or error}") from error
    if not content.startswith(magic):
        raise UnusableFileError(f"does not begin with {magic.decode().strip()!r}")
    header, arrays = parsed(memoryview(content)[len(magic) :], "arrays", NUMBERS, with_paths=False)
    return header, [array for _, array in arrays]


def parsed(
    content: memoryview, key: str, dtypes: Collection[str], *, with_paths: bool
) -> tuple[dict[str, Any], list[tuple[str, np.ndarray]]]:
    """The header, and the arrays with their paths, empty where they have none, of what stands behind the magic line.

    Args:
        content: From the checksum on.
        key: Of the header, under which the arrays are listed.
        dtypes: That arrays may have.
        with_paths: Whether each array must have a path.

    Raises:
        UnusableFileError: it is cut off, or changed by a single bit.
    """
    rest = content[_DIGEST:]
    if hashlib.sha256(rest).digest() != content[:_DIGEST]:
        raise UnusableFileError("is damaged: its checksum is wrong")
    try:
        return _parsed(rest, key, dtypes, with_paths)
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableFileError(f"is damaged: {type(error).__name__} {error}") from error


def _parsed(
    rest: memoryview, key: str, dtypes: Collection[str], with_paths: bool
) -> tuple[dict[str, Any], list[tuple[str, np.ndarray]]]:
    length = int.from_bytes(rest[:_LENGTH], "little")
    if length > min(LARGEST_HEADER, len(rest)):
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(bytes(rest[_LENGTH : _LENGTH + length]))
    position, arrays = _LENGTH + length, []
    for entry in header.pop(key):
        if entry["dtype"] not in dtypes:
            raise ValueError(f"values of type {entry['dtype']}")
        kind = np.dtype(entry["dtype"])
        path, shape = str(entry["path"]) if with_paths else "", tuple(int(each) for each in entry["shape"])
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if min(shape, default=1) < 0 or count * kind.itemsize > len(rest) - position:
            name = f"'{path}'" if path else "an array"
            raise ValueError(f"{name} of shape {shape} is not all there")
        arrays.append((path, np.frombuffer(rest, kind, count, position).reshape(shape)))
        position += count * kind.itemsize
    if position != len(rest):
        raise ValueError(f"{len(rest) - position} bytes more than the header tells of")
    return header, arrays


def _bytes(array: np.ndarray) -> Any:
    # As plain bytes first: bfloat16 has no buffer of its own.
    return memoryview(cast(Any, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
