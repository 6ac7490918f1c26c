"""The two arrays of a table in a .npz file, by name; nothing in the file is run."""

import zipfile
from pathlib import Path

import numpy as np

from bnadapt.data.wording import listing, printable
from bnadapt.errors import DataError

FEATURES, CLASSES = ("x", "features"), ("y", "labels")
_ONE_ARRAY = b"\x93NUMPY"


def arrays_of(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The array of features and that of classes in a file, of whatever shape and type.

    Raises:
        DataError: it is no .npz file, lacks one of them, or holds Python objects.
    """
    remedy = "write it with numpy.savez(FILE, x=..., y=...), plain arrays of numbers or words"
    try:
        if not zipfile.is_zipfile(file):
            raise DataError(f"{printable(file)} cannot be read as .npz: {_no_archive(file)}; {remedy}")
        with np.load(file, allow_pickle=False) as arrays:
            present = list(arrays.files)
            features = [name for name in FEATURES if name in present]
            labels = [name for name in CLASSES if name in present]
            if len(features) != 1 or len(labels) != 1:
                raise DataError(
                    f"{printable(file)}: it holds {listing([printable(name) for name in present]) or 'nothing'}; name "
                    f"one array {' or '.join(FEATURES)} and one {' or '.join(CLASSES)}"
                )
            found = arrays[features[0]], arrays[labels[0]]
    except DataError:
        raise
    except Exception as error:  # a file of any origin is read by several parsers
        why = printable(error) or type(error).__name__
        if why.startswith("Object arrays"):
            raise DataError(
                f"{printable(file)} holds Python objects, which are never loaded; save plain arrays of numbers"
            ) from error
        if "pickle" in why:  # advice of numpy's that would run what the file holds
            why = "an array in it is no plain one"
        raise DataError(f"{printable(file)} cannot be read as .npz: {why}; {remedy}") from error
    if not all(isinstance(each, np.ndarray) for each in found):
        raise DataError(
            f"{printable(file)} cannot be read as .npz: what it holds by these names is no array; {remedy}"
        )
    return found


def _no_archive(file: Path) -> str:
    with open(file, "rb") as opened:
        alone = opened.read(len(_ONE_ARRAY)) == _ONE_ARRAY
    return "it holds one array alone (.npy)" if alone else "it is no archive of arrays, or not a whole one"
