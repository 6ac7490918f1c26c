"""A new model from an old one, node by node, with layers replaced, split and added."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.copies import copy_layer, copy_state, fresh_input, is_reusable
from bnadapt.surgery.graph import (
    calls,
    graph_of,
    input_structure,
    inputs_of,
    join_path,
    models,
    nodes,
    outputs_of,
    producer,
)
from bnadapt.surgery.tree import layer_tree, layers_within, own_weights, set_flags


@dataclass
class Edits:
    """What ``rebuild`` changes, by the ids of the original's layers and nodes.

    Attributes:
        replace: layer -> fresh layer that is called in its place, with a name and a state of its own.
        split: layer -> activation layer; the copy becomes linear and every call of it is followed by that
            layer, which takes over the activity regularizer.
        drop: layers of which every call is left out: its first input takes the place of its output.
        after: node -> fresh layers called one after the other on its output, before a split activation.
        at_end: fresh layers called one after the other on the single output of the whole model.
    """

    replace: dict[int, keras.Layer] = field(default_factory=dict)
    split: dict[int, keras.Layer] = field(default_factory=dict)
    drop: set[int] = field(default_factory=set)
    after: dict[int, Sequence[keras.Layer]] = field(default_factory=dict)
    at_end: Sequence[keras.Layer] = ()


def rebuild(model: keras.Model, edits: Edits | None = None) -> keras.Model:
    """Return a new model that computes what the old one computes, but for the edits.

    Layers with weights are new objects with the same names and the same bits in their weights, moving
    statistics and seed generators; one that is shared inside the model is shared in the result. Layers
    without state that are not Keras' own, lambdas among them, are used by both models. Names and structure of
    inputs and outputs, the ``trainable`` flags, and Sequential models stay what they are. The result is not
    compiled; the argument is not changed.

    One thing is not carried over: a ``training=False`` with which a layer or a nested model was called. It
    changes nothing in inference, and in ``fit`` Keras 3.15 overrides it while later releases heed it, so that
    a network that holds it would train differently from release to release. ``training=True`` stays.

    Args:
        model: a Sequential or Functional model, with models inside it at any depth.
        edits: what changes; by default nothing.

    Raises:
        SurgeryError: the model holds what cannot be copied faithfully (see ``check_rewritable``), a layer
            cannot be made anew from its configuration, or an edit found no place.
    """
    check_rewritable(model)
    return _Rebuild(edits or Edits()).run(model)


def without_recorded_training(model: keras.Model) -> keras.Model:
    """Return the model itself, or a copy that forgets with which ``training=False`` its parts were called.

    A copy where batch normalization or a nested model was called so (see ``rebuild``); inference is the same.
    Raises SurgeryError where ``rebuild`` does.
    """
    parts = (keras.layers.BatchNormalization, keras.Model)
    recorded = any(
        isinstance(node.operation, parts) and node.arguments.kwargs.get("training") is False
        for inner in models(model).values()
        for node in nodes(inner)
    )
    return rebuild(model) if recorded else model


def check_rewritable(model: keras.Model) -> None:
    """Raise a SurgeryError that names what in the model cannot be copied faithfully, and a way out."""
    calls(model)
    owners: dict[int, str] = {}
    for entry in layer_tree(model):
        if getattr(entry.layer, "quantization_mode", None) is not None:
            raise SurgeryError(
                f"the layer '{entry.path}' is quantized ({entry.layer.quantization_mode}): rewrite the "
                "network first, and quantize the result"
            )
        for weight in own_weights(entry.layer):
            other = owners.setdefault(id(weight), entry.path)
            if other != entry.path:
                raise SurgeryError(
                    f"the layers '{other}' and '{entry.path}' were tied by hand: both hold the variable "
                    f"'{weight.name}'. A copy would untie them; call one layer twice instead"
                )


class _Rebuild:
    def __init__(self, edits: Edits) -> None:
        self.edits = edits
        self.copies: dict[int, Any] = {}
        self.pending: dict[int, tuple[keras.Layer, keras.Layer, str]] = {}
        self.leaves: list[tuple[keras.Layer, keras.Layer]] = []
        self.variables: dict[int, Any] = {}
        self.used: set[int] = set()

    def run(self, model: keras.Model) -> keras.Model:
        result = self.model(model, "", self.edits.at_end)
        self.check_used()
        self.copy_flags(model)
        return result

    def model(self, model: keras.Model, path: str, at_end: Sequence[keras.Layer] = ()) -> keras.Model:
        graph_of(model, path)
        if isinstance(model, keras.Sequential):
            return self.sequential(model, path, at_end)
        return self.functional(model, path, at_end)

    def sequential(self, model: keras.Sequential, path: str, at_end: Sequence[keras.Layer]) -> keras.Model:
        source = producer(inputs_of(model)[0])
        stack = [fresh_input(source.operation), *self.added(source)]
        for node in nodes(model, path):
            operation = node.operation
            if not self.dropped(operation):
                stack.append(self.copy_of(operation, join_path(path, operation.name)))
            stack += [*self.added(node), *self.split(operation)]
        result = type(model)([*stack, *at_end], name=model.name)
        self.copies[id(model)] = result
        for node in nodes(model, path):
            self.finish(node.operation)
        return result

    def functional(self, model: keras.Model, path: str, at_end: Sequence[keras.Layer]) -> keras.Model:
        tensors: dict[int, Any] = {}
        fresh: dict[int, Any] = {}
        for tensor in inputs_of(model):
            source = producer(tensor)
            fresh[id(tensor)] = fresh_input(source.operation).output
            tensors[id(tensor)] = self.follow(self.added(source), fresh[id(tensor)])
        for node in nodes(model, path):
            operation = node.operation
            if self.dropped(operation):
                result = tensors[id(node.input_tensors[0])]
            else:
                args, kwargs = self.arguments(node, tensors, join_path(path, operation.name))
                result = self.copy_of(operation, join_path(path, operation.name))(*args, **kwargs)
                self.finish(operation)
            result = self.follow([*self.added(node), *self.split(operation)], result)
            tensors.update(zip(map(id, node.outputs), keras.tree.flatten(result), strict=True))
        outputs = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], outputs_of(model))
        outputs = self.follow(at_end, keras.tree.flatten(outputs)[0]) if at_end else outputs
        inputs = keras.tree.map_structure(lambda tensor: fresh[id(tensor)], input_structure(model))
        built = type(model)(inputs, outputs, name=model.name)
        self.copies[id(model)] = built
        return built

    def arguments(self, node: Any, tensors: dict[int, Any], path: str) -> tuple[Any, Any]:
        args, kwargs = node.arguments.fill_in(tensors)
        if isinstance(node.operation, keras.Layer) and kwargs.get("training") is False:
            kwargs = {name: value for name, value in kwargs.items() if name != "training"}

        def exchange(value: Any) -> Any:
            if not isinstance(value, keras.Variable):
                return value
            if id(value) not in self.variables:
                raise SurgeryError(
                    f"the operation '{path}' uses the variable '{value.path}' directly, and no layer before "
                    "it owns that variable: put the operation into a layer that does"
                )
            return self.variables[id(value)]

        return keras.tree.map_structure(exchange, (args, kwargs))

    def added(self, node: Any) -> list[keras.Layer]:
        self.used.add(id(node))
        return list(self.edits.after.get(id(node), ()))

    def dropped(self, operation: Any) -> bool:
        self.used.add(id(operation))
        return id(operation) in self.edits.drop

    def split(self, operation: Any) -> list[keras.Layer]:
        return [self.edits.split[id(operation)]] if id(operation) in self.edits.split else []

    @staticmethod
    def follow(stack: Sequence[keras.Layer], value: Any) -> Any:
        for layer in stack:
            value = layer(value)
        return value

    def copy_of(self, operation: Any, path: str) -> Any:
        if id(operation) in self.copies:
            return self.copies[id(operation)]
        if id(operation) in self.edits.replace:
            copy = self.edits.replace[id(operation)]
        elif isinstance(operation, keras.Model):
            copy = self.model(operation, path)
        elif not isinstance(operation, keras.Layer) or is_reusable(operation):
            copy = operation
        else:
            copy = copy_layer(operation, path, linear=id(operation) in self.edits.split)
            self.pending[id(operation)] = (operation, copy, path)
        self.copies[id(operation)] = copy
        return copy

    def finish(self, operation: Any) -> None:
        """Copy the state of a layer once it has been called, and so built, for the first time."""
        pending = self.pending.pop(id(operation), None)
        if pending is not None:
            original, copy, path = pending
            copy_state(original, copy, path)
            self.variables.update(zip(map(id, original.variables), copy.variables, strict=True))
            self.leaves.append((original, copy))

    def check_used(self) -> None:
        wanted = {*self.edits.replace, *self.edits.split, *self.edits.drop, *self.edits.after}
        if not wanted <= self.used:
            raise SurgeryError(
                f"{len(wanted - self.used)} of {len(wanted)} edits found no place in the "
                "network: they were made for another one"
            )

    def copy_flags(self, model: keras.Model) -> None:
        flags: dict[int, bool] = {}
        weights: dict[int, bool] = {}
        result = self.copies[id(model)]
        for entry in layer_tree(model):
            copy = self.copies.get(id(entry.layer))
            if copy is not None and copy is not entry.layer and id(entry.layer) not in self.edits.replace:
                flags[id(copy)] = entry.layer.trainable
        for original, copy in self.leaves:
            for old, new in zip(layers_within(original), layers_within(copy), strict=True):
                flags[id(new)] = old.trainable
            weights.update(
                {id(new): old.trainable for old, new in zip(original.weights, copy.weights, strict=True)}
            )
        set_flags(result, flags, weights)
