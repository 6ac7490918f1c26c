"""Batch normalization layers by path, name or pattern, and those that cannot be reached."""

import warnings
from collections.abc import Iterable, Sequence

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.graph import layer_paths
from bnadapt.surgery.sites import Patterns, as_patterns, matches


def batch_norm_layers(
    model: keras.Model, layers: Patterns | None = None
) -> dict[str, keras.layers.BatchNormalization]:
    """The batch normalization layers in the network's graph by path, in graph order.

    Not among them are those inside other layers, such as a TimeDistributed, which are not opened.

    Args:
        model: a Sequential or Functional network.
        layers: paths, names, or regular expressions over either (full match); by default all.

    Raises:
        SurgeryError: the network has none, ``layers`` is empty, or one of ``layers`` matches none of them.
    """
    found = {
        path: layer
        for path, layer in layer_paths(model).items()
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    hidden = _hidden(model)
    if not found:
        raise SurgeryError(
            f"no batch normalization of the model '{model.name}' can be reached: {'; '.join(hidden.values())}"
            if hidden
            else f"the model '{model.name}' has no batch normalization: insert some first (insert_batch_norm)"
        )
    if layers is None:
        return found
    chosen: set[str] = set()
    for wanted in _names(layers):
        hits = (
            {wanted} if wanted in found else {path for path in found if matches(as_patterns(wanted)[0], path)}
        )
        if not hits:
            raise SurgeryError(
                f"'{wanted}' matches no batch normalization layer; there are: {', '.join(found)}"
                + "".join(f"; {reason}" for reason in hidden.values())
            )
        chosen |= hits
    return {path: layer for path, layer in found.items() if path in chosen}


def warn_of_hidden(model: keras.Model, layers: Patterns | None) -> None:
    """Warn, naming them, of batch normalization inside other layers, which stays as it is where all are meant."""
    hidden = _hidden(model) if layers is None else {}
    if hidden:
        warnings.warn(f"left as it is: {'; '.join(hidden.values())}", stacklevel=3)


def _hidden(model: keras.Model) -> dict[str, str]:
    """What cannot be reached, by path, and in words where it is."""
    return {
        f"{path}/{inner.name}": f"'{path}/{inner.name}' is inside a {type(leaf).__name__}, which is not opened"
        for path, leaf in layer_paths(model).items()
        for inner in leaf._flatten_layers(include_self=False, recursive=True)
        if isinstance(inner, keras.layers.BatchNormalization)
    }


def _names(layers: Patterns) -> Sequence[str]:
    if isinstance(layers, str):
        return [layers]
    listed = list(layers) if isinstance(layers, Iterable) else [layers]
    if not listed or not all(isinstance(each, str) for each in listed):
        raise SurgeryError(
            f"layers={layers!r}: name at least one batch normalization layer by path, name or regular "
            "expression, or leave it at None for all"
        )
    return listed
