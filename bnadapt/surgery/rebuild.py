"""A new model from an old one, node by node, with layers replaced, split and added."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.graph import (
    calls,
    graph_of,
    input_structure,
    inputs_of,
    nodes,
    outputs_of,
    producer,
)
from bnadapt.surgery.kinds import is_keras_own, target_of
from bnadapt.surgery.tree import layer_tree, own_weights, set_flags


@dataclass
class Edits:
    """What ``rebuild`` changes, by the ids of the original's layers and nodes.

    Attributes:
        replace: layer -> fresh layer that is called in its place, with a name and a state of its own.
        split: layer -> activation layer; the copy becomes linear and every call of it is followed by that
            layer, which takes over the activity regularizer.
        after: node -> fresh layers called one after the other on its output, before a split activation.
        at_end: fresh layers called one after the other on the single output of the whole model.
    """

    replace: dict[int, keras.Layer] = field(default_factory=dict)
    split: dict[int, keras.Layer] = field(default_factory=dict)
    after: dict[int, Sequence[keras.Layer]] = field(default_factory=dict)
    at_end: Sequence[keras.Layer] = ()


def rebuild(model: keras.Model, edits: Edits | None = None) -> keras.Model:
    """Return a new model that computes what the old one computes, but for the edits.

    Layers with weights are new objects with the same names and the same bits in their weights, moving
    statistics and seed generators; one that is shared inside the model is shared in the result. Layers
    without state that are not Keras' own, lambdas among them, are used by both models. Names and structure of
    inputs and outputs, the ``trainable`` flags, and Sequential models stay what they are. The result is not
    compiled; the argument is not changed.

    Args:
        model: a Sequential or Functional model, with models inside it at any depth.
        edits: what changes; by default nothing.

    Raises:
        SurgeryError: the model holds what cannot be copied faithfully (see ``check_rewritable``), a layer
            cannot be made anew from its configuration, or an edit found no place.
    """
    check_rewritable(model)
    return _Rebuild(edits or Edits()).run(model)


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
        stack = [_fresh_input(source.operation), *self.added(source)]
        for node in nodes(model, path):
            operation = node.operation
            stack += [
                self.copy_of(operation, _join(path, operation.name)),
                *self.added(node),
                *self.split(operation),
            ]
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
            fresh[id(tensor)] = _fresh_input(source.operation).output
            tensors[id(tensor)] = self.follow(self.added(source), fresh[id(tensor)])
        for node in nodes(model, path):
            operation = node.operation
            args, kwargs = self.arguments(node, tensors, _join(path, operation.name))
            result = self.copy_of(operation, _join(path, operation.name))(*args, **kwargs)
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

    def split(self, operation: Any) -> list[keras.Layer]:
        self.used.add(id(operation))
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
        elif not isinstance(operation, keras.Layer) or _is_reusable(operation):
            copy = operation
        else:
            copy = _copy_layer(operation, path, linear=id(operation) in self.edits.split)
            self.pending[id(operation)] = (operation, copy, path)
        self.copies[id(operation)] = copy
        return copy

    def finish(self, operation: Any) -> None:
        """Copy the state of a layer once it has been called, and so built, for the first time."""
        pending = self.pending.pop(id(operation), None)
        if pending is not None:
            original, copy, path = pending
            _copy_state(original, copy, path)
            self.variables.update(zip(map(id, original.variables), copy.variables, strict=True))
            self.leaves.append((original, copy))

    def check_used(self) -> None:
        wanted = {*self.edits.replace, *self.edits.split, *self.edits.after}
        if not wanted <= self.used | set(self.copies):
            raise SurgeryError(
                f"{len(wanted - self.used - set(self.copies))} of {len(wanted)} edits found no place in the "
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
            for old, new in zip(_layers_within(original), _layers_within(copy), strict=True):
                flags[id(new)] = old.trainable
            weights.update(
                {id(new): old.trainable for old, new in zip(original.weights, copy.weights, strict=True)}
            )
        set_flags(result, flags, weights)


def _is_reusable(layer: keras.Layer) -> bool:
    """No state, and not one of Keras' own plain layers, which are cheap to make anew."""
    plain = (
        is_keras_own(layer)
        and not isinstance(layer, keras.layers.Lambda)
        and not layer._flatten_layers(False)
    )
    return not layer.variables and not plain


def _fresh_input(layer: keras.layers.InputLayer) -> keras.layers.InputLayer:
    fresh = keras.layers.InputLayer.from_config(layer.get_config())
    fresh.output.name = layer.output.name  # that of an unnamed input is not the layer's
    return fresh


def _layers_within(layer: keras.Layer) -> list[keras.Layer]:
    return layer._flatten_layers(include_self=True, recursive=True)


def _copy_layer(layer: keras.Layer, path: str, *, linear: bool) -> keras.Layer:
    """The layer anew from its configuration, its activation carried as the object that it is."""
    activation = vars(layer).get("activation")
    carried = activation is not None and not isinstance(activation, keras.Layer)
    others = {type(each).__name__: type(each) for each in _layers_within(layer) if not is_keras_own(each)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lambdas in the configuration, which is not stored
            config = layer.get_config()
        if carried and "activation" in config:
            config["activation"] = "linear"
        with keras.saving.CustomObjectScope(others):
            copy = type(layer).from_config(config)
    except Exception as error:
        raise SurgeryError(
            f"the layer '{path}' ({type(layer).__name__}) cannot be made anew from its configuration: "
            f"{error}. Give its class a get_config that holds every argument of __init__, and register it and what it "
            "uses with keras.saving.register_keras_serializable"
        ) from error
    copy.name = layer.name
    if carried:
        copy.activation = activation
    if linear:
        inner = target_of(copy)
        assert inner is not None, path
        inner.activation = keras.activations.linear
        copy.activity_regularizer = None
    return copy


def _copy_state(original: keras.Layer, copy: keras.Layer, path: str) -> None:
    """Every bit of a built layer's state: through Keras' own hooks first, which renew what layers cache."""
    pairs = list(zip(original.variables, copy.variables, strict=False))
    same = len(original.variables) == len(copy.variables) and all(
        old.shape == new.shape and old.dtype == new.dtype for old, new in pairs
    )
    if not same:
        raise SurgeryError(
            f"the layer '{path}' ({type(original).__name__}) has other variables when made anew from its "
            f"configuration: {_shapes(original)} became {_shapes(copy)}"
        )
    for old_layer, new_layer in zip(_layers_within(original), _layers_within(copy), strict=True):
        if own_weights(old_layer):
            store: dict[str, Any] = {}
            old_layer.save_own_variables(store)
            new_layer.load_own_variables(store)
    for old, new in pairs:
        new.assign(old)


def _shapes(layer: keras.Layer) -> str:
    return ", ".join(f"{weight.name} {tuple(weight.shape)}" for weight in layer.variables) or "none"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name
