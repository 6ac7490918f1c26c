"""The weights of linear layers that take up a scale and a shift behind them, or before them.

Every layer here computes y = K x + b. Behind it, y * s + t is K scaled by s and b * s + t; before it, x * s + t
is K scaled along its inputs and b + K t.
"""

import string
from typing import Any

import keras
import numpy as np

from bnadapt.surgery.affine import Affine, CannotFoldError
from bnadapt.surgery.kinds import target_of, type_name

layers = keras.layers
Weights = dict[str, np.ndarray]
Shape = tuple[int | None, ...]

SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)


def holder_of(layer: keras.Layer) -> keras.Layer:
    """The layer that holds the weights: the layer itself, or the one inside a TimeDistributed."""
    return target_of(layer) or layer


def weights_of(layer: keras.Layer) -> Weights:
    """The weights by name, in float64."""
    return {
        weight.name: keras.ops.convert_to_numpy(weight).astype(np.float64)
        for weight in holder_of(layer).weights
    }


def settings_for(layer: keras.Layer, weights: Weights) -> dict[str, Any]:
    """What must change in a layer's configuration so that it has these weights."""
    inner = holder_of(layer)
    if isinstance(inner, layers.BatchNormalization):
        return {"scale": "gamma" in weights, "center": "beta" in weights}
    if "bias" not in weights or inner.bias is not None:
        return {}
    if isinstance(inner, layers.EinsumDense):
        return {"bias_axes": _new_bias_axes(inner, weights["bias"])}
    return {"use_bias": True}


def scaled_behind(layer: keras.Layer, weights: Weights, affine: Affine, node: Any) -> Weights:
    """The weights with which the layer computes what it did, times scale, plus shift.

    A layer without bias gets one only where the shift is not exactly zero. Raises a CannotFoldError with the reason
    where the layer cannot take them up.

    Args:
        layer: a convolution, a dense layer, one of them inside a TimeDistributed, or batch normalization.
        weights: its weights by name; not changed.
        affine: scale and shift of its output.
        node: a call of the layer.
    """
    inner, affine = holder_of(layer), _without_time(layer, affine)
    if isinstance(inner, layers.EinsumDense):
        result = _einsum_behind(inner, weights, affine, _sample(layer, node.outputs[0]))
        return _with_checked_bias(layer, result, node)
    if isinstance(inner, layers.BatchNormalization):
        axis = inner.axis % (affine.scale.ndim + 1) - 1
        scale, shift = affine.along(axis, len(weights["moving_mean"]), f"'{layer.name}'")
        named = {"gamma": np.ones_like(scale), "beta": np.zeros_like(scale)} | weights
        return named | {"gamma": named["gamma"] * scale, "beta": named["beta"] * scale + shift}
    axis = _channel_axis(inner)
    scale, shift = affine.along(axis, _size(layer, node.outputs[0], axis), f"'{layer.name}'")
    result = dict(weights)
    if isinstance(inner, SEPARABLE):
        result["pointwise_kernel"] = weights["pointwise_kernel"] * scale
    elif isinstance(inner, DEPTHWISE):
        result["kernel"] = weights["kernel"] * scale.reshape(weights["kernel"].shape[-2:])
    elif isinstance(inner, TRANSPOSED):
        result["kernel"] = weights["kernel"] * scale[:, None]
    else:
        result["kernel"] = weights["kernel"] * scale
    if "bias" in weights or shift.any():
        result["bias"] = weights.get("bias", 0.0) * scale + shift
        _check_bias(layer, axis, node)
    return result


