"""Small networks with batch normalization."""

import keras
import numpy as np
from keras import layers

from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import find_sites


def plain_cnn() -> keras.Model:
    keras.utils.set_random_seed(11)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Conv2D(5, 3, activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dropout(0.4, name="drop"),
            layers.Dense(6, activation="tanh", name="hidden"),
            layers.Dense(3, name="out"),
        ]
    )


def cnn(position: str = "before_activation", **settings) -> keras.Model:
    model = plain_cnn()
    return insert_batch_norm(model, find_sites(model, position), **settings)


def residual() -> keras.Model:
    """A network that has batch normalization of its own, with statistics that are not those of the data."""
    keras.utils.set_random_seed(12)
    i = keras.Input((8, 8, 2))
    x = layers.ReLU()(
        layers.BatchNormalization(name="bn1")(layers.Conv2D(4, 3, padding="same", name="c1")(i))
    )
    y = layers.BatchNormalization(name="bn2")(layers.Conv2D(4, 3, padding="same", name="c2")(x))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x + y))
    model = keras.Model(i, layers.Dense(3, name="out")(x))
    scatter(model)
    return model


def scatter(model: keras.Model) -> None:
    """Give all batch normalization statistics, gamma and beta of its own."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.3, 2, weight.shape))
        if weight.name in ("beta", "moving_mean"):
            weight.assign(random.normal(0, 1, weight.shape))


def images(count: int = 40, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1.5, (count, 8, 8, 2)).astype("float32")


def infer(model: keras.Model, inputs) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(inputs, training=False)).astype("float64")


def inputs_of_batch_norms(model: keras.Model, inputs) -> dict[str, np.ndarray]:
    """What every batch normalization of a flat network receives in inference, in float64."""
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    probe = keras.Model(model.inputs, [layer.input for layer in norms])
    values = keras.tree.flatten(probe(inputs, training=False))
    return {
        layer.name: keras.ops.convert_to_numpy(value).astype("float64")
        for layer, value in zip(norms, values, strict=True)
    }


def moments_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = tuple(range(values.ndim - 1))
    return values.mean(axes), values.var(axes)


def two_norms() -> keras.Model:
    """Batch normalization, a linear layer, batch normalization: small enough to compute by hand."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.BatchNormalization(name="first"),
            layers.Dense(3, name="between", kernel_initializer=keras.initializers.RandomNormal(seed=3)),
            layers.BatchNormalization(name="second"),
        ]
    )
    scatter(model)
    return model


def table(count: int = 40, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal([1, -3, 0, 20], [1, 2, 0.5, 4], (count, 4)).astype("float32")


def two_inputs(structure: str = "list") -> keras.Model:
    """Two inputs whose order matters, called with a list, or with a dictionary whose keys are not sorted."""
    keras.utils.set_random_seed(13)
    first, second = keras.Input((4,), name="z_first"), keras.Input((4,), name="a_second")
    outputs = layers.Dense(3, name="out")(layers.BatchNormalization(name="bn")(first * 10 + second))
    inputs = {"z_first": first, "a_second": second} if structure == "dict" else [first, second]
    return keras.Model(inputs, outputs)


def hidden_norm(*, alone: bool = False) -> keras.Model:
    """Batch normalization inside a TimeDistributed, and one that the graph shows unless it is alone."""
    keras.utils.set_random_seed(14)
    inputs = keras.Input((5, 4))
    x = layers.TimeDistributed(layers.BatchNormalization(name="inner"), name="steps")(inputs)
    if not alone:
        x = layers.BatchNormalization(name="seen")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))


def masked() -> keras.Model:
    """Batch normalization that sees only the positions that are not zero."""
    inputs = keras.Input((5, 4))
    x = layers.BatchNormalization(name="bn")(layers.Masking()(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
