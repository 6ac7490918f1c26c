"""What a network computes apart from its weights, as text that can be compared and hashed."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import keras
import numpy as np

from bnadapt.errors import SurgeryError
from bnadapt.surgery.graph import inputs_of, nodes, outputs_of, producer
from bnadapt.surgery.tree import weights_by_path

LONGEST_LINE = 200
# Of a configuration: what it may say without meaning another function.
_WITHOUT_EFFECT = {"name", "trainable", "momentum", "renorm_momentum", "shared_object_id", "build_config"}


def structure_of(model: keras.Model) -> list[str]:
    """One line per call in graph order: type, name where it has weights, settings, and what it is called on.

    Two networks with equal lines compute the same function with the same weights, whatever their layers
    without weights are called. Arrays in the graph count by type, shape and bytes, the network's own variables
    by their paths. The code of functions and the classes of other packages is not looked into.

    Raises:
        SurgeryError: the model, or one inside it, is no graph of layers, or a call or configuration holds
            something that cannot be told from another of its kind.
    """
    return list(_Lines(model).of(model, ""))


def structure_hash(model: keras.Model) -> str:
    """SHA-256 of ``structure_of``."""
    return hashlib.sha256("\n".join(structure_of(model)).encode()).hexdigest()


def first_difference(first: Sequence[str], second: Sequence[str]) -> str | None:
    """The first line in which two structures differ, in words; None where they are equal."""
    for one, other in zip_longest(first, second, fillvalue="nothing more"):
        if one != other:
            return f"'{_start(other)}' where the base gives '{_start(one)}'"
    return None


def line_marks(lines: Sequence[str]) -> list[str]:
    """Eight hexadecimal digits per line, by which to find the first that differs without having them all."""
    return [hashlib.sha256(line.encode()).hexdigest()[:8] for line in lines]


def first_difference_from_marks(marks: Sequence[str], lines: Sequence[str]) -> str:
    """The first line that is not as marked, in words; a hint, because marks are short."""
    for number, (mark, found) in enumerate(zip_longest(marks, line_marks(lines)), start=1):
        if mark is None:
            return f"'{_start(lines[number - 1])}' is more than there was"
        if found is None:
            return f"{len(marks)} lines describe them, here {len(lines)}"
        if mark != found:
            return f"line {number} of {len(marks)}, here '{_start(lines[number - 1])}', was another"
    return "no single line"


def _start(line: str) -> str:
    return line.strip() if len(line) < LONGEST_LINE else f"{line.strip()[:LONGEST_LINE]}..."


class _Lines:
    def __init__(self, model: keras.Model) -> None:
        self.seen: dict[int, int] = {}
        self.variables = {id(variable): path for path, variable in weights_by_path(model).items()}

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
            lambda value: self.argument(value, order, operation), (node.arguments.args, _keywords(node))
        )
        if known:
            yield f"{indent}{type(operation).__name__}{name}, again {number} {_json(arguments)}"
            return
        nested = isinstance(operation, keras.Model)
        settings = {} if nested else _settings(operation)
        yield f"{indent}{type(operation).__name__}{name} {_json([arguments, settings])}"
        if nested:
            yield from self.of(operation, indent + "  ")

    def argument(self, value: Any, order: dict[int, int], operation: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return _reference(value, order)
        if id(value) in self.variables:
            return f"variable {self.variables[id(value)]}"
        return _plain(value, operation)


def _keywords(node: Any) -> dict[str, Any]:
    """Keyword arguments, but for None and for ``training=False``, which say nothing in inference."""
    given = node.arguments.kwargs.items()
    return {key: value for key, value in given if value is not None and (key != "training" or value)}


def _reference(tensor: keras.KerasTensor, order: dict[int, int]) -> str:
    node = producer(tensor)
    return f"#{order[id(node)]}.{tensor._keras_history.tensor_index}"


def _settings(operation: Any) -> Any:
    if not isinstance(operation, keras.Layer):
        own = {key: value for key, value in vars(operation).items() if not key.startswith("_")}
        return _plain(own, operation)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas in the configuration, which is not stored
            config = operation.get_config()
    except NotImplementedError:
        return {}
    return _plain(config, operation)


def _plain(value: Any, operation: Any) -> Any:
    """The value as JSON can hold it, so that equal values and no others look equal; the operation is for messages."""
    if isinstance(value, dict):
        if "Policy" in str(value.get("class_name")):  # of data types: all that it has is a name
            return str(value["config"])
        return {
            str(key): _plain(each, operation) for key, each in value.items() if key not in _WITHOUT_EFFECT
        }
    if isinstance(value, list | tuple):
        return [_plain(each, operation) for each in value]
    if isinstance(value, slice):
        return ["slice", *_plain((value.start, value.stop, value.step), operation)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, complex | bytes | np.dtype) or value is Ellipsis:
        return repr(value)
    if hasattr(value, "__name__"):  # of functions and classes
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _of_array(value)
    if hasattr(value, "as_numpy_dtype"):  # a type of TensorFlow
        return value.name
    raise SurgeryError(
        f"'{operation.name}' ({type(operation).__name__}) holds a {type(value).__name__}, {_start(repr(value))}, "
        "which cannot be told from others of its kind: give it as numbers, text or an array, or save the whole network"
    )


def _of_array(value: Any) -> str:
    """Type, shape and SHA-256 of the bytes of an array, scalar or variable."""
    array = keras.ops.convert_to_numpy(value)
    return f"{array.dtype} {array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
