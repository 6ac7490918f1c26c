"""Test-time adaptation: its step against finite differences, its guards, and that all can be taken back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import cnn, hidden_norm, images, infer, plain_cnn, residual, scatter, table, two_inputs
from sklearn.datasets import load_digits

from bnadapt.errors import DataError, ModelError, SurgeryError
from bnadapt.normalization.entropy import entropy
from bnadapt.normalization.policy import BATCH_NORM, HEAD, train_only
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.statistics import reestimate
from bnadapt.normalization.test_time import TestTimeAdaptation

AFFINE = {f"{bn}/{weight}" for bn in ("bn1", "bn2") for weight in ("gamma", "beta")}
LENIENT = {"unsure": 1.0, "collapsed_entropy": 0.0, "fewest_classes": 0.0}


def moved(model: keras.Model, before: dict[str, str]) -> set[str]:
    return {path for path, value in fingerprint(model).items() if value != before[path]}


def in_training(model: keras.Model, data: np.ndarray) -> np.ndarray:
    """What the network computes with the batch's statistics, by Keras' own layers, in a copy."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return keras.ops.convert_to_numpy(copy(data, training=True)).astype("float64")


def mean_entropy(logits: np.ndarray) -> float:
    return float(np.mean(entropy(np.asarray(logits, "float64"))))


def test_without_steps_it_is_adabn_per_batch_and_changes_nothing():
    model = residual()
    before = fingerprint(model)
    adapt = TestTimeAdaptation(model, steps=0)
    for seed, rows in ((1, 20), (2, 33), (3, 20)):
        data = images(rows, seed=seed)
        np.testing.assert_allclose(adapt(data), in_training(model, data), rtol=1e-4, atol=1e-5)
    assert fingerprint(model) == before
    assert (adapt.batches, adapt.steps_made, adapt.recoveries) == (3, 0, 0)
    assert not adapt.skipped


def test_a_step_changes_gamma_and_beta_alone_and_lowers_the_entropy():
    model, data = residual(), images(40)
    before = fingerprint(model)
    adapt = TestTimeAdaptation(model, learning_rate=1e-2, **LENIENT)
    expected = in_training(model, data)
    np.testing.assert_allclose(adapt(data), expected, rtol=1e-4, atol=1e-5)  # of before the step
    assert moved(model, before) == AFFINE
    for _ in range(4):
        last = adapt(data)
    assert mean_entropy(last) < mean_entropy(expected)
    assert adapt.steps_made == 5
    assert adapt.reset() == ["bn1", "bn2"]
    assert fingerprint(model) == before


def test_flags_of_training_do_not_matter_and_stay():
    model = residual()
    train_only(model, HEAD)
    flags = [weight.trainable for weight in model.weights]
    before = fingerprint(model)
    TestTimeAdaptation(model, **LENIENT)(images(20))
    assert moved(model, before) == AFFINE
    assert [weight.trainable for weight in model.weights] == flags
    train_only(model, BATCH_NORM)


def test_the_first_step_follows_the_finite_differences_of_the_entropy():
    """Adam's first step is the sign of the gradient times the rate, which central differences give."""
    keras.config.set_dtype_policy("float64")
    try:
        model = residual()
    finally:
        keras.config.set_dtype_policy("float32")
    data = images(24).astype("float64")
    slopes = {}
    for name in ("bn1", "bn2"):
        for weight in (model.get_layer(name).gamma, model.get_layer(name).beta):
            start = keras.ops.convert_to_numpy(weight).copy()
            found = np.zeros_like(start)
            for index in range(len(start)):
                values = []
                for step in (1e-5, -1e-5):
                    shifted = start.copy()
                    shifted[index] += step
                    weight.assign(shifted)
                    values.append(mean_entropy(in_training(model, data)))
                found[index] = (values[0] - values[1]) / 2e-5
            weight.assign(start)
            slopes[f"{name}/{weight.name}"] = found
    adapt = TestTimeAdaptation(model, learning_rate=1e-3, **LENIENT)
    _, loss, used, gradients, finite = adapt._run(data, by_batch=True, gradients=True)
    assert finite
    assert abs(float(loss) - mean_entropy(in_training(model, data))) < 1e-12
    assert int(used) == 24
    for expected, gradient in zip(slopes.values(), gradients, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-9)
    single = residual()
    single.set_weights(model.get_weights())
    *_, rounded, _ = TestTimeAdaptation(single, **LENIENT)._run(images(24), by_batch=True, gradients=True)
    for expected, gradient in zip(slopes.values(), rounded, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-2, atol=1e-4 * np.abs(expected).max())
    starts = {path: keras.ops.convert_to_numpy(model.get_layer(path.split("/")[0]).gamma) for path in slopes}
    adapt(data)
    for path, slope in slopes.items():
        layer, name = path.split("/")
        if name == "gamma":
            change = keras.ops.convert_to_numpy(model.get_layer(layer).gamma) - starts[path]
            np.testing.assert_allclose(change, -1e-3 * np.sign(slope), rtol=1e-2)


