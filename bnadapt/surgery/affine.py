"""A scale and a shift per channel, and what the layers that values pass through make of them."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from bnadapt.surgery.kinds import type_name

layers = keras.layers

IDENTITIES = (
    layers.Identity, layers.ActivityRegularization, layers.Dropout, layers.SpatialDropout1D,
    layers.SpatialDropout2D, layers.SpatialDropout3D, layers.AlphaDropout, layers.GaussianDropout,
    layers.GaussianNoise,
)  # fmt: skip
AVERAGES = (
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D, layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D,
)  # fmt: skip
MAXIMA = (
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
)  # fmt: skip
UPSAMPLINGS = (layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
CROPPINGS = (layers.Cropping1D, layers.Cropping2D, layers.Cropping3D)
PADDINGS = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
REARRANGEMENTS = (layers.Flatten, layers.Reshape, layers.Permute)


class CannotFoldError(Exception):
    """Why batch normalization cannot be folded: the reason that is shown to the user."""


@dataclass(frozen=True, eq=False)
class Affine:
    """x * scale + shift, in float64.

    Both arrays have the axes of one sample (no batch axis), with size 1 along those where they do not vary.
    """

    scale: np.ndarray
    shift: np.ndarray

    def along(self, axis: int, size: int, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift as vectors along one axis of the sample.

        Raises CannotFoldError, with ``where``, if they vary along another axis.
        """
        vectors = []
        for array in (self.scale, self.shift):
            axis_from_front = axis % array.ndim
            if any(length > 1 for at, length in enumerate(array.shape) if at != axis_from_front):
                raise CannotFoldError(f"it varies along another axis than the channels of {where}")
            vectors.append(np.broadcast_to(array.ravel(), (size,)))
        return vectors[0], vectors[1]

    def changes_nothing(self) -> bool:
        """Whether every scale is exactly 1 and every shift exactly 0."""
        return bool((self.scale == 1).all() and not self.shift.any())

    def equals(self, other: "Affine") -> bool:
        """Whether both are the same numbers."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.shift, other.shift)


def affine_of(layer: keras.layers.BatchNormalization, weights: dict[str, np.ndarray], rank: int) -> Affine:
    """What batch normalization does in inference, for inputs of a rank that counts the batch axis.

    Computed in float64, but where Keras' own arithmetic of lower precision gives a scale of exactly 1 and a
    shift of exactly 0, it is those: such channels pass through the layer unchanged, to the last bit.
    """
    kind = keras.backend.result_type(layer.compute_dtype, "float32")
    ones, zeros = np.ones_like(weights["moving_mean"]), np.zeros_like(weights["moving_mean"])
    gamma, beta = weights.get("gamma", ones), weights.get("beta", zeros)
    mean, variance = weights["moving_mean"], weights["moving_variance"]
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(variance + layer.epsilon)
        shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise CannotFoldError("its weights give no finite scale and shift")

    low_mean, low_variance, low_gamma, low_beta = (
        keras.ops.convert_to_tensor(each, kind) for each in (mean, variance, gamma, beta)
    )
    low_scale = keras.ops.rsqrt(low_variance + keras.ops.cast(layer.epsilon, kind)) * low_gamma
    low_shift = low_beta - low_mean * low_scale
    exact = (keras.ops.convert_to_numpy(low_scale) == 1) & (keras.ops.convert_to_numpy(low_shift) == 0)
    shape = [1] * (rank - 1)
    shape[layer.axis - 1 if layer.axis > 0 else layer.axis] = len(scale)
    return Affine(np.where(exact, 1, scale).reshape(shape), np.where(exact, 0, shift).reshape(shape))


def is_identity(operation: Any) -> bool:
    """Whether a layer passes its input on unchanged in inference."""
    if type(operation) is layers.Activation:
        return operation.activation is keras.activations.linear
    return type(operation) in IDENTITIES


def carry(layer: Any, path: str, affine: Affine, node: Any) -> Affine:
    """The scale and shift of a layer's output that a scale and shift of its input amount to.

    Raises a CannotFoldError with the reason where they do not come through.

    Args:
        layer: what is called at the node; one that passes everything on unchanged is none of these.
        path: the layer's name in reasons.
        affine: of its input.
        node: the call.
    """
    what = f"{type_name(layer)} '{path}'"
    if isinstance(layer, keras.Model):
        raise CannotFoldError(f"it goes to the model '{path}': a border between models")
    if type(layer) in AVERAGES + MAXIMA + PADDINGS + UPSAMPLINGS + CROPPINGS:
        return _through_window(layer, what, affine, node)
    if type(layer) in REARRANGEMENTS:
        return _rearranged(layer, what, affine, tuple(node.input_tensors[0].shape[1:]))
    raise CannotFoldError(f"it goes to {what}, which is no linear layer")


def _through_window(layer: Any, what: str, affine: Affine, node: Any) -> Affine:
    tensor = node.input_tensors[0]
    if len(node.input_tensors) > 1:
        raise CannotFoldError(f"it goes to {what}, where a mask decides which positions count")
    if getattr(layer, "interpolation", "nearest") != "nearest":
        raise CannotFoldError(f"it goes to {what}, whose {layer.interpolation} interpolation is not followed")
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    axis = 0 if first else len(tensor.shape) - 2
    scale, shift = affine.along(axis, tensor.shape[axis + 1], what)
    if type(layer) in MAXIMA and not (scale > 0).all():
        raise CannotFoldError(
            f"it goes to {what}, and {int((scale <= 0).sum())} of {len(scale)} scales are not positive"
        )
    if type(layer) in PADDINGS and shift.any():
        raise CannotFoldError(f"it goes to {what}, whose zeros would not be shifted")
    shape = [1] * (len(node.outputs[0].shape) - 1)
    shape[axis if len(shape) > 1 else 0] = len(scale)
    return Affine(scale.reshape(shape), shift.reshape(shape))


def _rearranged(layer: Any, what: str, affine: Affine, sizes: tuple[int | None, ...]) -> Affine:
    """Follow every value to where the layer puts it, by having it rearrange their numbers."""
    shape = [size for size in sizes if size is not None]
    if len(shape) < len(sizes):
        raise CannotFoldError(f"it goes to {what}, and not all sizes of {sizes} are known")
    numbers = np.arange(int(np.prod(shape)), dtype="int32").reshape(1, *shape)
    order = keras.ops.convert_to_numpy(layer(numbers))[0]
    return Affine(
        *(_compressed(np.broadcast_to(array, shape).ravel()[order]) for array in (affine.scale, affine.shift))
    )


def _compressed(array: np.ndarray) -> np.ndarray:
    """The array with size 1 along axes where it does not vary."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        array = first if (array == first).all() else array
    return array
