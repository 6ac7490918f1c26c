"""Networks without models inside: the same function and weights, and each call of a nested model apart."""

import keras
import numpy as np
import pytest
from elsewhere import Elsewhere
from keras import layers
from zoo import ZOO, outputs, pixels, same

from bnadapt.errors import SurgeryError
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.statistics import calibrate
from bnadapt.surgery.graph import calls
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import find_sites
from bnadapt.surgery.unnest import unnest

NESTED = ("nested_twice", "sequential_of_models", "mixed_precision", "shared_across_models")


@pytest.mark.parametrize("name", [*NESTED, "sequential", "dictionaries", "raw_operations", "masks"])
def test_the_function_and_the_weights_are_kept(name):
    each = ZOO[name]()
    before, expected = fingerprint(each.model), outputs(each.model, each.inputs)
    result = unnest(each.model)
    assert not any(isinstance(layer, keras.Model) for layer in result.layers)
    assert same(outputs(result, each.inputs), expected)
    assert sorted(fingerprint(result).values()) == sorted(before.values())
    assert [tensor.name for tensor in result.inputs] == [tensor.name for tensor in each.model.inputs]
    keras.tree.assert_same_structure(result(each.inputs), each.model(each.inputs))
    assert not {id(v) for v in result.variables} & {id(v) for v in each.model.variables}
    assert fingerprint(each.model) == before


def test_names_are_kept_where_they_are_unique():
    model = ZOO["sequential_of_models"]().model
    names = [layer.name for layer in unnest(model).layers]
    assert "deep_block_c" in names
    assert "deep_c" in names
    assert "out" in names
    assert model.layers[0].name == "deep"


def test_every_call_of_a_nested_model_can_have_batch_normalization_of_its_own(tmp_path):
    each = ZOO["nested_twice"]()
    expected = outputs(each.model, each.inputs)
    flat = unnest(each.model)
    sites = find_sites(flat)
    assert sorted((site.layer, site.calls) for site in sites) == [
        ("d", (0,)),
        ("d", (1,)),
        ("first", (0,)),
        ("m", (0,)),
        ("m", (1,)),
    ]
    result = insert_batch_norm(flat, sites)
    assert len([c for c in calls(result) if isinstance(c.operation, layers.BatchNormalization)]) == 5
    assert same(outputs(result, each.inputs), expected)
    calibrate(result, each.inputs)
    # with statistics of each call, training computes what inference does, up to dropout
    for layer in result.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    training = keras.ops.convert_to_numpy(result(each.inputs, training=True))
    assert np.abs(training - expected[0]).max() <= 1e-3 * expected[0].std()
    with Elsewhere(tmp_path) as elsewhere:
        assert same(elsewhere.outputs(result, each.inputs), outputs(result, each.inputs))


def test_a_recorded_training_mode_is_kept():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d")], name="inner")
    i = keras.Input((4,))
    noisy = layers.Dropout(0.5, name="noisy", seed=1)(inner(i), training=True)
    model = keras.Model(i, layers.Dense(2)(noisy))
    result = unnest(model)
    first, second = (keras.ops.convert_to_numpy(model(pixels(4))) for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(result(pixels(4)), first)
    np.testing.assert_array_equal(result(pixels(4)), second)


def test_frozen_layers_stay_frozen():
    model = ZOO["nested_twice"]().model
    model.get_layer("middle").trainable = False
    result = unnest(model)
    assert {layer.name for layer in result.layers if layer.trainable_variables} == {"first", "out"}


def test_what_cannot_be_written_out_is_refused():
    j = keras.Input((4, 1))
    inner = keras.Model(j, layers.Flatten()(j), name="inner")
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2)(inner(i)))
    with pytest.raises(SurgeryError, match=r"'inner' is called with the shape \(None, 4\) for its input of"):
        unnest(model)
    inner = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5)], name="inner")
    with pytest.raises(SurgeryError, match="'inner' is called with training: only a call with its inputs"):
        unnest(keras.Model(i, layers.Dense(2)(inner(i, training=True))))
    stack = [layers.Lambda(lambda x: x * 2, name="twice"), layers.Dense(4)]
    inner = keras.Sequential([keras.Input((4,)), *stack], name="inner")
    x = layers.Lambda(lambda x: x * 3, name="twice")(inner(i))
    with pytest.raises(
        SurgeryError, match="'inner_twice', cannot get another name without changing the netw"
    ):
        unnest(keras.Model(i, layers.Dense(2)(x)))


def test_a_nested_model_may_take_a_dictionary():
    keras.utils.set_random_seed(0)
    parts = {name: keras.Input((4,), name=name) for name in ("b", "a")}
    inner = keras.Model(parts, layers.Dense(3, name="d")(parts["a"] - 2.0 * parts["b"]), name="inner")
    i, j = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([i, j], layers.Dense(2, name="out")(inner({"a": i, "b": j})))
    data = [pixels(4), pixels(4) + 1]
    assert same(outputs(unnest(model), data), outputs(model, data))
