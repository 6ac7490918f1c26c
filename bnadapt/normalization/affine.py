"""Gamma and beta for new statistics under which a layer computes what it computed, to the last bit if it can.

In inference, batch normalization multiplies by ``rsqrt(variance + epsilon) * gamma`` and adds ``beta - mean *
that``, all in float32. Gamma from a formula misses the former multiplier by a rounding in about every third
channel. But there are many pairs of a variance and a gamma some roundings away, and one of them nearly always
gives the very same product.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

STEPS_OF_VARIANCE = 64  # roundings; the statistics are never known that well


def multiplier_and_offset(
    layer: keras.layers.BatchNormalization, weights: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What the layer multiplies its input by in inference and what it adds then, per channel, as it computes it.

    Whole vectors and TensorFlow's own functions, because the last bit of ``rsqrt`` depends on the place of a
    channel in the vector: some are computed several at once, the rest alone.
    """
    gamma, beta, mean, variance = (
        tf.cast(weights[name], _computes_in(layer))
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    multiplier = tf.math.rsqrt(variance + layer.epsilon) * gamma
    return multiplier.numpy(), (beta - mean * multiplier).numpy()


def unchanged_map(
    layer: keras.layers.BatchNormalization, mean: np.ndarray, variance: np.ndarray
) -> dict[str, np.ndarray]:
    """New weights by name: statistics, and the gamma and beta under which inference stays; changes nothing.

    The variance may move by some roundings (of variance + epsilon), which buys that the multiplier is exactly
    the former one. The offset is exactly the former one where that is 0, as after insertion; elsewhere it is
    the nearest that a beta can give, within a rounding of beta or of mean times multiplier.

    Args:
        layer: with gamma and beta.
        mean: float64 [channels].
        variance: float64 [channels].
    """
    old = {
        name: keras.ops.convert_to_numpy(getattr(layer, name))
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    multiplier, offset = multiplier_and_offset(layer, old)
    new = {"moving_mean": mean.astype(old["moving_mean"].dtype)}
    new["moving_variance"], new["gamma"] = _variance_and_gamma(
        layer, multiplier, variance.astype(old["moving_variance"].dtype), old["gamma"].dtype
    )
    shift = multiplier_and_offset(layer, {**new, "beta": np.zeros_like(old["beta"])})[1]
    new["beta"] = (offset.astype(np.float64) - shift).astype(old["beta"].dtype)
    return new


def _variance_and_gamma(
    layer: Any, multiplier: np.ndarray, variance: np.ndarray, kind: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest variance for which some gamma gives the multiplier, and that gamma."""
    computed = _computes_in(layer)
    total = variance.astype(computed) + np.asarray(layer.epsilon, computed)
    step = np.maximum(np.spacing(total).astype(variance.dtype), np.spacing(variance))
    best = np.full(variance.shape, np.inf)
    variances, gammas = variance.copy(), np.zeros(variance.shape, kind)
    for steps in _alternating(STEPS_OF_VARIANCE):
        candidate = np.maximum(variance + step * np.asarray(steps, step.dtype), 0).astype(variance.dtype)
        scale = tf.math.rsqrt(tf.cast(candidate, computed) + layer.epsilon)
        nearest = (multiplier.astype(np.float64) / scale.numpy()).astype(kind)
        # At a power of two, the gamma above the nearest one can round to it where the nearest does not.
        for neighbour in (0, 1, -1):
            gamma = (nearest + np.spacing(nearest) * np.asarray(neighbour, kind)).astype(kind)
            product = (scale * tf.cast(gamma, computed)).numpy().astype(np.float64)
            better = np.abs(product - multiplier) < best
            best = np.where(better, np.abs(product - multiplier), best)
            variances, gammas = np.where(better, candidate, variances), np.where(better, gamma, gammas)
        if not best.any():
            break
    return variances, gammas


def _alternating(number: int) -> list[int]:
    """0, 1, -1, 2, -2, ... up to a number."""
    return [0, *(sign * each for each in range(1, number + 1) for sign in (1, -1))]


def _computes_in(layer: Any) -> str:
    return keras.backend.result_type(layer.compute_dtype, "float32")
