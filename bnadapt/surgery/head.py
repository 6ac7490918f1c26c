"""The head of a classifier: which layers it is, and a fresh one for another number of classes."""

from typing import Any

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.flow import Step, ahead, trace
from bnadapt.surgery.graph import calls, inputs_of, nodes, outputs_of, producer
from bnadapt.surgery.kinds import is_weighted
from bnadapt.surgery.rebuild import Edits, check_rewritable, rebuild
from bnadapt.surgery.tree import unique_name

_SIZE_OF = {
    keras.layers.Dense: "units",
    keras.layers.Conv1D: "filters",
    keras.layers.Conv2D: "filters",
    keras.layers.Conv3D: "filters",
}
_POOLING = {
    3: keras.layers.GlobalAveragePooling1D,
    4: keras.layers.GlobalAveragePooling2D,
    5: keras.layers.GlobalAveragePooling3D,
}


def head_layers(model: keras.Model) -> list[str]:
    """Paths of the weighted layers from which an output is reached without another weighted layer.

    In graph order, changes nothing. Normalizations and activations on the way do not count as weighted.
    Raises SurgeryError where the network is no graph of layers.
    """
    return list(_heads(model))


def replace_head(
    model: keras.Model, classes: int, *, name: str | None = None, append: bool = False
) -> tuple[keras.Model, str]:
    """Return a new network that ends in ``classes`` outputs, and the path of its fresh head layer.

    A network whose last weighted layer is a dense layer or a convolution gets that layer anew with another
    size: same settings, same activation, weights from its initializers (seed them with
    ``keras.utils.set_random_seed``). One that ends in a feature map (rank above 2) gets global average
    pooling and a dense layer with softmax; one whose last layer cannot be resized gets the dense layer.
    Everything else is carried over bit for bit; the argument is not changed.

    Args:
        model: a network with one output.
        classes: size of the new output, at least 1.
        name: of the new layer; the old one's where one is replaced, else "head".
        append: keep the last layer and put a dense layer with softmax behind it: for networks that end in
            pooled features.

    Raises:
        SurgeryError: several outputs or heads, a head that is called several times, a layer behind the
            head that depends on its size, or a network that cannot be rewritten.
    """
    if classes < 1:
        raise SurgeryError(f"classes={classes}: must be at least 1")
    check_rewritable(model)
    outputs = keras.tree.flatten(outputs_of(model))
    if len(outputs) != 1:
        raise SurgeryError(f"a new head needs a network with one output; this one has {len(outputs)}")
    heads = _heads(model)
    if len(outputs[0].shape) > 2 or append or not heads:
        return _appended(model, classes, name)
    if len(heads) > 1:
        raise SurgeryError(
            f"the network has {len(heads)} layers that lead to its output ({', '.join(heads)}), "
            "not one head: use append=True for a dense layer behind them"
        )
    ((path, steps),) = heads.items()
    if _size_of(steps[0].call.operation) is None:
        return _appended(model, classes, name)
    return _resized(model, path, steps, classes, name)


def _heads(model: keras.Model) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for step in trace(model):
        if is_weighted(step.call.operation) and ahead(step, through_normalization=True).reaches_output:
            found.setdefault(step.call.path, []).append(step)
    return found


def _size_of(layer: keras.Layer) -> str | None:
    return _SIZE_OF.get(type(layer))


def _resized(
    model: keras.Model, path: str, steps: list[Step], classes: int, name: str | None
) -> tuple[keras.Model, str]:
    call = steps[0].call
    if len(steps) > 1 or sum(each.operation is call.operation for each in calls(model)) > 1:
        raise SurgeryError(f"the head '{path}' is called several times: a new size would not fit everywhere")
    old = call.operation
    names = {node.operation.name for node in nodes(call.model)} - {old.name}
    fresh = _anew(old, str(_size_of(old)), classes, name=unique_name(name or old.name, names))
    edits = Edits(replace={id(old): fresh, **_reshapes_behind(steps[0], classes)})
    try:
        result = rebuild(model, edits)
    except ValueError as error:
        raise SurgeryError(
            f"the head '{path}' cannot have {classes} outputs, because of a layer behind it: {error}. "
            "Use append=True for a dense layer behind them"
        ) from error
    prefix, _, _ = path.rpartition("/")
    return result, f"{prefix}/{fresh.name}" if prefix else fresh.name


def _anew(layer: keras.Layer, setting: str, value: Any, *, name: str) -> keras.Layer:
    config = {**layer.get_config(), setting: value, "name": name}
    activation = vars(layer).get("activation")
    if activation is None or isinstance(activation, keras.Layer):
        return type(layer).from_config(config)
    fresh = type(layer).from_config({**config, "activation": "linear"})
    fresh.activation = activation
    return fresh


def _reshapes_behind(head: Step, classes: int) -> dict[int, keras.Layer]:
    """Reshape layers that only drop positions, as in MobileNet, written for the new number of classes."""
    old = head.call.output.shape[-1]
    changed: dict[int, keras.Layer] = {}
    queue = list(head.consumers)
    while queue:
        step = queue.pop()
        layer = step.call.operation
        if isinstance(layer, keras.layers.Reshape) and tuple(layer.target_shape)[-1] == old:
            shape = (*layer.target_shape[:-1], classes)
            changed[id(layer)] = _anew(layer, "target_shape", shape, name=layer.name)
        queue += step.consumers
    return changed


def _appended(model: keras.Model, classes: int, name: str | None) -> tuple[keras.Model, str]:
    (output,) = keras.tree.flatten(outputs_of(model))
    taken = {node.operation.name for node in nodes(model)}
    taken |= {producer(tensor).operation.name for tensor in inputs_of(model)}
    head = keras.layers.Dense(classes, activation="softmax", name=unique_name(name or "head", taken))
    rank = len(output.shape)
    if rank == 2:
        return rebuild(model, Edits(at_end=[head])), head.name
    if rank not in _POOLING:
        raise SurgeryError(f"no pooling is known for the network's output of shape {tuple(output.shape)}")
    formats = [getattr(call.operation, "data_format", None) for call in calls(model)]
    data_format = next((each for each in reversed(formats) if each), "channels_last")
    pooling = _POOLING[rank](data_format=data_format, name=unique_name("head_pooling", taken))
    return rebuild(model, Edits(at_end=[pooling, head])), head.name
