"""Images in every form that they come in, cut into batches of tensors; labels left out."""

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnadapt.errors import DataError


def input_batches(images: Any, *, batch_size: int, samples: int | None) -> Iterator[tuple[Any, int]]:
    """Batches of tensors as the network is called with them, each with its number of rows.

    Args:
        images: an array [samples, ...] (or a dict of them, for a network with several inputs), or an iterable
            of batches, a ``tf.data.Dataset`` among them; of a batch that is a tuple only the first part is
            used, so that labels may be there.
        batch_size: rows at once where ``images`` is an array.
        samples: stop after so many, the last batch cut to fit; None: all.

    Raises:
        DataError: ``samples`` or ``batch_size`` below 1.
    """
    if batch_size < 1 or (samples is not None and samples < 1):
        raise DataError(f"samples={samples}, batch_size={batch_size}: both must be at least 1")
    left = samples
    for batch in _parts(images, batch_size):
        tensors = keras.tree.map_structure(lambda each, left=left: _first_rows(each, left), batch)
        rows = next(int(each.shape[0]) for each in keras.tree.flatten(tensors) if each is not None)
        if rows == 0:
            continue
        yield tensors, rows
        if left is not None:
            left -= rows
            if left == 0:
                return


def can_be_read_again(images: Any) -> bool:
    """Whether a second loop over the images gives them once more; generators and iterators are used up."""
    return not isinstance(images, Iterator)


def _parts(images: Any, batch_size: int) -> Iterable[Any]:
    if isinstance(images, np.ndarray | tf.Tensor) or _is_dict_of_arrays(images):
        rows = len(keras.tree.flatten(images)[0])
        for start in range(0, rows, batch_size):
            yield keras.tree.map_structure(operator.itemgetter(slice(start, start + batch_size)), images)
        return
    for batch in images:
        yield batch[0] if isinstance(batch, tuple) else batch


def _is_dict_of_arrays(images: Any) -> bool:
    return isinstance(images, dict) and all(hasattr(each, "shape") for each in keras.tree.flatten(images))


def _first_rows(values: Any, rows: int | None) -> tf.Tensor | None:
    """The beginning of an array as a tensor; an optional input that is left out stays out."""
    if values is None:
        return None
    tensor = tf.convert_to_tensor(values)
    return tensor if rows is None or tensor.shape[0] <= rows else tensor[:rows]
