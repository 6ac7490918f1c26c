"""Calibration keeps the function; re-estimation gives the population's statistics."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from networks import (
    cnn,
    hidden_norm,
    images,
    infer,
    inputs_of_batch_norms,
    masked,
    moments_of,
    plain_cnn,
    residual,
    scatter,
    table,
    two_inputs,
    two_norms,
)

from bnadapt.errors import DataError, ModelError, SurgeryError
from bnadapt.normalization.moments import measure
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.selection import batch_norm_layers
from bnadapt.normalization.snapshot import restore
from bnadapt.normalization.statistics import calibrate, reestimate
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import find_sites


def close(result: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.abs(result - expected).max() <= tolerance * expected.std()


def weights_of(layer) -> tuple[np.ndarray, ...]:
    return tuple(
        keras.ops.convert_to_numpy(w).astype("float64")
        for w in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
def test_calibration_of_inserted_layers_keeps_the_function(position):
    model, data = cnn(position), images(200)
    expected = infer(plain_cnn(), data)
    np.testing.assert_array_equal(infer(model, data), expected)
    received = inputs_of_batch_norms(model, data)

    chosen = calibrate(model, data, batch_size=64)

    assert list(chosen) == ["conv_inserted_bn", "conv2_inserted_bn", "hidden_inserted_bn"]
    np.testing.assert_array_equal(infer(model, data), expected)
    for path, values in received.items():
        gamma, beta, mean, variance = weights_of(model.get_layer(path))
        data_mean, data_variance = moments_of(values)
        np.testing.assert_allclose(mean, data_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variance, data_variance, rtol=1e-5)
        np.testing.assert_allclose(gamma, np.sqrt(data_variance + 1e-5), rtol=1e-5)
        np.testing.assert_allclose(beta, data_mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
def test_training_mode_on_the_calibration_set_as_one_batch_is_the_same_function(position):
    model, data = cnn(position), images(200)
    expected = infer(model, data)
    calibrate(model, data)
    model.get_layer("drop").rate = 0.0
    result = keras.ops.convert_to_numpy(model(data, training=True)).astype("float64")
    close(result, expected, 1e-3)


def test_calibration_of_existing_layers_keeps_the_function_and_everything_else():
    model, data = residual(), images(100)
    expected, before = infer(model, data), fingerprint(model)
    assert list(calibrate(model, data)) == ["bn1", "bn2"]
    close(infer(model, data), expected, 1e-6)
    moved = {path for path, value in fingerprint(model).items() if value != before[path]}
    assert moved == {
        f"{bn}/{w}" for bn in ("bn1", "bn2") for w in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    found = measure(model, data)
    for path, layer in batch_norm_layers(model).items():
        *_, mean, variance = weights_of(layer)
        np.testing.assert_allclose(mean, found[path].mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, found[path].variance, rtol=1e-4)


def test_the_formula_against_numpy():
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization(name="bn", epsilon=0.01)])
    scatter(model)
    gamma, beta, mean, variance = weights_of(model.get_layer("bn"))
    data = np.random.default_rng(0).normal([5, -2, 0], [1, 3, 0.1], (50, 3)).astype("float32")
    calibrate(model, data)
    new_mean, new_variance = data.astype("float64").mean(0), data.astype("float64").var(0)
    new = weights_of(model.get_layer("bn"))
    np.testing.assert_allclose(
        new[0], gamma * np.sqrt(new_variance + 0.01) / np.sqrt(variance + 0.01), rtol=1e-6
    )
    np.testing.assert_allclose(new[1], beta + gamma * (new_mean - mean) / np.sqrt(variance + 0.01), rtol=1e-6)


@pytest.mark.parametrize(("centre", "spread"), [(0, 0), (7, 0), (0, 1e-6), (1e4, 1), (-30, 1e3)])
def test_dead_channels_tiny_variances_and_large_means(centre, spread):
    inputs = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d"), layers.Dense(2)])
    inputs.get_layer("d").set_weights([np.eye(4) * spread, np.full(4, centre)])
    model = insert_batch_norm(inputs, find_sites(inputs))
    data = np.random.default_rng(0).normal(0, 1, (500, 4)).astype("float32")
    eagerly, compiled = infer(model, data), model.predict(data, verbose=0)
    calibrate(model, data)
    np.testing.assert_array_equal(infer(model, data), eagerly)
    np.testing.assert_array_equal(model.predict(data, verbose=0), compiled)
    np.testing.assert_array_equal(eagerly, infer(inputs, data))
    assert all(np.isfinite(values).all() for values in weights_of(model.get_layer("d_inserted_bn")))


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "float64"])
def test_other_precisions_keep_every_bit(position, policy):
    keras.config.set_dtype_policy(policy)
    try:
        plain = plain_cnn()
    finally:
        keras.config.set_dtype_policy("float32")
    model = insert_batch_norm(plain, find_sites(plain, position))
    data = images(50)
    expected = model(data, training=False)
    calibrate(model, data)
    np.testing.assert_array_equal(model(data, training=False), expected)


def test_calibrating_twice_changes_nothing_more():
    model, data = cnn(), images(100)
    calibrate(model, data)
    first = [weights_of(layer) for layer in batch_norm_layers(model).values()]
    calibrate(model, data)
    for old, layer in zip(first, batch_norm_layers(model).values(), strict=True):
        for before, after in zip(old, weights_of(layer), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6)


def test_layers_choose_what_changes():
    model, before = cnn(), fingerprint(cnn())
    assert list(calibrate(model, images(30), layers="hidden.*")) == ["hidden_inserted_bn"]
    moved = {path.split("/")[0] for path, value in fingerprint(model).items() if value != before[path]}
    assert moved == {"hidden_inserted_bn"}


def test_layers_without_gamma_or_beta_cannot_be_calibrated_but_reestimated():
    i = keras.Input((3,))
    x = layers.BatchNormalization(name="whole")(i)
    model = keras.Model(i, layers.BatchNormalization(name="bare", scale=False)(x))
    before = fingerprint(model)
    with pytest.raises(SurgeryError, match="the batch normalization 'bare' has no gamma, so new statistics"):
        calibrate(model, np.ones((4, 3), "float32"))
    assert fingerprint(model) == before
    assert list(reestimate(model, np.ones((4, 3), "float32"))) == ["whole", "bare"]


def test_reestimation_is_the_pooled_training_pass():
    model, data = residual(), images(64)
    before = fingerprint(model)
    found = measure(model, data, normalize_with="batch", batch_size=16)
    assert list(reestimate(model, data, batch_size=16)) == ["bn1", "bn2"]
    for path, layer in batch_norm_layers(model).items():
        *_, mean, variance = weights_of(layer)
        np.testing.assert_allclose(mean, found[path].mean, rtol=1e-6)
        np.testing.assert_allclose(variance, found[path].variance, rtol=1e-6)
    moved = {path.split("/")[1] for path, value in fingerprint(model).items() if value != before[path]}
    assert moved == {"moving_mean", "moving_variance"}


def test_reestimation_in_one_batch_makes_inference_what_training_computes():
    model, data = residual(), images(64)
    copy = residual()
    training = keras.ops.convert_to_numpy(copy(data, training=True)).astype("float64")
    assert np.abs(infer(model, data) - training).max() > 0.1 * training.std()
    reestimate(model, data)
    close(infer(model, data), training, 1e-4)


def test_reestimation_undoes_a_linear_shift_of_the_input():
    """What AdaBN promises: a change of contrast and brightness vanishes in the first layer's statistics."""
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), layers.BatchNormalization(epsilon=1e-7), *plain_cnn().layers]
    )
    data = images(60)
    calibrate(model, data)
    reestimate(model, data * 3 + 5)
    close(infer(model, data * 3 + 5), infer(plain_cnn(), data), 1e-3)


