"""Why a convolution or dense layer gets no batch normalization."""

from collections.abc import Sequence

import keras

from bnadapt.surgery.channels import channel_axis
from bnadapt.surgery.flow import Step, ahead, is_gate, is_squeeze
from bnadapt.surgery.graph import calls
from bnadapt.surgery.kinds import TARGETS, fused_activation, is_keras_own, target_of, type_name


def reason_against_layer(steps: Sequence[Step], position: str) -> str | None:
    """Why no call of a layer gets batch normalization, from all steps at which it is called; or None."""
    call = steps[0].call
    layer, output = call.operation, call.output
    if any(ahead(step, through_normalization=True).reaches_output for step in steps):
        return "the head: an output is reached without another weighted layer"
    axis = channel_axis(layer, len(output.shape))
    if axis is None:
        return (
            f"its channel axis is not clear from its equation '{getattr(target_of(layer), 'equation', '')}'"
        )
    if output.shape[axis] is None:
        return "the number of its channels is not known"
    mask = getattr(output, "_keras_mask", None)
    if mask is not None and (axis != -1 or not _same_shape(mask.shape, output.shape[:-1])):
        return "its output has a mask that batch normalization cannot use"
    activation = fused_activation(layer)
    if position == "before_activation" and activation is not None:
        if isinstance(activation, keras.Layer):
            return f"its activation is a layer ({type(activation).__name__}) inside it: put it behind"
        if not is_keras_own(layer) or not is_keras_own(target_of(layer)):
            return f"{type_name(layer)} is a class of its own: its activation cannot be taken out"
    return None


def _same_shape(first: Sequence[int | None], second: Sequence[int | None]) -> bool:
    return len(first) == len(second) and all(
        a == b or None in (a, b) for a, b in zip(first, second, strict=True)
    )


def reason_against_call(steps: Sequence[Step]) -> str | None:
    """Why one call does not, from the steps at which it is performed; or None."""
    following = [ahead(step) for step in steps]
    if all(each.normalizations and not each.weighted for each in following):
        first = following[0].normalizations[0].call
        return f"'{first.path}' normalizes before the next weighted layer on every path"
    if any(is_gate(step) for step in steps):
        return "a gate: its output scales whole channels of another one"
    if any(is_squeeze(step) for step in steps):
        return "feeds a gate: it sees one position per image"
    return None


def hidden_targets(model: keras.Model) -> dict[str, str]:
    """Convolutions and dense layers inside leaves: the graph does not show what comes after them."""
    hidden = {}
    for call in calls(model):
        if isinstance(call.operation, keras.Layer) and target_of(call.operation) is None:
            for inner in call.operation._flatten_layers(include_self=False, recursive=True):
                if isinstance(inner, TARGETS):
                    hidden[f"{call.path}/{inner.name}"] = (
                        f"inside {type_name(call.operation)}, which is not opened"
                    )
    return hidden
