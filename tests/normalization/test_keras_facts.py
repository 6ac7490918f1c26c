"""What Keras does that decided the design: a release that changes it fails here first."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import cnn, images, infer, plain_cnn

from bnadapt.normalization.proof import fingerprint

LABELS = np.random.default_rng(0).normal(0, 1, (40, 3))


def moved_by_fit(model: keras.Model, data=None, labels=LABELS) -> set[str]:
    before = fingerprint(model)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(images() if data is None else data, labels, batch_size=10, verbose=0)
    return {path for path, value in fingerprint(model).items() if value != before[path]}


def one_norm() -> keras.Model:
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="d"), layers.BatchNormalization(name="bn")]
    )


def test_unfreezing_a_model_that_reads_unfrozen_does_nothing():
    model = plain_cnn()
    for layer in model.layers:
        layer.trainable = False
    assert model.trainable
    model.trainable = True
    assert model.trainable_variables == []
    model.trainable = False
    model.trainable = True
    assert len(model.trainable_variables) == len(model.weights)


def test_textbook_insertion_is_harmless_in_evaluation_and_not_in_training():
    model, data = cnn(init="standard"), images(200)
    expected = infer(plain_cnn(), data)
    assert np.abs(infer(model, data) - expected).max() < 0.01 * expected.std()
    model.get_layer("drop").rate = 0.0
    training = keras.ops.convert_to_numpy(model(data, training=True))
    assert np.abs(training - expected).max() > 0.5 * expected.std()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, {"gamma", "beta", "moving_mean", "moving_variance"}),
        ({"bn": False}, set()),
        ({"bn": False, "gamma": True, "beta": True}, {"gamma", "beta"}),
        ({"gamma": False, "beta": False}, {"moving_mean", "moving_variance"}),
    ],
)
def test_flags_of_a_layer_and_of_its_weights_are_separate_switches(flags, expected):
    model = one_norm()
    bn = model.get_layer("bn")
    model.get_layer("d").trainable = False
    if "bn" in flags:
        bn.trainable = flags["bn"]
    for name in ("gamma", "beta"):
        if name in flags:
            getattr(bn, name).trainable = flags[name]
    data = np.random.default_rng(1).normal(2, 3, (40, 4)).astype("float32")
    labels = np.random.default_rng(2).normal(0, 1, (40, 4))
    assert {path.split("/")[1] for path in moved_by_fit(model, data, labels)} == expected


def test_a_frozen_parent_lets_statistics_drift_and_nothing_train():
    model = one_norm()
    model.trainable = False
    model.get_layer("bn").trainable = True
    assert model.trainable_variables == []
    moved = moved_by_fit(model, np.ones((20, 4), "float32"), np.zeros((20, 4)))
    assert moved == {"bn/moving_mean", "bn/moving_variance"}


def test_a_recorded_training_false_does_not_keep_statistics():
    i = keras.Input((4,))
    model = keras.Model(i, layers.BatchNormalization(name="bn")(i, training=False))
    data = np.random.default_rng(1).normal(2, 3, (20, 4)).astype("float32")
    assert "bn/moving_mean" in moved_by_fit(model, data, data)


def test_the_moving_variance_is_biased():
    model = keras.Sequential([keras.Input((1,)), layers.BatchNormalization(momentum=0.0, name="bn")])
    model(np.array([[0.0], [2.0]], "float32"), training=True)
    np.testing.assert_allclose(model.get_layer("bn").moving_variance, [1.0])


def test_inference_is_one_multiplication_and_one_addition():
    """What calibration rebuilds bit by bit."""
    bn = layers.BatchNormalization(epsilon=1e-3)
    bn.build((None, 33))
    random = np.random.default_rng(0)
    gamma, beta, mean = (random.normal(0, 2, 33).astype("float32") for _ in range(3))
    variance = random.uniform(0, 3, 33).astype("float32")
    for weight, value in zip(bn.weights, (gamma, beta, mean, variance), strict=True):
        weight.assign(value)
    multiplier = tf.math.rsqrt(variance + 1e-3) * gamma
    values = random.normal(0, 5, (20, 33)).astype("float32")
    np.testing.assert_array_equal(bn(values), values * multiplier + (beta - mean * multiplier))


def test_the_fused_kernel_returns_the_variance_with_bessels_correction():
    values = np.random.default_rng(0).normal(3, 2, (7, 1, 1, 5)).astype("float32")
    one, zero, none = tf.ones(5), tf.zeros(5), tf.zeros(0)
    found = tf.function(
        lambda: tf.raw_ops.FusedBatchNormV3(
            x=values, scale=one, offset=zero, mean=none, variance=none, epsilon=1e-5, is_training=True
        )
    )()
    np.testing.assert_allclose(found.batch_variance, values.var(0, ddof=1).reshape(-1), rtol=1e-5)
    deviation = np.sqrt(values.var(0) + 1e-5)
    np.testing.assert_allclose(found.y, (values - values.mean(0)) / deviation, rtol=1e-3, atol=1e-5)


def test_flags_of_weights_are_not_saved(tmp_path):
    model = one_norm()
    bn = model.get_layer("bn")
    bn.trainable = False
    bn.gamma.trainable = True
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [w.name for w in bn.trainable_variables] == []
    assert any(w is bn.gamma for w in model.trainable_variables)
    assert not loaded.get_layer("bn").gamma.trainable


def test_setting_weights_leaves_a_stale_normalization():
    data = np.random.default_rng(0).normal(5, 2, (30, 3)).astype("float32")
    old, new = layers.Normalization(), layers.Normalization()
    old.adapt(data)
    new.build((None, 3))
    new.set_weights(old.get_weights())
    assert not np.allclose(new(data), old(data))
