"""Diagnostics against NumPy in float64 and Keras' own training mode; the network stays as it is."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bnadapt.errors import DataError
from bnadapt.evaluation.diagnostics import (
    accuracy_by_mode,
    diagnose,
    gammas_near_zero,
    measure_shift,
    statistics_gap,
    statistics_shift,
)
from bnadapt.normalization.moments import measure
from tests.normalization.networks import cnn, images, inputs_of_batch_norms, moments_of, plain_cnn, residual


def labelled(count: int, batch_size: int, *, seed: int = 0) -> tf.data.Dataset:
    labels = np.random.default_rng(seed).integers(0, 3, count)
    return tf.data.Dataset.from_tensor_slices((images(count, seed=seed), labels)).batch(batch_size)


def test_the_gap_is_that_of_the_formula() -> None:
    network, data = residual(), images(50)
    found = statistics_gap(network, data)
    assert [each.layer for each in found] == ["bn1", "bn2"]
    for name, values in inputs_of_batch_norms(network, data).items():
        (gap,) = (each for each in found if each.layer == name)
        layer = network.get_layer(name)
        mean, variance = moments_of(values)
        moving_mean, moving_variance = (
            np.asarray(each, "float64") for each in (layer.moving_mean, layer.moving_variance)
        )
        deviation = np.sqrt(variance + layer.epsilon)
        assert gap.channels == 4
        assert gap.mean == pytest.approx((np.abs(moving_mean - mean) / deviation).mean(), rel=1e-5)
        ratio = np.sqrt(moving_variance + layer.epsilon) / deviation
        assert gap.deviation == pytest.approx(np.abs(np.log(ratio)).mean(), rel=1e-4)
        assert gap.mean > 0.1
        assert gap.deviation > 0.05


def test_there_is_no_gap_where_the_statistics_fit() -> None:
    network, data = cnn(), images(50)
    for name, values in inputs_of_batch_norms(network, data).items():
        mean, variance = moments_of(values)
        # Layer by layer from the front: what reaches the next one depends on it.
        if name == "conv_inserted_bn":
            network.get_layer(name).moving_mean.assign(mean)
            network.get_layer(name).moving_variance.assign(variance)
    first = statistics_gap(network, data)[0]
    assert first.mean < 1e-6
    assert first.deviation < 1e-6


def test_no_more_images_than_asked_for_are_used() -> None:
    network, data = residual(), images(50)
    assert statistics_gap(network, data, samples=20) == statistics_gap(network, data[:20])


def test_gammas_near_zero_are_counted_relative_to_the_largest() -> None:
    inputs = keras.Input((4,))
    hidden = layers.BatchNormalization(name="some")(inputs)
    hidden = layers.BatchNormalization(name="all")(hidden)
    hidden = layers.BatchNormalization(scale=False, name="none")(hidden)
    network = keras.Model(inputs, hidden)
    network.get_layer("some").gamma.assign([-200.0, 2.0, -2.1, 0.0])
    network.get_layer("all").gamma.assign([0.0, 0.0, 0.0, 0.0])
    found = gammas_near_zero(network)
    assert found["some"] == 0.5
    assert found["all"] == 1.0
    assert math.isnan(found["none"])


def right_in_training(network: keras.Model, batches: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Share of right answers in Keras' training mode."""
    right = [np.asarray(network(x, training=True)).argmax(1) == y for x, y in batches]
    return float(np.concatenate(right).mean())


def test_accuracy_with_batches_is_that_of_keras_training_mode() -> None:
    network = residual()
    batches = [(x.numpy(), y.numpy()) for x, y in labelled(160, 32)]
    twin = keras.models.clone_model(network)
    twin.set_weights(network.get_weights())
    expected_batch = right_in_training(twin, batches)
    outputs = np.concatenate([np.asarray(network(x, training=False)) for x, _ in batches])
    expected = float((outputs.argmax(1) == np.concatenate([y for _, y in batches])).mean())
    count, inference, batch = accuracy_by_mode(network, labelled(160, 32))
    assert count == 160
    assert inference == expected
    assert batch == expected_batch
    assert inference != batch  # else the test shows nothing


def test_the_switches_of_the_layers_do_not_matter() -> None:
    network = residual()
    expected = accuracy_by_mode(network, labelled(64, 32))
    for layer in network.layers:
        layer.trainable = False
    assert accuracy_by_mode(network, labelled(64, 32)) == expected


