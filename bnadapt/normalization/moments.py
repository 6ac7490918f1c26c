"""Mean and variance of what batch normalization layers receive, pooled exactly over any cut into batches."""

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from bnadapt.errors import DataError, ModelError, SurgeryError
from bnadapt.surgery.graph import Call, layer_paths, replay
from bnadapt.surgery.sites import Patterns, as_patterns, matches


@dataclass(frozen=True)
class Moments:
    """Moments per channel.

    Attributes:
        count: values per channel: samples times positions.
        mean: float64 [channels].
        variance: float64 [channels], biased (divided by count), as Keras' batch normalization uses it.
    """

    count: int
    mean: np.ndarray
    variance: np.ndarray


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of both sets of values together, by the formula of Chan, Golub and LeVeque (1979).

    Unlike a mean of squares minus a squared mean it does not cancel where the mean is large.
    """
    count = first.count + second.count
    if count == 0:
        return first
    share = second.count / count
    difference = second.mean - first.mean
    mean = first.mean + difference * share
    variance = first.variance * (1 - share) + second.variance * share + difference**2 * share * (1 - share)
    return Moments(count, mean, variance)


def batch_norm_layers(
    model: keras.Model, layers: Patterns | None = None
) -> dict[str, keras.layers.BatchNormalization]:
    """The batch normalization layers in the network's graph by path, in graph order.

    Args:
        model: a Sequential or Functional network.
        layers: paths, names, or regular expressions over either (full match); by default all.

    Raises:
        SurgeryError: the network has none, or one of ``layers`` matches none of them.
    """
    found = {
        path: layer
        for path, layer in layer_paths(model).items()
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    if not found:
        raise SurgeryError(
            f"the model '{model.name}' has no batch normalization: insert some first (insert_batch_norm)"
        )
    if layers is None:
        return found
    if isinstance(layers, str):
        layers = [layers]
    chosen: set[str] = set()
    for wanted in layers:
        hits = (
            {wanted} if wanted in found else {path for path in found if matches(as_patterns(wanted)[0], path)}
        )
        if not hits:
            raise SurgeryError(
                f"'{wanted}' matches no batch normalization layer; there are: {', '.join(found)}"
            )
        chosen |= hits
    return {path: layer for path, layer in found.items() if path in chosen}


def measure(
    model: keras.Model,
    batches: Any,
    layers: Patterns | None = None,
    *,
    samples: int | None = None,
    normalize_with: Literal["moving", "batch"] = "moving",
    batch_size: int = 256,
) -> dict[str, Moments]:
    """Moments of the input of each named batch normalization layer; the model stays exactly as it was.

    Every batch is reduced in float32 (float64 in a float64 network) where the activations are, in two passes
    so that a large mean does not cancel, and merged with the others in float64: the result does not depend on
    how the samples are cut into batches or ordered. A layer that is called several times is pooled over its
    calls. Masked positions do not count. The network runs in inference, dropout off.

    Args:
        model: a Sequential or Functional network with batch normalization.
        batches: an array [samples, ...] (or a dict of them, for a network with several inputs), or an
            iterable of batches, a ``tf.data.Dataset`` among them; of a tuple only its first part is used, so
            that labels may be there.
        layers: as in ``batch_norm_layers``.
        samples: use so many samples, from the beginning; None: all.
        normalize_with: "moving": every batch normalization uses its moving statistics. "batch": those that
            are measured normalize with the moments of their own batch, as in training, so that one pass
            measures all of them at their new inputs (precise batch normalization, Wu and Johnson, 2021); the
            batch's size then matters.
        batch_size: rows at once where ``batches`` is an array.

    Raises:
        DataError: there was no sample.
        ModelError: an input of batch normalization was not finite.
        SurgeryError: no such layer, or a network that is no graph of layers.
    """
    if normalize_with not in ("moving", "batch"):
        raise SurgeryError(f"normalize_with={normalize_with!r}: choose moving or batch")
    chosen = batch_norm_layers(model, layers)
    reduce = _reduction(model, chosen, own_moments=normalize_with == "batch")
    totals: dict[str, Moments] = {}
    for inputs in _limited(_batches(batches, batch_size), samples):
        for path, per_call in reduce(inputs).items():
            for count, mean, variance in per_call:
                part = Moments(
                    int(count), mean.numpy().astype(np.float64), variance.numpy().astype(np.float64)
                )
                if not (np.isfinite(part.mean).all() and np.isfinite(part.variance).all()):
                    raise ModelError(
                        f"the input of the batch normalization '{path}' is not finite for some images: check "
                        "the images for NaN, and whether training diverged"
                    )
                totals[path] = merge(totals[path], part) if path in totals else part
    if not totals:
        raise DataError("no images to measure: the data set or iterable is empty")
    return totals


def _reduction(model: keras.Model, chosen: dict[str, Any], *, own_moments: bool) -> Any:
    """A compiled function: a batch -> for each path a list of (count, mean, variance), one per call."""

    def of_batch(inputs: Any) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {path: [] for path in chosen}

        def call(each: Call, *args: Any, **kwargs: Any) -> Any:
            layer = each.operation
            if each.path not in chosen:
                return layer(*args, **kwargs)
            given = args[0] if args else kwargs["inputs"]
            values = keras.ops.cast(given, keras.backend.result_type(given.dtype, "float32"))
            mask = kwargs.get("mask", getattr(given, "_keras_mask", None))
            moments = _moments(values, layer.axis, mask)
            found[each.path].append(moments)
            if not own_moments:
                return layer(*args, **kwargs)
            return _normalized(layer, values, *moments[1:], mask)

        with keras.StatelessScope():  # nothing that a layer assigns or adds as a loss is kept
            replay(model, inputs, call)
        return found

    return tf.function(of_batch, reduce_retracing=True)


def _moments(values: tf.Tensor, axis: int, mask: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Count, mean and biased variance per channel; the second pass corrects the rounding of the mean."""
    axes = [each for each in range(values.shape.rank) if each != axis % values.shape.rank]
    channels = tf.shape(values, out_type=tf.int64)[axis]
    if mask is None:
        weights = None
        count = tf.size(values, out_type=tf.int64) // tf.maximum(channels, 1)
    else:
        weights = tf.broadcast_to(tf.cast(mask, values.dtype)[..., tf.newaxis], tf.shape(values))
        count = tf.reduce_sum(tf.cast(weights[..., 0], tf.int64))
    divisor = tf.maximum(tf.cast(count, values.dtype), 1.0)

    def average(what: tf.Tensor, *, keepdims: bool = False) -> tf.Tensor:
        if weights is None:
            return tf.reduce_mean(what, axes, keepdims=keepdims)
        return tf.reduce_sum(what * weights, axes, keepdims=keepdims) / divisor

    coarse = average(values, keepdims=True)
    centred = values - coarse
    correction = tf.cast(average(centred), tf.float64)
    mean = tf.cast(tf.reshape(coarse, [-1]), tf.float64) + correction
    variance = tf.cast(average(tf.square(centred)), tf.float64) - tf.square(correction)
    return count, mean, tf.maximum(variance, 0.0)


