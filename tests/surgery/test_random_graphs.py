"""Random networks: insertion keeps the function, the weights and the original; calibration keeps the function."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops
from zoo import outputs, same, scatter

from bnadapt.normalization.policy import BATCH_NORM, fingerprint, train_only
from bnadapt.normalization.statistics import calibrate
from bnadapt.surgery.graph import calls
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.kinds import TARGETS, fused_activation
from bnadapt.surgery.sites import find_sites

KINDS = (
    "conv", "fused", "depthwise", "separable", "transposed", "relu", "prelu", "raw", "add", "concatenate",
    "batch_norm", "dropout", "pool", "shared", "nested", "nested_sequential", "again",
)  # fmt: skip
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(2, 4)), min_size=1, max_size=9
)


def grow(steps, ends, two_inputs):
    """A network over 6x6 maps: every step takes some tensor that is there and adds one."""
    keras.utils.set_random_seed(len(steps))
    inputs = [keras.Input((6, 6, 2), name=name) for name in ("a", "b")[: 1 + two_inputs]]
    tensors, models, shared = list(inputs), [], {}
    for number, (kind, which, channels) in enumerate(steps):
        x = tensors[which % len(tensors)]
        tensors.append(extend(kind, x, channels, f"s{number}", tensors, models, shared))
    results = [
        layers.Dense(2, name=f"out{number}")(layers.GlobalAveragePooling2D()(tensors[end % len(tensors)]))
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
    if kind == "dropout":
        return layers.Dropout(0.5, name=name)(x)
    if kind == "pool":
        return layers.MaxPooling2D(2, 1, padding="same", name=name)(x)
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


def check(steps, ends, two_inputs, position):
    model = grow(steps, ends, two_inputs)
    random = np.random.default_rng(0)
    data = [random.normal(0, 1, (8, 6, 6, 2)).astype("float32") for _ in model.inputs]
    data = data if two_inputs else data[0]
    expected, before = outputs(model, data), fingerprint(model)
    sites = find_sites(model, position)
    candidates = {call.path for call in calls(model) if isinstance(call.operation, TARGETS)}
    assert candidates == {site.layer for site in sites} | set(sites.passed_over)

    result = insert_batch_norm(model, sites)

    assert same(outputs(result, data), expected)
    assert fingerprint(model) == before
    names = {site.name for site in sites}
    carried = {path: value for path, value in fingerprint(result).items() if path.split("/")[-2] not in names}
    assert carried == before
    inserted = [call for call in calls(result) if call.operation.name in names]
    assert len(inserted) == len(sites)
    if position == "before_activation":
        sources = [call.node.input_tensors[0]._keras_history.operation for call in inserted]
        assert sorted(source.name for source in sources) == sorted(
            site.layer.split("/")[-1] for site in sites
        )
        assert not any(fused_activation(source) for source in sources)
    assert not {id(v) for v in result.variables} & {id(v) for v in model.variables}
    clone = keras.Model.from_config(result.get_config())
    clone.set_weights(result.get_weights())
    assert same(outputs(clone, data), expected)
    if sites:
        assert len(find_sites(result, position)) == 0
        chosen = [call.path for call in inserted]
        calibrate(result, [data], layers=chosen)
        for old, new in zip(expected, outputs(result, data), strict=True):
            assert np.abs(old - new).max() <= 1e-5 * max(float(old.std()), 1.0)
        assert {path.split("/")[-1] for path in train_only(result, BATCH_NORM)} == {"gamma", "beta"}


ARGUMENTS = (
    STEPS,
    st.lists(st.integers(0, 20), max_size=2),
    st.booleans(),
    st.sampled_from(["before_activation", "after_activation"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(*ARGUMENTS)
def test_random_networks(steps, ends, two_inputs, position):
    check(steps, ends, two_inputs, position)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(*ARGUMENTS)
def test_many_random_networks(steps, ends, two_inputs, position):
    check(steps, ends, two_inputs, position)
