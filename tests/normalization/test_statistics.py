"""Calibration keeps the function; re-estimation gives the population's statistics."""

import keras
import numpy as np
import pytest
from keras import layers
from networks import cnn, images, infer, inputs_of_batch_norms, moments_of, plain_cnn, residual, scatter

from bnadapt.errors import ModelError, SurgeryError
from bnadapt.normalization.moments import batch_norm_layers, measure
from bnadapt.normalization.policy import fingerprint
from bnadapt.normalization.statistics import calibrate, reestimate


def close(result: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.abs(result - expected).max() <= tolerance * expected.std()


def weights_of(layer) -> tuple[np.ndarray, ...]:
    return tuple(
        keras.ops.convert_to_numpy(w).astype("float64")
        for w in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
def test_calibration_of_inserted_layers_keeps_the_function(position):
    model, data = cnn(position), images(200)
    expected = infer(plain_cnn(), data)
    np.testing.assert_array_equal(infer(model, data), expected)
    received = inputs_of_batch_norms(model, data)

    chosen = calibrate(model, data, batch_size=64)

    assert chosen == ["conv_inserted_bn", "conv2_inserted_bn", "hidden_inserted_bn"]
    close(infer(model, data), expected, 1e-5)
    for path, values in received.items():
        gamma, beta, mean, variance = weights_of(model.get_layer(path))
        data_mean, data_variance = moments_of(values)
        np.testing.assert_allclose(mean, data_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variance, data_variance, rtol=1e-5)
        np.testing.assert_allclose(gamma, np.sqrt(data_variance + 1e-5), rtol=1e-5)
        np.testing.assert_allclose(beta, data_mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
def test_training_mode_on_the_calibration_set_as_one_batch_is_the_same_function(position):
    model, data = cnn(position), images(200)
    expected = infer(model, data)
    calibrate(model, data)
    model.get_layer("drop").rate = 0.0
    result = keras.ops.convert_to_numpy(model(data, training=True)).astype("float64")
    close(result, expected, 1e-3)


def test_calibration_of_existing_layers_keeps_the_function_and_everything_else():
    model, data = residual(), images(100)
    expected, before = infer(model, data), fingerprint(model)
    assert calibrate(model, data) == ["bn1", "bn2"]
    close(infer(model, data), expected, 1e-5)
    moved = {path for path, value in fingerprint(model).items() if value != before[path]}
    assert moved == {
        f"{bn}/{w}" for bn in ("bn1", "bn2") for w in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    found = measure(model, data)
    for path, layer in batch_norm_layers(model).items():
        *_, mean, variance = weights_of(layer)
        np.testing.assert_allclose(mean, found[path].mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, found[path].variance, rtol=1e-4)


def test_the_formula_against_numpy():
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization(name="bn", epsilon=0.01)])
    scatter(model)
    gamma, beta, mean, variance = weights_of(model.get_layer("bn"))
    data = np.random.default_rng(0).normal([5, -2, 0], [1, 3, 0.1], (50, 3)).astype("float32")
    calibrate(model, data)
    new_mean, new_variance = data.astype("float64").mean(0), data.astype("float64").var(0)
    new = weights_of(model.get_layer("bn"))
    np.testing.assert_allclose(
        new[0], gamma * np.sqrt(new_variance + 0.01) / np.sqrt(variance + 0.01), rtol=1e-6
    )
    np.testing.assert_allclose(new[1], beta + gamma * (new_mean - mean) / np.sqrt(variance + 0.01), rtol=1e-6)


@pytest.mark.parametrize(("centre", "spread"), [(0, 0), (7, 0), (0, 1e-6), (1e4, 1), (-30, 1e3)])
def test_dead_channels_tiny_variances_and_large_means(centre, spread):
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="bn")])
    data = np.random.default_rng(0).normal(centre, spread, (500, 4)).astype("float32")
    expected = infer(model, data)
    calibrate(model, data)
    result = infer(model, data)
    assert np.isfinite(result).all()
    # float32 itself holds no more than this of the input
    assert np.abs(result - expected).max() <= 4 * np.spacing(np.float32(np.abs(expected).max()))
    assert all(np.isfinite(values).all() for values in weights_of(model.get_layer("bn")))