def test_dropout_stays_off_in_both_modes() -> None:
    """On one batch whose statistics are the moving ones both modes answer alike, dropout or not."""
    network, (data, labels) = cnn(), next(iter(labelled(40, 40)))
    for path, moments in measure(network, data, normalize_with="batch").items():
        network.get_layer(path).moving_mean.assign(moments.mean)
        network.get_layer(path).moving_variance.assign(moments.variance)
    network.get_layer("drop").rate = 0.99
    _, inference, batch = accuracy_by_mode(network, [(data, labels)])
    assert inference == batch


def test_smaller_batches_are_left_out_and_no_more_are_read_than_asked_for() -> None:
    network = residual()
    assert accuracy_by_mode(network, labelled(70, 32))[0] == 64
    assert accuracy_by_mode(network, labelled(70, 32), samples=40)[0] == 32
    assert accuracy_by_mode(network, labelled(20, 32), samples=5)[0] == 20


def test_the_network_stays_exactly_as_it_was() -> None:
    network = residual()
    network.trainable = False
    before = [each.numpy().copy() for each in network.weights]
    diagnosis = diagnose(network, images(40), labelled(40, 20))
    assert diagnosis is not None
    assert (diagnosis.images, len(diagnosis.layers)) == (40, 2)
    for one, other in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(one, other.numpy())
    assert not network.trainable_variables
    assert not network.losses


def test_no_loss_of_a_regularizer_stays_behind() -> None:
    inputs = keras.Input((8, 8, 2))
    hidden = layers.Conv2D(3, 3, activity_regularizer="l2")(inputs)
    hidden = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(hidden))
    network = keras.Model(inputs, layers.Dense(3)(hidden))
    accuracy_by_mode(network, labelled(40, 20))
    assert network.losses == []


def test_a_network_without_batch_normalization_has_no_diagnosis() -> None:
    assert diagnose(plain_cnn(), images(4), labelled(4, 2)) is None
    assert measure_shift(plain_cnn(), images(4), images(4)) == ()


def test_without_images_nothing_is_said() -> None:
    with pytest.raises(DataError, match="no images to compare both modes on"):
        accuracy_by_mode(residual(), [])


def divergence(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Symmetric Kullback-Leibler divergence of two normal distributions (mean, variance), integrated."""
    x = np.linspace(-60, 60, 2_000_001)
    log_p, log_q = (-((x - m) ** 2) / (2 * v) - np.log(2 * np.pi * v) / 2 for m, v in (first, second))
    return float(np.trapezoid((np.exp(log_p) - np.exp(log_q)) * (log_p - log_q), x))


def moments(mean: list[float], variance: list[float]) -> SimpleNamespace:
    return SimpleNamespace(mean=np.array(mean), variance=np.array(variance))


def test_the_divergence_is_the_integral_of_its_definition() -> None:
    before = moments([0, 3], [1, 4])
    after = moments([1.5, 2], [2, 3])
    (shift,) = statistics_shift({"bn": before}, {"bn": after})
    expected = [divergence((0, 1), (1.5, 2)), divergence((3, 4), (2, 3))]
    assert shift.divergence == pytest.approx(np.mean(expected), rel=1e-6)
    assert shift.mean == pytest.approx(np.mean([1.5, 0.5]))
    assert shift.deviation == pytest.approx(np.mean(np.abs(np.log(np.sqrt([2, 0.75])))))
    assert (shift.layer, shift.channels) == ("bn", 2)
    (back,) = statistics_shift({"bn": after}, {"bn": before})
    assert back.divergence == pytest.approx(shift.divergence)


def test_the_same_statistics_have_no_distance_and_dead_channels_no_infinite_one() -> None:
    dead = moments([0, 1], [0, 2])
    alive = moments([0, 1], [2, 2])
    (same,) = statistics_shift({"bn": dead}, {"bn": dead})
    assert (same.divergence, same.mean, same.deviation) == (0, 0, 0)
    (shift,) = statistics_shift({"bn": dead}, {"bn": alive})
    least = 1e-3 * 1.5
    assert shift.divergence == pytest.approx(((2 / least + least / 2) / 2 - 1) / 2)
    nothing = moments([0, 0], [0, 0])
    (none,) = statistics_shift({"bn": nothing}, {"bn": nothing})
    assert none.divergence == 0


def test_another_brightness_is_a_shift_of_the_first_layer() -> None:
    network = cnn()
    same = measure_shift(network, images(200), images(200, seed=3))
    brighter = measure_shift(network, images(200), images(200, seed=3) + 2)
    assert [each.layer for each in same] == ["conv_inserted_bn", "conv2_inserted_bn", "hidden_inserted_bn"]
    assert same[0].divergence < 0.01 < 10 * same[0].divergence + 0.1 < brighter[0].divergence
