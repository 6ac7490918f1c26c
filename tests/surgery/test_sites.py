"""Which layers get batch normalization, and the reason given for every other one."""

import keras
import pytest
from keras import layers
from zoo import ZOO, Either

from bnadapt.errors import SurgeryError
from bnadapt.surgery.channels import channel_axis
from bnadapt.surgery.graph import calls
from bnadapt.surgery.sites import Site, Sites, find_sites


def test_a_site_is_plain_data():
    sites = find_sites(ZOO["sequential"]().model)
    assert sites[0] == Site("conv", "Conv2D", 4, -1, "before_activation", "conv_inserted_bn", (0,))
    assert sites[:1] == Sites([sites[0]], sites.passed_over)
    assert "conv    Conv2D, 4 channels, before activation" in repr(sites)
    assert "out     no: the head" in repr(sites)


def test_every_candidate_is_a_site_or_has_a_reason():
    reasons = find_sites(ZOO["existing_batch_norm"]().model).passed_over
    assert reasons == {
        "stem": "'stem_bn' normalizes before the next weighted layer on every path",
        "joined": "'post' normalizes before the next weighted layer on every path",
        "out": "the head: an output is reached without another weighted layer",
    }
    reasons = find_sites(ZOO["gates"]().model).passed_over
    assert {path: reason.split(":")[0] for path, reason in reasons.items()} == {
        "squeeze": "feeds a gate",
        "excite": "a gate",
        "squeeze_dense": "feeds a gate",
        "excite_dense": "a gate",
        "out": "the head",
    }
    reasons = find_sites(ZOO["einsum"]().model).passed_over
    assert reasons["two_axes"] == "its channel axis is not clear from its equation 'abc,cde->abde'"
    reasons = find_sites(ZOO["opaque"]().model).passed_over
    assert reasons["attention/query"] == "inside MultiHeadAttention, which is not opened"
    assert reasons["spectral/held"] == "inside SpectralNormalization, which is not opened"


def test_normalization_on_one_path_only_is_not_enough():
    i = keras.Input((6,))
    x = layers.Dense(4, name="forked")(i)
    y = layers.Dense(4, name="bare")(x) + layers.Dense(4, name="normed")(layers.LayerNormalization()(x))
    y = layers.BatchNormalization()(y)
    sites = find_sites(keras.Model(i, layers.Dense(2, name="out")(y)))
    assert [site.layer for site in sites] == ["forked"]


def test_normalization_is_seen_across_the_borders_of_models():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="last")], name="inner")
    i = keras.Input((4,))
    x = layers.ReLU()(layers.BatchNormalization(name="outer_bn")(inner(i)))
    sites = find_sites(keras.Model(i, layers.Dense(2, name="out")(x)))
    assert len(sites) == 0
    assert sites.passed_over["inner/last"].startswith("'outer_bn' normalizes")


def test_a_nested_model_with_one_bare_call_gets_batch_normalization():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="last")], name="inner")
    i = keras.Input((4,))
    x = inner(layers.BatchNormalization()(inner(i)))
    sites = find_sites(keras.Model(i, layers.Dense(2, name="out")(x)))
    assert [site.layer for site in sites] == ["inner/last"]


def test_the_head_may_have_an_activation_and_a_nested_model_around_it():
    head = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="logits"), layers.Softmax()], name="head"
    )
    i = keras.Input((4,))
    sites = find_sites(keras.Model(i, head(layers.Dense(4, name="body")(i))))
    assert [site.layer for site in sites] == ["body"]
    assert sites.passed_over["head/logits"].startswith("the head")


def test_the_head_may_be_normalized():
    i = keras.Input((4,))
    logits = layers.BatchNormalization()(layers.Dense(3, name="logits")(i))
    assert find_sites(keras.Model(i, logits)).passed_over["logits"].startswith("the head")