def test_prior_blends_the_moving_statistics_in():
    i = keras.Input((3,))
    model = keras.Model(i, layers.BatchNormalization(name="bn", epsilon=0.01)(i))
    scatter(model)
    gamma, beta, mean, variance = (
        keras.ops.convert_to_numpy(w).astype("float64") for w in model.get_layer("bn").weights
    )
    data = np.random.default_rng(0).normal(4, 3, (5, 3)).astype("float32")
    found = TestTimeAdaptation(model, steps=0, prior=15)(data)
    new_mean, new_variance = 0.75 * mean + 0.25 * data.mean(0), 0.75 * variance + 0.25 * data.var(0)
    expected = gamma * (data - new_mean) / np.sqrt(new_variance + 0.01) + beta
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_layers_that_are_not_chosen_use_their_moving_statistics():
    model, data = residual(), images(20)
    before = fingerprint(model)
    adapt = TestTimeAdaptation(model, layers="bn2", **LENIENT)
    adapt(data)
    assert moved(model, before) == {"bn2/gamma", "bn2/beta"}
    adapt.reset()
    model.get_layer("bn1").trainable = False  # Keras' way to say the same
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.get_layer("bn1").trainable = False
    np.testing.assert_allclose(adapt(data), copy(data, training=True), rtol=1e-4, atol=1e-5)


def test_small_batches_make_no_step_and_use_the_moving_statistics():
    model = residual()
    before, adapt = fingerprint(model), TestTimeAdaptation(model, **LENIENT)
    np.testing.assert_allclose(adapt(images(15)), infer(model, images(15)), rtol=1e-4, atol=1e-5)
    adapt(images(1))
    assert fingerprint(model) == before
    assert dict(adapt.skipped) == {"small batch": 2}
    adapt(images(16))
    assert adapt.steps_made == 1


def test_unsure_samples_are_left_out():
    model = residual()
    data = images(40)
    each = np.asarray(entropy(in_training(model, data)))
    border = float(np.median(each)) / np.log(3)
    adapt = TestTimeAdaptation(model, unsure=border, collapsed_entropy=0, fewest_classes=0)
    _, loss, used, *_ = adapt._run(data, by_batch=True, gradients=True)
    assert int(used) == 20
    np.testing.assert_allclose(loss, np.sort(each)[:20].mean(), rtol=1e-4)
    adapt(data)
    assert adapt.left_out == 20
    before = fingerprint(model)
    strict = TestTimeAdaptation(model, unsure=0.0, collapsed_entropy=0, fewest_classes=0)
    strict(data)
    assert dict(strict.skipped) == {"all unsure": 1}
    assert (strict.left_out, strict.steps_made) == (40, 0)
    assert fingerprint(model) == before


def test_what_is_not_finite_makes_no_step():
    model = residual()
    before = fingerprint(model)
    adapt = TestTimeAdaptation(model, **LENIENT)
    poisoned = images(20)
    poisoned[3] = np.nan
    adapt(poisoned)
    assert dict(adapt.skipped) == {"not finite": 1}
    assert fingerprint(model) == before


def test_an_update_that_overflows_is_taken_back():
    """Small gamma before large weights: a finite gradient of some hundreds, times a rate near the largest."""
    model = keras.Sequential(
        [keras.Input((3,)), layers.BatchNormalization(name="bn"), layers.Dense(3, name="out")]
    )
    model.get_layer("out").kernel.assign(1e3 * np.eye(3))
    model.get_layer("bn").gamma.assign(np.full(3, 1e-3))
    before = fingerprint(model)
    adapt = TestTimeAdaptation(model, learning_rate=3e38, **LENIENT)
    for _ in range(2):
        outputs = adapt(np.random.default_rng(0).normal(0, 1, (20, 3)).astype("float32"))
        assert np.isfinite(outputs).all()
    assert dict(adapt.skipped) == {"not finite": 2}
    assert fingerprint(model) == before


def test_one_bad_batch_does_not_cost_what_was_learned():
    model, poisoned = residual(), images(20)
    poisoned[3] = np.nan
    adapt = TestTimeAdaptation(model, learning_rate=1e-2, **LENIENT)
    adapt(images(20))
    before = fingerprint(model)
    adapt(poisoned)
    assert adapt.recoveries == 0
    assert fingerprint(model) == before


