"""The file of a patch: weights with the paths that they have in a network."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnadapt import array_file
from bnadapt.errors import ModelError

MAGIC = b"bnadapt patch 1\n"
WEIGHTS = "weights"


def write_patch(path: str | Path, header: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """Write a patch, whole or not at all; :func:`bnadapt.array_file.write` says what stands in it.

    Raises:
        ModelError: the folder is not there.
        StorageError: the file cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise ModelError(
            f"the patch {path} cannot be written: the folder '{target.parent}' does not exist, make it"
        )
    array_file.write(target, MAGIC, header, weights, key=WEIGHTS)


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
    try:
        header, weights = array_file.parsed(memoryview(rest), WEIGHTS, array_file.FLOATS, with_paths=True)
    except array_file.UnusableFileError as error:
        raise ModelError(f"the patch {path} {error}. Copy or make it again") from error
    return header, dict(weights)


def _not_a_patch(start: bytes) -> str:
    family = MAGIC.rsplit(b" ", 1)[0]
    if start.startswith(family):
        found = start[len(family) :].decode(errors="replace").strip()
        return f"is a patch of version {found}, and this bnadapt reads version 1: take a newer one"
    return "is no patch: patches are made by save_patch"
