"""Batch normalization into the layer before it."""

import keras
import numpy as np
import pytest
from keras import layers
from networks_to_fold import apart, batch_norms, double, kept, scattered
from zoo import outputs, pixels, same

from bnadapt.surgery.fold import Fold, find_folds, fold_batch_norm
from bnadapt.surgery.graph import layer_paths
from bnadapt.surgery.rebuild import rebuild

LINEAR = {
    "conv1d": ((9, 3), lambda b: layers.Conv1D(4, 3, use_bias=b, name="linear"), -1),
    "conv1d_causal": ((9, 3), lambda b: layers.Conv1D(4, 3, padding="causal", use_bias=b, name="linear"), -1),
    "conv2d": ((7, 6, 3), lambda b: layers.Conv2D(4, 3, padding="same", use_bias=b, name="linear"), -1),
    "conv2d_strides": ((7, 6, 3), lambda b: layers.Conv2D(4, 2, 2, use_bias=b, name="linear"), -1),
    "conv2d_dilated": ((7, 6, 3), lambda b: layers.Conv2D(4, 2, dilation_rate=2, use_bias=b, name="linear"), -1),
    "conv2d_groups": ((7, 6, 4), lambda b: layers.Conv2D(6, 3, groups=2, use_bias=b, name="linear"), -1),
    "conv3d": ((4, 4, 4, 2), lambda b: layers.Conv3D(3, 2, use_bias=b, name="linear"), -1),
    "conv1d_transpose": ((5, 3), lambda b: layers.Conv1DTranspose(4, 3, 2, use_bias=b, name="linear"), -1),
    "conv2d_transpose": ((4, 4, 3), lambda b: layers.Conv2DTranspose(2, 3, use_bias=b, name="linear"), -1),
    "conv3d_transpose": ((3, 3, 3, 3), lambda b: layers.Conv3DTranspose(2, 2, use_bias=b, name="linear"), -1),
    "depthwise1d": ((9, 3), lambda b: layers.DepthwiseConv1D(3, use_bias=b, name="linear"), -1),
    "depthwise2d": (
        (7, 6, 3),
        lambda b: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=b, name="linear"),
        -1,
    ),
    "separable1d": ((9, 3), lambda b: layers.SeparableConv1D(4, 3, use_bias=b, name="linear"), -1),
    "separable2d": (
        (7, 6, 3),
        lambda b: layers.SeparableConv2D(4, 3, depth_multiplier=2, use_bias=b, name="linear"),
        -1,
    ),
    "dense": ((5,), lambda b: layers.Dense(4, use_bias=b, name="linear"), -1),
    "dense_rank4": ((3, 2, 5), lambda b: layers.Dense(4, use_bias=b, name="linear"), 3),
    "einsum": (
        (3, 5),
        lambda b: layers.EinsumDense("abc,cd->abd", (3, 4), bias_axes="d" if b else None, name="linear"),
        -1,
    ),
    "einsum_middle": (
        (3, 5),
        lambda b: layers.EinsumDense("abc,bd->adc", (4, 5), bias_axes="d" if b else None, name="linear"),
        1,
    ),
    "einsum_order": (
        (3, 5),
        lambda b: layers.EinsumDense("abc,dbc->abd", (3, 4), bias_axes="bd" if b else None, name="linear"),
        1,
    ),
    "einsum_dots": (
        (3, 2, 5),
        lambda b: layers.EinsumDense("...c,cd->...d", 4, bias_axes="d" if b else None, name="linear"),
        -1,
    ),
    "einsum_dots_behind": (
        (5, 3),
        lambda b: layers.EinsumDense("ab...,bc->ac...", 4, bias_axes="c" if b else None, name="linear"),
        1,
    ),
    "steps_of_conv": (
        (2, 6, 6, 3),
        lambda b: layers.TimeDistributed(layers.Conv2D(4, 3, use_bias=b), name="linear"),
        -1,
    ),
    "steps_of_dense": ((3, 5), lambda b: layers.TimeDistributed(layers.Dense(4, use_bias=b), name="linear"), -1),
}  # fmt: skip


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("kind", LINEAR)
def test_every_linear_layer_takes_up_batch_normalization_behind_it(kind, bias):
    shape, make, axis = LINEAR[kind]
    with double():
        i = keras.Input(shape)
        x = layers.BatchNormalization(axis, epsilon=0.1, name="bn")(make(bias)(i))
        model = scattered(keras.Model(i, layers.ReLU()(x)))
    assert list(find_folds(model)) == [Fold("bn", "backward", ("linear",))]
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    assert type(folded.get_layer("linear")) is type(model.get_layer("linear"))
    assert apart(model, folded, pixels(*shape)) < 1e-12


