"""What a network computes apart from its weights, as text that can be compared and hashed."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import keras

from bnadapt.surgery.graph import inputs_of, nodes, outputs_of, producer

LONGEST_LINE = 200
# Of a configuration: what it may say without meaning another function.
_WITHOUT_EFFECT = {"name", "trainable", "momentum", "renorm_momentum", "shared_object_id", "build_config"}


def structure_of(model: keras.Model) -> list[str]:
    """One line per call in graph order: type, name where it has weights, settings, and what it is called on.

    Two networks with equal lines compute the same function with the same weights, whatever their layers
    without weights are called. The code inside lambdas and the classes of other packages is not looked into.

    Raises:
        SurgeryError: the model, or one inside it, is no graph of layers.
    """
    return list(_Lines().of(model, ""))


def structure_hash(model: keras.Model) -> str:
    """SHA-256 of ``structure_of``."""
    return hashlib.sha256("\n".join(structure_of(model)).encode()).hexdigest()


def first_difference(first: Sequence[str], second: Sequence[str]) -> str | None:
    """The first line in which two structures differ, in words; None where they are equal."""
    for one, other in zip_longest(first, second, fillvalue="nothing more"):
        if one != other:
            return f"'{_start(other)}' where the base gives '{_start(one)}'"
    return None


def _start(line: str) -> str:
    return line.strip() if len(line) < LONGEST_LINE else f"{line.strip()[:LONGEST_LINE]}..."


class _Lines:
    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def of(self, model: keras.Model, indent: str) -> Iterator[str]:
        order = {id(producer(tensor)): -1 - index for index, tensor in enumerate(inputs_of(model))}
        for tensor in inputs_of(model):
            yield f"{indent}input {tuple(tensor.shape)} {tensor.dtype}"
        for index, node in enumerate(nodes(model)):
            order[id(node)] = index
            yield from self.of_call(node, order, indent)
        ends = [_reference(tensor, order) for tensor in keras.tree.flatten(outputs_of(model))]
        yield f"{indent}outputs {', '.join(ends)}"

    def of_call(self, node: Any, order: dict[int, int], indent: str) -> Iterator[str]:
        operation = node.operation
        known = id(operation) in self.seen
        number = self.seen.setdefault(id(operation), len(self.seen))
        is_layer = isinstance(operation, keras.Layer)
        name = f" {operation.name}" if is_layer and operation.weights else ""
        arguments = keras.tree.map_structure(
            lambda value: _argument(value, order), (node.arguments.args, _keywords(node))
        )
        if known:
            yield f"{indent}{type(operation).__name__}{name}, again {number} {_json(arguments)}"
            return
        nested = isinstance(operation, keras.Model)
        settings = {} if nested else _settings(operation)
        yield f"{indent}{type(operation).__name__}{name} {_json([arguments, settings])}"
        if nested:
            yield from self.of(operation, indent + "  ")


def _keywords(node: Any) -> dict[str, Any]:
    """Keyword arguments, but for None and for ``training=False``, which say nothing in inference."""
    given = node.arguments.kwargs.items()
    return {key: value for key, value in given if value is not None and (key != "training" or value)}


def _argument(value: Any, order: dict[int, int]) -> Any:
    return _reference(value, order) if isinstance(value, keras.KerasTensor) else _plain(value)


def _reference(tensor: keras.KerasTensor, order: dict[int, int]) -> str:
    node = producer(tensor)
    return f"#{order[id(node)]}.{tensor._keras_history.tensor_index}"


def _settings(operation: Any) -> Any:
    if not isinstance(operation, keras.Layer):
        own = {key: value for key, value in vars(operation).items() if not key.startswith("_")}
        return _plain(own)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas in the configuration, which is not stored
            return _plain(operation.get_config())
    except NotImplementedError:
        return {}


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; of objects only the kind, because addresses are not the same twice."""
    if isinstance(value, dict):
        if "Policy" in str(value.get("class_name")):  # of data types: all that it has is a name
            return str(value["config"])
        return {str(key): _plain(each) for key, each in value.items() if key not in _WITHOUT_EFFECT}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)
