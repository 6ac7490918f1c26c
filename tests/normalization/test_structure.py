"""Structures: equal where the function of the weights is, and different where it is not."""

import keras
import pytest
from keras import layers, ops

from bnadapt.normalization.structure import first_difference, structure_hash, structure_of


def network(*, flip=False, factor=2.0, scale=1.5, swap=False, twice=False, **settings) -> keras.Model:
    """Layers without weights are called something else every time."""
    i = keras.Input((4,))
    first, second = layers.Dense(4, name="first"), layers.Dense(4, name="second")
    x, y = first(i), second(i)
    y = first(y) if twice else layers.ReLU()(y)
    x = layers.Subtract()([y, x] if flip else [x, y])
    x = layers.Dropout(0.5)(x * factor)
    j = keras.Input((4,))
    inner = keras.Model(j, layers.LeakyReLU(scale)(j))
    x = inner(x, **settings)
    outputs = [x, ops.tanh(y)]
    return keras.Model(i, outputs[::-1] if swap else outputs)


def test_names_flags_and_recorded_inference_do_not_matter():
    first, second = network(), network(training=False)
    second.trainable = False
    assert structure_of(first) == structure_of(second)
    assert structure_hash(first) == structure_hash(second)
    assert first_difference(structure_of(first), structure_of(second)) is None


@pytest.mark.parametrize(
    "change",
    [{"flip": True}, {"factor": 3.0}, {"scale": 0.5}, {"swap": True}, {"twice": True}, {"training": True}],
)
def test_wiring_arguments_and_settings_matter(change):
    assert structure_hash(network()) != structure_hash(network(**change))


def test_the_first_difference_is_put_in_words():
    assert first_difference(["a", "b"], ["a", "c"]) == "'c' where the base gives 'b'"
    assert (
        first_difference(["a"], ["a", "b" * 300]) == f"'{'b' * 200}...' where the base gives 'nothing more'"
    )
