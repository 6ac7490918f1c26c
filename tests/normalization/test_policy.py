"""Policies, proven by hashing every variable around a real fit."""

import keras
import numpy as np
import pytest
from keras import layers
from networks import cnn, images, plain_cnn, residual

from bnadapt.errors import FrozenWeightMovedError, SurgeryError
from bnadapt.normalization.drawn import assert_only_drawn_moved, fingerprint_outside
from bnadapt.normalization.policy import (
    ALL,
    BATCH_NORM,
    BIASES,
    HEAD,
    drawn_entries,
    train_only,
    without_weight_decay,
)
from bnadapt.normalization.proof import assert_only_declared_moved, declared_to_move, fingerprint
from bnadapt.normalization.table import describe_policy
from bnadapt.surgery.sites import find_sites

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


BATCH: dict[str, str] = {}
FROZEN = {"statistics": "stay", "normalize": "moving"}
STAY = {"statistics": "stay"}
MOVE = {"normalize": "moving"}
CASES = [
    (ALL, BATCH, KERNELS | AFFINE, STATISTICS),
    (ALL, FROZEN, KERNELS | AFFINE, set()),
    (BATCH_NORM, BATCH, AFFINE, STATISTICS),
    (BATCH_NORM, FROZEN, AFFINE, set()),
    (HEAD, BATCH, of("out", "kernel", "bias"), set()),
    ([BATCH_NORM, HEAD], BATCH, AFFINE | of("out", "kernel", "bias"), STATISTICS),
    (BIASES, BATCH, {path for path in KERNELS if path.endswith("bias")}, set()),
    ("upper 50%", BATCH, of("hidden", "kernel", "bias") | of("out", "kernel", "bias") | LAST, LAST_STATISTICS),
    ("upper 50%", FROZEN, of("hidden", "kernel", "bias") | of("out", "kernel", "bias") | LAST, set()),
    (BATCH_NORM, STAY, AFFINE, set()),
    (BATCH_NORM, MOVE, AFFINE, STATISTICS),
    ([HEAD, "conv_inserted_bn"], MOVE, of("out", "kernel", "bias") | of("conv_inserted_bn", "gamma", "beta"),
     of("conv_inserted_bn", "moving_mean", "moving_variance")),
    ("upper 1%", BATCH, of("out", "kernel", "bias"), set()),
    ("upper 100%", BATCH, KERNELS | AFFINE, STATISTICS),
    ("conv2.*", BATCH, of("conv2", "kernel", "bias") | of("conv2_inserted_bn", "gamma", "beta"),
     of("conv2_inserted_bn", "moving_mean", "moving_variance")),
    (["hidden", "conv_inserted_bn"], FROZEN, of("hidden", "kernel", "bias") | of("conv_inserted_bn", "gamma", "beta"),
     set()),
]  # fmt: skip


@pytest.mark.parametrize(("what", "switches", "trains", "follows"), CASES)
def test_exactly_what_was_selected_moves_in_fit(what, switches, trains, follows):
    model = cnn()
    assert set(train_only(model, what, **switches)) == trains
    assert declared_to_move(model) == trains | follows
    compiled = what in (ALL, BATCH_NORM)  # the others run faster without
    assert set(fit(model, eagerly=not compiled)) == trains | follows


def test_policies_follow_each_other_without_leftovers():
    model = cnn()
    for what, switches, trains, follows in [CASES[i] for i in (2, 9, 0, 3, 10, 4, 1, 9, 6, 10, 0, 7)]:
        assert set(train_only(model, what, **switches)) == trains
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
    train_only(model, BATCH_NORM, **FROZEN)
    data = images(10)
    np.testing.assert_array_equal(model(data, training=True), model(data, training=False))
    train_only(model, BATCH_NORM)
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
    train_only(model, ALL, **FROZEN)
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
    with pytest.raises(SurgeryError, match="statistics='batch': choose move or stay"):
        train_only(cnn(), ALL, statistics="batch")
    with pytest.raises(SurgeryError, match="normalize='frozen': choose batch or moving"):
        train_only(cnn(), ALL, normalize="frozen")
    with pytest.raises(SurgeryError, match="nothing was selected"):
        train_only(cnn(), [])


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


