"""The file of a patch: a line that says what it is, a checksum, a header in JSON, and the bytes of weights."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnadapt.errors import ModelError
from bnadapt.files import write_bytes

MAGIC = b"bnadapt patch 1\n"
LARGEST_HEADER = 1 << 26
DTYPES = ("float16", "bfloat16", "float32", "float64")
_LENGTH = 8
_DIGEST = hashlib.sha256().digest_size


def write_patch(path: str | Path, header: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """Write a patch, whole or not at all.

    Nothing in the file is a program, compressed, or a name of a file: magic line, SHA-256 of all that follows,
    length of the header (8 bytes, little-endian), header, and the arrays one after the other.

    Raises:
        ModelError: the folder is not there.
        StorageError: the file cannot be written.
    """
    listed = [
        {"path": name, "shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in weights.items()
    ]
    text = json.dumps({**header, "weights": listed}).encode()
    rest = b"".join(
        [len(text).to_bytes(_LENGTH, "little"), text, *(each.tobytes() for each in weights.values())]
    )
    target = Path(path)
    if not target.parent.is_dir():
        raise ModelError(
            f"the patch {path} cannot be written: the folder '{target.parent}' does not exist, make it"
        )
    write_bytes(target, MAGIC + hashlib.sha256(rest).digest() + rest)


def read_patch(path: str | Path, largest: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the weights of a patch.

    Args:
        path: of the file.
        largest: bytes that the file may have at most; a larger one is not read.

    Raises:
        ModelError: the file is not there, no patch, of another version, damaged or too large.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
            if start != MAGIC:
                raise ModelError(f"{path} {_not_a_patch(start)}")
            size = os.fstat(file.fileno()).st_size
            if size > largest:
                raise ModelError(
                    f"{path} has {size:,} bytes, and a patch of this network can have {largest:,} at most: it "
                    "belongs to another network, or is no patch"
                )
            rest = file.read()
    except OSError as error:
        raise ModelError(f"the patch {path} cannot be read: {error.strerror or error}") from error
    digest, rest = rest[:_DIGEST], rest[_DIGEST:]
    if hashlib.sha256(rest).digest() != digest:
        raise ModelError(f"the patch {path} is damaged: its checksum is wrong. Copy or make it again")
    try:
        return _parsed(rest)
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"the patch {path} is damaged: {type(error).__name__} {error}") from error


def _parsed(rest: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    length = int.from_bytes(rest[:_LENGTH], "little")
    if length > min(LARGEST_HEADER, len(rest)):
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(rest[_LENGTH : _LENGTH + length])
    position, weights = _LENGTH + length, {}
    for entry in header.pop("weights"):
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"values of type {entry['dtype']}")
        kind = np.dtype(entry["dtype"])
        shape = tuple(int(each) for each in entry["shape"])
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if min(shape, default=1) < 0 or count * kind.itemsize > len(rest) - position:
            raise ValueError(f"'{entry['path']}' of shape {shape} is not all there")
        weights[str(entry["path"])] = np.frombuffer(rest, kind, count, position).reshape(shape)
        position += count * kind.itemsize
    if position != len(rest):
        raise ValueError(f"{len(rest) - position} bytes more than the header tells of")
    return header, weights


def _not_a_patch(start: bytes) -> str:
    family = MAGIC.rsplit(b" ", 1)[0]
    if start.startswith(family):
        found = start[len(family) :].decode(errors="replace").strip()
        return f"is a patch of version {found}, and this bnadapt reads version 1: take a newer one"
    return "is no patch: patches are made by save_patch"
