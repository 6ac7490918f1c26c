"""Insertion: the same function, every weight carried, the original untouched, exactly one BN per site."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from elsewhere import Elsewhere
from keras import layers
from zoo import SHARED, ZOO, outputs, pixels, same

from bnadapt.errors import SurgeryError
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.statistics import calibrate, reestimate
from bnadapt.surgery.graph import calls, layer_paths, replay
from bnadapt.surgery.insert import insert_batch_norm, variance_of_identity
from bnadapt.surgery.sites import Sites, find_sites
from bnadapt.surgery.tree import layer_tree

POSITIONS = ("before_activation", "after_activation")
SAVED = (
    "sequential",
    "nested_twice",
    "shared_layer",
    "dictionaries",
    "mixed_precision",
    "masks",
    "time_distributed",
    "renormalized",
    "prelu",
)


def batch_norms(model):
    return [c for c in calls(model) if isinstance(c.operation, layers.BatchNormalization)]


MODES = [
    *((name, position, {}) for name in sorted(ZOO) for position in POSITIONS),
    *((name, position, {"shared": True}) for name in SHARED for position in POSITIONS),
    *((name, None, {"on_input": True}) for name in sorted(ZOO)),
]


@pytest.mark.parametrize(
    ("name", "position", "options"),
    MODES,
    ids=["-".join([name, str(position), *options]) for name, position, options in MODES],
)
def test_insertion_keeps_function_weights_and_original(name, position, options):
    each = ZOO[name]()
    before, expected = fingerprint(each.model), outputs(each.model, each.inputs)
    flags = [weight.trainable for weight in each.model.weights]
    sites = find_sites(each.model, position, **options)
    if position is not None:
        wanted = each.before if position == "before_activation" else each.after
        assert sorted(site.layer for site in sites for _ in site.calls) == sorted(wanted)

    result = insert_batch_norm(each.model, sites)

    assert same(outputs(result, each.inputs), expected)
    assert len(batch_norms(result)) == len(batch_norms(each.model)) + sum(len(site.calls) for site in sites)
    inserted = {site.name for site in sites}
    carried = {
        path: value for path, value in fingerprint(result).items() if path.split("/")[-2] not in inserted
    }
    assert carried == before
    assert len(fingerprint(result)) == len(before) + 4 * len(sites)
    assert type(result) is type(each.model)
    assert result.name == each.model.name
    assert [tensor.name for tensor in result.inputs] == [tensor.name for tensor in each.model.inputs]
    # the original
    assert not {id(v) for v in result.variables} & {id(v) for v in each.model.variables}
    weighted = {id(entry.layer) for entry in layer_tree(each.model) if entry.layer.variables}
    assert not weighted & {id(entry.layer) for entry in layer_tree(result)}
    assert fingerprint(each.model) == before
    assert same(outputs(each.model, each.inputs), expected)
    assert [weight.trainable for weight in each.model.weights] == flags


@pytest.mark.parametrize("name", ["sequential", "residual", "nested_twice", "dictionaries"])
def test_names_of_outputs_and_structures_are_kept(name):
    each = ZOO[name]()
    result = insert_batch_norm(each.model, find_sites(each.model))
    if hasattr(each.model, "output_names"):
        assert result.output_names == each.model.output_names
    old, new = each.model(each.inputs), result(each.inputs)
    keras.tree.assert_same_structure(old, new)


def test_saved_networks_load_without_this_package(tmp_path):
    with Elsewhere(tmp_path) as elsewhere:
        for number, name in enumerate(SAVED):
            each = ZOO[name]()
            shared, on_input = number % 3 > 0, number % 4 > 1
            sites = find_sites(each.model, POSITIONS[number % 2], shared=shared, on_input=on_input)
            result = insert_batch_norm(each.model, sites)
            assert same(elsewhere.outputs(result, each.inputs), outputs(result, each.inputs)), name


@pytest.mark.parametrize(
    "name", ["sequential", "nested_twice", "shared_layer", "time_distributed", "mixed_precision"]
)
def test_the_result_trains(name):
    each = ZOO[name]()
    result = insert_batch_norm(each.model, find_sites(each.model))
    result.compile("sgd", "mse")
    before = fingerprint(result)
    result.fit(each.inputs, np.zeros(outputs(result, each.inputs)[0].shape), verbose=0, batch_size=3)
    moved = {path for path, value in fingerprint(result).items() if value != before[path]}
    statistics = {path for path in before if path.endswith(("moving_mean", "moving_variance"))}
    assert statistics
    assert statistics <= moved


def test_batch_normalization_stands_between_the_linear_part_and_its_activation():
    model = ZOO["sequential"]().model
    result = insert_batch_norm(model, find_sites(model, include="conv"))
    assert [layer.name for layer in result.layers][:3] == [
        "conv",
        "conv_inserted_bn",
        "conv_inserted_activation",
    ]
    assert result.layers[0].activation is keras.activations.linear
    assert result.layers[2].activation is keras.activations.relu
    after = insert_batch_norm(model, find_sites(model, "after_activation", include="conv"))
    assert [layer.name for layer in after.layers][:2] == ["conv", "conv_inserted_bn"]
    assert after.layers[0].activation is keras.activations.relu


def test_an_activation_layer_that_alone_uses_a_linear_output_counts_as_its_activation():
    model = ZOO["residual"]().model

    def follows(position):
        result = insert_batch_norm(model, find_sites(model, position, include="stem"))
        (call,) = batch_norms(result)
        return call.node.input_tensors[0]._keras_history.operation.name

    assert follows("before_activation") == "stem"
    assert follows("after_activation") == "stem_relu"


def test_a_linear_output_with_several_users_is_normalized_for_all_of_them():
    model = ZOO["several_consumers"]().model
    result = insert_batch_norm(model, find_sites(model, "after_activation", include="trunk"))
    (call,) = batch_norms(result)
    assert call.node.input_tensors[0]._keras_history.operation.name == "trunk"


def test_a_linear_output_that_leaves_its_model_is_normalized_there_too():
    j = keras.Input((4,))
    x = layers.Dense(4, name="linear")(j)
    inner = keras.Model(j, [x, layers.ReLU()(x)], name="inner")
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2)(layers.Add()(inner(i))))
    result = insert_batch_norm(model, find_sites(model, "after_activation"))
    (call,) = batch_norms(result)
    assert call.node.input_tensors[0]._keras_history.operation.name == "linear"


def test_every_call_of_a_shared_layer_has_statistics_of_its_own():
    each = ZOO["shared_layer"]()
    result = insert_batch_norm(each.model, find_sites(each.model))
    names = ["shared_inserted_bn", "shared_inserted_bn_1", "shared_inserted_bn_2"]
    assert sorted(c.path for c in batch_norms(result)) == names
    assert sum(c.path == "shared" for c in calls(result)) == 3
    assert len([w for w in result.weights if w.path.endswith("shared/kernel")]) == 1


def values_before(model, wanted, inputs):
    """What every call of a batch normalization receives in inference, in graph order."""
    found = []

    def record(call, *args, **kwargs):
        if call.path == wanted:
            found.append(keras.ops.convert_to_numpy(args[0]).astype("float64"))
        return call.operation(*args, **kwargs)

    replay(model, inputs, record)
    return found


@pytest.mark.parametrize("position", POSITIONS)
def test_one_batch_normalization_for_all_calls_pools_over_them(position):
    each = ZOO["shared_layer"]()
    result = insert_batch_norm(each.model, find_sites(each.model, position, shared=True))
    (bn,) = {call.operation for call in batch_norms(result)}
    assert bn.name == "shared_inserted_bn"
    received = values_before(result, "shared_inserted_bn", each.inputs)
    assert len(received) == 3
    calibrate(result, [each.inputs])
    pooled = np.concatenate(received)
    np.testing.assert_allclose(bn.moving_mean, pooled.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bn.moving_variance, pooled.var(0), rtol=1e-5, atol=1e-6)


def test_batch_normalization_for_each_call_has_the_statistics_of_that_call():
    each = ZOO["shared_layer"]()
    result = insert_batch_norm(each.model, find_sites(each.model))
    calibrate(result, [each.inputs])
    paths = layer_paths(result)
    for name in ("shared_inserted_bn", "shared_inserted_bn_1", "shared_inserted_bn_2"):
        (received,) = values_before(result, name, each.inputs)
        np.testing.assert_allclose(paths[name].moving_mean, received.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(paths[name].moving_variance, received.var(0), rtol=1e-5, atol=1e-6)


def test_batch_normalization_on_the_input_undoes_another_scale_and_offset():
    model = ZOO["channels_first"]().model
    result = insert_batch_norm(model, find_sites(model, None, on_input=True))
    assert [layer.name for layer in result.layers][1] == f"{model.layers[0].name}_inserted_bn"
    images = pixels(2, 6, 6)
    expected = outputs(model, images)
    calibrate(result, images)
    wrong = images * np.array([3.0, 2.0], "float32").reshape(2, 1, 1) + 5
    assert np.abs(outputs(result, wrong)[0] - expected[0]).max() > 1
    reestimate(result, wrong)
    for value, wanted in zip(outputs(result, wrong), expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-4 * wanted.std())


@pytest.mark.parametrize("name", ["sequential", "dictionaries", "half_precision", "optional_input"])
def test_inputs_keep_their_names_and_precision_before_batch_normalization(name):
    model = ZOO[name]().model
    result = insert_batch_norm(model, find_sites(model, on_input=True))
    assert type(result) is type(model)
    assert [tensor.name for tensor in result.inputs] == [tensor.name for tensor in model.inputs]
    first = [call for call in batch_norms(result) if call.node.input_tensors[0] in result.inputs]
    assert len(first) == (2 if name == "dictionaries" else 1)
    for call in first:
        assert call.output.dtype == call.node.input_tensors[0].dtype
        assert call.operation.moving_mean.dtype == "float32"


def test_an_activation_layer_takes_a_name_that_is_free_in_all_models_of_a_shared_layer():
    shared = layers.Dense(4, activation="relu", name="shared")
    j = keras.Input((4,))
    inner = keras.Model(j, layers.ReLU(name="shared_inserted_activation")(shared(j)), name="inner")
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2)(inner(shared(i))))
    result = insert_batch_norm(model, find_sites(model))
    assert same(outputs(result, pixels(4)), outputs(model, pixels(4)))
    assert "shared_inserted_activation_1" in {call.operation.name for call in calls(result)}


def test_the_activity_regularizer_moves_with_the_activation():
    each = ZOO["regularized"]()
    result = insert_batch_norm(each.model, find_sites(each.model))
    each.model(each.inputs), result(each.inputs)
    assert [float(loss) for loss in result.losses] == [float(loss) for loss in each.model.losses]
    assert len(result.losses) == 2


def test_normalization_of_an_axis_is_that_of_the_channels():
    each = ZOO["channels_first"]()
    (bn,) = batch_norms(insert_batch_norm(each.model, find_sites(each.model)))
    assert bn.operation.axis == 1
    assert bn.operation.gamma.shape == (5,)
    each = ZOO["einsum"]()
    axes = {
        c.path: c.operation.axis for c in batch_norms(insert_batch_norm(each.model, find_sites(each.model)))
    }
    assert axes == {"plain_inserted_bn": -1, "middle_inserted_bn": 1, "dots_inserted_bn": -1}


def test_statistics_of_half_precision_networks_are_float32():
    each = ZOO["half_precision"]()
    (bn,) = batch_norms(insert_batch_norm(each.model, find_sites(each.model)))
    assert (bn.operation.compute_dtype, bn.operation.moving_variance.dtype) == ("float16", "float32")


def test_no_sites_give_a_faithful_copy():
    each = ZOO["nested_twice"]()
    result = insert_batch_norm(each.model, Sites())
    assert result is not each.model
    assert result.get_config() == each.model.get_config()
    assert fingerprint(result) == fingerprint(each.model)


def test_standard_initialization_takes_gamma_epsilon_and_momentum():
    each = ZOO["sequential"]()
    sites = find_sites(each.model, include="hidden")
    result = insert_batch_norm(each.model, sites, init="standard", gamma=0.1, epsilon=1e-2, momentum=0.9)
    bn = layer_paths(result)["hidden_inserted_bn"]
    assert (bn.epsilon, bn.momentum) == (1e-2, 0.9)
    values = [keras.ops.convert_to_numpy(w) for w in (bn.gamma, bn.beta, bn.moving_mean, bn.moving_variance)]
    for value, expected in zip(values, (0.1, 0, 0, 1), strict=True):
        np.testing.assert_array_equal(value, np.full(5, expected, "float32"))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-7, 1e-5, 1e-3, 0.1, 0.3, 0.9])
def test_variance_and_epsilon_add_up_to_one_exactly(epsilon, kind):
    variance = variance_of_identity(epsilon, kind)
    assert type(variance) is kind
    assert variance + kind(epsilon) == 1


@pytest.mark.parametrize("epsilon", [1.0, 2.0, -0.1])
def test_no_variance_makes_an_identity_of_other_epsilons(epsilon):
    with pytest.raises(SurgeryError, match=f"epsilon={epsilon}: must lie between 0 and 1, such as 1e-5"):
        variance_of_identity(epsilon)


def test_identity_is_exact_for_every_number_of_channels():
    for channels in (1, 3, 7, 16, 33):
        model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(channels, activation="relu"), layers.Dense(2)]
        )
        result = insert_batch_norm(model, find_sites(model), epsilon=1e-3)
        inputs = np.random.default_rng(0).normal(0, 1e4, (9, 4)).astype("float32")
        assert same(outputs(result, inputs), outputs(model, inputs))


def test_frozen_layers_stay_frozen():
    each = ZOO["nested_twice"]()
    each.model.get_layer("first").trainable = False
    each.model.get_layer("middle").trainable = False
    result = insert_batch_norm(each.model, find_sites(each.model))
    assert not result.get_layer("first").trainable_variables
    assert not result.get_layer("middle").trainable_variables
    kept = {w.path.split("/", 1)[-1] for w in result.trainable_variables}
    assert {"kernel", "bias", "gamma", "beta"} == {path.rsplit("/", 1)[-1] for path in kept}
    each.model.get_layer("out").kernel.trainable = False
    again = insert_batch_norm(each.model, Sites())
    assert [w.name for w in again.get_layer("out").trainable_variables] == ["bias"]


def test_seed_generators_go_on_where_they_were():
    each = ZOO["sequential"]()
    each.model(each.inputs, training=True)
    result = insert_batch_norm(each.model, Sites())
    first = each.model(each.inputs, training=True)
    np.testing.assert_array_equal(result(each.inputs, training=True), first)


def test_sites_of_another_network_are_refused():
    one, other = ZOO["sequential"]().model, ZOO["residual"]().model
    with pytest.raises(
        SurgeryError, match="no convolution or dense layer 'conv' with a call 0; it has: stem, "
    ):
        insert_batch_norm(other, find_sites(one))
    (site,) = find_sites(one, include="conv")
    with pytest.raises(SurgeryError, match="expects 9 channels on axis -1; the shape there is"):
        insert_batch_norm(one, [replace(site, channels=9)])
    with pytest.raises(
        SurgeryError, match="two sites ask for batch normalization at one place: after 'conv'"
    ):
        insert_batch_norm(one, [site, replace(site, name="other")])
    with pytest.raises(SurgeryError, match=r"names no call of the layer: calls=\(0,\) is the first"):
        insert_batch_norm(one, [replace(site, calls=())])
    with pytest.raises(SurgeryError, match="no convolution or dense layer 'conv' with a call 1"):
        insert_batch_norm(one, [replace(site, calls=(0, 1))])
    with pytest.raises(SurgeryError, match="the network has no input 'conv'; it has: picture"):
        insert_batch_norm(one, [replace(site, position="input")])
    with pytest.raises(
        SurgeryError, match=r"expects 4 channels on axis -1; the shape there is \(None, 8, 8, 2"
    ):
        insert_batch_norm(one, [replace(site, layer="picture", position="input")])
    with pytest.raises(SurgeryError, match="init='calibrated': choose identity or standard"):
        insert_batch_norm(one, [site], init="calibrated")


def test_names_that_are_taken_are_refused():
    model = ZOO["sequential"]().model
    both = [*find_sites(model, include="conv"), *find_sites(model, "after_activation", include="hidden")]
    assert len(batch_norms(insert_batch_norm(model, both))) == 2
    for taken in ("hidden_inserted_bn", "out", "picture"):
        wrong = [replace(both[0], name=taken), both[1]]
        with pytest.raises(SurgeryError, match=f"wants the name '{taken}', which another layer or site of"):
            insert_batch_norm(model, wrong)


def test_a_real_network_keeps_its_bytes():
    model = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=10)
    sites = find_sites(model)
    assert len(sites) == 15
    result = insert_batch_norm(model, sites)
    images = pixels(32, 32, 3)[:2]
    assert same(outputs(result, images), outputs(model, images))
    kept = {path: value for path, value in fingerprint(result).items() if "_inserted_bn/" not in path}
    assert kept == fingerprint(model)


def test_arguments_that_mean_nothing_are_refused():
    each = ZOO["sequential"]()
    sites = find_sites(each.model)
    for epsilon in (0, 1, -1e-3):
        with pytest.raises(SurgeryError, match=f"epsilon={epsilon}: must lie between 0 and 1"):
            insert_batch_norm(each.model, sites, epsilon=epsilon)
    with pytest.raises(SurgeryError, match=r"gamma=0\.1 is used by init='standard' only"):
        insert_batch_norm(each.model, sites, gamma=0.1)
