"""Gamma and beta that keep the function, compared bit by bit through Keras' own layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bnadapt.normalization.affine import unchanged_map
from bnadapt.surgery.insert import variance_of_identity

NAMES = ("gamma", "beta", "moving_mean", "moving_variance")
CHANNELS = [1, 3, 4, 5, 8, 17, 64, 513]


def built(channels: int, kind: str, axis: int = -1) -> layers.BatchNormalization:
    layer = layers.BatchNormalization(axis=axis, epsilon=1e-3 if channels % 2 else 1e-5, dtype=kind)
    layer.build((None, channels) if axis == -1 else (None, channels, 2))
    return layer


def wild_moments(channels: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(channels)
    mean = random.normal(0, 1, channels) * 10 ** random.uniform(-3, 4, channels)
    variance = 10 ** random.uniform(-12, 8, channels)
    variance[random.random(channels) < 0.2] = 0
    return mean, variance


def change(layer, mean, variance) -> dict[str, np.ndarray]:
    new = unchanged_map(layer, mean, variance)
    for name, value in new.items():
        getattr(layer, name).assign(value)
    return new


@pytest.mark.parametrize("kind", ["float32", "float64", "mixed_float16"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_layer_that_is_the_identity_stays_it_to_the_last_bit(channels, kind):
    layer = built(channels, kind)
    precision = np.dtype(layer.moving_variance.dtype).type
    layer.moving_variance.assign(np.full(channels, variance_of_identity(layer.epsilon, precision)))
    mean, variance = wild_moments(channels)
    new = change(layer, mean, variance)
    values = (
        np.random.default_rng(0)
        .normal(mean, np.sqrt(variance + 1), (50, channels))
        .astype(layer.compute_dtype)
    )
    np.testing.assert_array_equal(layer(values), values)
    np.testing.assert_array_equal(tf.function(layer)(values), values)
    np.testing.assert_array_equal(new["moving_mean"], mean.astype(precision))
    small = 64 * np.finfo(precision).eps  # it moved by roundings of the sum alone
    assert (np.abs(new["moving_variance"] - variance) <= small * (variance + layer.epsilon)).all()
    assert (new["moving_variance"] >= 0).all()


def test_not_one_of_many_channels_is_missed():
    layer = built(2**15, "float32")
    layer.moving_variance.assign(np.full(2**15, variance_of_identity(layer.epsilon)))
    change(layer, np.zeros(2**15), 10 ** np.random.default_rng(5).uniform(-12, 8, 2**15))
    np.testing.assert_array_equal(layer(np.ones((1, 2**15), "float32")), 1)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_trained_layer_computes_what_it_did_but_for_a_rounding_of_the_offset(channels, axis):
    layer, random = built(channels, "float32", axis), np.random.default_rng(channels + 1)
    layer.moving_variance.assign(random.uniform(0.3, 2, channels))
    layer.gamma.assign(random.choice([-1, 0, 1], channels) * random.uniform(0.5, 2, channels))
    layer.beta.assign(random.normal(0, 1, channels))
    values = random.normal(0, 3, (50, channels)).astype("float32")
    values = values if axis == -1 else np.stack([values] * 2, -1)
    expected = keras.ops.convert_to_numpy(layer(values))
    mean, variance = random.normal(0, 1, channels), 10 ** random.uniform(-4, 2, channels)
    change(layer, mean, variance)
    assert np.abs(layer(values) - expected).max() <= 2 * np.spacing(np.abs(expected).max() + np.float32(5))


def test_the_multiplier_is_the_former_one_in_every_channel():
    """Zero in, with mean zero and beta zero; one in: what comes out is the multiplier itself."""
    layer, random = built(513, "float32"), np.random.default_rng(3)
    layer.moving_variance.assign(random.uniform(0.3, 2, 513))
    layer.gamma.assign(random.uniform(0.3, 2, 513))
    one = np.ones((1, 513), "float32")
    former = keras.ops.convert_to_numpy(layer(one))
    change(layer, np.zeros(513), 10 ** random.uniform(-4, 2, 513))
    np.testing.assert_array_equal(layer(one), former)


def test_the_offset_is_as_near_as_its_type_allows():
    layer, random = built(64, "float32"), np.random.default_rng(4)
    layer.beta.assign(random.normal(0, 1, 64))
    zero = np.zeros((1, 64), "float32")
    former = keras.ops.convert_to_numpy(layer(zero))
    mean = random.normal(0, 100, 64)
    change(layer, mean, np.ones(64))
    assert (np.abs(layer(zero) - former) <= np.spacing(np.float32(np.abs(mean) + 1))).all()


def test_variables_of_half_precision_come_near():
    layer = built(16, "float16")
    values = np.random.default_rng(0).normal(0, 1, (40, 16)).astype("float16")
    expected = keras.ops.convert_to_numpy(layer(values)).astype("float64")
    change(layer, np.full(16, 0.3), np.full(16, 2.0))
    np.testing.assert_allclose(layer(values), expected, atol=4e-3)