@pytest.mark.parametrize("rate", [3e38, 1e37])
def test_steps_that_lead_out_of_all_bounds_are_taken_back(rate):
    model = residual()
    before = fingerprint(model)
    wild = TestTimeAdaptation(model, learning_rate=rate, **LENIENT)
    start = wild(images(20))
    for seed in range(3):
        outputs = wild(images(20, seed=seed))
        assert np.isfinite(outputs).all()
    assert wild.skipped["not finite"] + wild.recoveries >= 1
    wild.reset()
    assert fingerprint(model) == before
    np.testing.assert_array_equal(wild(images(20)), start)


def test_predictions_that_fall_on_one_class_bring_the_start_back():
    model, data = residual(), images(40)
    before = fingerprint(model)
    adapt = TestTimeAdaptation(
        model, learning_rate=0.5, unsure=1.0, collapsed_entropy=0.0, fewest_classes=0.99
    )
    honest = TestTimeAdaptation(model, steps=0)(data)
    adapt(data)
    assert adapt.recoveries == 0  # the network's own prediction is no collapse
    assert moved(model, before) == AFFINE
    again = adapt(data)
    assert adapt.recoveries == 1
    assert fingerprint(model) == before
    np.testing.assert_allclose(again, honest, rtol=1e-4, atol=1e-5)  # predicted anew


def test_entropy_that_has_vanished_brings_the_start_back():
    model, data = residual(), images(40)
    before = fingerprint(model)
    adapt = TestTimeAdaptation(model, learning_rate=0.5, unsure=1.0, collapsed_entropy=0.3, fewest_classes=0)
    for _ in range(30):
        adapt(data)
        if adapt.recoveries:
            break
    assert adapt.recoveries == 1
    assert fingerprint(model) == before
    assert 1 < adapt.batches <= 30


def test_after_a_reset_the_same_steps_follow():
    model, data = residual(), images(30)
    adapt = TestTimeAdaptation(model, learning_rate=1e-2, **LENIENT)
    first = [adapt(data) for _ in range(3)]
    after = fingerprint(model)
    adapt.reset()
    second = [adapt(data) for _ in range(3)]
    np.testing.assert_array_equal(first, second)
    assert fingerprint(model) == after


def test_probabilities_and_logits_adapt_alike():
    logits, data = residual(), images(30)
    chances = keras.Model(logits.inputs, layers.Softmax()(residual()(logits.inputs[0])))
    one = TestTimeAdaptation(logits, learning_rate=1e-2, **LENIENT)
    two = TestTimeAdaptation(chances, learning_rate=1e-2, from_logits=False, **LENIENT)
    for _ in range(3):
        first, second = one(data), two(data)
        np.testing.assert_allclose(keras.ops.softmax(first), second, rtol=1e-3, atol=1e-5)
    with pytest.raises(ModelError, match=r"ends in the activation softmax, .* pass from_logits=False"):
        TestTimeAdaptation(chances)


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(SurgeryError, match="has no batch normalization"):
        TestTimeAdaptation(plain_cnn())
    with pytest.raises(SurgeryError, match="learning_rate=-1: must be a number, 0 or more"):
        TestTimeAdaptation(cnn(), learning_rate=-1)
    with pytest.raises(SurgeryError, match="unsure=40: must be a share from 0 to 1"):
        TestTimeAdaptation(cnn(), unsure=40)
    i = keras.Input((3,))
    bare = keras.Model(i, layers.BatchNormalization(center=False, scale=False)(i))
    with pytest.raises(SurgeryError, match="no chosen layer has gamma or beta to adapt"):
        TestTimeAdaptation(bare)
    assert TestTimeAdaptation(bare, steps=0)(np.eye(3, dtype="float32") * 5).shape == (3, 3)
    with pytest.raises(DataError, match="an empty batch"):
        TestTimeAdaptation(cnn())(images(0))
    two = keras.Model(i, [layers.BatchNormalization()(i), layers.Dense(2)(i)])
    with pytest.raises(ModelError, match="has outputs of shape"):
        TestTimeAdaptation(two)


