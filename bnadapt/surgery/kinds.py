"""What a layer is to the surgery: a target, a normalization, an activation, a layer with weights."""

from typing import Any

import keras

layers = keras.layers

TARGETS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.Dense,
    layers.EinsumDense,
)
NORMALIZATIONS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
)
ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU, layers.Softmax)
ACTIVATION_OPERATIONS = {
    "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Sigmoid", "HardSigmoid", "HardSilu", "Tanh",
    "Softplus", "Softsign", "Mish", "Celu", "Softmax",
}  # fmt: skip


def target_of(layer: Any) -> keras.Layer | None:
    """The layer that computes the linear map: the layer itself, or the one a TimeDistributed holds."""
    inner = layer.layer if isinstance(layer, layers.TimeDistributed) else layer
    return inner if isinstance(inner, TARGETS) else None


def type_name(layer: Any) -> str:
    """The layer's class, with the class of what a TimeDistributed holds."""
    if isinstance(layer, layers.TimeDistributed):
        return f"TimeDistributed({type(layer.layer).__name__})"
    return type(layer).__name__


def is_normalization(operation: Any) -> bool:
    """Whether a layer normalizes its input by statistics of it; classes of others count by their name.

    A TimeDistributed counts as what it holds.
    """
    if isinstance(operation, layers.TimeDistributed):
        return is_normalization(operation.layer)
    name = type(operation).__name__
    if isinstance(operation, layers.Normalization | layers.SpectralNormalization):
        return False
    return isinstance(operation, NORMALIZATIONS) or (
        isinstance(operation, keras.Layer) and name.endswith(("Normalization", "Norm"))
    )


def is_activation(operation: Any) -> bool:
    """Whether a layer or raw operation is an elementwise non-linearity (or a softmax)."""
    if isinstance(operation, keras.Layer):
        return isinstance(operation, ACTIVATIONS)
    return type(operation).__name__ in ACTIVATION_OPERATIONS


def is_weighted(operation: Any) -> bool:
    """Whether a layer mixes its input by a kernel.

    Normalizations, activations with weights, input scaling, and layers that scale by a vector do not count.
    """
    return (
        isinstance(operation, keras.Layer)
        and any(len(weight.shape) >= 2 for weight in operation.weights)
        and not isinstance(operation, layers.Normalization)
        and not is_normalization(operation)
        and not is_activation(operation)
    )


def is_keras_own(layer: Any) -> bool:
    """Whether the class is one of Keras, not a subclass from elsewhere."""
    return type(layer).__module__.startswith("keras.")


def fused_activation(layer: keras.Layer) -> Any:
    """The non-linear activation inside a target layer, or None."""
    activation = getattr(target_of(layer), "activation", None)
    return None if activation in (None, keras.activations.linear) else activation
