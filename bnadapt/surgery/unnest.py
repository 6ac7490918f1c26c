"""A network without models inside it, so that every call of what was in them can be treated by itself."""

from collections import Counter
from typing import Any

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.graph import bind, input_structure, inputs_of, models, nodes, outputs_of, producer
from bnadapt.surgery.rebuild import rebuild


def unnest(model: keras.Model) -> keras.Model:
    """Return a new network that computes the same with no model inside it; the argument is not changed.

    The layers of a nested model become layers of the network itself, called once for each call of that
    model: a nested model that is called twice gives layers with two calls, for each of which
    ``find_sites`` offers batch normalization of its own. (Stock Keras has no other way to say this: it
    cannot save two models that share a layer.) Weights are carried over bit for bit. A layer keeps its
    name where no other has it, and is called by its path, with "_" between the names, where one has. A
    Sequential network becomes a Functional one.

    Raises:
        SurgeryError: the network cannot be rewritten, a nested model is called with more than its inputs or
            with inputs of another rank, or a layer that has to be renamed is used by both networks because
            it cannot be made anew.
    """
    copy = rebuild(model)
    shared = {id(node.operation) for each in models(model).values() for node in nodes(each)}
    _name_by_path(copy, shared)
    outputs = _inlined(copy, input_structure(copy), "")
    kind = keras.Model if isinstance(copy, keras.Sequential) else type(copy)
    return kind(input_structure(copy), outputs, name=model.name)


def _name_by_path(copy: keras.Model, shared: set[int]) -> None:
    """Give the layers names that are unique in the whole network."""
    paths: dict[int, tuple[str, Any]] = {}

    def enter(inner: keras.Model, prefix: str) -> None:
        for node in nodes(inner):
            operation = node.operation
            if isinstance(operation, keras.Model):
                enter(operation, f"{prefix}{operation.name}_")
            else:
                paths.setdefault(id(operation), (f"{prefix}{operation.name}", operation))

    enter(copy, "")
    inputs = [producer(tensor).operation.name for tensor in inputs_of(copy)]
    counts = Counter([*inputs, *(operation.name for _, operation in paths.values())])
    for path, operation in paths.values():
        if counts[operation.name] > 1 and operation.name != path:
            if id(operation) in shared:
                raise SurgeryError(
                    f"several layers or operations are called '{operation.name}', and this one, "
                    f"'{path}', cannot get another name without changing the network: give it one by name="
                )
            operation.name = path


def _inlined(model: keras.Model, given: Any, path: str) -> Any:
    """The model's outputs, its layers called on the given symbolic inputs."""
    values = dict(zip(map(id, inputs_of(model)), bind(model, given), strict=True))
    for reference in inputs_of(model):
        values[id(reference)] = _across_border(values[id(reference)], reference, path)
    for node in nodes(model):
        args, kwargs = node.arguments.fill_in(values)
        operation = node.operation
        if isinstance(operation, keras.Model):
            inner = f"{path}/{operation.name}" if path else operation.name
            more = [name for name, value in kwargs.items() if name != "inputs" and _is_given(value)]
            if more or len(args) > 1:
                raise SurgeryError(
                    f"the model '{inner}' is called with {', '.join(more) or 'several arguments'}: only a "
                    "call with its inputs alone can be written out"
                )
            result = _inlined(operation, args[0] if args else kwargs["inputs"], inner)
        else:
            result = operation(*args, **kwargs)
        values.update(zip(map(id, node.outputs), keras.tree.flatten(result), strict=True))
    return keras.tree.map_structure(lambda tensor: values[id(tensor)], outputs_of(model))


def _is_given(value: Any) -> bool:
    """Whether an argument holds anything: Keras records dictionaries of masks that hold only None."""
    return any(each is not None for each in keras.tree.flatten(value))


def _across_border(value: Any, reference: keras.KerasTensor, path: str) -> Any:
    """A nested model casts what it is given to the type of its input."""
    if value is reference or value is None:
        return value
    if len(value.shape) != len(reference.shape):
        raise SurgeryError(
            f"the model '{path}' is called with the shape {tuple(value.shape)} for its input of shape "
            f"{tuple(reference.shape)}: only a call with the same rank can be written out"
        )
    return value if value.dtype == reference.dtype else keras.ops.cast(value, reference.dtype)