def test_it_recovers_digits_of_another_contrast():
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).reshape(-1, 8, 8, 1).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(12, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(pixels[:900], labels[:900], epochs=8, batch_size=50, verbose=0)
    reestimate(model, pixels[:900])
    shifted, expected = pixels[900:1700] * 0.1 - 0.3, labels[900:1700]
    batches = np.split(shifted, 10)
    before, untouched = fingerprint(model), infer(model, shifted)
    adapt = TestTimeAdaptation(model, learning_rate=1e-2)
    adapted = np.concatenate([adapt(batch) for batch in batches])
    accuracy = [np.mean(outputs.argmax(1) == expected) for outputs in (untouched, adapted)]
    assert accuracy[0] < 0.6
    assert accuracy[1] > 0.85
    assert adapt.steps_made == 10
    adapt.reset()
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("steps", 1.5, "a whole number, 0 or more"),
        ("steps", "1", "a whole number, 0 or more"),
        ("smallest_batch", 2.5, "a whole number, 0 or more"),
        ("learning_rate", "a", "a number, 0 or more"),
        ("learning_rate", float("nan"), "a number, 0 or more"),
        ("prior", None, "a number, 0 or more"),
        ("prior", float("inf"), "a number, 0 or more"),
        ("unsure", "b", "a share from 0 to 1"),
        ("unsure", 1.5, "a share from 0 to 1"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(name, value, wanted):
    with pytest.raises(SurgeryError, match=f"{name}={value!r}: must be {wanted}$"):
        TestTimeAdaptation(residual(), **{name: value})


def test_it_takes_one_batch_and_no_data_set():
    adapt = TestTimeAdaptation(residual())
    data = tf.data.Dataset.from_tensor_slices(images(20)).batch(20)
    for wrong in (data, iter(data), None):
        with pytest.raises(
            DataError, match="adaptation takes one batch at a time, as in `for batch in dataset"
        ):
            adapt(wrong)
    with pytest.raises(DataError, match=r"received one of shape \(8, 8, 2\): single images, not batched\?"):
        adapt(images(1)[0])
    assert adapt.batches == 0
    np.testing.assert_array_equal(
        TestTimeAdaptation(residual())((images(20), np.zeros(20))), TestTimeAdaptation(residual())(images(20))
    )


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_several_inputs_as_predict_takes_them(structure):
    first, second = table(20), table(20, seed=1)
    by_key = {"z_first": first, "a_second": second}
    forms = (
        [by_key, [by_key][0] | {"zz": first}]
        if structure == "dict"
        else [by_key, [first, second], (first, second)]
    )
    expected = in_training(two_inputs(), [first, second])
    for form in forms:
        outputs = TestTimeAdaptation(two_inputs(structure), steps=0)(form)
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match=r"the same number of rows; received: .*'z_first' 20"):
        TestTimeAdaptation(two_inputs(structure))({"z_first": first, "a_second": second[:19]})
    with pytest.raises(DataError, match="keys 'a_second', 'z_first'; received 'b', 'c'"):
        TestTimeAdaptation(two_inputs(structure))({"b": first, "c": second})


def test_normalization_that_is_not_opened_is_named():
    with pytest.warns(UserWarning, match="left as it is: 'steps/inner' is inside a TimeDistributed"):
        TestTimeAdaptation(hidden_norm())


def headed(*last) -> keras.Model:
    inputs = keras.Input((4,))
    x = layers.BatchNormalization()(inputs)
    for layer in last:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ([layers.Dense(1, activation="sigmoid")], "sigmoid"),
        ([layers.Dense(3, activation="softmax")], "softmax"),
        (
            [layers.Dense(3), layers.Activation("softmax"), layers.Activation("linear", dtype="float64")],
            "softmax",
        ),
        ([layers.Dense(3), layers.Softmax(), layers.Identity()], "softmax"),
        ([layers.Dense(3), keras.ops.softmax], "softmax"),
        ([layers.Dense(1), keras.ops.sigmoid, layers.Reshape((1,))], "sigmoid"),
        (
            [keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="hard_sigmoid")])],
            "hard_?sigmoid",
        ),
    ],
)
def test_heads_that_give_probabilities_are_seen_in_the_graph(last, name):
    model = headed(*last)
    with pytest.raises(
        ModelError, match=f"ends in the activation {name}, whose outputs are probabilities and no"
    ):
        TestTimeAdaptation(model)
    outputs = TestTimeAdaptation(model, from_logits=False, **LENIENT)(table(20))
    assert outputs.shape[0] == 20


def test_several_sigmoids_are_no_distribution():
    for from_logits in (True, False):
        with pytest.raises(
            ModelError, match="ends in the activation sigmoid with 3 outputs, which are no distrib"
        ):
            TestTimeAdaptation(headed(layers.Dense(3, activation="sigmoid")), from_logits=from_logits)


def test_an_activation_before_the_head_does_not_matter():
    for last in (
        [layers.Softmax(), layers.Dense(3)],
        [layers.Dense(3, activation="tanh")],
        [layers.Dense(3)],
    ):
        TestTimeAdaptation(headed(*last))