@pytest.mark.parametrize("change", [calibrate, reestimate])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_errors_leave_everything_as_it_was(change, error):
    model = cnn()
    before = fingerprint(model)

    def failing():
        yield images(8)
        raise error("gone")

    with pytest.raises(error, match="gone"):
        change(model, failing())
    with pytest.raises(ModelError, match="not finite"):
        change(model, [images(8), images(8) * np.nan])
    assert fingerprint(model) == before


@pytest.mark.parametrize("change", [calibrate, reestimate])
def test_an_interruption_between_two_assignments_leaves_everything_as_it_was(change, monkeypatch):
    model = residual()
    before = fingerprint(model)
    second = model.get_layer("bn2").moving_variance
    assign, failures = second.assign, iter([True])

    def interrupted(value):
        if next(failures, False):
            raise KeyboardInterrupt
        return assign(value)

    monkeypatch.setattr(second, "assign", interrupted)
    with pytest.raises(KeyboardInterrupt):
        change(model, images(20))
    assert fingerprint(model) == before


@pytest.mark.parametrize("change", [calibrate, reestimate])
def test_restoring_gives_every_bit_back(change):
    model = residual()
    before = fingerprint(model)
    snapshot = change(model, images(30))
    assert fingerprint(model) != before
    expected = {"moving_mean", "moving_variance"} | ({"gamma", "beta"} if change is calibrate else set())
    assert {path: set(names) for path, names in snapshot.items()} == {"bn1": expected, "bn2": expected}
    assert restore(model, snapshot) == ["bn1", "bn2"]
    assert fingerprint(model) == before


