"""Weights of classes: in the training loss and nowhere else, as Keras defines them."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stages import plain_network, train

from bnadapt.config import StageSettings
from bnadapt.data.splits import ArraySplit, Splits
from bnadapt.errors import SettingsError
from bnadapt.training.class_weights import weights_of_classes
from bnadapt.training.pace import batches
from bnadapt.training.rate import RateTest
from tests.digits import digit_splits


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_balanced_classes_count_the_same_and_the_mean_stays_one(labels: list[int]) -> None:
    weights = weights_of_classes(np.array(labels), 8, "balanced")
    assert weights is not None
    counts = np.bincount(labels, minlength=8)
    present = counts > 0
    each = len(labels) / present.sum()
    np.testing.assert_allclose((weights * counts)[present], each, rtol=1e-5)
    assert (weights[~present] == 1).all()


def test_none_and_a_mapping() -> None:
    labels = np.array([0, 1, 1])
    assert weights_of_classes(labels, 3, "none") is None
    np.testing.assert_array_equal(weights_of_classes(labels, 3, {1: 0.5}), np.float32([1, 0.5, 1]))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("some", "class_weights='some': choose none, balanced, or a weight by class"),
        ({7: 1.0}, "there is no class 7, classes are 0 to 2"),
        ({1: -1.0}, "every weight must be a number, 0 or more"),
        ({1: float("nan")}, "every weight must be a number, 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(asked: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        weights_of_classes(np.array([0, 1]), 3, asked)  # type: ignore[arg-type]


def unequal(splits: Splits) -> Splits:
    """Three quarters of the images of the last classes are gone."""
    images, labels = (np.stack(each) for each in zip(*splits.train.examples.as_numpy_iterator(), strict=True))
    kept = (labels < 5) | (np.arange(len(labels)) % 4 == 0)
    split = ArraySplit("train", images[kept], labels[kept])
    return replace(splits, train=split, unlabelled=split)


def test_loss_and_gradient_of_a_step_are_the_weighted_ones() -> None:
    """Against NumPy in float64: one step of a network without hidden layers."""
    splits = unequal(digit_splits(train=300, validation=50))
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    kernel, bias = (np.array(each, "float64") for each in network.get_weights())
    how = StageSettings(steps=1, looks=1, optimizer="sgd", learning_rate=0.5, keep="last")
    trained = train(network, splits, how, class_weights="balanced", from_logits=True)

    images, labels = (
        np.asarray(each) for each in next(iter(batches(splits.train, 50, seed=3, first=0, steps=1)))
    )
    inputs = images.reshape(50, 64).astype("float64") / 255
    logits = inputs @ kernel + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counts = np.bincount(splits.train.labels(), minlength=10)
    weights = (splits.train.size / (10 * counts))[labels]
    assert weights.max() > 2 * weights.min()
    losses = -np.log(probabilities[np.arange(50), labels])
    # Divided by the number of images, not by the sum of the weights.
    np.testing.assert_allclose(trained.history[0].loss, (weights * losses).sum() / 50, rtol=1e-5)
    assert abs((weights * losses).sum() / 50 - (weights * losses).sum() / weights.sum()) > 1e-3
    error = weights[:, None] * (probabilities - np.eye(10)[labels]) / 50
    now = network.get_weights()
    np.testing.assert_allclose(now[0], kernel - 0.5 * inputs.T @ error, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(now[1], bias - 0.5 * error.sum(axis=0), rtol=1e-4, atol=1e-6)
    assert trained.history[0].accuracy == pytest.approx((logits.argmax(axis=1) == labels).mean())
    # What chooses the best look counts every image once.
    validation = np.stack([image for image, _ in splits.validation.examples.as_numpy_iterator()])
    outputs = validation.reshape(-1, 64).astype("float64") / 255 @ now[0].astype("float64") + now[1]
    outputs -= np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    plain = -outputs[np.arange(50), splits.validation.labels()].mean()
    np.testing.assert_allclose(trained.history[0].val_loss, plain, rtol=1e-5)


@pytest.mark.fault(
    "odd: classes 1 to 1000",
    "balanced weights find the rare class (recall over 90 %), which no weights miss",
)
@pytest.mark.slow
def test_one_image_in_a_thousand_is_found_with_weights_alone() -> None:
    random = np.random.default_rng(0)

    def split(name: str, common: int, rare: int) -> ArraySplit:
        labels = np.repeat([0, 1], [common, rare])
        images = random.normal(110 + 30 * labels[:, None, None, None], 25, (len(labels), 4, 4, 1))
        return ArraySplit(name, images.clip(0, 255).astype("uint8"), labels)

    training = split("train", 3000, 3)
    splits = replace(
        digit_splits(), classes=("common", "rare"), image_shape=(4, 4, 1), train=training, unlabelled=training,
        validation=split("validation", 100, 100),
    )  # fmt: skip

    def recall(class_weights: str) -> np.ndarray:
        network = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                keras.layers.Rescaling(1 / 50, offset=-2.2),
                keras.layers.Flatten(),
                keras.layers.Dense(2, kernel_initializer="zeros"),
            ]
        )
        how = StageSettings(epochs=2, learning_rate=0.03, keep="last")
        train(network, splits, how, class_weights=class_weights, from_logits=True)
        images = np.stack([image for image, _ in splits.validation.examples.as_numpy_iterator()])
        right = np.argmax(network(images), axis=1) == splits.validation.labels()
        return right.reshape(2, 100).mean(axis=1)

    without, balanced = recall("none"), recall("balanced")
    np.testing.assert_array_equal(without, [1, 0])
    assert balanced.min() > 0.9


@pytest.mark.slow
def test_the_range_test_sees_the_same_loss() -> None:
    splits = unequal(digit_splits(train=300, validation=50))
    tests: list[RateTest] = []
    for class_weights in ("none", "balanced"):
        how = StageSettings(steps=1, find_rate=True)
        train(plain_network(), splits, how, class_weights=class_weights, on_rate=tests.append)
    first = [test.losses[0] for test in tests]
    assert abs(first[0] - first[1]) > 1e-3
