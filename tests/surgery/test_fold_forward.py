"""Batch normalization into the layers behind it."""

import keras
import numpy as np
import pytest
from keras import layers
from networks_to_fold import apart, batch_norms, double, scattered
from zoo import pixels

from bnadapt.surgery.fold import Fold, find_folds, fold_batch_norm
from bnadapt.surgery.graph import layer_paths


def network(shape, *behind, axis=-1, before=None):
    """Some activation, batch normalization, and the layers behind it."""
    i = keras.Input(shape)
    x = layers.BatchNormalization(axis, epsilon=0.1, name="bn")((before or layers.Activation("tanh"))(i))
    for layer in behind:
        x = layer(x)
    return scattered(keras.Model(i, x))


EXACT = {
    "dense": ((5,), lambda b: [layers.Dense(4, use_bias=b, name="linear")], -1),
    "dense_rank3": ((3, 5), lambda b: [layers.Dense(4, use_bias=b, name="linear")], -1),
    "conv1d": ((9, 3), lambda b: [layers.Conv1D(4, 3, use_bias=b, name="linear")], -1),
    "conv2d_strides": ((7, 6, 3), lambda b: [layers.Conv2D(4, 2, 2, use_bias=b, name="linear")], -1),
    "conv2d_dilated": ((7, 6, 3), lambda b: [layers.Conv2D(4, 2, dilation_rate=2, use_bias=b, name="linear")], -1),
    "conv2d_groups": ((7, 6, 4), lambda b: [layers.Conv2D(6, 3, groups=2, use_bias=b, name="linear")], -1),
    "pointwise_same": ((4, 4, 3), lambda b: [layers.Conv2D(4, 1, 2, "same", use_bias=b, name="linear")], -1),
    "conv3d": ((4, 4, 4, 2), lambda b: [layers.Conv3D(3, 2, use_bias=b, name="linear")], -1),
    "depthwise1d": ((9, 3), lambda b: [layers.DepthwiseConv1D(3, use_bias=b, name="linear")], -1),
    "depthwise2d": (
        (7, 6, 3),
        lambda b: [layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=b, name="linear")],
        -1,
    ),
    "separable1d": ((9, 3), lambda b: [layers.SeparableConv1D(4, 3, use_bias=b, name="linear")], -1),
    "separable2d": (
        (7, 6, 3),
        lambda b: [layers.SeparableConv2D(4, 3, depth_multiplier=2, use_bias=b, name="linear")],
        -1,
    ),
    "einsum": (
        (3, 5),
        lambda b: [layers.EinsumDense("abc,cd->abd", (3, 4), bias_axes="d" if b else None, name="linear")],
        -1,
    ),
    "einsum_other_axis": (
        (5, 3),
        lambda b: [layers.EinsumDense("abc,bd->adc", (4, 3), bias_axes="d" if b else None, name="linear")],
        1,
    ),
    "einsum_order": (
        (3, 5),
        lambda b: [layers.EinsumDense("abc,dcb->ad", 4, bias_axes="d" if b else None, name="linear")],
        -1,
    ),
    "einsum_sum_outside_the_kernel": (
        (3, 5),
        lambda b: [layers.EinsumDense("abc,cd->ad", 4, bias_axes="d" if b else None, name="linear")],
        -1,
    ),
    "einsum_dots": (
        (3, 2, 5),
        lambda b: [layers.EinsumDense("...c,cd->...d", 4, bias_axes="d" if b else None, name="linear")],
        -1,
    ),
    "einsum_dots_behind": (
        (5, 3),
        lambda b: [layers.EinsumDense("ab...,bc->ac...", 4, bias_axes="c" if b else None, name="linear")],
        1,
    ),
    "einsum_two_axes": (
        (3, 5),
        lambda b: [layers.EinsumDense("abc,cde->abde", (3, 2, 4), bias_axes="de" if b else None, name="linear")],
        -1,
    ),
    "steps_of_dense": (
        (3, 5),
        lambda b: [layers.TimeDistributed(layers.Dense(4, use_bias=b), name="linear")],
        -1,
    ),
    "steps_of_conv": (
        (2, 6, 6, 3),
        lambda b: [layers.TimeDistributed(layers.Conv2D(4, 3, use_bias=b), name="linear")],
        -1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("kind", EXACT)
def test_every_linear_layer_takes_up_batch_normalization_before_it(kind, bias):
    shape, make, axis = EXACT[kind]
    with double():
        model = network(shape, *make(bias), axis=axis)
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]
    folded = fold_batch_norm(model)
    assert list(layer_paths(folded))[1:] == ["linear"]
    assert apart(model, folded, pixels(*shape)) < 1e-12


