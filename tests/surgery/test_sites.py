"""Which layers get batch normalization, and the reason given for every other one."""

import keras
import pytest
from keras import layers
from zoo import ZOO

from bnadapt.errors import SurgeryError
from bnadapt.surgery.sites import Site, Sites, channel_axis, find_sites


def test_a_site_is_plain_data():
    sites = find_sites(ZOO["sequential"]().model)
    assert sites[0] == Site("conv", "Conv2D", 4, -1, "before_activation", "conv_inserted_bn", 0)
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
        SurgeryError, match="position='inside': choose one of before_activation, after_activation"
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

    each = ZOO["nested_twice"]()
    for position in ("before_activation", "after_activation"):
        assert len(find_sites(insert_batch_norm(each.model, find_sites(each.model, position)), position)) == 0


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
