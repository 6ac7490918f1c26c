"""What in a network keeps a policy from meaning what it says: recorded arguments, frozen parents, stale functions."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from bnadapt.normalization.switches import is_batch_norm, switches_of
from bnadapt.surgery.graph import nodes
from bnadapt.surgery.tree import Entry, layer_tree, layers_within, own_weights, weights_by_path
from bnadapt.surgery.wording import listed


def find_policy_problems(model: keras.Model) -> list[str]:
    """Sentences about what would not train, move or normalize as it seems to; changes nothing.

    An empty list is the good case. Looked for are:

    - calls recorded with ``training=False`` or ``training=True`` that reach batch normalization which is not
      at rest: ``fit``, ``evaluate`` and ``predict`` of Keras 3.15 put their own value in its place;
    - frozen models and layers around weights that train, or around statistics that move, all the same; and a
      network that is itself frozen, of which no weight trains;
    - compiled state older than the flags: a training function that was used under other flags goes on under
      those, and an optimizer knows only the weights that it was built for. That of networks inside and around
      this one is not looked at; nor is it seen that a network inside got other switches (``switch_batch_norm``
      called on it alone) where the flags agree.
    """
    entries = layer_tree(model)
    found = [*_recorded_arguments(entries), *_frozen_parents(model, entries)]
    if getattr(model, "compiled", False):
        name = f"the network '{model.name}'"
        found += [*_stale_flags(model, name), *_stale_optimizer(model, name)]
    return found


def _recorded_arguments(entries: Sequence[Entry]) -> Iterator[str]:
    paths = {id(entry.layer): entry.path for entry in entries}
    for entry in entries:
        if not _is_graph(entry.layer):
            continue
        for node in nodes(entry.layer):
            if not isinstance(node.operation, keras.Layer):
                continue
            recorded = node.arguments.kwargs.get("training")
            if recorded is None or recorded == _default(node.operation):
                continue
            inside = layers_within(node.operation)
            awake = [paths[id(each)] for each in inside if is_batch_norm(each) and not _rests(each)]
            if awake:
                yield _of_recorded(paths[id(node.operation)], bool(recorded), awake)


def _default(operation: Any) -> Any:
    """What Keras records where nothing was passed."""
    parameter = inspect.signature(type(operation).call).parameters.get("training")
    return None if parameter is None else parameter.default


def _of_recorded(path: str, recorded: bool, awake: Sequence[str]) -> str:
    if recorded:
        return (
            f"'{path}' was called with training=True: where the network is called without an argument, "
            f"{listed(awake)} normalizes with batches and moves its statistics, while evaluate and predict "
            "do not; always pass training=False or True, or build the network without that argument"
        )
    return (
        f"'{path}' was called with training=False, which fit of Keras {keras.__version__} overrides: "
        f"{listed(awake)} follows its own switches in training. Say what is meant by them, such as "
        "switch_batch_norm(model, statistics='stay', normalize='moving'), or build the network without that "
        "argument, which other versions of Keras obey"
    )


def _frozen_parents(model: keras.Model, entries: Sequence[Entry]) -> Iterator[str]:
    if not model.trainable:
        flagged = [path for path, each in weights_by_path(model).items() if each.trainable]
        moving = [each.path for each in entries if is_batch_norm(each.layer) and not _rests(each.layer)]
        if flagged:
            yield (
                f"the network '{model.name}' is frozen (trainable=False), so none of the {len(flagged)} weights "
                f"in it that are not will train: {listed(flagged)}. Choose what trains by train_only"
            )
        if moving:
            yield (
                f"the network '{model.name}' is frozen (trainable=False), but the statistics of "
                f"{listed(moving)} would move in training: use train_only or switch_batch_norm"
            )
        return
    trainable = {id(each) for each in model.trainable_variables}
    for entry in entries:
        if entry.layer.trainable or is_batch_norm(entry.layer):
            continue
        inside = {id(each) for each in layers_within(entry.layer)}
        within = [other for other in entries if id(other.layer) in inside]
        changes = [path for other in within for path in _changes(other, trainable)]
        if changes:
            yield (
                f"'{entry.path}' is frozen (trainable=False), but Keras looks at what is inside it, and these "
                f"would change in training: {listed(changes)}. Choose what trains by train_only"
            )


def _changes(entry: Entry, trainable: set[int]) -> list[str]:
    names = [each.name for each in own_weights(entry.layer) if id(each) in trainable]
    if is_batch_norm(entry.layer) and switches_of(entry.layer, trainable).statistics == "move":
        names += ["moving_mean", "moving_variance"]
    return [f"{entry.path}/{name}" for name in names]


def _stale_flags(model: keras.Model, name: str) -> Iterator[str]:
    if getattr(model, "train_function", None) is None:
        return
    then = dict(getattr(model, "_compiled_trainable_state", {}))
    now = {layer: layer.trainable for layer in model._flatten_layers()}
    changed = [layer.name for layer, flag in now.items() if then.get(layer) != flag]
    if changed:
        yield (
            f"{name} has trained since it was compiled, and the flags of {listed(changed)} have changed: it "
            "goes on training under the old ones. Compile again, with a new optimizer"
        )


def _stale_optimizer(model: keras.Model, name: str) -> Iterator[str]:
    known = _variables_of(getattr(model, "optimizer", None))
    if known is None:
        return
    paths = {id(each): path for path, each in weights_by_path(model).items()}
    trains = {id(each): paths.get(id(each), each.path) for each in model.trainable_variables}
    unknown = [path for key, path in trains.items() if key not in known]
    former = [paths.get(key, path) for key, path in known.items() if key not in trains]
    if unknown:
        yield (
            f"the optimizer of {name} was built for other weights and does not know {listed(unknown)}: "
            "compile again, with a new optimizer"
        )
    if former:
        yield (
            f"the optimizer of {name} was built for weights that no longer train: {listed(former)}. Compile "
            "again, with a new optimizer, or they may go on training"
        )


def _variables_of(optimizer: Any) -> dict[int, str] | None:
    """The weights by id that an optimizer was built for; None where it was not built."""
    if optimizer is None or not optimizer.built:
        return None
    return {id(each): each.path for each in optimizer._trainable_variables}


def _rests(layer: keras.layers.BatchNormalization) -> bool:
    switches = switches_of(layer, set())
    return switches.statistics == "stay" and switches.normalize == "moving"


def _is_graph(layer: keras.Layer) -> bool:
    return hasattr(layer, "_nodes_by_depth") or getattr(layer, "_functional", None) is not None
