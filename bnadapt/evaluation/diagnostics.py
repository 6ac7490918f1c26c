"""What batch normalization does in a network: do its statistics fit, does it rely on batches, is it switched off?

The networks that are looked at stay exactly as they are.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnadapt.errors import DataError
from bnadapt.evaluation.results import Diagnosis, LayerGap, LayerShift
from bnadapt.normalization.moments import Moments, measure
from bnadapt.normalization.selection import batch_norm_layers
from bnadapt.surgery.graph import Call, layer_paths, replay

SAMPLES = 2048
# A gamma so far below its layer's largest passes next to nothing on.
NEAR_ZERO = 0.01
# Variances below this share of their layer's mean count as this share: a channel that never varies in one
# data set would else be infinitely far from itself in the other.
LEAST_VARIANCE = 1e-3


def diagnose(
    network: keras.Model, images: Any, labelled: Iterable[Any], *, samples: int = SAMPLES
) -> Diagnosis | None:
    """Look at all batch normalization of a network; None where it has none.

    Args:
        network: A classifier, Sequential or Functional.
        images: As in :func:`statistics_gap`, of the data that the statistics are meant for.
        labelled: As in :func:`accuracy_by_mode`.
        samples: Use so many images at most of each.

    Raises:
        DataError: there are no images.
        ModelError: an input of batch normalization was not finite.
        SurgeryError: the network is no graph of layers.
    """
    if not _has_batch_norm(network):
        return None
    layers = statistics_gap(network, images, samples=samples)
    count, inference, batch = accuracy_by_mode(network, labelled, samples=samples)
    return Diagnosis(layers, count, inference, batch)


def statistics_gap(network: keras.Model, images: Any, *, samples: int = SAMPLES) -> tuple[LayerGap, ...]:
    """How far every layer's moving statistics are from the exact ones of these images, in graph order.

    With the moving mean m and variance v, and the exact ones m' and v' of what reaches the layer in
    inference, and its epsilon e: the gap of the means is the channels' mean of |m - m'| / sqrt(v' + e), the
    gap of the deviations the channels' mean of |ln sqrt((v + e) / (v' + e))|. Both are zero where the
    statistics fit, and at 1 a channel is off by its own standard deviation or its scale wrong by a factor of
    2.7. Gammas near zero are those of at most a hundredth of the layer's largest, by their size.

    Args:
        network: Sequential or Functional; not changed.
        images: An array, or batches of images or of tuples that begin with them, read once from the start.
        samples: Use so many at most.

    Raises:
        DataError, ModelError, SurgeryError: as in :func:`diagnose`; SurgeryError also without any layer.
    """
    exact = measure(network, images, samples=samples)
    near_zero = gammas_near_zero(network)
    return tuple(
        _gap(path, layer, exact[path], near_zero[path]) for path, layer in batch_norm_layers(network).items()
    )


def gammas_near_zero(network: keras.Model) -> dict[str, float]:
    """Of every batch normalization layer the share of gammas of at most a hundredth of its largest, by their size.

    NaN for a layer without gamma, 1 where all are zero.
    """
    return {path: _share_near_zero(layer.gamma) for path, layer in batch_norm_layers(network).items()}


def accuracy_by_mode(
    network: keras.Model, labelled: Iterable[Any], *, samples: int = SAMPLES
) -> tuple[int, float, float]:
    """Accuracy of one network normalizing with moving statistics and with batches, on the same images.

    In both ways everything else is in inference, dropout too, so that what differs is normalization alone.
    The batches should be cut and mixed as in training; those smaller than the first are left out, because
    their statistics are noisier.

    Args:
        network: Maps images to ``(batch, classes)``; not changed.
        labelled: Batches (images, integer labels), read once.
        samples: Stop after so many images; the first batch is always taken.

    Returns:
        The number of images, the accuracy in inference, the accuracy with batch statistics.

    Raises:
        DataError: there was no image.
        SurgeryError: the network has no batch normalization or is no graph of layers.
    """
    right = _right_by_mode(network)
    images, inference, batch = 0, 0, 0
    for inputs, labels in _full_batches(labelled, samples):
        by_moving, by_batch = right(inputs, labels)
        images += int(labels.shape[0])
        inference += int(by_moving)
        batch += int(by_batch)
    if not images:
        raise DataError("no images to compare both modes on: the data set or iterable is empty")
    return images, inference / images, batch / images


def measure_shift(
    network: keras.Model, before: Any, after: Any, *, samples: int = SAMPLES
) -> tuple[LayerShift, ...]:
    """How differently two data sets' images reach every batch normalization layer of one network.

    Arguments as in :func:`statistics_gap`; each data set is read once. () where there is no such layer.
    """
    if not _has_batch_norm(network):
        return ()
    return statistics_shift(
        measure(network, before, samples=samples), measure(network, after, samples=samples)
    )


def statistics_shift(before: Mapping[str, Moments], after: Mapping[str, Moments]) -> tuple[LayerShift, ...]:
    """The distance between two data sets' statistics at every layer that both were measured at.

    Each channel is taken for a normal distribution, N(m, v) before and N(m', v') after. Their symmetric
    Kullback-Leibler divergence KL(before, after) + KL(after, before) is
    (v / v' + v' / v) / 2 - 1 + (m - m')^2 (1 / v + 1 / v') / 2; the layer's is the mean over its channels (Pan,
    Luo, Shi and Tang, 2018, "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net").
    The layer's other two distances are those of :func:`statistics_gap`, by the deviations before. Variances
    below a thousandth of the layer's mean variance over both data sets count as that much.
    """
    return tuple(_shift(path, before[path], after[path]) for path in before if path in after)


def _has_batch_norm(network: keras.Model) -> bool:
    return any(isinstance(each, keras.layers.BatchNormalization) for each in layer_paths(network).values())


def _gap(path: str, layer: Any, exact: Moments, near_zero: float) -> LayerGap:
    mean = keras.ops.convert_to_numpy(layer.moving_mean).astype("float64")
    variance = keras.ops.convert_to_numpy(layer.moving_variance).astype("float64") + layer.epsilon
    exact_variance = exact.variance + layer.epsilon
    return LayerGap(
        layer=path,
        channels=mean.size,
        mean=float((np.abs(mean - exact.mean) / np.sqrt(exact_variance)).mean()),
        deviation=float(np.abs(np.log(variance / exact_variance)).mean() / 2),
        gammas_near_zero=near_zero,
    )


def _share_near_zero(gamma: Any) -> float:
    if gamma is None:
        return math.nan
    sizes = np.abs(keras.ops.convert_to_numpy(gamma))
    return float((sizes <= NEAR_ZERO * sizes.max()).mean())


def _shift(path: str, before: Moments, after: Moments) -> LayerShift:
    mean_variance = float((before.variance + after.variance).mean()) / 2
    # Where nothing varies in either data set any positive number does, and only the means can differ.
    least = max(LEAST_VARIANCE * mean_variance, float(np.finfo("float32").tiny))
    first, second = np.maximum(before.variance, least), np.maximum(after.variance, least)
    square = (before.mean - after.mean) ** 2
    divergence = (first / second + second / first) / 2 - 1 + square * (1 / first + 1 / second) / 2
    return LayerShift(
        layer=path,
        channels=first.size,
        divergence=float(divergence.mean()),
        mean=float(np.sqrt(square / first).mean()),
        deviation=float(np.abs(np.log(second / first)).mean() / 2),
    )


def _right_by_mode(network: keras.Model) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A compiled function: images, labels -> numbers of right answers with moving and with batch statistics."""
    twins = {path: _twin(layer) for path, layer in batch_norm_layers(network).items()}

    def with_batches(each: Call, *args: Any, **kwargs: Any) -> Any:
        if each.path in twins:
            return twins[each.path](*args, **{**kwargs, "training": True})
        return each.operation(*args, **kwargs)

    def right(inputs: Any, labels: Any) -> tuple[Any, Any]:
        with keras.StatelessScope():  # nothing that a layer assigns or adds as a loss is kept
            outputs = (network(inputs, training=False), replay(network, inputs, with_batches))
        answers = (keras.ops.argmax(each, axis=-1) for each in outputs)
        by_moving, by_batch = (
            keras.ops.sum(keras.ops.cast(keras.ops.cast(each, "int64") == labels, "int64"))
            for each in answers
        )
        return by_moving, by_batch

    return tf.function(right, reduce_retracing=True)


def _twin(layer: keras.layers.BatchNormalization) -> keras.layers.BatchNormalization:
    """A layer with the same settings and weights that normalizes with batches, whatever the layer's switches."""
    twin = type(layer).from_config(layer.get_config() | {"trainable": True})
    twin.build_from_config(layer.get_build_config())
    twin.set_weights(layer.get_weights())
    return twin


def _full_batches(labelled: Iterable[Any], samples: int) -> Iterator[tuple[Any, Any]]:
    """Batches as large as the first one, as tensors, until there are so many images."""
    done, size = 0, 0
    for batch in labelled:
        inputs, labels = batch[0], tf.cast(batch[1], tf.int64)
        size = size or int(labels.shape[0])
        if size == 0 or int(labels.shape[0]) < size or (done and done + size > samples):
            return
        done += size
        yield inputs, labels
