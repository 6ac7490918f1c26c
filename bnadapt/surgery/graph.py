"""The walk over a Keras graph, node by node, through nested models.

A node is one call of one layer or operation. Keras keeps nodes in private attributes; those that the walk
over graphs reads are named in this module and checked once, so that a Keras release without them is reported
as such and not as a strange failure somewhere else.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from bnadapt.errors import DataError, SurgeryError

PRIVATE_OF_MODEL = (
    "_nodes_by_depth",
    "_inputs_struct",
    "_outputs_struct",
    "_inputs",
    "_flatten_layers",
    "_trainable_variables",
)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one leaf layer or raw operation in the graph."""

    operation: Any
    path: str
    index: int
    node: Any
    model: keras.Model
    model_path: str

    @property
    def output(self) -> keras.KerasTensor:
        """The symbolic result; the first one where there are several."""
        return self.node.outputs[0]


def calls(model: keras.Model) -> list[Call]:
    """All calls of leaf layers and operations, in graph order.

    Nested models are entered where they are called first, once each; a layer that is reached along
    several paths keeps its first one. ``index`` numbers the calls of one layer.

    Raises:
        SurgeryError: the model, or one inside it, is no graph of layers.
    """
    paths: dict[int, str] = {}
    counts: dict[int, int] = {}
    found: list[Call] = []

    def enter(inner: keras.Model, model_path: str) -> None:
        for node in nodes(inner, model_path):
            operation = node.operation
            seen = id(operation) in paths
            path = paths.setdefault(id(operation), join_path(model_path, operation.name))
            if isinstance(operation, keras.Model):
                if not seen:
                    enter(operation, path)
                continue
            index = counts.get(id(operation), 0)
            counts[id(operation)] = index + 1
            found.append(Call(operation, path, index, node, inner, model_path))

    enter(model, "")
    return found


def layer_paths(model: keras.Model) -> dict[str, keras.Layer]:
    """Leaf layers by path, in graph order: names joined by "/" through nested models.

    A leaf is what the graph calls: a wrapper or an attention layer is one leaf, whatever is inside it.
    Input layers and raw operations are left out. Raises SurgeryError where ``calls`` does.
    """
    return {c.path: c.operation for c in calls(model) if isinstance(c.operation, keras.Layer)}


def models(model: keras.Model) -> dict[str, keras.Model]:
    """The network itself, by the path "", and every model inside it, once each, by the path of its first call."""
    found: dict[str, keras.Model] = {}

    def enter(inner: keras.Model, path: str) -> None:
        found[path] = inner
        for node in nodes(inner, path):
            if isinstance(node.operation, keras.Model) and all(
                node.operation is not m for m in found.values()
            ):
                enter(node.operation, join_path(path, node.operation.name))

    enter(model, "")
    return found


def nodes(model: keras.Model, path: str = "") -> Iterator[Any]:
    """The nodes of one model in the order of computation, input nodes left out."""
    by_depth = graph_of(model, path)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)


def inputs_of(model: keras.Model) -> list[keras.KerasTensor]:
    """The model's symbolic inputs, flat."""
    return list(graph_of(model)._inputs)


def input_structure(model: keras.Model) -> Any:
    """The model's symbolic inputs, in the structure that the model is called with."""
    return graph_of(model)._inputs_struct


def outputs_of(model: keras.Model) -> Any:
    """The model's symbolic outputs, in the structure that the model returns."""
    return graph_of(model)._outputs_struct


