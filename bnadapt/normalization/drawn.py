"""So many weights for every output channel, drawn at random: the control of training batch normalization alone."""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from bnadapt.errors import FrozenWeightMovedError
from bnadapt.surgery.flow import Step, is_gate, is_squeeze, trace
from bnadapt.surgery.kinds import target_of
from bnadapt.surgery.reasons import reason_against_layer
from bnadapt.surgery.tree import own_weights, weights_by_path

_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


@dataclass(frozen=True, eq=False)
class ChannelKernel:
    """The kernel that makes a layer's output channels.

    Attributes:
        layer: the convolution or dense layer itself, not the wrapper around it.
        weight: its kernel; of a separable convolution the pointwise one.
        axes: those of the kernel that count output channels.
    """

    layer: keras.Layer
    weight: Any
    axes: tuple[int, ...]


def channel_kernels(model: keras.Model) -> list[ChannelKernel]:
    """The kernels of all layers that could have batch normalization, in graph order; changes nothing.

    Those are the layers of ``find_sites``, whichever the position, and those that it passes over only because
    a normalization follows them already: the same layers before and after the insertion.

    Raises:
        SurgeryError: the network is no graph of layers.
    """
    by_path: dict[str, list[Step]] = defaultdict(list)
    for step in trace(model):
        if target_of(step.call.operation) is not None:
            by_path[step.call.path].append(step)
    found: dict[int, ChannelKernel] = {}
    for steps in by_path.values():
        suited = any(not is_gate(step) and not is_squeeze(step) for step in steps)
        if suited and reason_against_layer(steps, "after_activation") is None:
            kernel = _kernel_of(target_of(steps[0].call.operation))
            found.setdefault(id(kernel.weight), kernel)
    return list(found.values())


def draw(shape: tuple[int, ...], axes: tuple[int, ...], count: int, seed: int, path: str) -> np.ndarray:
    """Draw ``count`` entries of a kernel for every output channel, without repetition; all where there are fewer.

    The draw depends on the seed and the path alone, so that no other layer of the network can change it.

    Args:
        shape: of the kernel.
        axes: those that count output channels.
        count: entries for each channel.
        seed: of the draw.
        path: of the kernel.

    Returns:
        True where an entry was drawn, of the kernel's shape.
    """
    random = np.random.default_rng([seed, zlib.crc32(path.encode())])
    fan = [axis for axis in range(len(shape)) if axis not in axes]
    inputs = int(np.prod([shape[axis] for axis in fan]))
    channels = int(np.prod([shape[axis] for axis in axes]))
    drawn = np.zeros((channels, inputs), bool)
    for channel in range(channels):
        drawn[channel, random.choice(inputs, min(count, inputs), replace=False)] = True
    order = (*axes, *fan)
    return drawn.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def fingerprint_outside(model: keras.Model, drawn: Mapping[str, np.ndarray]) -> dict[str, str]:
    """SHA-256 of the bytes of all entries that were not drawn, by the path of their weight; changes nothing."""
    weights = weights_by_path(model)
    return {
        path: hashlib.sha256(keras.ops.convert_to_numpy(weights[path])[~mask].tobytes()).hexdigest()
        for path, mask in drawn.items()
    }


def assert_only_drawn_moved(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise a FrozenWeightMovedError where entries that were not drawn changed by a single bit.

    Args:
        before: as from ``fingerprint_outside``.
        after: likewise, with the same draw.
    """
    changed = [path for path in before if before[path] != after[path]]
    if changed:
        raise FrozenWeightMovedError(
            f"entries of {', '.join(changed)} changed that were not among those drawn to train"
        )


def _kernel_of(layer: Any) -> ChannelKernel:
    (weight,) = (each for each in own_weights(layer) if each.name in ("kernel", "pointwise_kernel"))
    last = len(weight.shape) - 1
    axes: tuple[int, ...] = (last,)
    if isinstance(layer, _TRANSPOSED):
        axes = (last - 1,)
    elif isinstance(layer, _DEPTHWISE):
        axes = (last - 1, last)
    elif isinstance(layer, keras.layers.EinsumDense):
        inputs, output = layer.equation.replace(" ", "").split("->")
        of_inputs, of_kernel = inputs.split(",")
        (fresh,) = (letter for letter in output.replace("...", "") if letter not in of_inputs)
        axes = (of_kernel.index(fresh),)
    return ChannelKernel(layer, weight, axes)
