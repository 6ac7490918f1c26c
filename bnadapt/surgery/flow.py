"""Where values go in a network: the graph with every call of a nested model written out.

Answers what decides about sites and heads: what comes next after a layer, which layers reach an output
without another weighted layer, and which are gates that scale whole feature maps.
"""

from dataclasses import dataclass, field
from typing import Any

import keras

from bnadapt.surgery.graph import Call, input_structure, models, nodes, outputs_of, replay
from bnadapt.surgery.kinds import fused_activation, is_activation, is_normalization, is_weighted, target_of

SIGMOIDS = (keras.activations.sigmoid, keras.activations.hard_sigmoid)
_CARRIES_ONE_VALUE = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Dropout,
    keras.layers.Rescaling,
)


@dataclass(eq=False)
class Step:
    """One call as the network performs it; a nested model that is called twice gives two steps per call."""

    call: Call
    sources: list["Step | None"]
    consumers: list["Step"] = field(default_factory=list)
    is_output: bool = False


def trace(model: keras.Model) -> list[Step]:
    """Every step of the network in order of computation; raises SurgeryError where ``calls`` does."""
    steps: list[Step] = []

    def record(call: Call, *args: Any, **kwargs: Any) -> Any:
        marks = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, _Mark)]
        step = Step(call, [mark.step for mark in marks])
        for source in {id(mark.step): mark.step for mark in marks}.values():
            if source is not None:
                source.consumers.append(step)
        steps.append(step)
        return [_Mark(step) for _ in call.node.outputs]

    inputs = keras.tree.map_structure(lambda _: _Mark(None), input_structure(model))
    for mark in keras.tree.flatten(replay(model, inputs, record)):
        if mark.step is not None:
            mark.step.is_output = True
    return steps


@dataclass(frozen=True, eq=False)
class _Mark:
    """Stands for a tensor in a replay without numbers."""

    step: Step | None


@dataclass(eq=False)
class Wiring:
    """Which node makes and which nodes use every tensor, each graph by itself: a nested model is one node.

    Attributes:
        makers: id of a tensor -> the node that makes it; inputs of models have none.
        users: id of a tensor -> the nodes that use it, one entry per use.
        outputs: ids of the tensors that are outputs of the network, or of a model inside it.
        paths: id of a layer, operation or model -> its path.
    """

    makers: dict[int, Any] = field(default_factory=dict)
    users: dict[int, list[Any]] = field(default_factory=dict)
    outputs: set[int] = field(default_factory=set)
    paths: dict[int, str] = field(default_factory=dict)


def wiring(model: keras.Model) -> Wiring:
    """The wiring of a network and of every model inside it; raises SurgeryError where ``calls`` does."""
    found = Wiring()
    for path, inner in models(model).items():
        found.outputs |= {id(tensor) for tensor in keras.tree.flatten(outputs_of(inner))}
        for node in nodes(inner, path):
            name = node.operation.name
            found.paths.setdefault(id(node.operation), f"{path}/{name}" if path else name)
            found.makers.update({id(tensor): node for tensor in node.outputs})
            for tensor in node.input_tensors:
                found.users.setdefault(id(tensor), []).append(node)
    return found


@dataclass
class Ahead:
    """What comes next after a step: the first normalizations and weighted layers, and outputs before them."""

    normalizations: list[Step] = field(default_factory=list)
    weighted: list[Step] = field(default_factory=list)
    reaches_output: bool = False


def ahead(step: Step, *, through_normalization: bool = False) -> Ahead:
    """Follow a step's result along every path up to the next normalization, weighted layer or output."""
    found = Ahead(reaches_output=step.is_output)
    seen, queue = {id(step)}, list(step.consumers)
    while queue:
        current = queue.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if is_weighted(current.call.operation):
            found.weighted.append(current)
        elif is_normalization(current.call.operation) and not through_normalization:
            found.normalizations.append(current)
        else:
            found.reaches_output |= current.is_output
            queue += current.consumers
    return found


def is_gate(step: Step) -> bool:
    """Whether a layer's result scales whole channels of a feature map, as in squeeze-and-excite blocks.

    That is: through elementwise steps alone it reaches a multiplication with something else, with all its
    spatial sizes 1, and there it is broadcast over positions, or has come through a sigmoid, or scales what
    it was computed from.
    """
    sigmoid = fused_activation(step.call.operation) in SIGMOIDS
    reached, queue = {id(step)}, list(step.consumers)
    while queue:
        current = queue.pop(0)
        operation = current.call.operation
        others = [source for source in current.sources if id(source) not in reached]
        if type(operation).__name__ == "Multiply" and others:
            own = any(source is not None and _comes_from(step, source) for source in others)
            if _scales_channels(current, reached, sigmoid or own):
                return True
        elif not others and not _ends_walk(operation):
            sigmoid = sigmoid or _is_sigmoid(operation)
            reached.add(id(current))
            queue += current.consumers
    return False


def is_squeeze(step: Step) -> bool:
    """Whether a layer sees one position per sample and feeds gates only: the first layer of such a block."""
    following = ahead(step)
    return (
        bool(following.weighted)
        and not following.normalizations
        and not following.reaches_output
        and all(size == 1 for size in _spatial(step.call.output.shape, step.call.operation))
        and all(target_of(each.call.operation) is not None and is_gate(each) for each in following.weighted)
    )


def _comes_from(step: Step, source: Step) -> bool:
    """Whether a step's result is computed from that of another one."""
    seen, queue = {id(step)}, [step]
    while queue:
        current = queue.pop()
        if current is source:
            return True
        queue += [each for each in current.sources if each is not None and id(each) not in seen]
        seen |= {id(each) for each in current.sources}
    return False


def _ends_walk(operation: Any) -> bool:
    if not isinstance(operation, keras.Layer):
        return False
    return not (is_activation(operation) or isinstance(operation, _CARRIES_ONE_VALUE))


def _is_sigmoid(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in SIGMOIDS
    return type(operation).__name__ in ("Sigmoid", "HardSigmoid")


def _scales_channels(multiply: Step, reached: set[int], sure: bool) -> bool:
    operands = list(zip(multiply.call.node.input_tensors, multiply.sources, strict=False))
    gates = [_spatial(tensor.shape, None) for tensor, source in operands if id(source) in reached]
    others = [_spatial(tensor.shape, None) for tensor, source in operands if id(source) not in reached]
    if not all(gate and all(size == 1 for size in gate) for gate in gates):
        return False
    broadcast = any(size != 1 for other in others for size in other)
    return broadcast or sure


def _spatial(shape: tuple[int | None, ...], layer: Any) -> tuple[int | None, ...]:
    first = getattr(target_of(layer), "data_format", None) == "channels_first" if layer is not None else False
    return tuple(shape[2:]) if first else tuple(shape[1:-1])
