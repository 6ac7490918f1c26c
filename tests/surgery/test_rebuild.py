"""Faithful copies, and what is refused with a way out."""

import keras
import numpy as np
import pytest
from keras import layers
from zoo import ZOO, outputs, pixels, same

from bnadapt.errors import DataError, SurgeryError
from bnadapt.normalization.moments import measure
from bnadapt.normalization.proof import fingerprint
from bnadapt.surgery.graph import calls, layer_paths, models, nodes, replay
from bnadapt.surgery.rebuild import Edits, check_rewritable, rebuild, without_recorded_training


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


class OwnStep(keras.Model):
    def train_step(self, data):
        return {"loss": 1.0}


class OwnConstructor(keras.Model):
    def __init__(self, units):
        i = keras.Input((3,))
        super().__init__(i, layers.Dense(units)(i))


def functional(last=None):
    i = keras.Input((3,))
    x = layers.Dense(3, name="one")(i)
    return keras.Model(i, (last or layers.Dense(2, name="two"))(x))


def refused(model, text):
    with pytest.raises(SurgeryError, match=text):
        check_rewritable(model)
    with pytest.raises(SurgeryError, match=text):
        rebuild(model)


def test_subclassed_models_are_refused():
    model = Subclassed()
    model(pixels(3))
    refused(
        model, "of the subclassed type Subclassed: its layers are called by Python code .* functional API"
    )
    inner = Subclassed()
    refused(functional(inner), f"the model '{inner.name}' inside the network is of the subclassed type")


def test_sequential_models_without_shapes_are_refused():
    refused(keras.Sequential([layers.Dense(2)], name="raw"), "'raw' is a Sequential model that is not built")


def test_functional_subclasses_keep_their_class_or_are_refused():
    i = keras.Input((3,))
    model = OwnStep(i, layers.Dense(2)(i))
    assert type(rebuild(model)) is OwnStep
    refused(OwnConstructor(2), "whose own __init__ would be lost")


def test_quantized_layers_are_refused():
    model = functional()
    model.get_layer("one").quantize("int8")
    refused(model, "the layer 'one' is quantized .int8.: rewrite the network first")


def test_variables_tied_by_hand_are_refused():
    class Transposed(layers.Layer):
        def __init__(self, other, **kwargs):
            super().__init__(**kwargs)
            self.kernel = other.kernel

        def call(self, inputs):
            return inputs @ keras.ops.transpose(self.kernel)

    i = keras.Input((3,))
    one = layers.Dense(3, name="one")
    x = one(i)
    model = keras.Model(i, Transposed(one, name="two")(x))
    refused(model, "'one' and 'two' were tied by hand: both hold the variable 'kernel'")


def test_layers_without_a_usable_configuration_are_refused():
    class Silent(layers.Layer):
        def __init__(self, units, factor):
            super().__init__(name="silent")
            self.units = units
            self.factor = factor

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], self.units))

        def call(self, inputs):
            return inputs @ self.kernel * self.factor

        def get_config(self):
            return {"units": self.units}

    model = functional(Silent(2, factor=3))
    with pytest.raises(
        SurgeryError, match=r"the layer 'silent' \(Silent\) cannot be made anew from its configuration"
    ):
        rebuild(model)


def test_edits_of_another_network_find_no_place():
    other = functional()
    with pytest.raises(SurgeryError, match="1 of 1 edits found no place"):
        rebuild(functional(), Edits(split={id(other.get_layer("one")): layers.ReLU()}))


# What Lambda holds; the shape that adapt() saw; the shape that a shared layer was built for.
NOT_CONFIGURED_ALIKE = ("lambdas", "stateful_input", "shared_across_models")


def without_training(config):
    """A configuration without the recorded training=False, which recurrent layers record by themselves."""
    if isinstance(config, dict):
        return {
            key: without_training(value)
            for key, value in config.items()
            if not (key == "training" and value is False)
        }
    return [without_training(each) for each in config] if isinstance(config, list | tuple) else config


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_copy_computes_and_is_configured_as_the_original(name):
    each = ZOO[name]()
    copy = rebuild(each.model)
    assert same(outputs(copy, each.inputs), outputs(each.model, each.inputs))
    assert fingerprint(copy) == fingerprint(each.model)
    assert list(layer_paths(copy)) == list(layer_paths(each.model))
    if name not in NOT_CONFIGURED_ALIKE:
        assert without_training(copy.get_config()) == without_training(each.model.get_config())


