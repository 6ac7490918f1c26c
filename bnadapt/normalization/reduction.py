"""Moments of one batch per channel, and normalization with them, where the activations are."""

import functools
from typing import Any

import keras
import tensorflow as tf

WIDEST_ROW = 16384  # values; beyond it the kernels leave the processor's cache
EPSILON_OF_KERNEL = 1e-5  # only scales what is divided by again; smaller ones are refused on some devices


def channel_moments(
    values: tf.Tensor, axis: int, mask: tf.Tensor | None = None, *, differentiable: bool = False
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Count (int64), mean and biased variance (float64) per channel of one batch.

    Values in float32 go through the fused batch normalization kernel, which reduces in one call what
    otherwise takes six passes over memory. Positions along the last spatial axis are kept apart in it and
    merged in float64: sums stay short, and so their rounding small. What the kernel's mean lost to rounding
    is measured on the centred result and given back, so that a large mean does not cancel.

    Args:
        values: of float32 or float64, with a known number of channels.
        axis: of the channels.
        mask: of the shape of ``values`` without its last axis; where False, values do not count.
        differentiable: use no fused kernel, so that gradients flow through both moments.
    """
    last = _channels_last(values, axis)
    if mask is not None or differentiable or values.dtype != tf.float32:
        return _in_two_passes(last, mask)
    groups = _groups(last)
    kernel = _kernel_of_moments(last.shape[-1], groups)
    return kernel(tf.reshape(last, [-1, 1, 1, groups * last.shape[-1]]))


def normalized(
    layer: Any, values: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, mask: Any, *, fused: bool = True
) -> tf.Tensor:
    """What a batch normalization layer computes with these moments; its statistics do not move."""
    gamma, beta = _value(layer.gamma, values), _value(layer.beta, values)
    if fused and values.dtype == tf.float32 and layer.axis in (-1, values.shape.rank - 1):
        channels = values.shape[-1]
        result = _kernel_of_normalization(channels, layer.epsilon)(
            tf.reshape(values, [-1, 1, 1, channels]),
            tf.ones(channels) if gamma is None else gamma,
            tf.zeros(channels) if beta is None else beta,
            mean,
            variance,
        )
        result = tf.ensure_shape(tf.reshape(result, tf.shape(values)), values.shape)
    else:
        mean, variance = tf.cast(mean, values.dtype), tf.cast(variance, values.dtype)
        result = keras.ops.batch_normalization(
            values, mean, variance, axis=layer.axis, offset=beta, scale=gamma, epsilon=layer.epsilon
        )
    result = keras.ops.cast(result, layer.compute_dtype)
    if mask is not None:
        result._keras_mask = mask
    return result


def received(layer: Any, args: Any, kwargs: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
    """The values that a call of a batch normalization layer normalizes, as it casts them, and their mask."""
    given = args[0] if args else kwargs["inputs"]
    values = keras.ops.cast(given, layer.compute_dtype)
    values = keras.ops.cast(values, keras.backend.result_type(layer.compute_dtype, "float32"))
    return values, kwargs.get("mask", getattr(given, "_keras_mask", None))


# The two functions below are compiled once per shape, for all layers and networks, and called by the compiled
# pass over a network instead of being copied into it: its graph is made and optimized several times faster.
NOT_COPIED = {"_noinline": True}


@functools.cache
def _kernel_of_moments(channels: int, groups: int) -> Any:
    """A compiled function: rows [rows, 1, 1, groups * channels] -> moments pooled over rows and groups."""
    width = groups * channels

    def moments(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        number = tf.cast(tf.shape(rows)[0], tf.float64)
        centred, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=rows,
            scale=tf.ones([width]),
            offset=tf.zeros([width]),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=EPSILON_OF_KERNEL,
            is_training=True,
        )
        biased = tf.cast(variance, tf.float64) * ((number - 1) / number)  # the kernel's is Bessel's
        summed = tf.linalg.matmul(tf.ones([1, tf.shape(rows)[0]]), tf.reshape(centred, [-1, width]))[0]
        lost = tf.cast(summed, tf.float64) / number * tf.sqrt(biased + EPSILON_OF_KERNEL)
        means = tf.reshape(tf.cast(mean, tf.float64) + lost, [groups, channels])
        variances = tf.reshape(biased - tf.square(lost), [groups, channels])
        pooled = tf.reduce_mean(means, 0)
        spread = tf.reduce_mean(variances + tf.square(means - pooled), 0)
        return tf.shape(rows, out_type=tf.int64)[0] * groups, pooled, tf.maximum(spread, 0.0)

    signature = [tf.TensorSpec([None, 1, 1, width], tf.float32)]
    return tf.function(moments, signature, autograph=False, experimental_attributes=NOT_COPIED)


@functools.cache
def _kernel_of_normalization(channels: int, epsilon: float) -> Any:
    """A compiled function: rows [rows, 1, 1, channels], gamma, beta, mean, variance -> normalized rows."""

    def normalize(
        rows: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
    ) -> tf.Tensor:
        return tf.raw_ops.FusedBatchNormV3(
            x=rows,
            scale=gamma,
            offset=beta,
            mean=tf.cast(mean, tf.float32),
            variance=tf.cast(variance, tf.float32),
            epsilon=epsilon,
            is_training=False,
        ).y

    affine, moments = (tf.TensorSpec([channels], kind) for kind in (tf.float32, tf.float64))
    signature = [tf.TensorSpec([None, 1, 1, channels], tf.float32), affine, affine, moments, moments]
    return tf.function(normalize, signature, autograph=False, experimental_attributes=NOT_COPIED)


def _value(weight: Any, values: tf.Tensor) -> tf.Tensor | None:
    return None if weight is None else tf.cast(weight.value, values.dtype)


def _channels_last(values: tf.Tensor, axis: int) -> tf.Tensor:
    rank = values.shape.rank
    axis %= rank
    if axis == rank - 1:
        return values
    return tf.transpose(values, [*range(axis), *range(axis + 1, rank), axis])


def _groups(values: tf.Tensor) -> int:
    """How many neighbouring positions are kept apart: a divisor of the last spatial size."""
    size = values.shape[-2] if values.shape.rank > 2 else None
    if size is None:
        return 1
    fitting = [
        each for each in range(1, size + 1) if size % each == 0 and each * values.shape[-1] <= WIDEST_ROW
    ]
    return max(fitting, default=1)


def _in_two_passes(values: tf.Tensor, mask: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The textbook's two passes; the second one also measures what rounding took from the mean."""
    rows = tf.reshape(values, [-1, values.shape[-1]])
    if mask is None:
        count = tf.shape(rows, out_type=tf.int64)[0]
        weights = tf.ones([tf.shape(rows)[0], 1], rows.dtype)
    else:
        weights = tf.reshape(tf.cast(mask, rows.dtype), [-1, 1])
        count = tf.reduce_sum(tf.reshape(tf.cast(mask, tf.int64), [-1]))
        # What is masked may be anything; zero times infinity would not be zero.
        rows = tf.where(weights > 0, rows, tf.zeros_like(rows))
    divisor = tf.maximum(tf.cast(count, rows.dtype), 1.0)
    coarse = tf.reduce_sum(rows * weights, 0) / divisor
    centred = (rows - coarse) * weights
    lost = tf.cast(tf.reduce_sum(centred, 0) / divisor, tf.float64)
    variance = tf.cast(tf.reduce_sum(tf.square(centred), 0) / divisor, tf.float64) - tf.square(lost)
    return count, tf.cast(coarse, tf.float64) + lost, tf.maximum(variance, 0.0)
