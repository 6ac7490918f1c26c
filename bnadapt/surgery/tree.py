"""The tree of a network's layers: everything that owns weights, by path, and the flags that freeze it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from bnadapt.surgery.graph import nodes


@dataclass(frozen=True, eq=False)
class Entry:
    """A layer, its path, and how deep it lies at most (the network itself: 0)."""

    path: str
    layer: keras.Layer
    depth: int


def children(layer: keras.Layer) -> list[keras.Layer]:
    """The layers directly inside another one: of a model in graph order, input layers left out."""
    inside = layer._flatten_layers(include_self=False, recursive=False)
    ordered = []
    if hasattr(layer, "_nodes_by_depth") or getattr(layer, "_functional", None) is not None:
        ordered = [node.operation for node in nodes(layer) if isinstance(node.operation, keras.Layer)]
    unique = {id(each): each for each in [*ordered, *inside]}
    return [each for each in unique.values() if not isinstance(each, keras.layers.InputLayer)]


def layer_tree(model: keras.Model) -> list[Entry]:
    """Every layer at every depth, once, parents before children: models, wrappers and what is inside them.

    Paths join names by "/"; the network itself has the path "". Works on subclassed models too.
    """
    depths: dict[int, int] = {}
    first: dict[int, tuple[str, keras.Layer]] = {}
    taken: set[str] = set()

    def enter(layer: keras.Layer, path: str, above: tuple[int, ...]) -> None:
        if id(layer) in above:
            return
        known = depths.get(id(layer), -1)
        if known < 0:
            path = unique_name(path, taken)
            taken.add(path)
            first[id(layer)] = (path, layer)
        if known >= len(above):
            return
        depths[id(layer)] = len(above)
        prefix = first[id(layer)][0]
        for child in children(layer):
            enter(child, f"{prefix}/{child.name}" if prefix else child.name, (*above, id(layer)))

    enter(model, "", ())
    return [Entry(path, layer, depths[key]) for key, (path, layer) in first.items()]


def layers_within(layer: keras.Layer) -> list[keras.Layer]:
    """The layer and all inside it, at every depth."""
    return layer._flatten_layers(include_self=True, recursive=True)


def own_weights(layer: keras.Layer) -> list[Any]:
    """The weights of a layer without those of the layers inside it; seed generators have none."""
    inner = {id(weight) for child in children(layer) for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def made_trainable(layer: keras.Layer) -> list[Any]:
    """The layer's own weights that it made for training, whatever its flags say now; the others are state."""
    made = {id(weight) for weight in layer._trainable_variables}
    return [weight for weight in own_weights(layer) if id(weight) in made]


def weights_by_path(model: keras.Model) -> dict[str, Any]:
    """Every weight by the path of its layer and its own name, such as "backbone/conv1/kernel".

    A weight that its layer gave no name is called "variable": Keras numbers those through the whole process,
    so that their names would differ from copy to copy.
    """
    found: dict[str, Any] = {}
    for entry in layer_tree(model):
        for weight in own_weights(entry.layer):
            name = re.sub(r"^variable_\d+$", "variable", weight.name)
            path = f"{entry.path}/{name}" if entry.path else name
            found[unique_name(path, found)] = weight
    return found


def set_flags(model: keras.Model, layers: Mapping[int, bool], weights: Mapping[int, bool]) -> None:
    """Set ``trainable`` of layers and weights, both by id; changes the model.

    Name every layer and every weight: the flag of a layer that reads right already does nothing for those
    inside it, because TensorFlow's attribute tracking ignores an assignment of the value that is there.
    Parents come first, because a flag that does change overwrites those inside it; weights come last.
    """
    for entry in sorted(layer_tree(model), key=lambda entry: entry.depth):
        if id(entry.layer) in layers:
            entry.layer.trainable = layers[id(entry.layer)]
    for weight in model.weights:
        if id(weight) in weights:
            weight.trainable = weights[id(weight)]


def unique_name(name: str, taken: Any) -> str:
    """The name, with a number where it is taken."""
    number, candidate = 0, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
