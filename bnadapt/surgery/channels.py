"""Where the channels are: of what a layer returns, and of a network's inputs."""

from collections.abc import Sequence
from typing import Any

import keras

from bnadapt.surgery.flow import Step, ahead
from bnadapt.surgery.graph import Call, input_structure, inputs_of, outputs_of, producer, replay
from bnadapt.surgery.kinds import is_weighted, target_of

_TAKES_VALUES_LITERALLY = (keras.layers.Embedding, keras.layers.CategoryEncoding, keras.layers.Masking)
_MOVES_AXES = {"Permute", "Reshape", "Flatten", "Transpose", "Moveaxis", "Swapaxes", "Ravel"}


def channel_axis(layer: keras.Layer, rank: int) -> int | None:
    """The channel axis of a target layer's output, -1 where it is the last; None where it is not clear."""
    inner = target_of(layer)
    if isinstance(inner, keras.layers.EinsumDense):
        axis = _einsum_axis(inner.equation, rank)
    elif getattr(inner, "data_format", "channels_last") == "channels_first":
        axis = 1 if inner is layer else 2
    else:
        axis = rank - 1
    return -1 if axis == rank - 1 else axis


def input_axes(model: keras.Model, steps: Sequence[Step]) -> dict[str, int | str]:
    """For each input layer of the network, by name: its channel axis, or the reason against it.

    The axis is that of the first convolutions that the input reaches, by their ``data_format``; -1 where it
    is the last, and where no convolution says. ``steps`` are those of ``trace``.
    """
    readers = _readers(model, steps)
    return {
        producer(tensor).operation.name: _reason_against(tensor, readers[id(tensor)], outputs_of(model))
        or _axis_of_input(tensor, readers[id(tensor)])
        for tensor in inputs_of(model)
    }


def _readers(model: keras.Model, steps: Sequence[Step]) -> dict[int, list[Step]]:
    """The steps that take each input tensor as it is, by the tensor's id."""
    found: dict[int, list[Step]] = {id(tensor): [] for tensor in inputs_of(model)}
    in_order = iter(steps)

    def record(call: Call, *args: Any, **kwargs: Any) -> Any:
        step = next(in_order)
        assert step.call.node is call.node  # a replay repeats the order of the trace
        for value in {id(each): each for each in keras.tree.flatten((args, kwargs))}.values():
            if isinstance(value, _Passed) and value.tensor is not None:
                found[id(value.tensor)].append(step)
        return [_Passed() for _ in call.node.outputs]

    replay(model, keras.tree.map_structure(_Passed, input_structure(model)), record)
    return found


class _Passed:
    """Stands for a value in a replay without numbers; of an input it knows the tensor."""

    def __init__(self, tensor: keras.KerasTensor | None = None) -> None:
        self.tensor = tensor


def _reason_against(tensor: keras.KerasTensor, readers: Sequence[Step], outputs: Any) -> str | None:
    if not keras.backend.is_float_dtype(tensor.dtype):
        return f"its values are {tensor.dtype}, not floating-point"
    if getattr(producer(tensor).operation, "optional", False):
        return "it is optional: there may be nothing to normalize"
    if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
        return "its values are sparse or ragged"
    if len(tensor.shape) < 2:
        return "it has no channel axis"
    if tensor.shape[_axis_of_input(tensor, readers)] is None:
        return "the number of its channels is not known"
    if any(tensor is output for output in keras.tree.flatten(outputs)):
        return "it is also an output of the network"
    literal = [
        step for step in _up_to_weighted(readers) if isinstance(step.call.operation, _TAKES_VALUES_LITERALLY)
    ]
    if literal:
        return f"'{literal[0].call.path}' takes its values literally"
    following = ahead(_before(readers))
    if following.normalizations and not following.weighted and not following.reaches_output:
        first = following.normalizations[0].call
        return f"'{first.path}' normalizes before the next weighted layer on every path"
    return None


def _axis_of_input(tensor: keras.KerasTensor, readers: Sequence[Step]) -> int:
    rank = len(tensor.shape)
    axes = {
        1 if target_of(step.call.operation) is step.call.operation else 2
        for step in _up_to_weighted(readers, same_axes=True)
        if getattr(target_of(step.call.operation), "data_format", None) == "channels_first"
        and len(step.call.output.shape) == rank
    }
    (axis,) = axes if len(axes) == 1 else (-1,)
    return -1 if axis == rank - 1 else axis


def _up_to_weighted(readers: Sequence[Step], *, same_axes: bool = False) -> list[Step]:
    """The steps behind an input, the first weighted layers last; or up to where its axes are moved."""
    found: dict[int, Step] = {}
    queue = list(readers)
    while queue:
        step = queue.pop(0)
        moved = same_axes and type(step.call.operation).__name__ in _MOVES_AXES
        if id(step) not in found and not moved:
            found[id(step)] = step
            queue += [] if is_weighted(step.call.operation) else step.consumers
    return list(found.values())


def _before(readers: Sequence[Step]) -> Step:
    """A step of its own in front of the given ones."""
    return Step(readers[0].call if readers else None, [], list(readers))  # type: ignore[arg-type]


def _einsum_axis(equation: str, rank: int) -> int | None:
    inputs, output = equation.replace(" ", "").split("->")
    letters = output.replace("...", "")
    fresh = [letter for letter in letters if letter not in inputs.split(",")[0]]
    if len(fresh) != 1 or output.count(fresh[0]) != 1:
        return None
    before = output.split(fresh[0])[0]
    return len(before) if "..." not in before else rank - len(output.split(fresh[0])[1]) - 1