@pytest.mark.parametrize("name", sorted(ZOO))
def test_replay_computes_what_the_model_computes(name):
    each = ZOO[name]()
    inputs = keras.tree.map_structure(
        lambda a: a if a is None else keras.ops.convert_to_tensor(a), each.inputs
    )
    seen = []

    def call(which, *args, **kwargs):
        seen.append(which.path)
        return which.operation(*args, **kwargs)

    result = replay(each.model, inputs, call)
    flat = [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(result)]
    assert same(flat, outputs(each.model, each.inputs))
    assert set(seen) == {c.path for c in calls(each.model)}
    keras.tree.assert_same_structure(result, each.model(each.inputs))


def test_replay_enters_a_nested_model_at_every_call():
    each = ZOO["nested_twice"]()
    seen = []
    replay(each.model, each.inputs, lambda c, *a, **k: (seen.append(c.path), c.operation(*a, **k))[1])
    assert seen.count("middle/inner/d") == 2
    assert [c.path for c in calls(each.model)].count("middle/inner/d") == 1


def test_replay_drops_recorded_training_arguments():
    i = keras.Input((50,))
    model = keras.Model(i, layers.Dropout(0.5)(i, training=True))
    images = np.ones((2, 50), "float32")
    result = replay(model, keras.ops.convert_to_tensor(images), lambda c, *a, **k: c.operation(*a, **k))
    np.testing.assert_array_equal(result, images)


def recorded_training(model):
    return [
        node.arguments.kwargs.get("training") for _, inner in models(model).items() for node in nodes(inner)
    ]


def test_a_recorded_training_false_is_dropped_and_true_is_kept():
    j = keras.Input((4,))
    inner = keras.Model(j, layers.BatchNormalization(name="bn")(j, training=False), name="inner")
    i = keras.Input((4,))
    x = layers.BatchNormalization(name="free")(inner(i, training=False), training=False)
    model = keras.Model(i, layers.Dropout(0.5, name="always")(x, training=True))
    assert recorded_training(model) == [False, False, True, False]
    copy = rebuild(model)
    assert recorded_training(copy) == [None, None, True, None]
    quiet = keras.Model(copy.inputs, copy.get_layer("free").output)
    original = keras.Model(model.inputs, model.get_layer("free").output)
    data = pixels(4)
    assert same(outputs(quiet, data), outputs(original, data))
    before = np.array(copy.get_layer("inner").get_layer("bn").moving_mean)
    copy(data + 1, training=True)
    assert np.all(np.array(copy.get_layer("inner").get_layer("bn").moving_mean) != before)


def test_only_a_network_with_a_recorded_training_false_is_made_anew():
    plain = ZOO["nested_twice"]().model
    assert without_recorded_training(plain) is plain
    j = keras.Input((4,))
    inner = keras.Model(j, layers.BatchNormalization()(j), name="inner")
    i = keras.Input((4,))
    model = keras.Model(i, inner(i, training=False))
    copy = without_recorded_training(model)
    assert copy is not model
    assert recorded_training(copy) == [None, None]
    assert same(outputs(copy, pixels(4)), outputs(model, pixels(4)))


def test_an_operation_may_have_an_argument_of_that_name():
    class Scaled(keras.Operation):
        def call(self, x, training=True):
            return x * (2 if training else 3)

        def compute_output_spec(self, x, training=True):
            return keras.KerasTensor(x.shape, x.dtype)

    i = keras.Input((3,))
    model = keras.Model(i, Scaled()(i, training=False))
    assert same(outputs(rebuild(model), pixels(3)), [pixels(3) * 3])


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_dropped_layers_give_way_to_their_input(kind):
    if kind == "functional":
        i = keras.Input((4,))
        double = layers.Rescaling(2.0, name="double")
        x = layers.Dense(4, name="d")(double(double(i)))
        model = keras.Model(i, [x, double(x)])
    else:
        double = layers.Rescaling(2.0, name="double")
        model = keras.Sequential([keras.Input((4,)), double, layers.Dense(4, name="d")])
    result = rebuild(model, Edits(drop={id(double)}))
    assert list(layer_paths(result)) == ["d"]
    expected = np.array(model.get_layer("d")(pixels(4)))
    assert same(outputs(result, pixels(4)), [expected] * len(result.outputs))


def test_dropping_a_layer_of_another_network_is_refused():
    with pytest.raises(SurgeryError, match="1 of 1 edits found no place"):
        rebuild(functional(), Edits(drop={id(layers.ReLU())}))


def test_models_are_listed_once_outermost_first():
    each = ZOO["nested_twice"]()
    assert list(models(each.model)) == ["", "middle", "middle/inner"]


def test_a_changed_copy_leaves_the_original_alone():
    each = ZOO["nested_twice"]()
    before = fingerprint(each.model)
    copy = rebuild(each.model)
    copy.compile("sgd", "mse")
    copy.fit(each.inputs, np.ones((6, 2)), verbose=0)
    assert fingerprint(copy) != before
    assert fingerprint(each.model) == before