PADDED = {
    "same": ((7, 6, 3), lambda: [layers.Conv2D(4, 3, padding="same", name="linear")]),
    "same_strides": ((7, 6, 3), lambda: [layers.Conv2D(4, 3, 2, padding="same", name="linear")]),
    "same_dilated": (
        (7, 6, 3),
        lambda: [layers.Conv2D(4, 3, padding="same", dilation_rate=2, name="linear")],
    ),
    "same_groups": ((7, 6, 4), lambda: [layers.Conv2D(4, 3, padding="same", groups=2, name="linear")]),
    "same_sizes_unknown": ((None, None, 3), lambda: [layers.Conv2D(4, 3, 2, padding="same", name="linear")]),
    "causal": ((9, 3), lambda: [layers.Conv1D(4, 3, padding="causal", name="linear")]),
    "depthwise": ((7, 6, 3), lambda: [layers.DepthwiseConv2D(3, padding="same", name="linear")]),
    "separable": ((7, 6, 3), lambda: [layers.SeparableConv2D(4, 3, padding="same", name="linear")]),
    "transposed": ((4, 4, 3), lambda: [layers.Conv2DTranspose(4, 3, 2, name="linear")]),
    "transposed1d": ((5, 3), lambda: [layers.Conv1DTranspose(4, 3, padding="same", name="linear")]),
    "transposed3d": ((3, 3, 3, 2), lambda: [layers.Conv3DTranspose(4, 2, name="linear")]),
    "zero_padding": ((6, 6, 3), lambda: [layers.ZeroPadding2D(1), layers.Conv2D(4, 3, name="linear")]),
    "zero_padding1d": ((6, 3), lambda: [layers.ZeroPadding1D(2), layers.Conv1D(4, 3, name="linear")]),
    "steps": (
        (2, 6, 6, 3),
        lambda: [layers.TimeDistributed(layers.Conv2D(4, 3, padding="same"), name="linear")],
    ),
}


@pytest.mark.parametrize("kind", PADDED)
def test_before_zero_padding_the_shift_stays(kind):
    shape, make = PADDED[kind]
    with double():
        model = network(shape, *make())
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",), shift=True)]
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    assert type(folded.get_layer("bn_shift")) is layers.Rescaling
    assert folded.count_params() == model.count_params() - model.get_layer("bn").count_params()
    assert apart(model, folded, pixels(*(size or 7 for size in shape))) < 1e-12


@pytest.mark.parametrize("kind", PADDED)
def test_zero_padding_does_not_matter_without_a_shift(kind):
    shape, make = PADDED[kind]
    with double():
        model = network(shape, *make())
    bn = model.get_layer("bn")
    bn.moving_mean.assign(np.zeros(shape[-1]))
    bn.beta.assign(np.zeros(shape[-1]))
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]
    assert apart(model, fold_batch_norm(model), pixels(*(size or 7 for size in shape))) < 1e-12


def test_a_network_with_shifts_is_loaded_by_keras_alone(tmp_path):
    model = network((7, 6, 3), layers.Conv2D(4, 3, padding="same", name="linear"))
    folded = fold_batch_norm(model)
    assert all(type(layer).__module__.startswith("keras.") for layer in folded.layers)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    assert apart(model, loaded, pixels(7, 6, 3)) < 1e-6


def test_a_scale_that_varies_along_two_axes():
    """Three channels over rows of four: every position has its own scale."""
    with double():
        model = network((4, 3), layers.Reshape((3, 4)), layers.EinsumDense("abc,dcb->ad", 5, name="linear"))
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]
    assert apart(model, fold_batch_norm(model), pixels(4, 3)) < 1e-12


