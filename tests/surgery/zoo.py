"""Small networks of every shape that the surgery must cope with, with what is expected of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops


@dataclass(frozen=True)
class Specimen:
    """A network, its input, and the layers that get batch normalization, one entry per call."""

    model: keras.Model
    inputs: Any
    before: tuple[str, ...]
    after: tuple[str, ...]


ZOO: dict[str, Callable[[], Specimen]] = {}
SHARED = ("shared_layer", "shared_across_models", "nested_twice")  # of these, layers are called several times


def specimen(build: Callable[[], tuple]) -> Callable[[], Specimen]:
    """Register a builder that returns (model, inputs, layers of sites[, of after_activation if others])."""

    def grow() -> Specimen:
        keras.utils.set_random_seed(7)
        model, inputs, *sites = build()
        scatter(model)
        return Specimen(model, inputs, tuple(sites[0]), tuple(sites[-1]))

    ZOO[build.__name__] = grow
    return grow


def scatter(model: keras.Model) -> None:
    """Give every floating-point weight values of its own: zeros would hide mistakes."""
    random = np.random.default_rng(3)
    for weight in model.weights:
        # Normalization caches what it has adapted to
        if keras.backend.is_float_dtype(weight.dtype) and "scaling" not in weight.path:
            values = random.normal(0, 0.5, weight.shape)
            spread = "variance" in weight.name or "stddev" in weight.name
            weight.assign(np.abs(values) + 0.5 if spread else values)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 1, (6, *shape)).astype("float32")


@specimen
def sequential():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2), name="picture"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(5, activation="tanh", name="hidden"),
            layers.Dense(3, activation="softmax", name="out"),
        ],
        name="stack",
    )
    return model, pixels(8, 8, 2), ["conv", "hidden"]


@specimen
def residual():
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(i)
    x = layers.ReLU(name="stem_relu")(x)
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(x)
    y = layers.Conv2D(4, 3, padding="same", name="b")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(i, layers.Dense(3, name="out")(x)), pixels(8, 8, 3), ["stem", "a", "b"]


@specimen
def nested_twice():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6, activation="relu", name="d"), layers.Dropout(0.2)], name="inner"
    )
    j = keras.Input((6,))
    middle = keras.Model(j, layers.Dense(6, activation="elu", name="m")(inner(j)) + j, name="middle")
    i = keras.Input((6,))
    x = middle(middle(layers.Dense(6, name="first")(i)))
    return (
        keras.Model(i, layers.Dense(2, name="out")(x)),
        pixels(6),
        ["first", "middle/inner/d", "middle/m"],
    )


@specimen
def sequential_of_models():
    j = keras.Input((6, 6, 2))
    block = keras.Model(
        j, layers.Concatenate()([j, layers.Conv2D(2, 1, activation="relu", name="c")(j)]), name="block"
    )
    stack = keras.Sequential([keras.Input((6, 6, 2)), block, layers.Conv2D(3, 3, name="c")], name="deep")
    model = keras.Sequential([keras.Input((6, 6, 2)), stack, layers.Flatten(), layers.Dense(2, name="out")])
    return model, pixels(6, 6, 2), ["deep/block/c", "deep/c"]


@specimen
def shared_layer():
    shared = layers.Dense(5, activation="relu", name="shared")
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    x = layers.Concatenate()([shared(a), shared(shared(b))])
    model = keras.Model([a, b], layers.Dense(2, name="out")(x))
    return model, [pixels(5), pixels(5) * 2], ["shared"] * 3


@specimen
def shared_across_models():
    shared = layers.Dense(4, activation="relu", name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared, layers.Dense(4, name="d")], name="inner")
    i, sequence = keras.Input((4,), name="flat"), keras.Input((3, 4), name="steps")
    x = layers.Concatenate()([inner(shared(i)), layers.Flatten()(shared(sequence))])
    model = keras.Model([i, sequence], layers.Dense(2, name="out")(x))
    return model, [pixels(4), pixels(3, 4)], ["shared", "shared", "shared", "inner/d"]


@specimen
def shared_with_the_head():
    shared = layers.Dense(4, activation="relu", name="shared")
    i = keras.Input((4,))
    x = layers.Dense(4, activation="relu", name="free")(shared(i))
    return keras.Model(i, shared(x)), pixels(4), ["free"]


@specimen
def dictionaries():
    i = {"left": keras.Input((4,), name="left"), "right": keras.Input((4,), name="right")}
    x = layers.Dense(4, activation="relu", name="trunk")(i["left"])
    y = layers.Dense(4, name="side")(i["right"])
    z = x * y
    outputs = {"score": layers.Dense(1, name="score")(z), "aux": [layers.Dense(2, name="aux")(y)]}
    return keras.Model(i, outputs), {"left": pixels(4), "right": pixels(4) + 1}, ["trunk", "side"]


@specimen
def raw_operations():
    i = keras.Input((4, 6))
    x = layers.Dense(6, name="d")(i)
    x = ops.relu(x)
    x = 2.0 * x[:, 1:] + ops.expand_dims(ops.mean(i, axis=1), 1)
    left, right = ops.split(x, 2, axis=-1)
    x = ops.where(left > 0, right, ops.einsum("btc,btc->btc", left, right))
    x = layers.Dense(3, activation=ops.tanh, name="e")(ops.reshape(x, (-1, 9)))
    return keras.Model(i, layers.Dense(2, name="out")(x)), pixels(4, 6), ["d", "e"]


@specimen
def every_convolution():
    i = keras.Input((12, 12, 2))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")(i)
    x = layers.SeparableConv2D(4, 3, activation="relu", name="separable")(x)
    x = layers.Conv2DTranspose(3, 2, strides=2, activation="relu", name="transposed")(x)
    x = layers.Conv2D(4, 3, groups=1, dilation_rate=2, activation="relu", name="dilated")(x)
    flat = layers.Reshape((144, 4))(x)
    y = layers.Conv1D(3, 3, activation="relu", name="conv1d")(flat)
    y = layers.SeparableConv1D(3, 3, name="separable1d")(y)
    y = layers.DepthwiseConv1D(3, name="depthwise1d")(layers.Activation("relu")(y))
    y = layers.Conv1DTranspose(2, 2, name="transposed1d")(y)
    z = layers.Conv3D(2, 2, activation="relu", name="conv3d")(layers.Reshape((12, 12, 2, 2))(x))
    z = layers.Conv3DTranspose(2, 2, name="transposed3d")(z)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(y), layers.Flatten()(z)])
    names = [
        "depthwise", "separable", "transposed", "dilated", "conv3d", "conv1d", "separable1d", "transposed3d",
        "depthwise1d", "transposed1d",
    ]  # fmt: skip
    return keras.Model(i, layers.Dense(2, name="out")(x)), pixels(12, 12, 2), sorted(names)


@specimen
def einsum():
    i = keras.Input((3, 4))
    x = layers.EinsumDense("abc,cd->abd", (3, 5), activation="relu", bias_axes="d", name="plain")(i)
    x = layers.EinsumDense("abc,bd->adc", (3, 5), name="middle")(x)
    x = layers.EinsumDense("...c,cd->...d", 4, activation="relu", name="dots")(x)
    y = layers.EinsumDense("abc,cde->abde", (None, 2, 3), name="two_axes")(x)
    x = layers.Dense(2, name="out")(layers.GlobalAveragePooling2D()(y))
    return keras.Model(i, x), pixels(3, 4), ["plain", "middle", "dots"]


@specimen
def time_distributed():
    i = keras.Input((3, 8, 8, 2))
    x = layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu"), name="frames")(i)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.TimeDistributed(layers.Dense(5), name="steps")(x)
    x = layers.LSTM(4, name="lstm")(x)
    return keras.Model(i, layers.Dense(2, name="out")(x)), pixels(3, 8, 8, 2), ["frames", "steps"]


@specimen
def channels_first():
    i = keras.Input((2, 6, 6))
    x = layers.Conv2D(5, 1, data_format="channels_first", activation="relu", name="pointwise")(i)
    x = layers.Flatten(data_format="channels_first")(x)
    return keras.Model(i, layers.Dense(2, name="out")(x)), pixels(2, 6, 6), ["pointwise"]


@specimen
def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        i = keras.Input((8, 8, 2))
        x = layers.Conv2D(4, 3, activation="relu", name="conv")(i)
        j = keras.Input((6, 6, 4))  # of float32: the border of the inner model casts
        x = keras.Model(j, ops.sin(j) * 1.01, name="inner")(x)
        x = layers.Dense(5, activation="gelu", name="hidden")(layers.Flatten()(x))
        model = keras.Model(i, layers.Dense(3, dtype="float32", name="out")(x))
    finally:
        keras.config.set_dtype_policy("float32")
    return model, pixels(8, 8, 2), ["conv", "hidden"]


@specimen
def half_precision():
    i = keras.Input((5,), dtype="float16")
    x = layers.Dense(4, activation="relu", dtype="float16", name="hidden")(i)
    return (
        keras.Model(i, layers.Dense(2, dtype="float16", name="out")(x)),
        pixels(5).astype("float16"),
        ["hidden"],
    )


@specimen
def existing_batch_norm():
    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(i)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU()(x)
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="bare")(x)
    y = layers.Conv2D(4, 3, padding="same", name="joined")(y)
    x = layers.Add()([x, y])
    x = layers.ReLU()(layers.BatchNormalization(name="post")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(i, layers.Dense(3, name="out")(x)), pixels(8, 8, 3), ["bare"]


@specimen
def gates():
    i = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", activation="swish", name="conv")(i)
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(2, 1, activation="relu", name="squeeze")(s)
    s = layers.Conv2D(4, 1, activation="sigmoid", name="excite")(s)
    x = layers.Multiply()([x, s])
    d = layers.Dense(2, activation="relu", name="squeeze_dense")(layers.GlobalAveragePooling2D()(x))
    d = layers.Reshape((1, 1, 4))(layers.Dense(4, activation="hard_sigmoid", name="excite_dense")(d))
    y = layers.Conv2D(4, 1, name="swished")(x * d)
    y = y * ops.sigmoid(y)
    z = layers.Conv2D(4, 1, name="pooled")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    z = z * ops.sigmoid(z)
    x = layers.Dense(3, name="out")(layers.Flatten()(z))
    return keras.Model(i, x), pixels(8, 8, 4), ["conv", "swished", "pooled"]


@specimen
def regularized():
    i = keras.Input((6,))
    x = layers.Dense(
        5,
        activation="relu",
        activity_regularizer="l2",
        kernel_regularizer="l2",
        kernel_constraint="max_norm",
        name="d",
    )(i)
    return keras.Model(i, layers.Dense(2, name="out")(x)), pixels(6), ["d"]


@specimen
def stateful_input():
    scaling = layers.Normalization(name="scaling")
    scaling.adapt(pixels(6) * 3 + 2)
    i = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="d")(scaling(i))
    return keras.Model(i, layers.Dense(2, name="out")(x)), pixels(6), ["d"]


@specimen
def masks():
    i = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="embed")(i)
    x = layers.Dense(4, activation="relu", name="d")(x)
    x = layers.LSTM(3, name="lstm")(x)
    words = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 1], [2, 0, 0, 0, 0]], "int32")
    return keras.Model(i, layers.Dense(2, name="out")(x)), words, ["d"]


@specimen
def lambdas():
    i = keras.Input((6,))
    x = layers.Lambda(lambda t: t * 2 + 1, name="double")(i)
    x = layers.Dense(5, activation=lambda t: ops.maximum(t, 0.1 * t), name="leaky")(x)
    return keras.Model(i, layers.Dense(2, name="out")(x)), pixels(6), ["leaky"]


@specimen
def several_consumers():
    i = keras.Input((6,))
    x = layers.Dense(4, name="trunk")(i)
    y = layers.Dense(4, name="b")(layers.PReLU(name="prelu")(x))
    return keras.Model(i, layers.Dense(2, name="out")(layers.ReLU()(y) + x)), pixels(6), ["trunk", "b"]


@specimen
def prelu():
    i = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv")(i)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = layers.Conv2D(3, 3, activation="leaky_relu", name="leaky")(x)
    return (
        keras.Model(i, layers.Dense(2, name="out")(layers.Flatten()(x))),
        pixels(6, 6, 2),
        ["conv", "leaky"],
    )


@specimen
def renormalized():
    i = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(i)
    x = layers.ReLU()(layers.BatchNormalization(renorm=True, name="renorm")(x))
    x = layers.Conv2D(3, 3, activation="relu", name="bare")(x)
    return keras.Model(i, layers.Dense(2, name="out")(layers.Flatten()(x))), pixels(6, 6, 2), ["bare"]


@specimen
def frozen_spectral():
    i = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="d")(i)
    spectral = layers.SpectralNormalization(layers.Dense(4, name="held"), power_iterations=2, name="spectral")
    x = layers.Dense(5, activation="relu", name="e")(spectral(x))
    model = keras.Model(i, layers.Dense(2, name="out")(x))
    spectral.trainable = False
    return model, pixels(6), ["d", "e"]


@specimen
def tied_operation():
    i = keras.Input((5,), dtype="int32")
    embed = layers.Embedding(7, 4, name="embed")
    x = layers.Dense(4, activation="relu", name="d")(embed(i))
    words = np.array([[1, 2, 0, 3, 0], [3, 4, 5, 6, 1]], "int32")
    logits = layers.Dense(7, name="out")(x)
    tied = ops.einsum("btc,vc->btv", x, embed.embeddings)
    return keras.Model(i, [logits, tied]), words, []


@specimen
def optional_input():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", optional=True)
    x = Either(name="either")(layers.Dense(4, activation="relu", name="d")(a), b)
    return keras.Model([a, b], layers.Dense(2, name="out")(x)), [pixels(4), None], ["d"]


@specimen
def opaque():
    i = keras.Input((5, 4))
    x = layers.Dense(4, activation="relu", name="d")(i)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.Bidirectional(layers.GRU(3), name="both")(x)
    x = layers.SpectralNormalization(layers.Dense(3, name="held"), name="spectral")(x)
    return keras.Model(i, layers.Dense(2, name="out")(x)), pixels(5, 4), ["d"]


@keras.saving.register_keras_serializable("bnadapt_tests")
class Either(keras.layers.Layer):
    """Adds a second input where there is one."""

    def call(self, first, second=None):
        return first if second is None else first + second

    def compute_output_spec(self, first, second=None):
        return keras.KerasTensor(first.shape, first.dtype)


def outputs(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """The flat outputs in inference."""
    return [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(model(inputs, training=False))]


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    """Whether all values are equal, to the last bit but for the sign of zero."""
    return len(first) == len(second) and all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
        for a, b in zip(first, second, strict=True)
    )