def test_the_arithmetic_is_that_of_numpy():
    i = keras.Input((5, 5, 2))
    x = layers.BatchNormalization(epsilon=0.02, name="bn")(
        layers.Conv2D(3, 2, use_bias=False, name="conv")(i)
    )
    model = scattered(keras.Model(i, x))
    gamma, beta, mean, variance = (np.array(w, "float64") for w in model.get_layer("bn").weights)
    kernel = np.array(model.get_layer("conv").kernel, "float64")
    conv = fold_batch_norm(model).get_layer("conv")
    scale = gamma / np.sqrt(variance + 0.02)
    np.testing.assert_array_equal(conv.kernel, (kernel * scale).astype("float32"))
    np.testing.assert_array_equal(conv.bias, (beta - mean * scale).astype("float32"))


@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True), (False, False)])
def test_batch_normalization_without_gamma_or_beta(center, scale):
    with double():
        i = keras.Input((4,))
        x = layers.BatchNormalization(center=center, scale=scale, name="bn")(layers.Dense(3, name="d")(i))
        model = scattered(keras.Model(i, layers.ReLU()(x)))
    assert apart(model, fold_batch_norm(model), pixels(4)) < 1e-12


def test_a_shift_of_zero_makes_no_bias():
    i = keras.Input((4,))
    x = layers.BatchNormalization(center=False, name="bn")(layers.Dense(3, use_bias=False, name="d")(i))
    model = scattered(keras.Model(i, layers.ReLU()(x)))
    model.get_layer("bn").moving_mean.assign(np.zeros(3))
    folded = fold_batch_norm(model)
    assert [weight.name for weight in folded.get_layer("d").weights] == ["kernel"]
    assert apart(model, folded, pixels(4)) < 1e-6


@pytest.mark.parametrize(("center", "scale"), [(True, True), (False, False)])
def test_batch_normalization_behind_batch_normalization(center, scale):
    with double():
        i = keras.Input((6, 5, 2))
        x = layers.BatchNormalization(axis=2, name="first", center=center, scale=scale)(layers.ReLU()(i))
        x = layers.BatchNormalization(axis=-2, name="second")(x)
        model = scattered(keras.Model(i, layers.Activation("tanh")(x)))
    folds = find_folds(model)
    assert list(folds) == [Fold("second", "backward", ("first",))]
    assert list(folds.staying) == ["first"]
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == ["first"]
    assert folded.get_layer("first").epsilon == model.get_layer("first").epsilon
    assert apart(model, folded, pixels(6, 5, 2)) < 1e-12


def test_a_row_of_batch_normalization_goes_into_one_layer():
    with double():
        i = keras.Input((4,))
        x = layers.Dropout(0.3)(layers.Dense(3, use_bias=False, name="d")(i))
        for name in ("one", "two", "three"):
            x = layers.Activation("linear")(layers.BatchNormalization(name=name)(x))
        model = scattered(keras.Model(i, layers.ReLU()(x)))
    assert [(fold.batch_norm, fold.into) for fold in find_folds(model)] == [
        ("one", ("d",)),
        ("two", ("d",)),
        ("three", ("d",)),
    ]
    assert apart(model, fold_batch_norm(model), pixels(4)) < 1e-12


def test_one_batch_normalization_for_all_calls_of_a_shared_layer():
    with double():
        d, bn = layers.Dense(4, name="d"), layers.BatchNormalization(name="bn")
        i = keras.Input((4,))
        x = layers.ReLU()(bn(d(i)))
        model = scattered(keras.Model(i, layers.ReLU()(bn(d(x)))))
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    assert apart(model, folded, pixels(4)) < 1e-12


def test_inside_a_model_that_is_called_twice():
    with double():
        j = keras.Input((4,))
        x = layers.BatchNormalization(name="bn")(layers.Dense(4, name="d")(j))
        inner = keras.Model(j, x, name="inner")
        i = keras.Input((4,))
        model = scattered(keras.Model(i, layers.ReLU()(inner(layers.ReLU()(inner(i))))))
    assert list(find_folds(model)) == [Fold("inner/bn", "backward", ("inner/d",))]
    folded = fold_batch_norm(model)
    assert next(iter(layer_paths(folded))) == "inner/d"
    assert [layer.name for layer in folded.get_layer("inner").layers][1:] == ["d"]
    assert apart(model, folded, pixels(4)) < 1e-12