def reference(model, batches, *, prior=0.0, parts="both", order="together"):
    """What two_norms gets, in NumPy: every combination of options by their definition."""
    kernel, bias = (
        keras.ops.convert_to_numpy(w).astype("float64") for w in model.get_layer("between").weights
    )
    gamma, beta, *first = weights_of(model.get_layer("first"))
    second = weights_of(model.get_layer("second"))[2:]

    def chosen(source, rows, number):
        share = number / (prior + number)
        mixed = [
            s * (1 - share) + t * share for s, t in zip(source, (rows.mean(0), rows.var(0)), strict=True)
        ]
        return [
            source[0] if parts == "variance" else mixed[0],
            source[1] if parts == "mean" else mixed[1],
        ]

    def forward(rows, statistics):
        return (gamma * (rows - statistics[0]) / np.sqrt(statistics[1] + 1e-3) + beta) @ kernel + bias

    batches = [batch.astype("float64") for batch in batches]
    everything = np.concatenate(batches)
    settled = chosen(first, everything, len(everything))
    passed = [
        forward(batch, settled if order == "in_turn" else chosen(first, batch, len(batch)))
        for batch in batches
    ]
    return {"first": settled, "second": chosen(second, np.concatenate(passed), len(everything))}


@pytest.mark.parametrize("prior", [0.0, 16, 500.0])
@pytest.mark.parametrize("parts", ["both", "mean", "variance"])
@pytest.mark.parametrize("order", ["together", "in_turn"])
def test_all_ways_to_reestimate_against_numpy(prior, parts, order):
    model, batches = two_norms(), [table(9), table(20, seed=1), table(1, seed=2)]
    expected = reference(model, batches, prior=prior, parts=parts, order=order)
    before = fingerprint(model)
    snapshot = reestimate(model, batches, prior=prior, parts=parts, order=order)
    for path, (mean, variance) in expected.items():
        np.testing.assert_allclose(weights_of(model.get_layer(path))[2], mean, rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose(weights_of(model.get_layer(path))[3], variance, rtol=2e-5)
    names = {"mean": {"moving_mean"}, "variance": {"moving_variance"}}.get(
        parts, {"moving_mean", "moving_variance"}
    )
    moved = {path for path, value in fingerprint(model).items() if value != before[path]}
    assert moved == {f"{layer}/{name}" for layer in ("first", "second") for name in names}
    assert {path: set(of_layer) for path, of_layer in snapshot.items()} == {"first": names, "second": names}
    restore(model, snapshot)
    assert fingerprint(model) == before


def test_in_turn_does_not_depend_on_the_cut_and_gives_the_population():
    model, other = residual(), residual()
    data = images(60)
    reestimate(model, data, order="in_turn", batch_size=7)
    reestimate(other, data, order="in_turn", batch_size=60)
    for path, values in inputs_of_batch_norms(model, data).items():  # with the new statistics in place
        one, two = weights_of(model.get_layer(path)), weights_of(other.get_layer(path))
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
        mean, variance = moments_of(values)
        np.testing.assert_allclose(one[2], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one[3], variance, rtol=1e-4)


def test_in_turn_leaves_what_is_not_named_at_its_moving_statistics():
    model = residual()
    before = weights_of(model.get_layer("bn1"))
    reestimate(model, images(30), layers="bn2", order="in_turn")
    _, variance = moments_of(inputs_of_batch_norms(model, images(30))["bn2"])
    np.testing.assert_allclose(weights_of(model.get_layer("bn2"))[3], variance, rtol=1e-4)
    np.testing.assert_array_equal(weights_of(model.get_layer("bn1")), before)


def test_in_turn_reads_the_images_once_per_pass():
    model, passes = residual(), []

    class Counted:
        def __iter__(self):
            passes.append(1)
            yield images(8)

    reestimate(model, Counted(), order="in_turn")
    assert len(passes) == 2
    before = fingerprint(model)
    for once in (iter([images(8)]), (each for each in [images(8)])):
        with pytest.raises(DataError, match="order='in_turn' reads the images several times, and a"):
            reestimate(model, once, order="in_turn")
    assert fingerprint(model) == before


def test_arguments_out_of_range_are_refused():
    model = residual()
    for prior in ("a", None, -1, float("nan"), float("inf")):
        with pytest.raises(SurgeryError, match=f"prior={prior!r}: must be a number of samples"):
            reestimate(model, images(4), prior=prior)
    with pytest.raises(SurgeryError, match="parts='gamma': choose both, mean, variance"):
        reestimate(model, images(4), parts="gamma")
    with pytest.raises(SurgeryError, match="order='reverse': choose together, in_turn"):
        reestimate(model, images(4), order="reverse")


def renormalized() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(renorm=True, name="bn"), layers.Dense(3)]
    )
    scatter(model)
    return model


