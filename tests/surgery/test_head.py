"""Heads: found, replaced, appended; everything else carried bit for bit."""

import keras
import numpy as np
import pytest
from keras import layers
from zoo import ZOO, pixels

from bnadapt.errors import SurgeryError
from bnadapt.normalization.proof import fingerprint
from bnadapt.surgery.graph import layer_paths
from bnadapt.surgery.head import head_layers, replace_head


def kept(model, path):
    return {key: value for key, value in fingerprint(model).items() if not key.startswith(path + "/")}


def test_heads_are_what_an_output_is_reached_from():
    assert head_layers(ZOO["sequential"]().model) == ["out"]
    assert sorted(head_layers(ZOO["dictionaries"]().model)) == ["aux", "score"]
    assert head_layers(ZOO["opaque"]().model) == ["out"]
    j = keras.Input((4,))
    inner = keras.Model(
        j, layers.Activation("softmax")(layers.BatchNormalization()(layers.Dense(3, name="d")(j)))
    )
    i = keras.Input((4,))
    model = keras.Model(i, keras.Sequential([keras.Input((4,)), inner], name="outer")(layers.Dense(4)(i)))
    assert head_layers(model) == [f"outer/{inner.name}/d"]


def test_a_dense_head_gets_another_size_and_fresh_weights():
    each = ZOO["sequential"]()
    before = fingerprint(each.model)
    keras.utils.set_random_seed(1)
    result, path = replace_head(each.model, 7)
    assert path == "out"
    assert result.output_shape == (None, 7)
    assert isinstance(result, keras.Sequential)
    assert result.get_layer("out").activation is keras.activations.softmax
    assert kept(result, "out") == kept(each.model, "out")
    np.testing.assert_array_equal(result.get_layer("out").bias, np.zeros(7))
    assert fingerprint(each.model) == before
    keras.utils.set_random_seed(1)
    again, _ = replace_head(each.model, 7)
    assert fingerprint(again) == fingerprint(result)
    keras.utils.set_random_seed(2)
    other, _ = replace_head(each.model, 7)
    assert fingerprint(other)["out/kernel"] != fingerprint(result)["out/kernel"]


def test_a_head_of_the_same_size_is_fresh_too():
    each = ZOO["sequential"]()
    result, path = replace_head(each.model, 3, name="classes")
    assert path == "classes"
    assert kept(result, "classes") == kept(each.model, "out")
    assert fingerprint(result)["classes/kernel"] != fingerprint(each.model)["out/kernel"]


def test_a_convolution_as_head_keeps_its_pooling_and_softmax():
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, name="body")(i)
    x = layers.Conv2D(10, 1, activation="relu", name="classes")(x)
    x = layers.Softmax()(layers.GlobalAveragePooling2D()(x))
    result, path = replace_head(keras.Model(i, x), 4)
    assert path == "classes"
    assert result.output_shape == (None, 4)
    np.testing.assert_allclose(np.sum(result(pixels(8, 8, 3)), -1), 1, rtol=1e-5)


def test_reshapes_behind_a_convolution_follow_its_size():
    model = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None)
    result, path = replace_head(model, 10)
    assert path == "conv_preds"
    assert result.output_shape == (None, 10)
    assert kept(result, path) == kept(model, path)


def test_reshapes_further_behind_follow_too():
    i = keras.Input((1, 1, 4))
    x = layers.ReLU()(layers.Conv2D(6, 1, name="classes")(i))
    result, _ = replace_head(keras.Model(i, layers.Softmax()(layers.Reshape((6,))(x))), 3)
    assert result.output_shape == (None, 3)


@pytest.mark.parametrize("shape", [(8, 2), (8, 8, 2), (4, 4, 4, 2)])
def test_a_feature_map_gets_pooling_and_a_dense_layer(shape):
    convolution = {2: layers.Conv1D, 3: layers.Conv2D, 4: layers.Conv3D}[len(shape)]
    i = keras.Input(shape)
    model = keras.Model(i, convolution(5, 1, name="body")(i))
    result, path = replace_head(model, 3)
    assert path == "head"
    assert result.output_shape == (None, 3)
    assert kept(result, "head") == fingerprint(model)
    np.testing.assert_allclose(np.sum(result(pixels(*shape)), -1), 1, rtol=1e-5)


def test_pooling_of_channels_first_features_keeps_the_channels():
    i = keras.Input((2, 6, 6))
    model = keras.Model(i, layers.Conv2D(5, 1, data_format="channels_first")(i))
    result, path = replace_head(model, 3)
    assert layer_paths(result)[path].kernel.shape == (5, 3)


def test_pooled_features_are_kept_on_request():
    i = keras.Input((8, 8, 2))
    model = keras.Model(i, layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, name="head")(i)))
    result, path = replace_head(model, 3, append=True)
    assert path == "head_1"
    assert {k: v for k, v in fingerprint(result).items() if k.startswith("head/")} == fingerprint(model)
    assert result.output_shape == (None, 3)


def test_a_head_that_cannot_be_resized_is_kept():
    i = keras.Input((4,))
    model = keras.Model(i, layers.EinsumDense("ab,bc->ac", 6, name="features")(i))
    result, path = replace_head(model, 3)
    assert (path, result.output_shape) == ("head", (None, 3))
    assert kept(result, "head") == fingerprint(model)


def test_a_nested_head_is_replaced_where_it_is():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(9, name="logits")], name="inner")
    i = keras.Input((4,))
    model = keras.Model(i, layers.Softmax()(inner(layers.Dense(4)(i))))
    result, path = replace_head(model, 3)
    assert path == "inner/logits"
    assert result.output_shape == (None, 3)


def test_what_cannot_be_done_is_said():
    with pytest.raises(SurgeryError, match="classes=0: must be at least 1"):
        replace_head(ZOO["sequential"]().model, 0)
    with pytest.raises(SurgeryError, match="needs a network with one output; this one has 2"):
        replace_head(ZOO["dictionaries"]().model, 3)
    i = keras.Input((4,))
    two = keras.Model(i, layers.Dense(3, name="a")(i) + layers.Dense(3, name="b")(i))
    with pytest.raises(SurgeryError, match=r"has 2 layers that lead to its output \(.*\), not one head"):
        replace_head(two, 5)
    with pytest.raises(SurgeryError, match="the head 'shared' is called several times"):
        replace_head(ZOO["shared_with_the_head"]().model, 5)
    normalized = keras.Model(i, layers.BatchNormalization()(layers.Dense(3, name="d")(i)))
    with pytest.raises(
        SurgeryError, match="the head 'd' cannot have 5 outputs, because of a layer behind it"
    ):
        replace_head(normalized, 5)