def test_inside_sequential_models():
    with double():
        inner = keras.Sequential(
            [keras.Input((4,)), layers.Dense(3, name="d"), layers.BatchNormalization(name="bn")], name="inner"
        )
        stack = [keras.Input((4,)), inner, layers.ReLU(name="relu"), layers.Dense(2, name="out")]
        model = scattered(keras.Sequential(stack, name="stack"))
    folded = fold_batch_norm(model)
    assert type(folded) is type(folded.get_layer("inner")) is keras.Sequential
    assert list(layer_paths(folded)) == ["inner/d", "relu", "out"]
    assert apart(model, folded, pixels(4)) < 1e-12


def test_masks_go_on():
    i = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(i)
    x = layers.BatchNormalization(name="bn")(layers.Dense(3, name="d")(x))
    model = scattered(keras.Model(i, layers.LSTM(3)(x)))
    words = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 1], [2, 0, 0, 0, 0]], "int32")
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    assert apart(model, folded, words) < 1e-6


def test_large_means_are_folded_in_double_precision():
    with double():
        i = keras.Input((8,))
        x = layers.BatchNormalization(name="bn")(layers.Dense(4, name="d")(i))
        exact = scattered(keras.Model(i, layers.Activation("tanh")(x)))
    i = keras.Input((8,))
    x = layers.BatchNormalization(name="bn")(layers.Dense(4, name="d")(i))
    model = keras.Model(i, layers.Activation("tanh")(x))
    data = pixels(8)
    exact.get_layer("d").bias.assign(np.full(4, 1e4))
    exact.get_layer("bn").moving_mean.assign(np.full(4, 1e4) + 0.125)
    model.set_weights(exact.get_weights())
    exact.set_weights(model.get_weights())
    folded = fold_batch_norm(model)
    assert apart(exact, folded, data) < 1e-5 < apart(exact, model, data)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision_is_folded_up_to_its_own_rounding(policy):
    i = keras.Input((6, 6, 3))
    variables = "mixed_float16" if policy == "float16" else policy
    x = layers.Conv2D(4, 3, dtype=policy, name="conv")(i)
    x = layers.BatchNormalization(dtype=variables, name="bn")(x)
    model = scattered(keras.Model(i, layers.ReLU(dtype=policy)(x)))
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    kernel = folded.get_layer("conv").kernel
    assert kernel.dtype == ("float16" if policy == "float16" else "float32")
    assert folded.output.dtype == model.output.dtype
    assert apart(model, folded, pixels(6, 6, 3)) < (0.02 if "bfloat16" in policy else 0.003)


def test_channels_first():
    i = keras.Input((3, 4, 5))
    x = layers.Conv2D(4, 1, data_format="channels_first", name="conv")(i)
    model = scattered(keras.Model(i, layers.ReLU()(layers.BatchNormalization(axis=1, name="bn")(x))))
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    assert apart(model, folded, pixels(3, 4, 5)) < 1e-6


@pytest.mark.parametrize(
    ("shape", "make", "axis"),
    [
        ((3, 5, 4), lambda: layers.Conv2D(4, 1, data_format="channels_first", name="linear"), 1),
        ((3, 5), lambda: layers.EinsumDense("abc,bd->adc", (5, 5), bias_axes="d", name="linear"), 1),
        ((4, 3, 2), lambda: layers.EinsumDense("abxc,xd->abdc", (4, 4, 2), bias_axes="d", name="linear"), 2),
    ],
    ids=["convolution", "einsum_last", "einsum_first"],
)
def test_a_bias_that_keras_adds_along_the_wrong_axis(shape, make, axis):
    """keras.ops.add on TensorFlow; a release in which this does not hold needs the refusal no longer."""
    i = keras.Input(shape)
    x = layers.BatchNormalization(axis=axis, name="bn")(make()(i))
    model = scattered(keras.Model(i, layers.ReLU()(x)))
    assert "two axes have the size" in find_folds(model).staying["bn"]
    linear, data = model.get_layer("linear"), pixels(*shape)
    with_bias = np.array(linear(data))
    bias = np.array(linear.bias).reshape([-1 if at == axis else 1 for at in range(len(shape) + 1)])
    linear.bias.assign(np.zeros(linear.bias.shape))
    assert np.abs(with_bias - (np.array(linear(data)) + bias)).max() > 0.01


