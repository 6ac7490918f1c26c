"""Weights of batch normalization as they were, to put them back."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from bnadapt.errors import ModelError, SurgeryError
from bnadapt.surgery.graph import layer_paths


class Snapshot(Mapping[str, Mapping[str, np.ndarray]]):
    """Weights of layers before a change: path -> name of the weight -> array; it cannot be changed.

    Holds the layers that were changed, and of them the weights that were. Its paths in graph order are
    ``list(snapshot)``; ``restore`` puts the weights back.
    """

    def __init__(self, weights: Mapping[str, Mapping[str, Any]]) -> None:
        """Copies the arrays."""
        self._weights = {
            path: {name: _frozen(array) for name, array in of_layer.items()}
            for path, of_layer in weights.items()
        }

    def __getitem__(self, path: str) -> Mapping[str, np.ndarray]:
        """The weights of one layer by name."""
        return MappingProxyType(self._weights[path])

    def __iter__(self) -> Iterator[str]:
        """The paths in graph order."""
        return iter(self._weights)

    def __len__(self) -> int:
        """The number of layers."""
        return len(self._weights)

    def __eq__(self, other: object) -> bool:
        """Equal where paths, names, types and all bits are."""
        return isinstance(other, Snapshot) and _bits(self) == _bits(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """One line per layer."""
        lines = [f"  {path}: {', '.join(of_layer)}" for path, of_layer in self._weights.items()]
        return "\n".join([f"weights of {len(self)} layer{'' if len(self) == 1 else 's'}", *lines])


def restore(model: keras.Model, snapshot: Snapshot) -> list[str]:
    """Put weights back to what they were, to the last bit, and return the paths of their layers.

    Changes the weights that the snapshot holds, and nothing else.

    Args:
        model: the network that the snapshot was taken of; what else was trained since does not matter.
        snapshot: as returned by ``calibrate`` and ``reestimate``.

    Raises:
        SurgeryError: this is no snapshot, or one of another network: a layer or weight is not there, or has
            another shape or type. Nothing has been changed then.
    """
    if not isinstance(snapshot, Snapshot):
        raise SurgeryError(f"snapshot={snapshot!r}: pass what calibrate or reestimate returned")
    layers = layer_paths(model)
    wrong = [
        f"{path}/{name} {_kind(array)}, here {_kind(getattr(layers.get(path), name, None))}"
        for path, of_layer in snapshot.items()
        for name, array in of_layer.items()
        if _kind(getattr(layers.get(path), name, None)) != _kind(array)
    ]
    if wrong:
        raise SurgeryError(
            f"the snapshot is not of the model '{model.name}', which was left as it is: {'; '.join(wrong)}"
        )
    _assign(layers, snapshot)
    return list(snapshot)


def take(layers: Mapping[str, keras.Layer], names: Mapping[str, Any]) -> Snapshot:
    """The present values of the named weights of every path."""
    return Snapshot(
        {
            path: {name: keras.ops.convert_to_numpy(getattr(layers[path], name)) for name in of_layer}
            for path, of_layer in names.items()
        }
    )


def replace(layers: Mapping[str, keras.Layer], weights: Mapping[str, Mapping[str, np.ndarray]]) -> Snapshot:
    """Assign new weights, by path and name, and return the former ones; all of them, or after an error none.

    Raises:
        ModelError: a new value is not finite, or too large for the type of its weight. Nothing has been
            changed then.
    """
    rounded: dict[str, dict[str, np.ndarray]] = {}
    for path, of_layer in weights.items():
        rounded[path] = {}
        for name, values in of_layer.items():
            kind = np.dtype(getattr(layers[path], name).dtype)
            with np.errstate(over="ignore"):
                rounded[path][name] = np.asarray(values).astype(kind)
            wrong = ~np.isfinite(values)
            if wrong.any():
                raise ModelError(
                    f"the new {name} of the batch normalization '{path}' is not finite in {wrong.sum()} of "
                    f"{wrong.size} channels ({np.asarray(values)[wrong][0]}): its present weights are not, or "
                    "are too extreme to compute with"
                )
            if not np.isfinite(rounded[path][name]).all():
                raise ModelError(
                    f"the new {name} of the batch normalization '{path}' reaches {np.abs(values).max():.3g}, "
                    f"which its type {kind} cannot hold: give the layer variables of float32"
                )
    before = take(layers, rounded)
    try:
        _assign(layers, rounded)
    except BaseException:  # an interruption in the middle, too, must leave no mixture
        _assign(layers, before)
        raise
    return before


def _assign(layers: Mapping[str, keras.Layer], weights: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    for path, of_layer in weights.items():
        for name, array in of_layer.items():
            getattr(layers[path], name).assign(array)


def _frozen(array: Any) -> np.ndarray:
    copy = np.array(array)
    copy.flags.writeable = False
    return copy


def _kind(weight: Any) -> str:
    if weight is None:
        return "nothing"
    return f"{keras.backend.standardize_dtype(weight.dtype)} {tuple(weight.shape)}"


def _bits(snapshot: Snapshot) -> list[Any]:
    return [
        (path, name, array.dtype, array.shape, array.tobytes())
        for path, of_layer in snapshot.items()
        for name, array in of_layer.items()
    ]
