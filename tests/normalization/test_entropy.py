"""Entropy and its gradient, against NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bnadapt.errors import ModelError
from bnadapt.normalization.entropy import check_classifier, check_outputs, entropy, probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def by_definition(distribution: np.ndarray) -> np.ndarray:
    safe = np.where(distribution > 0, distribution, 1)
    return -(distribution * np.log(safe)).sum(-1)


LOGITS = np.random.default_rng(0).normal(0, 3, (6, 5))


def test_it_is_the_entropy_of_logits_and_of_probabilities():
    expected = by_definition(softmax(LOGITS))
    np.testing.assert_allclose(entropy(LOGITS), expected, rtol=1e-12)
    np.testing.assert_allclose(entropy(softmax(LOGITS), from_logits=False), expected, rtol=1e-12)
    np.testing.assert_allclose(probabilities(LOGITS), softmax(LOGITS), rtol=1e-12)
    np.testing.assert_allclose(entropy(np.zeros((1, 7))), np.log(7))


def test_one_output_is_the_second_of_two_classes():
    logits = np.array([[0.0], [2.0], [-50.0]])
    share = 1 / (1 + np.exp(-logits))
    expected = by_definition(np.concatenate([1 - share, share], -1))
    np.testing.assert_allclose(entropy(logits), expected, rtol=1e-9, atol=1e-18)
    np.testing.assert_allclose(entropy(share, from_logits=False), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(probabilities(share, from_logits=False)[:, 1:], share, rtol=1e-9)


def test_the_gradient_is_the_difference_quotient():
    """dH/dz_k = -p_k (ln p_k + H)."""
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(entropy(logits))
    found = tape.gradient(total, logits).numpy()
    step = 1e-6
    for place in np.ndindex(LOGITS.shape):
        moved = [LOGITS.copy(), LOGITS.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        quotient = (by_definition(softmax(moved[0])).sum() - by_definition(softmax(moved[1])).sum()) / (
            2 * step
        )
        assert abs(found[place] - quotient) < 1e-8
    share = softmax(LOGITS)
    expected = -share * (np.log(share) + by_definition(share)[:, np.newaxis])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("outputs", "from_logits"),
    [
        ([[0.0, -np.inf, 1.0]], True),
        ([[1e4, -1e4, 0.0]], True),
        ([[1.0, 0.0, 0.0]], False),
        ([[0.5, 0.5, 0.0]], False),
        ([[0.0]], False),
        ([[500.0]], True),
    ],
)
def test_certainty_and_impossibility_have_finite_entropy_and_gradient(outputs, from_logits):
    outputs = tf.constant(outputs, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        found = entropy(outputs, from_logits=from_logits)
    assert 0 <= found.numpy()[0] < 1.1
    assert np.isfinite(tape.gradient(found, outputs)).all()


def test_half_precision_is_reckoned_in_single():
    found = entropy(LOGITS.astype("float16"))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, by_definition(softmax(LOGITS)), rtol=5e-3)


def test_mistaken_outputs_are_named():
    check_outputs(tf.constant(LOGITS), from_logits=True)
    check_outputs(tf.constant(softmax(LOGITS)), from_logits=False)
    check_outputs(tf.constant([[0.2], [0.9]]), from_logits=False)
    check_outputs(tf.constant([[0.2], [0.9]]), from_logits=True)
    with pytest.raises(ModelError, match="are probabilities, which logits are not: pass from_logits=False"):
        check_outputs(tf.constant(softmax(LOGITS)), from_logits=True)
    for wrong in (LOGITS, softmax(LOGITS) / 2, [[1.5]]):
        with pytest.raises(
            ModelError, match="are no probabilities: if they are logits, pass from_logits=True"
        ):
            check_outputs(tf.constant(wrong), from_logits=False)


def test_a_classifier_has_one_output_of_classes():
    i = keras.Input((3,))
    check_classifier(keras.Model(i, [keras.layers.Dense(2)(i)]))
    for outputs, shapes in (([i, i], r"\(None, 3\), \(None, 3\)"), (i[:, :, None], r"\(None, 3, 1\)")):
        with pytest.raises(ModelError, match=f"has outputs of shape {shapes}: entropy is that of one output"):
            check_classifier(keras.Model(i, outputs))
