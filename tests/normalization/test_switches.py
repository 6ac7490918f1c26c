"""All eight combinations of the switches, against float64 NumPy and against Keras' own layer."""

import itertools
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from networks import cnn, images, plain_cnn, scatter

from bnadapt.errors import SurgeryError
from bnadapt.normalization.policy import BATCH_NORM, HEAD, train_only
from bnadapt.normalization.proof import assert_only_declared_moved, declared_to_move, fingerprint
from bnadapt.normalization.switches import SwitchedCall, switch_batch_norm
from bnadapt.normalization.table import describe_policy
from bnadapt.surgery.rebuild import rebuild

COMBINATIONS = list(itertools.product((True, False), ("move", "stay"), ("batch", "moving")))
MOMENTUM, EPSILON, RATE = 0.7, 0.01, 0.1
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(1, 2, (12, 3))
Y = RANDOM.normal(0, 1, (12, 4))
STATE = ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.fixture
def double():
    """Keras in float64, losses and learning rates included, so that NumPy can be met to many digits."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def dense_and_norm() -> keras.Model:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="float64"),
            layers.Dense(4, use_bias=False, dtype="float64", name="d"),
            layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, dtype="float64", name="bn"),
        ]
    )
    scatter(model)
    return model


def values(model: keras.Model) -> dict[str, np.ndarray]:
    names = {f"bn/{name}": getattr(model.get_layer("bn"), name) for name in STATE}
    found = {"d/kernel": model.get_layer("d").kernel, **names}
    return {path: ops.convert_to_numpy(each).copy() for path, each in found.items()}


def step(state, affine, statistics, normalize):
    """One step of gradient descent on the mean squared error, by hand."""
    kernel, gamma, beta, mean, variance = (
        state[path] for path in ("d/kernel", *(f"bn/{name}" for name in STATE))
    )
    h = X @ kernel
    batch_mean, batch_variance = h.mean(0), h.var(0)
    used_mean, used_variance = (batch_mean, batch_variance) if normalize == "batch" else (mean, variance)
    deviation = np.sqrt(used_variance + EPSILON)
    normalized = (h - used_mean) / deviation
    back = 2 * (gamma * normalized + beta - Y) / Y.size
    to_h = back * gamma / deviation
    if normalize == "batch":
        to_h = to_h - to_h.mean(0) - normalized * (to_h * normalized).mean(0)
    after = dict(state)
    after["d/kernel"] = kernel - RATE * X.T @ to_h
    if affine:
        after["bn/gamma"] = gamma - RATE * (back * normalized).sum(0)
        after["bn/beta"] = beta - RATE * back.sum(0)
    if statistics == "move":
        after["bn/moving_mean"] = mean * MOMENTUM + batch_mean * (1 - MOMENTUM)
        after["bn/moving_variance"] = variance * MOMENTUM + batch_variance * (1 - MOMENTUM)
    return after


def train(model, *, steps=3, **settings):
    model.compile(keras.optimizers.SGD(RATE), "mse", **settings)
    model.fit(X, Y, batch_size=len(X), epochs=steps, shuffle=False, verbose=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("affine", "statistics", "normalize"), COMBINATIONS)
def test_training_computes_what_numpy_computes(affine, statistics, normalize):
    model = dense_and_norm()
    expected = values(model)
    for _ in range(3):
        expected = step(expected, affine, statistics, normalize)
    chosen = switch_batch_norm(model, affine=affine, statistics=statistics, normalize=normalize)
    assert chosen == ["bn"]
    before, declared = fingerprint(model), declared_to_move(model)
    assert declared == {
        "d/kernel",
        *({"bn/gamma", "bn/beta"} if affine else ()),
        *({"bn/moving_mean", "bn/moving_variance"} if statistics == "move" else ()),
    }
    train(model, run_eagerly=affine)
    for path, value in values(model).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-12, atol=1e-14, err_msg=path)
    assert set(assert_only_declared_moved(before, fingerprint(model), declared)) == declared
    (row,) = (row for row in describe_policy(model) if row.path == "bn")
    assert row.trains == (("gamma", "beta") if affine else ())
    assert (row.statistics, row.normalizes_with.split()[0]) == (statistics, normalize)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("statistics", "normalize"), [("stay", "batch"), ("move", "moving")])
@pytest.mark.parametrize("how", ["xla", "several steps", "gradients of a function"])
def test_switches_hold_in_every_way_to_run(statistics, normalize, how):
    model = dense_and_norm()
    expected = values(model)
    for _ in range(3):
        expected = step(expected, True, statistics, normalize)
    switch_batch_norm(model, statistics=statistics, normalize=normalize)
    if how == "gradients of a function":
        import tensorflow as tf

        @tf.function
        def descend():
            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(model(X, training=True) - Y))
            for weight, gradient in zip(
                model.trainable_variables, tape.gradient(loss, model.trainable_weights), strict=True
            ):
                weight.assign_sub(RATE * gradient)

        for _ in range(3):
            descend()
    else:
        train(model, jit_compile=how == "xla", steps_per_execution=2 if how == "several steps" else 1)
    for path, value in values(model).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-12, atol=1e-14, err_msg=path)


def plain(shape, **settings):
    """A layer alone with statistics of its own, and a twin of it as Keras made it."""
    i = keras.Input(shape)
    models = [keras.Model(i, layers.BatchNormalization(name="bn", **settings)(i)) for _ in range(2)]
    for model in models:
        scatter(model)
    return models


LAYERS = {
    "channels first": ((3, 5, 5), {"axis": 1}),
    "half precision": ((5, 3), {"dtype": "mixed_float16"}),
    "renorm": ((3,), {"renorm": True}),
    "no gamma": ((3,), {"scale": False}),
    "neither": ((3,), {"scale": False, "center": False}),
    "synchronized": ((3,), {"synchronized": True}),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_part_is_that_of_keras(kind):
    shape, settings = LAYERS[kind]
    data = np.random.default_rng(1).normal(2, 3, (6, *shape)).astype("float32")
    switched, stock = plain(shape, **settings)
    rest = stock(data, training=False)
    batch = stock(data, training=True)
    moved = [ops.convert_to_numpy(weight) for weight in stock.weights]
    start = [ops.convert_to_numpy(weight) for weight in switched.weights]
    switch_batch_norm(switched, statistics="stay", normalize="batch")
    np.testing.assert_array_equal(switched(data, training=True), batch)
    assert all(map(np.array_equal, switched.weights, start))
    switch_batch_norm(switched, statistics="move", normalize="moving")
    np.testing.assert_array_equal(switched(data, training=True), rest)
    assert all(map(np.array_equal, switched.weights, moved))
    assert not all(map(np.array_equal, moved, start))
    assert switched(data, training=True).dtype == batch.dtype


def test_masked_positions_do_not_count():
    def model():
        i = keras.Input((4, 3))
        return keras.Model(i, layers.BatchNormalization(name="bn")(layers.Masking()(i)))

    data = np.random.default_rng(1).normal(2, 3, (6, 4, 3)).astype("float32")
    data[:, 2:] = 0
    real = data[:, :2].reshape(-1, 3).astype("float64")
    first, second = model(), model()
    switch_batch_norm(first, statistics="stay", normalize="batch")
    found = ops.convert_to_numpy(first(data, training=True))[:, :2].reshape(-1, 3)
    np.testing.assert_allclose(
        found, (real - real.mean(0)) / np.sqrt(real.var(0) + 1e-3), rtol=1e-4, atol=1e-5
    )
    switch_batch_norm(second, statistics="move", normalize="moving")
    expected = second(data, training=False)
    outputs = second(data, training=True)
    np.testing.assert_array_equal(outputs, expected)
    assert outputs._keras_mask is not None
    np.testing.assert_allclose(second.get_layer("bn").moving_mean, 0.01 * real.mean(0), rtol=1e-4)
    np.testing.assert_allclose(second.get_layer("bn").moving_variance, 0.99 + 0.01 * real.var(0), rtol=1e-4)


def test_inside_a_scope_of_keras_its_values_count_and_stay_inside():
    model = dense_and_norm()
    other = dense_and_norm()
    for weight in other.weights:
        weight.assign(weight * 2 + 1)
    before = values(model)
    switch_batch_norm(model, statistics="move", normalize="moving")
    outputs, changed = model.stateless_call(
        [each.value for each in other.trainable_variables],
        [each.value for each in other.non_trainable_variables],
        X,
        training=True,
    )
    np.testing.assert_array_equal(outputs, other(X, training=False))
    assert all(np.array_equal(value, before[path]) for path, value in values(model).items())
    other(X, training=True)
    assert all(map(np.array_equal, changed, other.non_trainable_variables))


def test_inference_is_the_same_under_all_switches():
    model = cnn()
    scatter(model)
    before, expected = fingerprint(model), model(images(5), training=False)
    for affine, statistics, normalize in COMBINATIONS:
        switch_batch_norm(model, affine=affine, statistics=statistics, normalize=normalize)
        for training in (False, None):
            np.testing.assert_array_equal(model(images(5), training=training), expected)
    assert fingerprint(model) == before


def kinds(model) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    return {
        row.path: (row.statistics, row.normalizes_with.split()[0], row.trains)
        for row in describe_policy(model)
        if row.statistics
    }


BOTH = ("gamma", "beta")


def test_patterns_choose_layers_and_none_leaves_a_switch():
    model = cnn()
    train_only(model, BATCH_NORM, statistics="stay")
    assert switch_batch_norm(model, ["conv_.*", "hidden_inserted_bn"], normalize="moving") == [
        "conv_inserted_bn",
        "hidden_inserted_bn",
    ]
    assert switch_batch_norm(model, "hidden.*", affine=False, statistics="move") == ["hidden_inserted_bn"]
    assert kinds(model) == {
        "conv_inserted_bn": ("stay", "moving", BOTH),
        "conv2_inserted_bn": ("stay", "batch", BOTH),
        "hidden_inserted_bn": ("move", "moving", ()),
    }
    train_only(model, HEAD)
    assert set(kinds(model).values()) == {("stay", "moving", ())}
    switch_batch_norm(model, affine=True)
    assert set(kinds(model).values()) == {("stay", "moving", BOTH)}
    assert {path for path in declared_to_move(model) if path.startswith("out")} == {"out/kernel", "out/bias"}


def test_stock_combinations_leave_nothing_in_the_layer():
    model = cnn()
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for affine, statistics, normalize in COMBINATIONS:
        switch_batch_norm(model, affine=affine, statistics=statistics, normalize=normalize)
        stock = (statistics, normalize) in (("move", "batch"), ("stay", "moving"))
        assert [isinstance(vars(layer).get("call"), SwitchedCall) for layer in norms] == [not stock] * 3
        assert [layer.trainable for layer in norms] == [(statistics, normalize) != ("stay", "moving")] * 3
    switch_batch_norm(model, statistics="move", normalize="moving")
    train_only(model, BATCH_NORM)
    assert not any("call" in vars(layer) for layer in norms)


def test_a_flag_that_was_taken_away_by_hand_counts():
    model = dense_and_norm()
    switch_batch_norm(model, statistics="move", normalize="batch")
    switch_batch_norm(model, normalize="moving")
    model.get_layer("bn").trainable = False
    before = values(model)
    np.testing.assert_array_equal(model(X, training=True), model(X, training=False))
    assert all(np.array_equal(value, before[path]) for path, value in values(model).items())
    assert declared_to_move(model) == {"d/kernel"}


def test_layers_inside_frozen_models_and_wrappers_are_reached():
    j = keras.Input((4, 3))
    x = layers.TimeDistributed(layers.BatchNormalization(name="step"), name="steps")(
        layers.Dense(3, name="d")(j)
    )
    inner = keras.Model(j, layers.BatchNormalization(name="bn")(x), name="inner")
    i = keras.Input((4, 3))
    model = keras.Model(i, layers.Dense(2, name="out")(inner(i)))
    model.trainable = False
    inner.get_layer("bn").trainable = True  # to no effect, as long as the network is frozen
    assert switch_batch_norm(model, "step", affine=True, statistics="stay") == ["inner/steps/step"]
    assert declared_to_move(model) == {"inner/steps/step/gamma", "inner/steps/step/beta"} | {
        "inner/bn/moving_mean", "inner/bn/moving_variance"
    }  # fmt: skip
    switch_batch_norm(model, "inner/bn", statistics="stay", normalize="moving")
    before = fingerprint(model)
    model.compile("sgd", "mse")
    model.fit(np.random.default_rng(0).normal(1, 2, (8, 4, 3)), np.ones((8, 4, 2)), verbose=0)
    moved = assert_only_declared_moved(before, fingerprint(model), declared_to_move(model))
    assert set(moved) == {"inner/steps/step/gamma", "inner/steps/step/beta"}


def test_what_cannot_be_switched_is_said():
    with pytest.raises(SurgeryError, match="statistics='freeze': choose move or stay"):
        switch_batch_norm(cnn(), statistics="freeze")
    with pytest.raises(SurgeryError, match="normalize='layer': choose batch or moving"):
        switch_batch_norm(cnn(), normalize="layer")
    with pytest.raises(
        SurgeryError, match="'conv' matches no batch normalization layer; there are: conv_ins"
    ):
        switch_batch_norm(cnn(), ["conv_inserted_bn", "conv"], affine=False)
    with pytest.raises(SurgeryError, match="has no batch normalization: insert some first"):
        switch_batch_norm(plain_cnn())
    with pytest.raises(SurgeryError, match="there is no gamma and no beta to train in bn"):
        switch_batch_norm(plain((3,), scale=False, center=False)[0], affine=True)


LOAD = """
import sys
sys.modules["bnadapt"] = None  # any import of it would raise
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[2], model(np.load(sys.argv[3]), training=False))
norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
assert len(norms) == 3 and all(type(each) is keras.layers.BatchNormalization for each in norms)
assert not any("call" in vars(each) for each in norms)
assert {each.momentum for each in norms} == {0.99}
"""


@pytest.mark.slow
def test_a_model_saved_while_switched_loads_without_this_package(tmp_path):
    model = cnn()
    configuration = model.get_config()
    switch_batch_norm(model, "conv_inserted_bn", statistics="stay", normalize="batch")
    switch_batch_norm(model, "hidden_inserted_bn", statistics="move", normalize="moving")
    assert model.get_config() == configuration
    model.compile("adam", "mse")
    model.fit(images(20), np.ones((20, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images(5))
    command = [sys.executable, "-c", LOAD, "model.keras", "outputs.npy", "images.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), model(images(5), training=False))


def test_copies_are_without_switches():
    model = cnn()
    switch_batch_norm(model, statistics="stay", normalize="batch")
    for copy in (rebuild(model), keras.models.clone_model(model), pickle.loads(pickle.dumps(model))):
        assert len(kinds(copy)) == 3
        assert set(kinds(copy).values()) == {("move", "batch", BOTH)}
    assert set(kinds(model).values()) == {("stay", "batch", BOTH)}


@pytest.mark.usefixtures("double")
def test_a_training_function_made_under_other_switches_is_not_used_again():
    model = dense_and_norm()
    train(model, steps=1)
    expected = values(model)
    switch_batch_norm(model, statistics="stay", normalize="moving")
    for _ in range(2):
        expected = step(expected, True, "stay", "moving")
    model.fit(X, Y, batch_size=len(X), epochs=2, shuffle=False, verbose=0)
    switch_batch_norm(model, affine=False, statistics="move")
    expected = step(expected, False, "move", "moving")
    model.fit(X, Y, batch_size=len(X), shuffle=False, verbose=0)
    for path, value in values(model).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-12, atol=1e-14, err_msg=path)
