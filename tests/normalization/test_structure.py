"""Structures: equal where the function of the weights is, and different where it is not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from bnadapt.errors import SurgeryError
from bnadapt.normalization.structure import (
    first_difference,
    first_difference_from_marks,
    line_marks,
    structure_hash,
    structure_of,
)


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


def constants(make) -> list[str]:
    i = keras.Input((5,))
    return structure_of(keras.Model(i, make(i)))


@pytest.mark.parametrize(
    "make",
    [
        lambda k: lambda x: ops.multiply(x, np.full(5, k)),
        lambda k: lambda x: ops.multiply(x, np.full(5, k, "float32")),
        lambda k: lambda x: x * np.float32(k),
        lambda k: lambda x: x * tf.constant(float(k)),
        lambda k: lambda x: x * keras.Variable([float(k)] * 5),
        lambda k: lambda x: x + ops.convert_to_tensor(np.arange(5.0) ** k),
        lambda k: lambda x: x[:, k:],
        lambda k: lambda x: x[..., k],
        lambda k: lambda x: ops.cast(x, ["float16", "float64", "int32"][k]),
        lambda k: lambda x: ops.einsum("ab,b->ab" if k == 1 else "ab,b->a", x, np.ones(5)),
        lambda k: lambda x: ops.take(x, np.array([k]), axis=1),
        lambda k: layers.Rescaling(1.0, offset=np.full(5, k)),
        lambda k: layers.Normalization(mean=np.full(5, k), variance=np.ones(5)),
    ],
)  # fmt: skip
def test_constants_in_the_graph_matter(make):
    assert constants(make(1)) == constants(make(1))
    assert constants(make(1)) != constants(make(2))


def test_type_and_shape_of_constants_matter():
    assert constants(lambda x: x * np.ones(5)) != constants(lambda x: x * np.ones(5, "float32"))
    assert constants(lambda x: x * np.ones(1)) != constants(lambda x: x * np.ones((1, 1)))


def test_variables_of_the_network_count_by_their_paths():
    """Their values are weights, and compared as such."""

    def tied(which: str, value: float) -> list[str]:
        i = keras.Input((4,))
        one, other = layers.Dense(4, name="one"), layers.Dense(4, name="other")
        x = one(i) + other(i)
        model = keras.Model(i, ops.matmul(x, {"one": one, "other": other}[which].kernel))
        one.kernel.assign(np.full((4, 4), value))
        return structure_of(model)

    assert tied("one", 1) == tied("one", 2)
    assert tied("one", 1) != tied("other", 1)
    assert '"variable one/kernel"' in "".join(tied("one", 1))


def test_what_cannot_be_compared_is_refused():
    class Holder(layers.Layer):
        def call(self, x):
            return x

        def get_config(self):
            return {**super().get_config(), "what": object()}

    i = keras.Input((4,))
    model = keras.Model(i, Holder(name="odd")(i))
    with pytest.raises(
        SurgeryError,
        match=r"'odd' \(Holder\) holds a object, <object object at .*>, which cannot be told from others of its kind: "
        "give it as numbers, text or an array, or save the whole network",
    ):
        structure_of(model)


def test_marks_tell_which_line_differs():
    marks = line_marks(["a", "b"])
    assert [len(each) for each in marks] == [8, 8]
    assert first_difference_from_marks(marks, ["a", "c"]) == "line 2 of 2, here 'c', was another"
    assert first_difference_from_marks(marks, ["a", "b", "c"]) == "'c' is more than there was"
    assert first_difference_from_marks(marks, ["a"]) == "2 lines describe them, here 1"
    assert first_difference_from_marks(marks, ["a", "b"]) == "no single line"


def test_the_first_difference_is_put_in_words():
    assert first_difference(["a", "b"], ["a", "c"]) == "'c' where the base gives 'b'"
    assert (
        first_difference(["a"], ["a", "b" * 300]) == f"'{'b' * 200}...' where the base gives 'nothing more'"
    )
