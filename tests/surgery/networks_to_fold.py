"""What the tests of folding share: double precision, scattered weights, and how far outputs are apart."""

import contextlib

import keras
import numpy as np
from zoo import outputs, scatter

from bnadapt.surgery.graph import calls


@contextlib.contextmanager
def double():
    """Build layers in float64, so that a wrong digit is a mistake and not rounding."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def scattered(model):
    """The same model with weights and statistics of their own."""
    scatter(model)
    return model


def batch_norms(model):
    """Names of the batch normalization layers in the graph."""
    return [
        c.operation.name for c in calls(model) if isinstance(c.operation, keras.layers.BatchNormalization)
    ]


def kept(model, tmp_path=None):
    """The model again: from its configuration and its weights, or from a file in the folder."""
    if tmp_path is not None:
        model.save(tmp_path / "model.keras")
        return keras.saving.load_model(tmp_path / "model.keras")
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def apart(first, second, inputs):
    """The largest difference of outputs, relative to the largest output."""
    largest = 0.0
    for a, b in zip(outputs(first, inputs), outputs(second, inputs), strict=True):
        a, b = a.astype("float64"), b.astype("float64")
        assert np.abs(a).max() > 0
        largest = max(largest, float(np.abs(a - b).max() / np.abs(a).max()))
    return largest