def test_include_and_exclude_match_paths_or_names_in_full():
    model = ZOO["nested_twice"]().model

    def layers_of(**patterns):
        return [site.layer for site in find_sites(model, **patterns)]

    assert layers_of(include="middle/.*") == ["middle/inner/d", "middle/m"]
    assert layers_of(include="d") == ["middle/inner/d"]
    assert layers_of(include=["first", "m"]) == ["first", "middle/m"]
    assert layers_of(exclude="middle/inner/.*") == ["first", "middle/m"]
    assert find_sites(model, exclude="first").passed_over["first"] == "excluded by 'first'"
    assert find_sites(model, include="first").passed_over["middle/m"] == "not included: 'first'"


@pytest.mark.parametrize(
    "patterns", [{"include": "conv.*"}, {"exclude": ["first", "conv.*"]}, {"include": "irst"}]
)
def test_a_pattern_that_matches_nothing_lists_what_there_is(patterns):
    with pytest.raises(
        SurgeryError, match="matches no convolution or dense layer; there are: first, middle/inner/d"
    ):
        find_sites(ZOO["nested_twice"]().model, **patterns)


def test_bad_patterns_and_positions_are_refused():
    model = ZOO["sequential"]().model
    with pytest.raises(SurgeryError, match=r"'\(' is no regular expression"):
        find_sites(model, include="(")
    with pytest.raises(
        SurgeryError, match="position='inside': choose one of before_activation, after_activation, or None"
    ):
        find_sites(model, "inside")


def test_a_network_without_a_place_has_no_sites():
    linear = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert len(find_sites(linear)) == 0
    assert len(find_sites(keras.Sequential([keras.Input((4,)), layers.ReLU()]))) == 0


def test_names_of_sites_are_unique_in_their_model():
    i = keras.Input((4,))
    x = layers.Dense(4, name="a")(i)
    x = layers.Dense(4, name="a_inserted_bn")(x)
    model = keras.Model(i, layers.Dense(2)(x))
    assert [site.name for site in find_sites(model)] == ["a_inserted_bn_1", "a_inserted_bn_inserted_bn"]


def test_inserted_batch_normalization_is_not_inserted_again():
    from bnadapt.surgery.insert import insert_batch_norm

    model = ZOO["nested_twice"]().model
    for position in ("before_activation", "after_activation"):
        result = insert_batch_norm(model, find_sites(model, position, on_input=True))
        assert len(find_sites(result, position, on_input=True)) == 0


def test_layers_with_an_activation_layer_inside_keep_it():
    i = keras.Input((4,))
    x = layers.Dense(4, activation=layers.PReLU(), name="inside")(i)
    model = keras.Model(i, layers.Dense(2)(x))
    assert find_sites(model).passed_over["inside"].startswith("its activation is a layer (PReLU) inside it")
    assert [site.layer for site in find_sites(model, "after_activation")] == ["inside"]


