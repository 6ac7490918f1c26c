"""Policies, proven by hashing every variable around a real fit."""

import keras
import numpy as np
import pytest
from keras import layers
from networks import cnn, images, plain_cnn, residual

from bnadapt.errors import FrozenWeightMovedError, SurgeryError
from bnadapt.normalization.policy import (
    ALL,
    BATCH_NORM,
    BIASES,
    HEAD,
    assert_only_declared_moved,
    declared_to_move,
    describe_policy,
    fingerprint,
    train_only,
    without_weight_decay,
)

LABELS = np.random.default_rng(0).normal(0, 1, (40, 3))
NORMS = ("conv_inserted_bn", "conv2_inserted_bn", "hidden_inserted_bn")


def of(layer: str, *names: str) -> set[str]:
    return {f"{layer}/{name}" for name in names}


AFFINE = {path for norm in NORMS for path in of(norm, "gamma", "beta")}
STATISTICS = {path for norm in NORMS for path in of(norm, "moving_mean", "moving_variance")}
KERNELS = {path for layer in ("conv", "conv2", "hidden", "out") for path in of(layer, "kernel", "bias")}
LAST = of("hidden_inserted_bn", "gamma", "beta")
LAST_STATISTICS = of("hidden_inserted_bn", "moving_mean", "moving_variance")


def fit(model: keras.Model, *, eagerly: bool = False) -> list[str]:
    """Fit as a stage does, and check what moved; returns it."""
    before = fingerprint(model)
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1), "mse", run_eagerly=eagerly)
    model.fit(images(), LABELS, batch_size=10, verbose=0)
    return assert_only_declared_moved(before, fingerprint(model), declared_to_move(model))


CASES = [
    (ALL, "batch", KERNELS | AFFINE, STATISTICS),
    (ALL, "frozen", KERNELS | AFFINE, set()),
    (BATCH_NORM, "batch", AFFINE, STATISTICS),
    (BATCH_NORM, "frozen", AFFINE, set()),
    (HEAD, "batch", of("out", "kernel", "bias"), set()),
    ([BATCH_NORM, HEAD], "batch", AFFINE | of("out", "kernel", "bias"), STATISTICS),
    (BIASES, "batch", {path for path in KERNELS if path.endswith("bias")}, set()),
    ("upper 50%", "batch", of("hidden", "kernel", "bias") | of("out", "kernel", "bias") | LAST, LAST_STATISTICS),
    ("upper 50%", "frozen", of("hidden", "kernel", "bias") | of("out", "kernel", "bias") | LAST, set()),
    ("upper 1%", "batch", of("out", "kernel", "bias"), set()),
    ("upper 100%", "batch", KERNELS | AFFINE, STATISTICS),
    ("conv2.*", "batch", of("conv2", "kernel", "bias") | of("conv2_inserted_bn", "gamma", "beta"),
     of("conv2_inserted_bn", "moving_mean", "moving_variance")),
    (["hidden", "conv_inserted_bn"], "frozen", of("hidden", "kernel", "bias") | of("conv_inserted_bn", "gamma", "beta"),
     set()),
]  # fmt: skip


@pytest.mark.parametrize(("what", "statistics", "trains", "follows"), CASES)
def test_exactly_what_was_selected_moves_in_fit(what, statistics, trains, follows):
    model = cnn()
    assert set(train_only(model, what, statistics=statistics)) == trains
    assert declared_to_move(model) == trains | follows
    compiled = what in (ALL, BATCH_NORM)  # the others run faster without
    assert set(fit(model, eagerly=not compiled)) == trains | follows


def test_policies_follow_each_other_without_leftovers():
    model = cnn()
    for what, statistics, trains, follows in [CASES[i] for i in (2, 0, 3, 4, 1, 6, 0, 7)]:
        assert set(train_only(model, what, statistics=statistics)) == trains
        assert declared_to_move(model) == trains | follows
    assert set(train_only(model, ALL)) == KERNELS | AFFINE
    assert set(fit(model)) == KERNELS | AFFINE | STATISTICS


