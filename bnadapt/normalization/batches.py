"""Images in every form that they come in, cut into batches of tensors; labels left out."""

import numbers
import operator
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from bnadapt.errors import DataError
from bnadapt.surgery.graph import bind, bound, inputs_of

Samples = int | Literal["all"] | None


def input_batches(
    images: Any, *, model: keras.Model, batch_size: int, samples: Samples
) -> Iterator[tuple[Any, int]]:
    """Batches of tensors in the structure of the model's inputs, each with its number of rows.

    Args:
        images: an array [samples, ...], or for a network with several inputs a dictionary, list or tuple of
            them, as ``predict`` takes it; or an iterable of batches, a ``tf.data.Dataset`` among them; of a
            batch that is a tuple only the first part is used, so that labels may be there.
        model: the network that they are for.
        batch_size: rows at once where ``images`` is an array or holds arrays.
        samples: stop after so many, the last batch cut to fit; None or "all": all.

    Raises:
        DataError: ``samples`` or ``batch_size`` is no whole number above 0, or the images do not fit the
            inputs of the network in number, names, shape or rows.
    """
    if not _is_positive(batch_size):
        raise DataError(f"batch_size={batch_size!r}: must be a whole number, at least 1")
    left = None if samples is None or (isinstance(samples, str) and samples == "all") else samples
    if left is not None and not _is_positive(left):
        raise DataError(f"samples={samples!r}: must be a whole number, at least 1, or None for all")
    for batch in _parts(model, images, batch_size):
        tensors, rows = one_batch(model, batch, most=left)
        if rows == 0:
            continue
        yield tensors, rows
        if left is not None:
            left -= rows
            if left == 0:
                return


def one_batch(model: keras.Model, batch: Any, *, most: int | None = None) -> tuple[Any, int]:
    """A batch as tensors in the structure of the model's inputs, and its rows, at most so many.

    A tuple is (inputs, labels), of which the labels are left out.
    """
    if isinstance(batch, tuple) and is_inputs(model, batch):
        raise DataError(
            f"the model '{model.name}' takes {len(batch)} inputs, and of a batch that is a tuple only the first "
            "part is used, as the rest is labels: pass a dictionary, or an iterable of ([a, b],) batches"
        )
    given = batch[0] if isinstance(batch, tuple) and batch else batch
    tensors = keras.tree.map_structure(lambda each: _first_rows(each, most), bound(model, given))
    return tensors, _check_fit(model, tensors)


def is_inputs(model: keras.Model, images: Any) -> bool:
    """Whether a list or tuple is one array for every input, as ``predict`` takes it, and no list of batches."""
    return (
        isinstance(images, list | tuple)
        and len(images) == len(inputs_of(model)) > 1
        and all(each is None or hasattr(each, "shape") for each in images)
    )


def can_be_read_again(images: Any) -> bool:
    """Whether a second loop over the images gives them once more; generators and iterators are used up."""
    return not isinstance(images, Iterator)


def _parts(model: keras.Model, images: Any, batch_size: int) -> Iterable[Any]:
    if isinstance(images, np.ndarray | tf.Tensor | dict) or is_inputs(model, images):
        arrays = bound(model, images)
        for start in range(0, _rows(model, arrays), batch_size):
            cut = operator.itemgetter(slice(start, start + batch_size))
            yield keras.tree.map_structure(lambda each, cut=cut: None if each is None else cut(each), arrays)
        return
    if isinstance(images, str | bytes) or not hasattr(images, "__iter__"):
        raise DataError(
            f"images={images!r}: pass an array [samples, ...], or an iterable of batches such as a tf.data.Dataset"
        )
    yield from images


def _is_positive(number: Any) -> bool:
    return isinstance(number, numbers.Integral) and not isinstance(number, bool) and int(number) >= 1


def _first_rows(values: Any, rows: int | None) -> tf.Tensor | None:
    """The beginning of an array as a tensor; an optional input that is left out stays out."""
    if values is None:
        return None
    tensor = tf.convert_to_tensor(values)
    return tensor if rows is None or not tensor.shape or tensor.shape[0] <= rows else tensor[:rows]


def _rows(model: keras.Model, inputs: Any) -> int:
    """The number of rows that all inputs have."""
    rows = {
        tensor.name: each.shape[0] if each.shape else None
        for tensor, each in zip(inputs_of(model), bind(model, inputs), strict=True)
        if each is not None
    }
    if len(set(rows.values())) != 1 or None in rows.values():
        found = ", ".join(f"'{name}' {'no' if count is None else count}" for name, count in rows.items())
        raise DataError(
            f"every input of the model '{model.name}' needs the same number of rows; received: {found or 'none'}"
        )
    return next(int(count) for count in rows.values() if count is not None)


def _check_fit(model: keras.Model, inputs: Any) -> int:
    """The rows of a batch; DataError where its shapes are not those of the inputs."""
    for tensor, each in zip(inputs_of(model), bind(model, inputs), strict=True):
        if each is None:
            continue
        wanted, given = tuple(tensor.shape), tuple(each.shape)
        if len(given) == len(wanted) + 1 and given[-1] == 1:  # as Keras adjusts the rank at the border
            given = given[:-1]
        elif len(given) == len(wanted) - 1 and wanted[-1] == 1 and given:
            given = (*given, 1)
        fits = len(given) == len(wanted) and all(
            size in (None, other) for size, other in zip(wanted[1:], given[1:], strict=True)
        )
        if not fits:
            unbatched = len(each.shape) == len(wanted) - 1
            raise DataError(
                f"the input '{tensor.name}' of the model '{model.name}' takes batches of shape "
                f"({', '.join(str(size or 'any') for size in (None, *wanted[1:]))}), received one of shape "
                f"{tuple(each.shape)}"
                + (": single images, not batched? Use dataset.batch(...) or one array" if unbatched else "")
            )
    return _rows(model, inputs)
