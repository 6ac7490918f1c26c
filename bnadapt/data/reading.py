"""What goes wrong while examples are read in the middle of a pass, said as a DataError."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from bnadapt.data.wording import printable
from bnadapt.errors import DataError

# How TensorFlow words an exception that a Python function raised inside tf.data.
_OURS = re.compile(r"DataError: (.*?)\nTraceback \(most recent call last\)", re.DOTALL)
# What it puts around a reason: where the operation stands in a graph, and what it is called.
_AROUND = re.compile(
    r"^Graph execution error:\s+Detected at node [^\n]*\n(?:<stack traces unavailable>\n|(?:\s*File [^\n]*\n)+)\s*"
    r"|^\{\{function_node [^}]*\}\}\s*"
    r"|Error in user-defined function passed to .*? transformation with iterator: \S+ |\s*\[Op:.*$|\s*\[\[\{\{.*$",
    re.DOTALL,
)
_DECODING = re.compile(r"\{\{node [^}]*Decode\w+\}\}")


@contextmanager
def reading() -> Iterator[None]:
    """Raise what TensorFlow says of files that vanished or changed during a pass as the DataError that it is.

    Belongs around everything that goes through the batches of a split: training, scoring, measuring. Any other
    error passes unchanged.

    Raises:
        DataError: an image file is gone or another one than was checked, or a prepared set's file cannot be read or
            holds an image that cannot be decoded.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = as_data_error(error)
        if found is None:
            raise
        raise found from error


def as_data_error(error: tf.errors.OpError) -> DataError | None:
    """The DataError behind an error of TensorFlow; None where it has another cause."""
    if changed(error) is None and _DECODING.search(error.message):
        return DataError(
            f"an image of the data cannot be decoded: {reason(error)}; mend it where the set is prepared from, and "
            "prepare the set anew"
        )
    return changed(error)


def changed(error: tf.errors.OpError) -> DataError | None:
    """The DataError behind an error of TensorFlow if files vanished or changed; None where it has another cause."""
    ours = _OURS.search(error.message)
    if ours:
        return DataError(ours[1])
    if isinstance(error, (tf.errors.NotFoundError, tf.errors.DataLossError, tf.errors.PermissionDeniedError)):
        return DataError(f"the data cannot be read any more: {reason(error)}; they could when the run began")
    return None


def reason(error: Exception) -> str:
    """The first line of an error without TensorFlow's names of operations."""
    text = _AROUND.sub("", getattr(error, "message", None) or str(error)).strip()
    return printable((text.splitlines() or [type(error).__name__])[0])
