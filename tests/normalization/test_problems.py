"""Each problem is shown to be one by what a fit does, and to be gone after its cure."""

import keras
import numpy as np
import pytest
from keras import layers
from networks import cnn, images

from bnadapt.normalization.policy import ALL, BATCH_NORM, HEAD, train_only
from bnadapt.normalization.problems import find_policy_problems
from bnadapt.normalization.proof import assert_only_declared_moved, declared_to_move, fingerprint
from bnadapt.normalization.switches import switch_batch_norm

X = np.random.default_rng(0).normal(2, 3, (20, 4)).astype("float32")
Y = np.random.default_rng(1).normal(0, 1, (20, 2)).astype("float32")


def nested(**arguments) -> keras.Model:
    j = keras.Input((4,))
    x = layers.Dense(4, name="d")(j)
    inner = keras.Model(j, layers.BatchNormalization(name="bn")(x), name="inner")
    i = keras.Input((4,))
    return keras.Model(i, layers.Dense(2, name="out")(inner(i, **arguments)), name="net")


def fit(model: keras.Model, *, compiled=True) -> set[str]:
    before = fingerprint(model)
    if compiled:
        model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(X, Y, verbose=0)
    return {path for path, value in fingerprint(model).items() if value != before[path]}


def test_a_network_in_order_has_none():
    model = nested()
    assert find_policy_problems(model) == []
    for what in (BATCH_NORM, HEAD, ALL):
        train_only(model, what)
        model.compile(keras.optimizers.Adam(0.1), "mse")
        model.fit(X, Y, verbose=0)
        assert find_policy_problems(model) == []
    switch_batch_norm(model, affine=False, normalize="moving")
    model.compile("sgd", "mse")
    assert find_policy_problems(model) == []
    train_only(cnn(), "biases")
    assert find_policy_problems(cnn()) == []


def test_a_recorded_training_false_is_found_and_shown_to_be_ignored():
    model = nested(training=False)
    (problem,) = find_policy_problems(model)
    assert problem.startswith("'inner' was called with training=False, which fit of Keras 3.")
    assert "inner/bn follows its own switches in training" in problem
    assert "inner/bn/moving_mean" in fit(model)
    switch_batch_norm(model, statistics="stay", normalize="moving")
    model.compile("sgd", "mse")
    assert find_policy_problems(model) == []


def test_a_recorded_argument_is_found_at_the_layer_itself_and_inside_nested_models():
    j = keras.Input((4,))
    inner = keras.Model(j, layers.BatchNormalization(name="bn")(j, training=False), name="inner")
    stack = keras.Sequential([keras.Input((4,)), inner, layers.Dropout(0.5)], name="stack")
    i = keras.Input((4,))
    x = layers.Dropout(0.3)(stack(i), training=True)  # reaches no batch normalization
    (problem,) = find_policy_problems(keras.Model(i, layers.Dense(2)(x)))
    assert problem.startswith("'stack/inner/bn' was called with training=False")


def test_the_default_of_a_layer_that_keras_records_is_none():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.bn = layers.BatchNormalization(name="bn")

        def call(self, inputs, training=False):
            return self.bn(inputs, training=training)

    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(2, name="out")(Block()(i)))
    # Keras records it in a fresh process, and sometimes not after others have trained in it.
    assert model.layers[1]._inbound_nodes[0].arguments.kwargs in ({"training": False}, {})
    assert find_policy_problems(model) == []
    assert "block/bn/moving_mean" in fit(model)


def test_a_recorded_training_true_is_found_and_shown_to_act():
    model = nested(training=True)
    (problem,) = find_policy_problems(model)
    assert problem.startswith("'inner' was called with training=True: where the network is called without an")
    before = fingerprint(model)
    model(X)
    changed = {path for path, value in fingerprint(model).items() if value != before[path]}
    assert changed == {"inner/bn/moving_mean", "inner/bn/moving_variance"}


def test_a_frozen_network_around_flags_is_found():
    model = nested()
    model.trainable = False
    model.get_layer("inner").get_layer("bn").trainable = True
    first, second = find_policy_problems(model)
    assert first.startswith(
        "the network 'net' is frozen (trainable=False), so none of the 2 weights in it that"
    )
    assert "inner/bn/gamma, inner/bn/beta. Choose" in first
    assert "but the statistics of inner/bn would move in training" in second
    assert fit(model) == {"inner/bn/moving_mean", "inner/bn/moving_variance"}
    train_only(model, BATCH_NORM)
    model.compile("sgd", "mse")
    assert find_policy_problems(model) == []