def test_what_was_frozen_before_is_reached():
    model = cnn()
    model.trainable = False
    assert set(train_only(model, BATCH_NORM)) == AFFINE
    for layer in model.layers:
        layer.trainable = False
    model.get_layer("out").kernel.trainable = False
    assert set(train_only(model, ALL)) == KERNELS | AFFINE


def nested() -> keras.Model:
    shared = layers.Dense(4, name="shared")
    j = keras.Input((4,))
    inner = keras.Model(j, layers.BatchNormalization(name="bn")(shared(j)), name="inner")
    i = keras.Input((4,))
    x = inner(layers.BatchNormalization(name="bn")(layers.Dense(4, name="first")(i)))
    x = inner(shared(x))
    x = layers.Reshape((2, 2))(x)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.TimeDistributed(layers.Dense(3, name="step"), name="steps")(x)
    return keras.Model(i, layers.Dense(3, name="out")(layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("inner/.*", {"inner/bn/gamma", "inner/bn/beta", "inner/shared/kernel", "inner/shared/bias"}),
        ("bn", {"inner/bn/gamma", "inner/bn/beta", "bn/gamma", "bn/beta"}),
        ("shared", {"inner/shared/kernel", "inner/shared/bias"}),
        ("attention/query", {"attention/query/kernel", "attention/query/bias"}),
        ("steps/.*", {"steps/step/kernel", "steps/step/bias"}),
        ("upper 40%", {"steps/step/kernel", "steps/step/bias", "out/kernel", "out/bias"}),
        (BATCH_NORM, {"inner/bn/gamma", "inner/bn/beta", "bn/gamma", "bn/beta"}),
    ],
)
def test_selection_inside_nested_models_wrappers_and_shared_layers(what, expected):
    model = nested()
    assert set(train_only(model, what)) == expected
    before = fingerprint(model)
    model.compile("sgd", "mse")
    model.fit(np.random.default_rng(0).normal(0, 1, (12, 4)), np.ones((12, 3)), verbose=0)
    moved = set(assert_only_declared_moved(before, fingerprint(model), declared_to_move(model)))
    assert expected <= moved | {"attention/query/bias"}


def test_frozen_statistics_normalize_with_moving_statistics_in_training():
    model = residual()
    train_only(model, BATCH_NORM, statistics="frozen")
    data = images(10)
    np.testing.assert_array_equal(model(data, training=True), model(data, training=False))
    train_only(model, BATCH_NORM, statistics="batch")
    assert np.abs(np.subtract(model(data, training=True), model(data, training=False))).max() > 0.01


def test_batch_normalization_without_gamma_and_beta_follows_its_selection():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.BatchNormalization(center=False, scale=False, name="bn"),
            layers.Dense(2, name="out"),
        ]
    )
    assert set(train_only(model, ALL)) == of("out", "kernel", "bias")
    assert declared_to_move(model) == of("out", "kernel", "bias") | of("bn", "moving_mean", "moving_variance")
    train_only(model, HEAD)
    assert declared_to_move(model) == of("out", "kernel", "bias")
    train_only(model, ALL, statistics="frozen")
    assert declared_to_move(model) == of("out", "kernel", "bias")


@pytest.mark.parametrize("what", ["conv3", "batch_norms", ["all", "missing"], "flatten.*", "Conv"])
def test_a_selector_that_matches_nothing_lists_what_there_is_and_changes_nothing(what):
    model = cnn()
    train_only(model, HEAD)
    with pytest.raises(
        SurgeryError, match="selects no layer with weights; there are: conv, conv_inserted_bn, "
    ):
        train_only(model, what)
    assert {w.path for w in model.trainable_variables} == {w.path for w in model.get_layer("out").weights}


