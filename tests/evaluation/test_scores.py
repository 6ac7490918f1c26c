"""Scores against NumPy and scikit-learn's definitions, on values small enough to check by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bnadapt.evaluation.scores import calibration_error, confusion, largest_change, predict, score_outputs

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


def test_what_was_predicted_is_kept_image_by_image() -> None:
    scores = score_outputs(PROBABILITIES, LABELS, from_logits=False)
    np.testing.assert_array_equal(scores.predicted, [0, 1, 1, 1, 1])
    assert scores.predicted.dtype == np.int64


def test_confusion_counts_right_classes_in_rows() -> None:
    counts = confusion(np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0]), 4)
    np.testing.assert_array_equal(counts, [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])


def test_calibration_error_by_hand() -> None:
    """Two answers in the bin 0.8 to 0.8667, of which one is right; one of 0.3, right, in a bin of its own."""
    error = calibration_error(np.array([0.81, 0.85, 0.3]), np.array([True, False, True]))
    assert error == pytest.approx(2 / 3 * abs(0.5 - 0.83) + 1 / 3 * abs(1 - 0.3))


@pytest.mark.parametrize("from_logits", [True, False])
def test_calibration_error_against_the_definition_bin_by_bin(from_logits: bool) -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(0, 2, (500, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = generator.integers(0, 4, 500)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    scores = score_outputs(logits if from_logits else probabilities, labels, from_logits=from_logits)
    assert scores.calibration_error == pytest.approx(expected, abs=1e-12)
    assert expected > 0.1


def test_calibration_error_at_its_ends() -> None:
    assert calibration_error(np.ones(3), np.array([True] * 3)) == 0
    assert calibration_error(np.ones(3), np.array([False] * 3)) == 1
    # The upper end of a bin belongs to it: both answers share the first bin, where their errors cancel in part.
    shared = calibration_error(np.array([1 / 15, 0.05]), np.array([True, False]))
    assert shared == pytest.approx((14 / 15 - 0.05) / 2)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))
