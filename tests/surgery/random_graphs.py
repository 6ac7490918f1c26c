"""Random networks for property tests, and the hypothesis strategies of what they are grown from."""

import contextlib

import keras
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from keras import layers, ops
from zoo import scatter

KINDS = (
    "conv", "fused", "depthwise", "separable", "transposed", "relu", "prelu", "raw", "add", "concatenate",
    "batch_norm", "batch_norm", "linear_batch_norm", "dropout", "pool", "average", "zero_padding", "grouped", "shared",
    "shared_batch_norm", "nested", "nested_sequential", "again",
)  # fmt: skip
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(2, 4)), min_size=1, max_size=9
)


@contextlib.contextmanager
def precision(dtype):
    before = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_floatx(before[1])


def grow(steps, ends, two_inputs, dtype="float32"):
    """A network over 6x6 maps: every step takes some tensor that is there and adds one."""
    with precision(dtype):
        return _grow(steps, ends, two_inputs)


def _grow(steps, ends, two_inputs):
    keras.utils.set_random_seed(len(steps))
    inputs = [keras.Input((6, 6, 2), name=name) for name in ("a", "b")[: 1 + two_inputs]]
    tensors, models, shared = list(inputs), [], {}
    for number, (kind, which, channels) in enumerate(steps):
        x = tensors[which % len(tensors)]
        tensors.append(extend(kind, x, channels, f"s{number}", tensors, models, shared))
    results = [
        layers.Dense(2, name=f"out{number}")(
            (layers.Flatten() if end % 3 == 0 else layers.GlobalAveragePooling2D())(
                tensors[end % len(tensors)]
            )
        )
        for number, end in enumerate([-1, *ends])
    ]
    model = keras.Model(inputs, results)
    scatter(model)
    return model


def extend(kind, x, channels, name, tensors, models, shared):
    width = x.shape[-1]
    same_width = [tensor for tensor in tensors if tensor.shape[-1] == width]
    if kind == "conv":
        return layers.Conv2D(channels, 3, padding="same", name=name)(x)
    if kind == "fused":
        return layers.Conv2D(channels, 1, activation="tanh", name=name)(x)
    if kind == "depthwise":
        return layers.DepthwiseConv2D(3, padding="same", activation="relu", name=name)(x)
    if kind == "separable":
        return layers.SeparableConv2D(channels, 3, padding="same", name=name)(x)
    if kind == "transposed":
        return layers.Conv2DTranspose(channels, 3, padding="same", activation="elu", name=name)(x)
    if kind == "relu":
        return layers.ReLU(name=name)(x)
    if kind == "prelu":
        return layers.PReLU(shared_axes=[1, 2], name=name)(x)
    if kind == "raw":
        return ops.tanh(x) * 0.5 + x[:, :, ::-1]
    if kind == "add":
        return layers.Add(name=name)([x, same_width[0], same_width[-1]])
    if kind == "concatenate":
        return layers.Concatenate(name=name)([x, tensors[-1]])
    if kind == "batch_norm":
        return layers.BatchNormalization(name=name)(x)
    if kind == "linear_batch_norm":
        return layers.BatchNormalization(name=f"{name}_bn")(
            layers.Dense(channels, use_bias=False, name=name)(x)
        )
    if kind == "shared_batch_norm":
        one = layers.BatchNormalization(name=f"{name}_bn", center=False)
        layer = layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)
        return ops.tanh(one(layer(ops.tanh(one(layer(x))))))
    if kind == "dropout":
        return layers.Dropout(0.5, name=name)(x)
    if kind == "pool":
        return layers.MaxPooling2D(2, 1, padding="same", name=name)(x)
    if kind == "average":
        return layers.AveragePooling2D(2, 1, padding="same", name=name)(x)
    if kind == "zero_padding":
        return layers.Conv2D(channels, 3, name=name)(layers.ZeroPadding2D(1, name=f"{name}_zeros")(x))
    if kind == "grouped":
        return layers.Conv2D(2 * width, 3, padding="same", groups=width, name=name)(x)
    if kind == "shared":
        layer = shared.setdefault(width, layers.Dense(width, activation="relu", name=f"shared{width}"))
        return layer(layer(x))
    if kind == "again" and models:
        fitting = [model for model in models if model.input_shape[-1] == width]
        return fitting[-1](x) if fitting else x + 1.0
    if kind == "nested":
        j = keras.Input((6, 6, width))
        inside = layers.Conv2D(width, 3, padding="same", activation="relu", name="inside")(j)
        models.append(keras.Model(j, inside + j, name=name))
        return models[-1](x)
    models.append(
        keras.Sequential(
            [
                keras.Input((6, 6, width)),
                layers.Dense(width, name="dense", activation="sigmoid"),
                layers.Dense(width, name="linear"),
                layers.ReLU(),
            ],
            name=name,
        )
    )
    return models[-1](x)


NETWORKS = (
    STEPS,
    st.lists(st.integers(0, 20), max_size=2),
    st.booleans(),
)


POSITIONS = st.sampled_from(["before_activation", "after_activation"])


def few(examples):
    """The same examples at every run: for the default suite."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )


def many(examples):
    """Others at every run."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