def test_operations_on_a_layers_variable_use_the_copys_variable():
    each = ZOO["tied_operation"]()
    copy = rebuild(each.model)
    copy.get_layer("embed").embeddings.assign_add(keras.ops.ones((7, 4)))
    changed = outputs(copy, each.inputs)  # before the original follows
    each.model.get_layer("embed").embeddings.assign_add(keras.ops.ones((7, 4)))
    assert same(changed, outputs(each.model, each.inputs))


def test_operations_on_a_variable_of_no_layer_are_refused():
    i = keras.Input((3,))
    free = keras.Variable(np.ones((3, 2), "float32"), name="free")
    model = keras.Model(i, keras.ops.matmul(i, free))
    with pytest.raises(SurgeryError, match="uses the variable 'free' directly, and no layer before it owns"):
        rebuild(model)


@pytest.mark.parametrize(("outer", "inner"), [((4,), (4, 1)), ((4, 1), (4,))])
def test_replay_adjusts_ranks_at_the_border_of_a_model_as_keras_does(outer, inner):
    j = keras.Input(inner)
    i = keras.Input(outer)
    model = keras.Model(i, keras.Model(j, keras.ops.cumsum(j, axis=1), name="inner")(i))
    data = pixels(*outer)
    result = replay(model, keras.ops.convert_to_tensor(data), lambda c, *a, **k: c.operation(*a, **k))
    assert same([keras.ops.convert_to_numpy(result)], outputs(model, data))


def test_layers_of_the_copy_belong_to_its_own_graph():
    each = ZOO["residual"]()
    copy = rebuild(each.model)
    part = keras.Model(copy.inputs, copy.get_layer("stem_relu").output)
    original = keras.Model(each.model.inputs, each.model.get_layer("stem_relu").output)
    assert same(outputs(part, each.inputs), outputs(original, each.inputs))


def compute(call, *args, **kwargs):
    return call.operation(*args, **kwargs)


def test_replay_takes_inputs_by_key():
    inputs = {name: keras.Input((2,), name=name) for name in ("z_img", "a_aux")}
    model = keras.Model(inputs, layers.Subtract(name="minus")([inputs["z_img"], inputs["a_aux"]]))
    given = {"a_aux": np.ones((1, 2)), "z_img": np.full((1, 2), 5.0)}

    for extra in ({}, {"zz": np.zeros((1, 2))}):
        np.testing.assert_array_equal(replay(model, given | extra, compute), [[4, 4]])
    with pytest.raises(DataError, match=r"keys 'a_aux', 'z_img'; received 'a_aux'$"):
        replay(model, {"a_aux": given["a_aux"]}, compute)
    with pytest.raises(DataError, match=r"takes 2 inputs \(a_aux, z_img\); received 1 input$"):
        replay(model, given["a_aux"], compute)


def called_with(*names: str) -> keras.Model:
    """A model of two inputs, a_aux and z_img, called with a dictionary of these keys; every input is 1, 2, ..."""
    first, second = keras.Input((2,), name="z_img"), keras.Input((2,), name="a_aux")
    x = layers.BatchNormalization(name="bn")(first * 10 + second)
    inner = keras.Model({"z_img": first, "a_aux": second}, x, name="inner")
    outer = [keras.Input((2,), name=f"{name}_outside") for name in names]
    return keras.Model(outer, inner(dict(zip(names, outer, strict=True))))


@pytest.mark.parametrize("names", [("z_img", "a_aux"), ("a_aux", "z_img"), ("zz_more", "z_img", "a_aux")])
def test_dictionaries_for_nested_models_are_looked_up_by_key(names):
    model = called_with(*names)
    numbers = [np.full((3, 2), 1.0 + index, "float32") for index in range(len(names))]
    np.testing.assert_array_equal(replay(model, numbers, compute), model(numbers))
    np.testing.assert_array_equal(outputs(rebuild(model), numbers), outputs(model, numbers))
    by_name = dict(zip(names, numbers, strict=True))
    found = measure(model, numbers)["inner/bn"].mean
    np.testing.assert_array_equal(found, (by_name["z_img"] * 10 + by_name["a_aux"])[0])


def test_keys_that_keras_mixes_up_are_refused():
    with pytest.raises(
        DataError,
        match="'inner' takes a dictionary with the keys 'a_aux', 'z_img'; received 'a_aux', 'bb', 'z_img'",
    ):
        replay(called_with("z_img", "a_aux", "bb"), [np.ones((3, 2), "float32")] * 3, compute)
