"""Scores of a network on a split."""

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import f1_score

from bnadapt.evaluation.results import Scores


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
        recall=recall,
        correct=correct,
    )


def largest_change(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """The largest absolute change of any output, and the same in standard deviations of the outputs."""
    change = float(np.abs(after - before).max())
    return change, change / max(float(before.std()), np.finfo("float64").tiny)