def test_bad_selectors_are_refused():
    with pytest.raises(SurgeryError, match="'upper 0%': must be above 0% and at most 100%"):
        train_only(cnn(), "upper 0%")
    with pytest.raises(SurgeryError, match="'batch_norm' selects no layer"):
        train_only(plain_cnn(), BATCH_NORM)
    with pytest.raises(SurgeryError, match=r"'\(' is no regular expression"):
        train_only(cnn(), "(")
    with pytest.raises(SurgeryError, match="statistics='moving': choose batch or frozen"):
        train_only(cnn(), ALL, statistics="moving")
    with pytest.raises(SurgeryError, match="nothing was selected"):
        train_only(cnn(), [])


def test_an_undeclared_change_is_named():
    model = cnn()
    before = fingerprint(model)
    train_only(model, BATCH_NORM)
    model.get_layer("conv").kernel.assign_add(keras.ops.ones(model.get_layer("conv").kernel.shape) * 1e-7)
    with pytest.raises(
        FrozenWeightMovedError, match="1 of 20 weights changed although they were frozen: conv/kernel"
    ):
        assert_only_declared_moved(before, fingerprint(model), declared_to_move(model))
    with pytest.raises(FrozenWeightMovedError, match="out/bias"):
        assert_only_declared_moved(before, {k: v for k, v in before.items() if k != "out/bias"}, set())


def test_fingerprints_ignore_seeds_and_see_every_bit():
    model = cnn()
    before = fingerprint(model)
    model(images(4), training=True)
    changed = {path for path, value in fingerprint(model).items() if before[path] != value}
    assert changed == STATISTICS
    assert len(before) == len(model.weights) == 20


def test_weight_decay_spares_normalizations_and_biases():
    model = cnn()
    spared = without_weight_decay(model)
    assert {w.path.split("/")[-1] for w in spared} == {
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "bias",
    }
    train_only(model, ALL)
    optimizer = keras.optimizers.AdamW(1e-9, weight_decay=1e6)
    optimizer.exclude_from_weight_decay(var_list=spared)
    gamma = keras.ops.convert_to_numpy(model.get_layer("conv_inserted_bn").gamma)
    kernel = keras.ops.convert_to_numpy(model.get_layer("conv").kernel)
    model.compile(optimizer, "mse")
    model.fit(images(8), LABELS[:8], verbose=0)
    np.testing.assert_allclose(model.get_layer("conv_inserted_bn").gamma, gamma, rtol=1e-6)
    assert np.abs(np.subtract(model.get_layer("conv").kernel, kernel)).max() > 1e-4


def test_the_plan_is_a_row_per_layer_with_weights():
    model = cnn()
    train_only(model, [BATCH_NORM, "out"], statistics="frozen")
    rows = {row.path: row for row in describe_policy(model)}
    assert list(rows) == [
        "conv",
        "conv_inserted_bn",
        "conv2",
        "conv2_inserted_bn",
        "hidden",
        "hidden_inserted_bn",
        "out",
    ]
    bn, out, conv = rows["conv_inserted_bn"], rows["out"], rows["conv"]
    assert (bn.trainable, bn.frozen, bn.normalizes_with, bn.statistics) == (8, 8, "moving statistics", "stay")
    assert (out.layer_type, out.trainable, out.frozen, out.statistics) == ("Dense", 21, 0, "")
    assert (conv.trainable, conv.frozen) == (0, 76)
    train_only(model, BATCH_NORM)
    bn = next(row for row in describe_policy(model) if row.path == "conv_inserted_bn")
    assert (bn.normalizes_with, bn.statistics) == ("batch", "move")


def test_recurrent_and_spectral_state_of_trained_layers_may_move():
    i = keras.Input((4,))
    x = layers.SpectralNormalization(layers.Dense(3, name="d"), name="spectral")(i)
    model = keras.Model(i, layers.Dense(3, name="out")(x))
    train_only(model, ALL)
    before = fingerprint(model)
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 4)), np.zeros((8, 3)), verbose=0)
    moved = assert_only_declared_moved(before, fingerprint(model), declared_to_move(model))
    assert any(path.startswith("spectral/") and "kernel" not in path for path in moved)