def _normalized(layer: Any, values: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, mask: Any) -> tf.Tensor:
    """What the layer computes in training, without moving its statistics."""
    result = keras.ops.batch_normalization(
        values,
        tf.cast(mean, values.dtype),
        tf.cast(variance, values.dtype),
        axis=layer.axis,
        offset=None if layer.beta is None else tf.cast(layer.beta.value, values.dtype),
        scale=None if layer.gamma is None else tf.cast(layer.gamma.value, values.dtype),
        epsilon=layer.epsilon,
    )
    result = keras.ops.cast(result, layer.compute_dtype)
    if mask is not None:
        result._keras_mask = mask
    return result


def _batches(batches: Any, batch_size: int) -> Iterator[Any]:
    """Inputs of the network batch by batch, labels left out."""
    if isinstance(batches, np.ndarray | tf.Tensor) or _is_dict_of_arrays(batches):
        rows = len(keras.tree.flatten(batches)[0])
        for start in range(0, rows, batch_size):
            part = slice(start, start + batch_size)
            yield keras.tree.map_structure(operator.itemgetter(part), batches)
        return
    for batch in batches:
        yield batch[0] if isinstance(batch, tuple) else batch


def _is_dict_of_arrays(batches: Any) -> bool:
    return isinstance(batches, dict) and all(hasattr(each, "shape") for each in keras.tree.flatten(batches))


def _limited(batches: Iterable[Any], samples: int | None) -> Iterator[Any]:
    """Batches of tensors until the number of samples is reached, the last one cut to it."""
    left = samples
    for batch in batches:
        if left is not None and left <= 0:
            return
        tensors = keras.tree.map_structure(lambda each, left=left: tf.convert_to_tensor(each)[:left], batch)
        rows = int(keras.tree.flatten(tensors)[0].shape[0])
        if rows == 0:
            continue
        left = None if left is None else left - rows
        yield tensors
        if left == 0:
            return