def test_a_shift_over_channels_first():
    i = keras.Input((3, 4, 5))
    x = layers.BatchNormalization(axis=1, name="bn")(layers.ReLU()(i))
    x = layers.MaxPooling2D(2, data_format="channels_first")(x)
    x = layers.Conv2D(6, 1, data_format="channels_first", name="conv")(x)
    pooled = scattered(keras.Model(i, x))
    pooled.get_layer("bn").gamma.assign([0.5, 2, 1])
    j = keras.Input((3, 5))
    y = layers.BatchNormalization(axis=1, name="bn")(layers.ReLU()(j))
    y = layers.ZeroPadding1D(1, data_format="channels_first")(y)
    y = layers.Conv1D(4, 1, data_format="channels_first", name="conv")(y)
    padded = scattered(keras.Model(j, y))
    assert list(find_folds(pooled)) == [Fold("bn", "forward", ("conv",))]
    assert apart(pooled, fold_batch_norm(pooled), pixels(3, 4, 5)) < 1e-6
    assert list(find_folds(padded)) == [Fold("bn", "forward", ("conv",), shift=True)]
    assert apart(padded, fold_batch_norm(padded), pixels(3, 5)) < 1e-6


WAYS = {
    "dropout": ((5,), lambda: [layers.Dropout(0.5), layers.GaussianNoise(1.0)]),
    "spatial_dropout": ((5, 5, 3), lambda: [layers.SpatialDropout2D(0.5)]),
    "nothing": ((5,), lambda: [layers.Identity(), layers.Activation("linear")]),
    "average": ((6, 6, 3), lambda: [layers.AveragePooling2D(2)]),
    "average_same": ((5, 5, 3), lambda: [layers.AveragePooling2D(2, padding="same")]),
    "average1d": ((6, 3), lambda: [layers.AveragePooling1D(3, 1, padding="same")]),
    "global_average": ((6, 6, 3), lambda: [layers.GlobalAveragePooling2D()]),
    "global_average_kept": ((6, 6, 3), lambda: [layers.GlobalAveragePooling2D(keepdims=True)]),
    "global_average1d": ((6, 3), lambda: [layers.GlobalAveragePooling1D()]),
    "flatten": ((4, 3, 2), lambda: [layers.Flatten()]),
    "flatten_first": ((4, 3, 2), lambda: [layers.Flatten(data_format="channels_first")]),
    "permute": ((4, 3, 2), lambda: [layers.Permute((3, 1, 2)), layers.Flatten()]),
    "reshape": ((4, 3, 2), lambda: [layers.Reshape((12, 2))]),
    "reshape_back": ((4, 3, 2), lambda: [layers.Flatten(), layers.Reshape((-1, 3, 2))]),
    "larger1d": ((4, 3), lambda: [layers.UpSampling1D(2)]),
    "larger": ((4, 3, 2), lambda: [layers.UpSampling2D((2, 3))]),
    "larger3d": ((2, 3, 4, 2), lambda: [layers.UpSampling3D(2)]),
    "cropped1d": ((6, 3), lambda: [layers.Cropping1D((1, 2))]),
    "cropped": ((6, 5, 3), lambda: [layers.Cropping2D(((1, 0), (2, 1)))]),
    "cropped3d": ((4, 4, 4, 2), lambda: [layers.Cropping3D(1)]),
    "flatten_pooled": ((4, 4, 2), lambda: [layers.AveragePooling2D(2), layers.Dropout(0.1), layers.Flatten()]),
}  # fmt: skip


@pytest.mark.parametrize("kind", WAYS)
def test_through_layers_that_let_scale_and_shift_pass(kind):
    shape, make = WAYS[kind]
    with double():
        model = network(shape, *make(), layers.Dense(3, name="linear"))
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]
    folded = fold_batch_norm(model)
    assert len(list(layer_paths(folded))) == len(list(layer_paths(model))) - 1
    assert apart(model, folded, pixels(*shape)) < 1e-12


@pytest.mark.parametrize("kind", [layers.UpSampling2D, layers.Cropping2D])
def test_sizes_that_change_over_channels_first(kind):
    """As many channels as rows, so that a mistaken axis would not be noticed by its size."""
    with double():
        change = (
            kind(1, data_format="channels_first") if kind is layers.Cropping2D else kind(2, "channels_first")
        )
        model = network((4, 4, 4), change, layers.Permute((2, 3, 1)), layers.Dense(3, name="linear"), axis=1)
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]
    assert apart(model, fold_batch_norm(model), pixels(4, 4, 4)) < 1e-12