def test_calibrating_twice_changes_nothing_more():
    model, data = cnn(), images(100)
    calibrate(model, data)
    first = [weights_of(layer) for layer in batch_norm_layers(model).values()]
    calibrate(model, data)
    for old, layer in zip(first, batch_norm_layers(model).values(), strict=True):
        for before, after in zip(old, weights_of(layer), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6)


def test_layers_choose_what_changes():
    model, before = cnn(), fingerprint(cnn())
    assert calibrate(model, images(30), layers="hidden.*") == ["hidden_inserted_bn"]
    moved = {path.split("/")[0] for path, value in fingerprint(model).items() if value != before[path]}
    assert moved == {"hidden_inserted_bn"}


def test_layers_without_gamma_or_beta_cannot_be_calibrated_but_reestimated():
    i = keras.Input((3,))
    x = layers.BatchNormalization(name="whole")(i)
    model = keras.Model(i, layers.BatchNormalization(name="bare", scale=False)(x))
    before = fingerprint(model)
    with pytest.raises(SurgeryError, match="the batch normalization 'bare' has no gamma, so new statistics"):
        calibrate(model, np.ones((4, 3), "float32"))
    assert fingerprint(model) == before
    assert reestimate(model, np.ones((4, 3), "float32")) == ["whole", "bare"]


def test_reestimation_is_the_pooled_training_pass():
    model, data = residual(), images(64)
    before = fingerprint(model)
    found = measure(model, data, normalize_with="batch", batch_size=16)
    assert reestimate(model, data, batch_size=16) == ["bn1", "bn2"]
    for path, layer in batch_norm_layers(model).items():
        *_, mean, variance = weights_of(layer)
        np.testing.assert_allclose(mean, found[path].mean, rtol=1e-6)
        np.testing.assert_allclose(variance, found[path].variance, rtol=1e-6)
    moved = {path.split("/")[1] for path, value in fingerprint(model).items() if value != before[path]}
    assert moved == {"moving_mean", "moving_variance"}


def test_reestimation_in_one_batch_makes_inference_what_training_computes():
    model, data = residual(), images(64)
    copy = residual()
    training = keras.ops.convert_to_numpy(copy(data, training=True)).astype("float64")
    assert np.abs(infer(model, data) - training).max() > 0.1 * training.std()
    reestimate(model, data)
    close(infer(model, data), training, 1e-4)


def test_reestimation_undoes_a_linear_shift_of_the_input():
    """What AdaBN promises: a change of contrast and brightness vanishes in the first layer's statistics."""
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), layers.BatchNormalization(epsilon=1e-7), *plain_cnn().layers]
    )
    data = images(60)
    calibrate(model, data)
    reestimate(model, data * 3 + 5)
    close(infer(model, data * 3 + 5), infer(plain_cnn(), data), 1e-3)


@pytest.mark.parametrize("change", [calibrate, reestimate])
def test_errors_leave_everything_as_it_was(change):
    model = cnn()
    before = fingerprint(model)

    def failing():
        yield images(8)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        change(model, failing())
    with pytest.raises(ModelError, match="not finite"):
        change(model, [images(8), images(8) * np.nan])
    assert fingerprint(model) == before


def test_the_budget_of_samples_is_kept():
    model, other = cnn(), cnn()
    calibrate(model, images(100), samples=30)
    calibrate(other, images(100)[:30])
    for one, two in zip(batch_norm_layers(model).values(), batch_norm_layers(other).values(), strict=True):
        np.testing.assert_allclose(weights_of(one), weights_of(two), rtol=1e-4, atol=1e-6)