def scaled_before(layer: keras.Layer, weights: Weights, affine: Affine, node: Any) -> Weights:
    """The weights with which the layer makes of x what it made of x * scale + shift.

    Raises a CannotFoldError with the reason where the layer cannot take them up: a shift cannot pass a border that is
    padded with zeros. Arguments as of ``scaled_behind``, but for the affine, which is of the input; batch
    normalization is none of these layers.
    """
    inner, affine = holder_of(layer), _without_time(layer, affine)
    if isinstance(inner, layers.EinsumDense):
        shapes = _sample(layer, node.input_tensors[0]), _sample(layer, node.outputs[0])
        return _with_checked_bias(layer, _einsum_before(inner, weights, affine, *shapes), node)
    axis = _channel_axis(inner)
    scale, shift = affine.along(axis, _size(layer, node.input_tensors[0], axis), f"'{layer.name}'")
    if shift.any() and _sees_border(inner):
        raise CannotFoldError(f"{type_name(layer)} '{layer.name}' pads with zeros, which are not shifted")
    result = dict(weights)
    if isinstance(inner, SEPARABLE):
        depthwise = weights["depthwise_kernel"]
        result["depthwise_kernel"] = depthwise * scale[:, None]
        constant = (_over_window(depthwise) * shift[:, None]).ravel() @ _over_window(
            weights["pointwise_kernel"]
        )
    elif isinstance(inner, DEPTHWISE):
        result["kernel"] = weights["kernel"] * scale[:, None]
        constant = (_over_window(weights["kernel"]) * shift[:, None]).ravel()
    elif isinstance(inner, TRANSPOSED):
        result["kernel"] = weights["kernel"] * scale
        constant = np.zeros(weights["kernel"].shape[-2])
    else:
        of_groups = weights["kernel"].shape[-1] // getattr(inner, "groups", 1)
        per_output = [
            np.repeat(each.reshape(-1, weights["kernel"].shape[-2]).T, of_groups, axis=1)
            for each in (scale, shift)
        ]
        result["kernel"] = weights["kernel"] * per_output[0]
        constant = (_over_window(weights["kernel"]) * per_output[1]).sum(axis=0)
    if "bias" in weights or constant.any():
        result["bias"] = weights.get("bias", 0.0) + constant
        _check_bias(layer, axis, node)
    return result


def _over_window(kernel: np.ndarray) -> np.ndarray:
    """A kernel summed over its positions: what it makes of a constant."""
    return kernel.sum(axis=tuple(range(kernel.ndim - 2)))


def _sees_border(layer: keras.Layer) -> bool:
    """Whether some outputs are computed from fewer inputs than others."""
    if isinstance(layer, layers.Dense):
        return False
    if isinstance(layer, TRANSPOSED):
        return True
    return layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)


def _channel_axis(layer: keras.Layer) -> int:
    return 0 if getattr(layer, "data_format", "channels_last") == "channels_first" else -1


def _without_time(layer: keras.Layer, affine: Affine) -> Affine:
    """The affine as the layer inside a TimeDistributed sees it."""
    if not isinstance(layer, layers.TimeDistributed):
        return affine
    if affine.scale.shape[0] > 1 or affine.shift.shape[0] > 1:
        raise CannotFoldError(f"scale and shift vary over the steps of '{layer.name}'")
    return Affine(affine.scale[0], affine.shift[0])


def _sample(layer: keras.Layer, tensor: Any) -> Shape:
    """The shape of one sample, as the layer inside a TimeDistributed sees it."""
    return tuple(tensor.shape[2:] if isinstance(layer, layers.TimeDistributed) else tensor.shape[1:])


def _size(layer: keras.Layer, tensor: Any, axis: int) -> int:
    size = _sample(layer, tensor)[axis]
    assert size is not None, layer.name  # a layer with a kernel knows its channels
    return size


def _check_bias(layer: keras.Layer, axis: int, node: Any) -> None:
    """Refuse a bias along an axis of the sample that Keras 3.15 on TensorFlow confuses with another one.

    ``keras.ops.add`` takes whatever looks like a bias for one along the last axis if that has the same size,
    else for one along the first axis of the sample if that has.
    """
    sizes = _sample(layer, node.outputs[0])
    axis, size = axis % len(sizes), sizes[axis]
    if axis < len(sizes) - 1 and size != 1 and (sizes[-1] == size or (axis > 0 and sizes[0] == size)):
        raise CannotFoldError(
            f"Keras adds the bias of '{layer.name}' along the wrong axis, because two axes have the size {size}"
        )


def _einsum_behind(
    layer: keras.layers.EinsumDense, weights: Weights, affine: Affine, after: Shape
) -> Weights:
    _, kernel, output = _letters(layer)
    result = {**weights, "kernel": weights["kernel"] * _aligned(affine.scale, output, kernel, layer)}
    bias = _over_sample(weights.get("bias", np.zeros(())), output) * affine.scale + affine.shift
    return _with_bias(layer, result, bias, output, after)