@pytest.mark.parametrize("excluded", [True, False])
def test_under_adamw_gamma_and_beta_take_the_steps_of_plain_adam(excluded):
    plain, decayed = cnn(), cnn()
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=1.0)
    if excluded:
        optimizer.exclude_from_weight_decay(var_list=without_weight_decay(decayed))
    for model, how in ((plain, keras.optimizers.Adam(0.01)), (decayed, optimizer)):
        for weight in model.weights:
            weight.assign(np.full(weight.shape, 0.7))
        random = np.random.default_rng(0)
        for _ in range(3):
            variables = model.trainable_variables
            how.apply(
                [keras.ops.convert_to_tensor(random.normal(0, 1, v.shape), "float32") for v in variables],
                variables,
            )
    one, other, start = fingerprint(plain), fingerprint(decayed), fingerprint(cnn())
    spared = AFFINE | {path for path in KERNELS if path.endswith("bias")}
    expected = STATISTICS | spared if excluded else STATISTICS
    assert {path for path in one if one[path] == other[path]} == expected
    assert not {path for path in AFFINE | KERNELS if one[path] == start[path]}


def test_the_plan_is_a_row_per_layer_with_weights():
    model = cnn()
    train_only(model, [BATCH_NORM, "out"], **FROZEN)
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


DRAWN_FROM = {f"{layer}/kernel" for layer in ("conv", "conv2", "hidden")}


@pytest.mark.parametrize("make", [plain_cnn, cnn, lambda: cnn("after_activation")])
def test_per_channel_means_the_kernels_of_all_layers_that_could_have_batch_normalization(make):
    model = make()
    assert set(train_only(model, "2 per channel")) == DRAWN_FROM
    assert declared_to_move(model) == DRAWN_FROM
    drawn = drawn_entries(model, "2 per channel", seed=0)
    assert set(drawn) == DRAWN_FROM
    sites = find_sites(plain_cnn())
    assert {site.layer: 2 * site.channels for site in sites} == {
        path.rpartition("/")[0]: mask.sum() for path, mask in drawn.items()
    }
    for mask in drawn.values():
        assert (mask.reshape(-1, mask.shape[-1]).sum(axis=0) == 2).all()


def kinds() -> keras.Model:
    """One layer of every kind that has channels, a gate, and a layer that is called twice."""
    i = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", groups=1, name="conv")(i)
    x = layers.Conv2D(6, 3, padding="same", groups=2, name="grouped")(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(5, 3, padding="same", name="transposed")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(2, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(5, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.Reshape((36, 5))(x)
    x = layers.TimeDistributed(layers.Dense(4, name="step"), name="steps")(x)
    x = layers.EinsumDense("abc,dc->abd", output_shape=(36, 7), name="einsum")(x)
    twice = layers.Dense(7, name="twice")
    x = layers.GlobalAveragePooling1D()(twice(twice(x)))
    return keras.Model(i, layers.Dense(3, name="out")(x))


def test_every_channel_of_every_kind_of_kernel_gets_its_number_of_weights():
    model = kinds()
    expected = {  # by kernel: the axes that count channels, and how many other entries each channel has
        "conv/kernel": ((3,), 27),
        "grouped/kernel": ((3,), 18),
        "depthwise/kernel": ((2, 3), 9),
        "separable/pointwise_kernel": ((3,), 12),
        "transposed/kernel": ((2,), 36),
        "steps/step/kernel": ((1,), 5),
        "einsum/kernel": ((0,), 4),
        "twice/kernel": ((1,), 7),
    }
    sites = find_sites(kinds())
    assert {site.layer for site in sites} == {path.split("/")[0] for path in expected}
    for number in (1, 5, 1000):
        drawn = drawn_entries(model, f"{number} per channel", seed=2)
        assert set(drawn) == set(expected)
        for path, (channels, inputs) in expected.items():
            mask = drawn[path]
            others = tuple(axis for axis in range(mask.ndim) if axis not in channels)
            assert (mask.sum(axis=others) == min(number, inputs)).all(), path
    assert set(train_only(model, "5 per channel")) == set(expected)


def test_the_draw_depends_on_the_seed_and_the_layer_alone_and_is_even():
    plain, inserted = plain_cnn(), cnn()
    first = drawn_entries(plain, "2 per channel", seed=5)
    for path, mask in drawn_entries(inserted, "2 per channel", seed=5).items():
        np.testing.assert_array_equal(mask, first[path])
    other = drawn_entries(plain, "2 per channel", seed=6)
    assert all((other[path] != mask).any() for path, mask in first.items())
    alike = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="a"), layers.Dense(8, name="b"), layers.Dense(2)]
    )
    one, another = drawn_entries(alike, "2 per channel", seed=5).values()
    assert (one != another).any()
    wide = keras.Sequential([keras.Input((10,)), layers.Dense(4000, name="wide"), layers.Dense(2)])
    (mask,) = drawn_entries(wide, "3 per channel", seed=0).values()
    # 1200 expected at each input; the standard deviation is 29.
    assert np.abs(mask.sum(axis=1) - 1200).max() < 150