def producer(tensor: keras.KerasTensor) -> Any:
    """The node whose call made a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def bind(model: keras.Model, inputs: Any) -> list[Any]:
    """What was passed to a model, flat and in the order of its inputs.

    A dictionary is looked up by key: the model's own keys, or the names of its inputs where it is called with
    something else than a dictionary. Other keys are dropped, as Keras drops them.

    Raises:
        DataError: a key is missing, or other keys come between those of the model (there Keras takes values
            by their place among the sorted keys, not by key), or the number of inputs is another one.
    """
    structure = input_structure(model)
    if isinstance(inputs, dict) and not isinstance(structure, dict):
        names = [tensor.name for tensor in inputs_of(model)]
        _check_keys(model, names, inputs)
        return [inputs[name] for name in names]
    values: dict[int, Any] = {}
    _pair(model, structure, inputs, values)
    return [values[id(tensor)] for tensor in inputs_of(model)]


def bound(model: keras.Model, inputs: Any) -> Any:
    """What was passed to a model, in the structure that it was made with; raises DataError where ``bind`` does."""
    return keras.tree.pack_sequence_as(input_structure(model), bind(model, inputs))


def _pair(model: keras.Model, structure: Any, given: Any, values: dict[int, Any]) -> None:
    """Note for every symbolic input, by its id, what was given for it."""
    if isinstance(structure, dict) and isinstance(given, dict):
        _check_keys(model, list(structure), given)
        first = sorted(given)[: len(structure)]
        if set(first) != set(structure):
            raise DataError(
                f"the model '{model.name}' takes a dictionary with the keys {_listed(structure)}; received "
                f"{_listed(given)}: Keras would mix the values up, so leave the other keys out"
            )
        for key, inner in structure.items():
            _pair(model, inner, given[key], values)
        return
    if (
        isinstance(structure, list | tuple)
        and isinstance(given, list | tuple)
        and len(structure) == len(given)
    ):
        for inner, each in zip(structure, given, strict=True):
            _pair(model, inner, each, values)
        return
    wanted, received = keras.tree.flatten(structure), keras.tree.flatten(given)
    if len(wanted) != len(received):
        raise DataError(
            f"the model '{model.name}' takes {_inputs(len(wanted))} ({', '.join(t.name for t in wanted)}); "
            f"received {_inputs(len(received))}"
        )
    if isinstance(structure, dict) and list(structure) != sorted(structure):
        raise DataError(
            f"the model '{model.name}' takes a dictionary with the keys {_listed(structure)}; received "
            f"a {type(given).__name__}: pass a dictionary"
        )
    values.update(zip(map(id, wanted), received, strict=True))


def _check_keys(model: keras.Model, wanted: Iterable[str], given: Mapping[str, Any]) -> None:
    if not set(wanted) <= set(given):
        raise DataError(
            f"the model '{model.name}' takes a dictionary with the keys {_listed(wanted)}; received "
            f"{_listed(given)}"
        )


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(f"'{key}'" for key in sorted(keys, key=str)) or "none"


def _inputs(number: int) -> str:
    return f"{number} input{'' if number == 1 else 's'}"


def replay(model: keras.Model, inputs: Any, call: Callable[..., Any]) -> Any:
    """Run the graph in inference, every leaf call through ``call(Call, *args, **kwargs) -> outputs``.

    Works on tensors of any backend function, and on stand-ins for tensors. Nested models are entered at
    every call of them. A ``training`` argument that was recorded in the graph is dropped, as Keras drops it
    in ``predict``. The model is not changed by the walk itself.
    """
    plan = {id(each.node): each for each in calls(model)}
    return _run(model, inputs, plan, call)


def _run(model: keras.Model, inputs: Any, plan: dict[int, Call], call: Callable[..., Any]) -> Any:
    values = {
        id(reference): _align(value, reference)
        for reference, value in zip(inputs_of(model), bind(model, inputs), strict=True)
    }
    for node in nodes(model):
        args, kwargs = node.arguments.fill_in(values)
        if isinstance(node.operation, keras.Layer):
            kwargs = {name: value for name, value in kwargs.items() if name != "training"}
        if isinstance(node.operation, keras.Model):
            given = args[0] if args else kwargs["inputs"]
            result = _run(node.operation, _masked(given, kwargs.get("mask")), plan, call)
        else:
            result = call(plan[id(node)], *args, **kwargs)
        values.update(zip(map(id, node.outputs), keras.tree.flatten(result), strict=True))
    return keras.tree.map_structure(lambda tensor: values[id(tensor)], outputs_of(model))


def _align(value: Any, reference: keras.KerasTensor) -> Any:
    """A tensor as the model's border passes it on: its data type and rank adjusted, its mask kept."""
    if not keras.ops.is_tensor(value):
        return value
    mask = getattr(value, "_keras_mask", None)
    aligned = keras.ops.cast(value, reference.dtype)
    if len(value.shape) == len(reference.shape) + 1 and value.shape[-1] == 1:
        aligned = keras.ops.squeeze(aligned, axis=-1)
    elif len(value.shape) == len(reference.shape) - 1 and reference.shape[-1] == 1:
        aligned = keras.ops.expand_dims(aligned, axis=-1)
    return _masked(aligned, mask)


def _masked(values: Any, masks: Any) -> Any:
    if masks is not None:
        for value, mask in zip(keras.tree.flatten(values), keras.tree.flatten(masks), strict=True):
            if mask is not None:
                value._keras_mask = mask
    return values


def graph_of(model: keras.Model, path: str = "") -> Any:
    """The object that holds the model's nodes; SurgeryError where the model is no graph of layers."""
    _check_keras()
    if not isinstance(model, keras.Model):
        raise SurgeryError(f"expected a keras.Model, received {type(model).__name__}")
    where = f"the model '{model.name}'" if not path else f"the model '{path}' inside the network"
    if isinstance(model, keras.Sequential):
        if getattr(model, "_functional", None) is None:
            raise SurgeryError(
                f"{where} is a Sequential model that is not built, so its layers have no shapes yet: "
                "start it with keras.Input(shape), or call it on data once"
            )
        graph = model._functional
    else:
        graph = model
    if not hasattr(graph, "_nodes_by_depth"):
        raise SurgeryError(
            f"{where} is of the subclassed type {type(model).__name__}: its layers are called by Python code "
            "that cannot be rewritten. Build it with the functional API: keras.Model(inputs, outputs)"
        )
    for base in type(model).__mro__:
        if base.__module__.startswith("keras."):
            break
        own = [name for name in ("__init__", "__call__", "call") if name in vars(base)]
        if own:
            raise SurgeryError(
                f"{where} is of type {type(model).__name__}, whose own {own[0]} would be lost in a rewritten "
                "network: pass keras.Model(model.inputs, model.outputs), or leave that method out"
            )
    return graph


@functools.cache
def _check_keras() -> None:
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    missing = [f"Model.{name}" for name in PRIVATE_OF_MODEL if not hasattr(model, name)]
    if not hasattr(keras.Sequential, "_functional") and not hasattr(keras.Sequential(), "_functional"):
        missing.append("Sequential._functional")
    if not hasattr(inputs, "_keras_history"):
        missing.append("KerasTensor._keras_history")
    if not missing:
        node = next(node for depth in model._nodes_by_depth.values() for node in depth if not node.is_input)
        missing += [
            f"Node.{name}" for name in ("operation", "outputs", "input_tensors") if not hasattr(node, name)
        ]
        if not hasattr(getattr(node, "arguments", None), "fill_in"):
            missing.append("Node.arguments.fill_in")
        if not hasattr(node.operation, "_inbound_nodes"):
            missing.append("Operation._inbound_nodes")
    if missing:
        raise SurgeryError(
            f"Keras {keras.__version__} lacks what the rewriting of networks needs: {', '.join(missing)}. "
            "bnadapt is tested with Keras 3.15"
        )


def join_path(prefix: str, name: str) -> str:
    """The path of what lies inside something else; at the top the name alone."""
    return f"{prefix}/{name}" if prefix else name
