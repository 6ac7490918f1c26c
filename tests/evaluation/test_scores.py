"""Scores against NumPy and scikit-learn's definitions, on values small enough to check by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bnadapt.evaluation.scores import largest_change, predict, score_outputs

LABELS = np.array([0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.1, 0.7, 0.2]]
)


def test_scores_are_those_of_the_definitions() -> None:
    scores = score_outputs(PROBABILITIES, LABELS, from_logits=False)
    assert scores.accuracy == 3 / 5
    assert scores.loss == pytest.approx(-np.mean(np.log([0.8, 0.2, 0.8, 0.6, 0.2])))
    # Class 0: precision 1, recall 1/2. Class 1: precision 2/4, recall 1. Class 2 is never predicted.
    assert scores.macro_f1 == pytest.approx((2 * 0.5 / 1.5 + 2 * 0.5 / 1.5 + 0) / 3)
    np.testing.assert_array_equal(scores.recall, [0.5, 1, 0])
    np.testing.assert_array_equal(scores.correct, [True, False, True, True, False])


def test_logits_and_their_probabilities_score_alike() -> None:
    logits = np.log(PROBABILITIES) + np.array([[1000.0], [-1000.0], [3], [0], [7]])
    from_logits = score_outputs(logits, LABELS, from_logits=True)
    assert from_logits.loss == pytest.approx(score_outputs(PROBABILITIES, LABELS, from_logits=False).loss)


def test_a_class_without_images_has_no_recall_and_does_not_count_in_f1() -> None:
    scores = score_outputs(np.eye(4)[[0, 1]], np.array([0, 1]), from_logits=False)
    assert np.isnan(scores.recall[2:]).all()
    assert scores.macro_f1 == 1


def test_a_probability_of_zero_costs_much_but_not_infinity() -> None:
    assert 80 < score_outputs(np.array([[1.0, 0.0]]), np.array([1]), from_logits=False).loss < 100


def test_predictions_come_in_the_order_of_the_batches() -> None:
    network = keras.Sequential([keras.Input((2,)), keras.layers.Activation("linear")])
    images = np.arange(14, dtype="float32").reshape(7, 2)
    batches = tf.data.Dataset.from_tensor_slices((images, np.arange(7))).batch(3)
    outputs, labels = predict(network, batches)
    np.testing.assert_array_equal(outputs, images)
    np.testing.assert_array_equal(labels, np.arange(7))


def test_the_largest_change_is_told_in_units_and_in_standard_deviations() -> None:
    before = np.array([[0.0, 2.0], [4.0, 6.0]])
    after = before + np.array([[0.0, -0.5], [0.1, 0.0]])
    change, relative = largest_change(before, after)
    assert change == 0.5
    assert relative == pytest.approx(0.5 / np.std([0, 2, 4, 6]))