def _einsum_before(
    layer: keras.layers.EinsumDense, weights: Weights, affine: Affine, before: Shape, after: Shape
) -> Weights:
    source, kernel, output = _letters(layer)
    result = {**weights, "kernel": weights["kernel"] * _aligned(affine.scale, source, kernel, layer)}
    summed = [letter for letter in source if letter not in output or letter in kernel]
    sizes = {letter: size for letter, size in zip(source, before, strict=True) if size is not None}
    sizes |= dict(zip(kernel, weights["kernel"].shape, strict=True))
    if not set(summed) <= set(sizes):
        raise CannotFoldError(f"EinsumDense '{layer.name}' sums over an axis of unknown size")
    full = [
        sizes[letter] if letter in summed else size
        for letter, size in zip(source, affine.shift.shape, strict=True)
    ]
    present = [letter for letter in output if letter in source + kernel]
    constant = np.einsum(
        f"{source},{kernel}->{''.join(present)}", np.broadcast_to(affine.shift, full), weights["kernel"]
    )
    at = iter(constant.shape)
    constant = constant.reshape([next(at) if letter in present else 1 for letter in output])
    bias = _over_sample(weights.get("bias", np.zeros(())), output) + constant
    return _with_bias(layer, result, bias, output, after)


def _with_checked_bias(layer: keras.Layer, weights: Weights, node: Any) -> Weights:
    if "bias" in weights:
        varying = [at - weights["bias"].ndim for at, size in enumerate(weights["bias"].shape) if size > 1]
        if len(varying) == 1:
            _check_bias(layer, varying[0], node)
    return weights


def _letters(layer: keras.layers.EinsumDense) -> tuple[str, str, str]:
    """The letters of the input's, the kernel's and the output's axes, dots written out, batch axes left out."""
    equation = layer.equation.replace(" ", "")
    source, rest = equation.split(",")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    dots = "".join(free[: layer.input_spec.ndim - len(source.replace("...", ""))])
    kernel, output = rest.split("->")
    source, output = source.replace("...", dots), output.replace("...", dots)
    if source[0] != output[0] or source[0] in kernel:
        raise CannotFoldError(f"EinsumDense '{layer.name}' mixes samples: '{layer.equation}'")
    return source[1:], kernel, output[1:]


def _aligned(array: np.ndarray, source: str, target: str, layer: keras.Layer) -> np.ndarray:
    """An array over the axes of ``source``, with its axes in the order of ``target``."""
    lost = [
        letter for letter, size in zip(source, array.shape, strict=True) if size > 1 and letter not in target
    ]
    if lost:
        raise CannotFoldError(
            f"the kernel of EinsumDense '{layer.name}' does not vary along the axis '{lost[0]}'"
        )
    kept = [letter for letter in source if letter in target]
    sizes = dict(zip(source, array.shape, strict=True))
    order = sorted(kept, key=target.index)
    squeezed = array.reshape([sizes[letter] for letter in kept])
    moved = squeezed.transpose([kept.index(letter) for letter in order])
    return moved.reshape([sizes.get(letter, 1) for letter in target])


def _over_sample(bias: np.ndarray, output: str) -> np.ndarray:
    return bias.reshape((1,) * (len(output) - bias.ndim) + bias.shape)


def _with_bias(
    layer: keras.layers.EinsumDense,
    weights: Weights,
    bias: np.ndarray,
    output: str,
    sizes: Shape,
) -> Weights:
    """The weights with a bias that is given over one sample, in the shape that Keras gives it."""
    if "bias" in weights:
        there = _over_sample(weights["bias"], output).shape
        if any(new > old for new, old in zip(bias.shape, there, strict=True)):
            raise CannotFoldError(
                f"the bias of EinsumDense '{layer.name}' does not vary along the axes that it would need"
            )
        return weights | {"bias": np.broadcast_to(bias, there).reshape(weights["bias"].shape)}
    if not bias.any():
        return weights
    named = [letter for letter in output if letter in layer.equation]
    axes = [letter for letter, size in zip(output, bias.shape, strict=True) if size > 1] or named[-1:]
    if not axes or not set(axes) <= set(named):
        raise CannotFoldError(
            f"EinsumDense '{layer.name}' cannot have a bias along the axes that it would need"
        )
    needed = [size if letter in axes else 1 for letter, size in zip(output, sizes, strict=True)]
    full = [size for size in needed if size is not None]
    if len(full) < len(needed):
        raise CannotFoldError(
            f"EinsumDense '{layer.name}' has outputs of unknown size along the axes of a bias"
        )
    return weights | {"bias": np.broadcast_to(bias, full)[(0,) * output.index(axes[0])]}


def _new_bias_axes(layer: keras.layers.EinsumDense, bias: np.ndarray) -> str:
    """The axes of a bias that ``_with_bias`` made: the first one of its shape, and where it varies."""
    letters = _letters(layer)[2][-bias.ndim :]
    return letters[0] + "".join(
        letter for letter, size in zip(letters[1:], bias.shape[1:], strict=True) if size > 1
    )