def test_masks_that_batch_normalization_cannot_use_are_seen():
    i = keras.Input((3, 5), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(i)
    x = layers.Dense(4, name="fits")(x)
    x = layers.TimeDistributed(layers.Conv1D(2, 3), name="shortens")(x)
    sites = find_sites(keras.Model(i, layers.Dense(2)(x)))
    assert [site.layer for site in sites] == ["fits"]
    assert sites.passed_over["shortens"] == "its output has a mask that batch normalization cannot use"


def test_calls_of_a_layer_have_a_site_each_or_one_for_all():
    model = ZOO["shared_layer"]().model
    each = find_sites(model)
    assert [site.calls for site in each] == [(0,), (1,), (2,)]
    assert [site.name for site in each] == [f"shared_inserted_bn{end}" for end in ("", "_1", "_2")]
    (one,) = find_sites(model, shared=True)
    assert one == Site("shared", "Dense", 5, -1, "before_activation", "shared_inserted_bn", (0, 1, 2))
    assert "shared  Dense, 5 channels, before activation, calls 0, 1, 2" in repr(
        find_sites(model, shared=True)
    )
    assert "shared  Dense, 5 channels, before activation, call 2" in repr(each)


def test_one_site_for_all_calls_holds_those_of_one_rank():
    model = ZOO["shared_across_models"]().model
    found = {site.name: site.calls for site in find_sites(model, shared=True) if site.layer == "shared"}
    ranks = {call.index: len(call.output.shape) for call in calls(model) if call.path == "shared"}
    assert sorted(found) == ["shared_inserted_bn", "shared_inserted_bn_1"]
    assert sorted(number for numbers in found.values() for number in numbers) == [0, 1, 2]
    assert all(len({ranks[number] for number in numbers}) == 1 for numbers in found.values())


def test_one_site_for_all_calls_holds_only_those_that_get_batch_normalization():
    shared = layers.Dense(4, name="shared")
    i = keras.Input((4,))
    x = shared(shared(layers.BatchNormalization()(shared(i))))
    sites = find_sites(keras.Model(i, layers.Dense(2, name="out")(x)), shared=True)
    assert [(site.calls, site.name) for site in sites] == [((1, 2), "shared_inserted_bn")]
    assert "shared" not in sites.passed_over


@pytest.mark.parametrize(("inside", "outside"), [("shared_inserted_bn", "i"), ("j", "shared_inserted_bn")])
def test_names_are_free_in_every_model_that_a_shared_layer_is_called_in(inside, outside):
    shared = layers.Dense(4, name="shared")
    j = keras.Input((4,), name=inside)
    inner = keras.Model(j, shared(j), name="inner")
    i = keras.Input((4,), name=outside)
    model = keras.Model(i, layers.Dense(2, name="out")(shared(inner(i))))
    (one,) = find_sites(model, shared=True)
    assert (one.calls, one.name) == ((0, 1), "shared_inserted_bn_1")
    taken = {call.index: call.model is inner for call in calls(model) if call.operation is shared}
    names = {taken[site.calls[0]]: site.name for site in find_sites(model)}
    assert names[outside == "i"] == "shared_inserted_bn_1"


def test_inputs_come_first_with_the_axis_of_the_first_convolutions():
    sites = find_sites(ZOO["dictionaries"]().model, on_input=True)
    assert sites[0] == Site("left", "InputLayer", 4, -1, "input", "left_inserted_bn")
    assert [site.layer for site in sites] == ["left", "right", "trunk", "side"]
    assert "left   InputLayer, 4 channels, input" in repr(sites)
    (first,) = find_sites(ZOO["channels_first"]().model, None, on_input=True)
    assert (first.axis, first.channels) == (1, 2)
    assert len(find_sites(ZOO["channels_first"]().model, None)) == 0


def axis_of_input(shape, *following):
    i = keras.Input(shape, name="picture")
    x = i
    for layer in following:
        x = layer(x)
    model = keras.Model(i, layers.Dense(2, name="out")(layers.Flatten()(x)))
    return [(site.axis, site.channels) for site in find_sites(model, None, on_input=True)]


def test_the_channel_axis_of_an_input():
    conv = {"data_format": "channels_first"}
    assert axis_of_input((2, 6, 6), layers.ZeroPadding2D(), layers.Conv2D(3, 1, **conv)) == [(1, 2)]
    inner = keras.Sequential([keras.Input((2, 6, 6)), layers.ReLU(), layers.Conv2D(3, 1, **conv)])
    assert axis_of_input((2, 6, 6), inner) == [(1, 2)]
    frames = layers.TimeDistributed(layers.Conv2D(3, 1, **conv))
    assert axis_of_input((4, 2, 6, 6), frames) == [(2, 2)]
    assert axis_of_input((6, 5, 2), layers.Permute((3, 1, 2)), layers.Conv2D(3, 1, **conv)) == [(-1, 2)]
    assert axis_of_input((6, 6, 2), layers.Conv2D(3, 1)) == [(-1, 2)]
    assert axis_of_input((5, 6), lambda x: keras.ops.expand_dims(x, 1), layers.Conv2D(3, 1, **conv)) == [
        (-1, 6)
    ]
    assert axis_of_input((2, 6, 6), layers.Dense(3), layers.Conv2D(3, 1, **conv)) == [(-1, 6)]


def test_channels_first_inside_a_time_distributed_layer():
    i = keras.Input((4, 2, 6, 6))
    x = layers.TimeDistributed(layers.Conv2D(3, 1, data_format="channels_first"), name="frames")(i)
    (site,) = find_sites(keras.Model(i, layers.Dense(2, name="out")(layers.Flatten()(x))))
    assert (site.axis, site.channels) == (2, 3)


def test_inputs_that_get_none_have_a_reason():
    def reason(network):
        sites = find_sites(network, None, on_input=True)
        assert all(site.layer != "x" for site in sites)
        return sites.passed_over["x"]

    words = keras.Input((5,), dtype="int32", name="x")
    assert (
        reason(keras.Model(words, layers.Embedding(7, 4)(words)))
        == "its values are int32, not floating-point"
    )
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="x", optional=True)
    assert reason(keras.Model([a, b], Either()(a, b))) == "it is optional: there may be nothing to normalize"
    one = keras.Input((), name="x")
    assert reason(keras.Model(one, one * 2.0)) == "it has no channel axis"
    wide = keras.Input((None,), name="x")
    assert reason(keras.Model(wide, wide * 2.0)) == "the number of its channels is not known"
    i = keras.Input((4,), name="x")
    own = keras.Model(i, layers.Dense(2)(layers.BatchNormalization(name="own")(i)))
    assert reason(own) == "'own' normalizes before the next weighted layer on every path"
    fork = keras.Model(i, [layers.Dense(2)(layers.BatchNormalization()(i)), layers.Dense(2)(i)])
    assert [site.layer for site in find_sites(fork, None, on_input=True)] == ["x"]
    words = keras.Input((5,), name="x")  # floating-point, as Keras makes inputs by default
    embedded = keras.Model(words, layers.Embedding(7, 4, name="embed")(layers.Reshape((5,))(words)))
    assert reason(embedded) == "'embed' takes its values literally"
    masked = layers.Masking(name="mask")(steps := keras.Input((3, 4), name="x"))
    assert reason(keras.Model(steps, layers.LSTM(2)(masked))) == "'mask' takes its values literally"
    assert reason(keras.Model(i, [layers.Dense(2)(i), i])) == "it is also an output of the network"
    sparse = keras.Input((4,), sparse=True, name="x")
    assert reason(keras.Model(sparse, layers.Dense(2)(sparse))) == "its values are sparse or ragged"


