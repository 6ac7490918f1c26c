"""Scores of a network on a split."""

import math

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import f1_score

from bnadapt.evaluation.results import Scores

CALIBRATION_BINS = 15


def score(network: keras.Model, batches: tf.data.Dataset, *, from_logits: bool) -> Scores:
    """Scores of a network over batches of images and labels, in inference mode.

    Args:
        network: Maps images to ``(batch, classes)``; not changed.
        batches: ``(images, integer labels)``, finite, in a fixed order.
        from_logits: Whether the outputs are logits instead of probabilities.
    """
    outputs, labels = predict(network, batches)
    return score_outputs(outputs, labels, from_logits=from_logits)


def predict(network: keras.Model, batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Outputs ``(images, classes)`` in float64 and labels ``(images,)`` of all batches, in order."""
    labels = np.concatenate([np.asarray(batch) for batch in batches.map(lambda _, label: label)])
    outputs = network.predict(batches.map(lambda image, _: image), verbose=0)
    return np.asarray(outputs, "float64"), labels.astype("int64")


def score_outputs(outputs: np.ndarray, labels: np.ndarray, *, from_logits: bool) -> Scores:
    """Scores of outputs ``(images, classes)`` against integer labels ``(images,)``."""
    if from_logits:
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    else:
        log_probabilities = np.log(np.clip(outputs, np.finfo("float32").tiny, None))
    predicted = outputs.argmax(axis=1)
    correct = predicted == labels
    classes = outputs.shape[1]
    counts = np.bincount(labels, minlength=classes)
    with np.errstate(invalid="ignore"):
        recall = np.bincount(labels[correct], minlength=classes) / counts
    return Scores(
        accuracy=float(correct.mean()),
        loss=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        # Over the classes that occur: a class absent from the split has no F1 to speak of.
        macro_f1=float(
            f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
        ),
        calibration_error=calibration_error(np.exp(log_probabilities.max(axis=1)), correct),
        recall=recall,
        correct=correct,
        predicted=predicted.astype("int64"),
    )


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error of answers given with these probabilities, 0 to 1; NaN without any.

    The probabilities of the predicted classes are sorted into 15 bins of equal width, 0 to 1/15 and so on,
    the upper ends included: ECE = sum over bins B of |B| / n * |accuracy(B) - mean probability(B)|
    (Guo, Pleiss, Sun and Weinberger, 2017, "On Calibration of Modern Neural Networks").

    Args:
        confidence: Probability of the predicted class, 0 to 1, shape ``(images,)``.
        correct: Whether the prediction is right, shape ``(images,)``.
    """
    if not confidence.size:
        return math.nan
    inner_edges = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    places = np.searchsorted(inner_edges, confidence, side="left")
    surplus = np.bincount(places, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(surplus).sum() / confidence.size)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Number of images of each right class (rows) that were given each class (columns), int64."""
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes)


def largest_change(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """The largest absolute change of any output, and the same in standard deviations of the outputs."""
    change = float(np.abs(after - before).max())
    return change, change / max(float(before.std()), np.finfo("float64").tiny)