@pytest.mark.parametrize("ratio", [1e2, 1e4])
@pytest.mark.parametrize("linear", [lambda: layers.Dense(4), lambda: layers.Conv2D(4, 1)])
def test_a_mean_far_from_zero_is_subtracted_before(ratio, linear):
    """Against float64: folded in one piece, up to 4e-3 of the output's deviation is lost at a ratio of 1e4."""
    keras.utils.set_random_seed(2)
    i = keras.Input((5, 5, 16))
    bn = layers.BatchNormalization(name="bn")
    model = keras.Model(i, linear()(bn(layers.Identity()(i))))
    bn.moving_mean.assign(np.full(16, ratio))
    bn.gamma.assign(np.linspace(0.5, 1.5, 16))
    bn.beta.assign(np.linspace(-1, 1, 16))
    folds = find_folds(model)
    assert [fold.shift for fold in folds] == [True]
    folded = fold_batch_norm(model, folds)
    x = (ratio + np.random.default_rng(0).normal(0, 1, (8, 5, 5, 16))).astype("float32")
    kernel, bias = (each.numpy().astype("float64") for each in model.layers[-1].weights)
    gamma, beta, mean, variance = (each.numpy().astype("float64") for each in bn.weights)
    wanted = ((x - mean) * gamma / np.sqrt(variance + bn.epsilon) + beta) @ kernel.reshape(16, 4) + bias
    lost = np.abs(folded(x).numpy() - wanted).max() / wanted.std()
    assert lost < 2e-6
    assert folded.count_params() == model.count_params() - bn.count_params()


def test_no_shift_stays_where_no_digits_are_lost():
    """A mean of a few deviations; a large mean that beta gives back; a large mean in float64."""
    with double():
        exact = network((5,), layers.Dense(3, name="linear"))
    single = network((5,), layers.Dense(3, name="linear"))
    for model, mean, beta in ((exact, 1e4, 0), (single, 8, 0), (single, 0, 1e3)):
        bn = model.get_layer("bn")
        bn.set_weights([np.ones(5), np.full(5, beta), np.full(5, mean), np.full(5, 0.9)])
        assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]
    bn.set_weights([np.ones(5), np.full(5, 1e4), np.full(5, 1e4), np.full(5, 0.9)])
    assert list(find_folds(single)) == [Fold("bn", "forward", ("linear",))]


def test_digits_are_lost_where_a_dead_scale_forbids_a_shift_before_it():
    model = network((2,), layers.Dense(3, name="linear"))
    model.get_layer("bn").set_weights([np.array([1, 0]), np.ones(2), np.array([1e4, 1]), np.ones(2)])
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]


def test_through_average_pooling_in_three_dimensions():
    model = network((4, 4, 4, 2), layers.AveragePooling3D(2), layers.Dense(3, name="linear"))
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]
    assert apart(model, fold_batch_norm(model), pixels(4, 4, 4, 2)) < 1e-6


@pytest.mark.parametrize(
    "pooling",
    [
        lambda: layers.MaxPooling2D(2),
        lambda: layers.MaxPooling2D(2, padding="same"),
        lambda: layers.GlobalMaxPooling2D(),
    ],
)
def test_max_pooling_lets_positive_scales_pass(pooling):
    with double():
        model = network((5, 5, 3), pooling(), layers.Dense(3, name="linear"))
    gamma = model.get_layer("bn").gamma
    gamma.assign([0.5, 2, 1e-3])
    assert list(find_folds(model)) == [Fold("bn", "forward", ("linear",))]
    assert apart(model, fold_batch_norm(model), pixels(5, 5, 3)) < 1e-12
    for least in (0.0, -0.1):
        gamma.assign([0.5, 2, least])
        folds = find_folds(model)
        assert len(folds) == 0
        assert "1 of 3 scales are not positive" in folds.staying["bn"]