def test_a_kernel_that_trains_as_a_whole_is_not_drawn_from():
    model = cnn()
    both = ["2 per channel", "hidden", HEAD]
    assert set(drawn_entries(model, both, seed=0)) == DRAWN_FROM - {"hidden/kernel"}
    assert set(train_only(model, both)) == DRAWN_FROM | of("out", "kernel", "bias") | {"hidden/bias"}
    assert set(drawn_entries(model, ["2 per channel", BIASES], seed=0)) == DRAWN_FROM
    assert drawn_entries(model, ["1 per channel", ALL], seed=0) == {}
    assert drawn_entries(model, [BATCH_NORM, HEAD], seed=0) == {}
    more = drawn_entries(model, ["1 per channel", "3 per channel"], seed=0)
    assert {path: mask.sum() for path, mask in more.items()} == {
        "conv/kernel": 12,
        "conv2/kernel": 15,
        "hidden/kernel": 18,
    }


def test_networks_without_such_layers_and_a_draw_of_nothing_are_refused():
    only_head = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="out")])
    with pytest.raises(SurgeryError, match="'2 per channel' selects no layer with weights; there are: out"):
        train_only(only_head, "2 per channel")
    with pytest.raises(SurgeryError, match="'0 per channel': must be at least 1"):
        train_only(plain_cnn(), "0 per channel")


def test_the_plan_counts_drawn_weights_alone():
    model = plain_cnn()
    train_only(model, ["2 per channel", "out"])
    drawn = drawn_entries(model, ["2 per channel", "out"], seed=0)
    rows = {row.path: (row.trainable, row.frozen, row.trains) for row in describe_policy(model, drawn)}
    assert rows == {
        "conv": (8, 68, ("kernel",)),
        "conv2": (10, 175, ("kernel",)),
        "hidden": (12, 474, ("kernel",)),
        "out": (21, 0, ("kernel", "bias")),
    }


def test_a_bit_outside_the_draw_is_noticed_and_any_change_inside_is_not():
    model = plain_cnn()
    drawn = drawn_entries(model, "2 per channel", seed=0)
    before = fingerprint_outside(model, drawn)
    kernel, mask = model.get_layer("conv").kernel, drawn["conv/kernel"]
    values = np.array(kernel)
    kernel.assign(np.where(mask, 7.0, values))
    assert_only_drawn_moved(before, fingerprint_outside(model, drawn))
    values[tuple(np.argwhere(~mask)[-1])] *= 1 + 1e-7
    kernel.assign(values)
    with pytest.raises(
        FrozenWeightMovedError, match="entries of conv/kernel changed that were not among those"
    ):
        assert_only_drawn_moved(before, fingerprint_outside(model, drawn))