def test_what_changes_no_bit_leaves_every_bit():
    """Channels that Keras' own arithmetic passes on unchanged keep their weights; the others are scaled."""
    i = keras.Input((4,))
    x = layers.BatchNormalization(epsilon=1e-3, name="bn")(layers.Dense(3, use_bias=False, name="d")(i))
    model = scattered(keras.Model(i, layers.ReLU()(x)))
    bn = model.get_layer("bn")
    bn.beta.assign([0, 0, 0])
    bn.moving_mean.assign([0, 0, 0])
    bn.moving_variance.assign(np.float32([1, 1, 3]) - np.float32(1e-3))
    bn.gamma.assign([1, 1, 1])
    before, after = (
        np.array(model.get_layer("d").kernel),
        np.array(fold_batch_norm(model).get_layer("d").kernel),
    )
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert np.all(after[:, 2] != before[:, 2])


def test_an_output_keeps_its_name(tmp_path):
    i = keras.Input((4,), name="i")
    x = layers.BatchNormalization(name="score")(layers.Dense(3, name="d")(i))
    y = layers.BatchNormalization(name="aux")(layers.Dense(2, name="e")(i))
    model = scattered(keras.Model(i, {"score": x, "aux": y}))
    folded = fold_batch_norm(model)
    assert folded.output_names == model.output_names
    assert type(folded.get_layer("score")) is layers.Activation
    assert folded.get_layer("score").activation is keras.activations.linear
    assert set(folded.output) == {"score", "aux"}
    assert apart(model, folded, pixels(4)) < 1e-6
    for again in (kept(folded), kept(folded, tmp_path), rebuild(folded), fold_batch_norm(folded)):
        assert again.output_names == model.output_names
        assert same(outputs(again, pixels(4)), outputs(folded, pixels(4)))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "float64"])
def test_a_network_that_ends_in_batch_normalization_can_be_stored(tmp_path, policy):
    end = layers.BatchNormalization(dtype=policy, name="end")
    model = scattered(keras.Sequential([keras.Input((6,)), layers.Dense(4, dtype=policy, name="d"), end]))
    folded = fold_batch_norm(model)
    assert batch_norms(folded) == []
    for again in (kept(folded), kept(folded, tmp_path), keras.models.clone_model(folded)):
        again.set_weights(folded.get_weights())
        assert again.get_layer("end").dtype_policy == end.dtype_policy
        assert same(outputs(again, pixels(6)), outputs(folded, pixels(6)))


def test_flags_and_settings_stay():
    i = keras.Input((4,))
    d = layers.Dense(3, use_bias=False, kernel_regularizer="l2", name="d")
    e = layers.TimeDistributed(layers.Dense(3), name="e")
    x = layers.ReLU()(layers.BatchNormalization(name="first")(d(i)))
    x = layers.BatchNormalization(name="second")(e(layers.Reshape((3, 1))(x)))
    model = scattered(keras.Model(i, layers.ReLU()(x)))
    d.trainable = False
    e.layer.kernel.trainable = False
    folded = fold_batch_norm(model)
    new_d, new_e = folded.get_layer("d"), folded.get_layer("e")
    assert not new_d.trainable
    assert new_d.kernel_regularizer is not None
    assert [w.trainable for w in new_e.weights] == [w.trainable for w in e.weights] == [False, True]


def test_activations_of_any_kind_are_carried():
    def leaky(x):
        return keras.ops.maximum(x, 0.1 * x)

    i = keras.Input((4,))
    x = layers.BatchNormalization(center=True, name="bn")(layers.ReLU(name="relu")(i))
    model = scattered(keras.Model(i, layers.Dense(3, activation=leaky, name="d")(x)))
    folded = fold_batch_norm(model)
    assert folded.get_layer("d").activation is leaky
    assert apart(model, folded, pixels(4)) < 1e-6


def test_nothing_to_fold_gives_a_copy():
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(3, name="d")(i))
    folds = find_folds(model)
    assert len(folds) == 0
    assert folds.staying == {}
    folded = fold_batch_norm(model)
    assert folded is not model
    assert same(outputs(folded, pixels(4)), outputs(model, pixels(4)))