def test_a_frozen_model_or_layer_around_weights_that_train_is_found():
    model = nested()
    inner = model.get_layer("inner")
    inner.trainable = False
    inner.get_layer("bn").trainable = True
    (problem,) = find_policy_problems(model)
    expected = {f"inner/bn/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    assert problem.startswith("'inner' is frozen (trainable=False), but Keras looks at what is inside it")
    assert all(path in problem for path in expected)
    assert fit(model) == expected | {"out/kernel", "out/bias"}
    train_only(model, HEAD)
    model.get_layer("inner").get_layer("d").kernel.trainable = True
    problems = find_policy_problems(model)
    assert [each.split(" is frozen")[0] for each in problems[:2]] == ["'inner'", "'inner/d'"]
    assert "these would change in training: inner/d/kernel. Choose" in problems[1]


def test_flags_that_changed_after_training_are_found():
    model = nested()
    fit(model)
    model.get_layer("inner").trainable = False
    flags, optimizer = find_policy_problems(model)
    assert flags.startswith("the network 'net' has trained since it was compiled, and the flags of inner, ")
    assert "bn" in flags
    assert "out" not in flags.split(" have changed")[0]
    assert (
        "was built for weights that no longer train: inner/d/kernel, inner/d/bias, inner/bn/gamma, inner/bn/beta."
        in optimizer
    )
    assert "inner/d/kernel" in fit(model, compiled=False)  # so it was one
    assert fit(model) == {"out/kernel", "out/bias"}
    assert find_policy_problems(model) == []


def test_flags_that_changed_between_compile_and_the_first_training_are_in_effect():
    model = nested()
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.get_layer("inner").trainable = False
    assert find_policy_problems(model) == []
    assert fit(model, compiled=False) == {"out/kernel", "out/bias"}


def test_an_optimizer_that_does_not_know_what_trains_is_found():
    model = nested()
    train_only(model, HEAD)
    fit(model)
    train_only(model, ALL)
    (problem,) = find_policy_problems(model)
    assert (
        "does not know inner/d/kernel, inner/d/bias, inner/bn/gamma, inner/bn/beta: compile again" in problem
    )
    with pytest.raises(ValueError, match="Unknown variable"):
        fit(model, compiled=False)


def test_an_optimizer_under_loss_scaling_is_looked_into():
    model = nested()
    train_only(model, HEAD)
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
    model.fit(X, Y, verbose=0)
    assert find_policy_problems(model) == []
    train_only(model, BATCH_NORM)
    unknown, former = find_policy_problems(model)
    assert "does not know inner/bn/gamma, inner/bn/beta:" in unknown
    assert "no longer train: out/kernel, out/bias." in former


def test_a_network_inside_may_have_been_compiled_otherwise():
    model = nested()
    inner = model.get_layer("inner")
    inner.compile(keras.optimizers.Adam(0.1), "mse")
    inner.fit(X, np.ones((20, 4)), verbose=0)
    train_only(model, HEAD)
    assert find_policy_problems(model) == []
    assert len(find_policy_problems(inner)) > 0


def test_setting_a_policy_without_compiling_is_in_effect_at_once():
    model = cnn()
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(images(), np.ones((40, 3)), verbose=0)
    train_only(model, BATCH_NORM, statistics="stay", normalize="moving")
    before = fingerprint(model)
    model.fit(images(), np.zeros((40, 3)), verbose=0)
    moved = assert_only_declared_moved(before, fingerprint(model), declared_to_move(model))
    assert {path.rsplit("/")[-1] for path in moved} == {"gamma", "beta"}
    (problem,) = find_policy_problems(model)  # not the flags: the function is new
    assert "was built for weights that no longer train: conv/kernel, conv/bias, " in problem
    assert " and 3 more. Compile" in problem


def test_a_callback_can_change_the_policy_while_training_goes_on():
    model = cnn()
    seen = []

    class Freeze(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                train_only(model, HEAD)
            seen.append(fingerprint(model))

    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(images(), np.ones((40, 3)), epochs=2, callbacks=[Freeze()], verbose=0)
    moved = assert_only_declared_moved(seen[1], fingerprint(model), declared_to_move(model))
    assert set(moved) == {"out/kernel", "out/bias"}