@pytest.mark.parametrize("change", [calibrate, reestimate])
def test_batch_renormalization_gets_its_statistics_too(change):
    model, data = renormalized(), table(60)
    before, expected = fingerprint(model), infer(model, data)
    snapshot = change(model, data)
    bn = model.get_layer("bn")
    deviation = np.sqrt(data.astype("float64").var(0) + bn.epsilon)
    for weight in (bn.moving_stddev, bn.renorm_stddev):
        np.testing.assert_allclose(weight, deviation, rtol=1e-5)
    np.testing.assert_allclose(bn.renorm_mean, data.astype("float64").mean(0), rtol=1e-5)
    if change is calibrate:
        close(infer(model, data), expected, 1e-6)
    after = infer(model, data)[:10]
    close(keras.ops.convert_to_numpy(model(data[:10], training=True)), after, 1e-4)  # whatever the batch
    restore(model, snapshot)
    assert fingerprint(model) == before


def test_the_mean_alone_leaves_renormalization_its_deviations():
    model = renormalized()
    assert set(reestimate(model, table(30), parts="mean")["bn"]) == {"moving_mean", "renorm_mean"}


def test_statistics_beyond_the_type_of_their_variables_are_refused():
    i = keras.Input((4,))
    model = keras.Model(i, layers.BatchNormalization(name="bn", dtype="float16")(i))
    before = fingerprint(model)
    with pytest.raises(
        ModelError, match="the new moving_variance of the batch normalization 'bn' reaches 4e"
    ):
        reestimate(model, np.float32([[2e3] * 4, [-2e3] * 4]))
    assert fingerprint(model) == before


def test_the_budget_of_samples_is_kept():
    model, other = cnn(), cnn()
    calibrate(model, images(100), samples=30)
    calibrate(other, images(100)[:30])
    for one, two in zip(batch_norm_layers(model).values(), batch_norm_layers(other).values(), strict=True):
        np.testing.assert_allclose(weights_of(one), weights_of(two), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("change", [calibrate, reestimate])
def test_what_is_not_opened_is_named_once(change):
    data = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")
    with pytest.warns(
        UserWarning, match="left as it is: 'steps/inner' is inside a TimeDistributed"
    ) as caught:
        assert list(change(hidden_norm(), data)) == ["seen"]
    assert sum("steps/inner" in str(each.message) for each in caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        change(hidden_norm(), data, layers="seen")
    with pytest.raises(SurgeryError, match="'steps/inner' is inside a TimeDistributed, which is not opened"):
        change(hidden_norm(alone=True), data)


@pytest.mark.parametrize("change", [calibrate, reestimate])
def test_nothing_to_change_or_to_measure_changes_nothing(change):
    model = masked()
    before = fingerprint(model)
    with pytest.raises(DataError, match="'bn' received masked positions only"):
        change(model, np.zeros((3, 5, 4), "float32"))
    with pytest.raises(SurgeryError, match=r"layers=\[\]: name at least one"):
        change(model, np.ones((3, 5, 4), "float32"), layers=[])
    with pytest.raises(DataError, match="images=None: pass an array"):
        change(model, None)
    assert fingerprint(model) == before


@pytest.mark.parametrize("change", [calibrate, reestimate])
def test_inputs_and_samples_have_one_meaning_everywhere(change):
    first, second = table(9), table(9, seed=1)
    results = []
    for structure, given in (
        ("list", [first, second]),
        ("list", (first, second)),
        ("dict", {"z_first": first, "a_second": second}),
    ):
        model = two_inputs(structure)
        change(model, given, samples="all", batch_size=9)
        results.append(weights_of(model.get_layer("bn"))[2])
    for found in results:
        np.testing.assert_allclose(found, (first * 10.0 + second).mean(0), rtol=1e-5)
    with pytest.raises(DataError, match=r"samples=7\.5: must be a whole number, at least 1, or None for all"):
        change(two_inputs(), [first, second], samples=7.5)
    with pytest.raises(DataError, match="keys 'a_second', 'z_first'; received 'b_img', 'c_aux'"):
        change(two_inputs("dict"), {"b_img": first, "c_aux": second})
