"""Which layer of a network is the first to give what is no number."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnadapt.errors import SurgeryError
from bnadapt.surgery.flow import trace
from bnadapt.surgery.tree import layer_tree, weights_by_path


@dataclass(frozen=True)
class Heard:
    """The first operation whose outputs are not finite.

    Attributes:
        path: Of the layer or operation.
        kind: Its class.
        dtype: Of its outputs.
        broken: How many of their values are not finite.
        size: How many there are.
        largest_input: The largest absolute value that it got.
        weights: Its own weights that were not finite before the call, by path.
    """

    path: str
    kind: str
    dtype: str
    broken: int
    size: int
    largest_input: float
    weights: dict[str, Any]

    @property
    def where(self) -> str:
        """The layer or operation, in words."""
        return f"{self.path} ({self.kind})"

    @property
    def how(self) -> str:
        """What it made of what, in words."""
        if self.weights:
            because = f"weights that are not finite: {', '.join(self.weights)}"
        else:
            limit = float(tf.as_dtype(self.dtype).max)
            inputs = f"inputs of at most {self.largest_input:.3g} ({self.dtype} ends at {limit:.2g})"
            because = f"finite weights and {inputs}"
        return f"{self.broken} of {self.size} values are not finite, from {because}"


@contextmanager
def listening(network: keras.Model) -> Iterator[list[Heard]]:
    """Hear of the first operation whose outputs are not finite while the block calls the network, not compiled.

    Puts an object into the attribute ``call`` of every layer and operation, at any depth, and takes it away again.

    Args:
        network: Any network; where it is no graph its innermost layers are heard.

    Yields:
        A list that is empty as long as all outputs are finite, and then has one entry.
    """
    heard: list[Heard] = []
    operations = _operations(network)
    paths = {id(weight): path for path, weight in weights_by_path(network).items()}
    before = {key: vars(operation).get("call") for key, (_, operation) in operations.items()}

    def listen(path: str, operation: Any) -> None:
        call = operation.call

        def listened(*args: Any, **kwargs: Any) -> Any:
            if heard:
                return call(*args, **kwargs)
            # Before the call, which may change moving statistics.
            weights = {
                paths[id(weight)]: weight
                for weight in (operation.weights if isinstance(operation, keras.Layer) else ())
                if not is_finite(weight)
            }
            outputs = call(*args, **kwargs)
            wrong = [each for each in numbers_in(outputs) if not is_finite(each)]
            if wrong:
                values = np.concatenate([_float(each).ravel() for each in wrong])
                largest = max((largest_of(each) for each in numbers_in((args, kwargs))), default=math.nan)
                dtype = keras.backend.standardize_dtype(wrong[0].dtype)
                broken = int((~np.isfinite(values)).sum())
                kind = type(operation).__name__
                heard.append(Heard(path, kind, dtype, broken, values.size, largest, weights))
            return outputs

        # In the instance, which Python asks first; Keras calls every layer and operation through it.
        vars(operation)["call"] = listened

    try:
        for path, operation in operations.values():
            listen(path, operation)
        yield heard
    finally:
        for key, (_, operation) in operations.items():
            vars(operation).pop("call", None)
            if before[key] is not None:
                vars(operation)["call"] = before[key]


def _operations(network: keras.Model) -> dict[int, tuple[str, Any]]:
    """What computes in a network, by id with its path: the leaves of its graph, or its innermost layers."""
    try:
        return {id(step.call.operation): (step.call.path, step.call.operation) for step in trace(network)}
    except SurgeryError:
        entries = layer_tree(network)
        inside = {each.path.rpartition("/")[0] for each in entries}
        return {id(each.layer): (each.path, each.layer) for each in entries if each.path not in inside}


def numbers_in(structure: Any) -> list[Any]:
    """The tensors of floats in a structure."""
    return [
        each
        for each in keras.tree.flatten(structure)
        if hasattr(each, "dtype") and "float" in keras.backend.standardize_dtype(each.dtype)
    ]


def is_finite(value: Any) -> bool:
    """Whether no number of a tensor is NaN or infinite."""
    return bool(keras.ops.all(keras.ops.isfinite(value)))


def largest_of(value: Any) -> float:
    """The largest absolute value of a tensor; 0 of an empty one."""
    return float(np.abs(_float(value)).max(initial=0.0))


def _float(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value)).astype("float64")