def test_several_layers_behind_share_one_batch_normalization():
    with double():
        i = keras.Input((6, 6, 3))
        x = layers.BatchNormalization(name="bn")(layers.Activation("tanh")(i))
        a = layers.Conv2D(2, 3, padding="same", name="a")(x)
        b = layers.Conv2D(2, 3, name="b")(layers.ZeroPadding2D(1)(x))
        c = layers.Dense(2, name="c")(x)
        model = scattered(keras.Model(i, layers.Add()([a, b, c])))
    assert list(find_folds(model)) == [Fold("bn", "forward", ("a", "c", "b"), shift=True)]
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    assert apart(model, folded, pixels(6, 6, 3)) < 1e-12


def test_a_shared_layer_behind_takes_up_what_all_its_calls_get():
    with double():
        shared = layers.Dense(2, name="shared")
        i = keras.Input((3,))
        x = layers.BatchNormalization(name="bn")(layers.Activation("tanh")(i))
        model = scattered(keras.Model(i, layers.Add()([shared(x), shared(layers.Dropout(0.5)(x))])))
    assert list(find_folds(model)) == [Fold("bn", "forward", ("shared",))]
    assert apart(model, fold_batch_norm(model), pixels(3)) < 1e-12


def test_both_directions_meet_in_one_layer():
    with double():
        i = keras.Input((6, 6, 2), dtype="float64")
        x = layers.BatchNormalization(name="input_bn")(i)
        x = layers.Conv2D(3, 3, use_bias=False, padding="same", name="conv")(x)
        x = layers.BatchNormalization(name="conv_bn")(x)
        x = layers.BatchNormalization(name="after")(layers.ReLU()(x))
        model = scattered(keras.Model(i, layers.Dense(2, name="out")(layers.AveragePooling2D(2)(x))))
    folds = find_folds(model)
    assert list(folds) == [
        Fold("conv_bn", "backward", ("conv",)),
        Fold("after", "forward", ("out",)),
        Fold("input_bn", "forward", ("conv",), shift=True),
    ]
    assert apart(model, fold_batch_norm(model), pixels(6, 6, 2)) < 1e-12
    for part in (folds[:1], folds[1:], folds[2:], list(folds)[::-1]):
        some = fold_batch_norm(model, part)
        assert len(batch_norms(some)) == 3 - len(part)
        assert apart(model, some, pixels(6, 6, 2)) < 1e-12


def test_batch_normalization_behind_a_pooling_goes_first():
    with double():
        model = network(
            (6, 6, 3), layers.AveragePooling2D(2), layers.BatchNormalization(name="second"), layers.Dense(2)
        )
    assert [fold.batch_norm for fold in find_folds(model)] == ["second", "bn"]
    assert apart(model, fold_batch_norm(model), pixels(6, 6, 3)) < 1e-12


def test_a_dead_scale_before_zero_padding():
    """x * 0 + 0 can go; x * 0 + t cannot be added before scaling."""
    with double():
        model = network((5, 5, 2), layers.Conv2D(2, 3, padding="same", name="conv"))
    bn = model.get_layer("bn")
    bn.gamma.assign([0, 1])
    bn.beta.assign([0, 3])
    assert list(find_folds(model)) == [Fold("bn", "forward", ("conv",), shift=True)]
    assert apart(model, fold_batch_norm(model), pixels(5, 5, 2)) < 1e-12
    bn.beta.assign([1, 3])
    assert (
        "pads with zeros, which are not shifted, and 1 of 2 scales are zero"
        in find_folds(model).staying["bn"]
    )


def test_shifts_in_half_precision_are_added_in_single():
    i = keras.Input((6, 6, 3), dtype="float16")
    x = layers.BatchNormalization(dtype="mixed_float16", name="bn")(i)
    x = layers.Conv2D(4, 3, padding="same", dtype="mixed_float16", name="conv")(x)
    model = scattered(keras.Model(i, layers.ReLU(dtype="float32")(x)))
    model.get_layer("bn").moving_mean.assign([30, -20, 25])
    folded = fold_batch_norm(model)
    assert folded.get_layer("bn_shift").compute_dtype == "float32"
    assert apart(model, folded, pixels(6, 6, 3).astype("float16") + np.float16(30)) < 0.003