@pytest.mark.parametrize(
    ("equation", "rank", "axis"),
    [
        ("ab,bc->ac", 2, -1), ("abc,cd->abd", 3, -1), ("abc,bd->adc", 3, 1), ("...a,ab->...b", 4, -1),
        ("a...c,cd->ad...", 4, 1), ("...ac,cd->...da", 4, 2), ("abc,cde->abde", 4, None), ("ab,b->ab", 2, None),
    ],
)  # fmt: skip
def test_the_channel_axis_of_an_equation(equation, rank, axis):
    layer = layers.EinsumDense(equation, (None,) * (rank - 1))
    assert channel_axis(layer, rank) == axis


@pytest.mark.parametrize(
    ("name", "sites"), [("VGG16", 15), ("ResNet50V2", 0), ("DenseNet121", 0), ("EfficientNetB0", 0)]
)
def test_published_networks(name, sites):
    model = getattr(keras.applications, name)(weights=None)
    assert len(find_sites(model)) == sites


def test_normalization_of_every_step_is_normalization():
    inputs = keras.Input((5, 4))
    x = layers.TimeDistributed(layers.Dense(3), name="first")(inputs)
    x = layers.TimeDistributed(layers.BatchNormalization(), name="norms")(x)
    x = layers.TimeDistributed(layers.Dense(3, activation="relu"), name="second")(x)
    found = find_sites(keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(x))))
    assert [site.layer for site in found] == ["second"]
    assert found.passed_over["first"] == "'norms' normalizes before the next weighted layer on every path"
