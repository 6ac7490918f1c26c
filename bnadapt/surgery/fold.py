"""Fold: batch normalization merged into the linear layers before or behind it, for networks to deploy."""

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from bnadapt.surgery.affine import CannotFoldError
from bnadapt.surgery.copies import copy_layer
from bnadapt.surgery.fold_plan import FoldPlan
from bnadapt.surgery.folds import Fold, Folds
from bnadapt.surgery.graph import Call, calls, models, nodes
from bnadapt.surgery.insert import SPLIT
from bnadapt.surgery.kinds import fused_activation, target_of
from bnadapt.surgery.linear import Weights, holder_of, settings_for
from bnadapt.surgery.rebuild import Edits, rebuild
from bnadapt.surgery.sites import INSERTED
from bnadapt.surgery.tree import layer_tree, set_flags, unique_name

INSERTED_NAME = INSERTED + r"(_\d+)?$"

__all__ = ["Fold", "Folds", "find_folds", "fold_batch_norm"]


def find_folds(model: keras.Model) -> Folds:
    """Find the batch normalization layers that merge into linear layers without changing the function.

    Changes nothing. Tried in this order, for every layer:

    - backward, into the convolution, dense or einsum layer, or other batch normalization, whose result it
      alone uses; all calls of one are followed by a call of the other;
    - forward, into all convolutions, dense and einsum layers that use its result, through dropout, pooling,
      padding, flattening and reshaping (max pooling: where all scales are positive). Where those layers pad
      with zeros, a scale merges, and a shift stays in place of the batch normalization as a ``Rescaling``
      layer that adds shift / scale, so that zeros are padded to what they were padded to before; so does one
      that is so large that the layers behind it would lose digits;
    - left out where it changes no bit of what passes through it.

    What stays has a reason in ``staying``. What can fold depends on the weights (the sign of scales, for one):
    find the folds again after training.

    Args:
        model: a Sequential or Functional network.

    Raises:
        SurgeryError: the network cannot be rewritten (see ``check_rewritable``).
    """
    return _find(FoldPlan(model))


def fold_batch_norm(model: keras.Model, folds: Sequence[Fold] | None = None) -> keras.Model:
    """Return a new network in which batch normalization is merged into linear layers; the argument is not changed.

    Its outputs in inference are the same up to rounding (computed in float64 and rounded once). Layers keep
    their names, types, activations, settings and flags; one without bias gets one where a shift that is not
    exactly zero arrives. An activation that insertion had split off goes back into its layer, so that folding
    an inserted network gives the layers of the network before. A batch normalization that is an output of the
    whole network leaves a linear ``Activation`` of its name, which keeps the output's name. The result is made
    of Keras' own layers and is not compiled. It is for inference: training it differs from training the
    argument.

    Digits: a layer that takes up a large shift computes K x - K mean in float32, which cancels where the mean
    is many standard deviations from 0. Forward folds keep such a shift as a ``Rescaling`` layer that is added
    before (``Fold.shift``), where one can be; where a scale is 0 or too small for that, about mean / deviation
    times 1e-7 of the output's deviation is lost. Backward folds round as the layers before them do.

    Args:
        model: a Sequential or Functional network.
        folds: from ``find_folds``, all or some of them in their order; by default all.

    Raises:
        SurgeryError: the network cannot be rewritten, or a fold is not possible in it.
    """
    plan = FoldPlan(model)
    if folds is None:
        _find(plan)
    else:
        for fold in folds:
            plan.repeat(fold)
    return _cut(plan)


def _find(plan: FoldPlan) -> Folds:
    """Do every fold that is possible."""
    reasons: dict[str, str] = {}
    folds: list[Fold] = []
    for path in plan.batch_norms:
        try:
            folds.append(plan.backward(path))
        except CannotFoldError as obstacle:
            reasons[path] = f"not backward: {obstacle}"
    for path in reversed(list(reasons)):
        try:
            folds.append(plan.forward(path))
            del reasons[path]
        except CannotFoldError as obstacle:
            reasons[path] += f"; not forward: {obstacle}"
    for path in list(reasons):
        try:
            folds.append(plan.identity(path))
            del reasons[path]
        except CannotFoldError:
            pass
    return Folds(folds, reasons | _hidden(plan.model))


def _cut(plan: FoldPlan) -> keras.Model:
    edits = Edits()
    _replace_batch_norms(plan, edits)
    activations = _split_activations(plan)
    edits.drop |= {id(activation) for activation in activations.values()}
    changed = [layer for layer, _ in plan.weights.values() if id(layer) not in plan.gone]
    changed += [plan.layer(key) for key in activations if key not in plan.weights]
    for layer in changed:
        settings = settings_for(layer, plan.weights_of(layer))
        fresh = copy_layer(layer, plan.path(layer), settings=settings)
        if id(layer) in activations:
            holder_of(fresh).activation = activations[id(layer)].activation
            fresh.activity_regularizer = activations[id(layer)].activity_regularizer
        edits.replace[id(layer)] = fresh
    result = rebuild(plan.model, edits)
    for layer in changed:
        _assign(edits.replace[id(layer)], plan.weights_of(layer))
        _copy_flags(result, layer, edits.replace[id(layer)])
    return result


def _replace_batch_norms(plan: FoldPlan, edits: Edits) -> None:
    """Leave folded batch normalization out, but for a shift that stays, and for the names of outputs."""
    taken = {
        path: {node.operation.name for node in nodes(inner)} for path, inner in models(plan.model).items()
    }
    for key in plan.gone:
        edits.drop.add(key)
        call = plan.calls[key][0]
        layer = call.operation
        remains: list[keras.Layer] = []
        if key in plan.shifts:
            name = unique_name(re.sub(INSERTED_NAME, "", layer.name) + "_shift", taken[call.model_path])
            taken[call.model_path].add(name)
            remains = [_shift_layer(plan.shifts[key], name)]
        elif any(_names_an_output(plan, each) for each in plan.calls[key]):
            # not Identity, which has no configuration once its data types are given as a policy
            remains = [keras.layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)]
        edits.after |= {id(each.node): remains for each in plan.calls[key]}


def _names_an_output(plan: FoldPlan, call: Call) -> bool:
    """Whether leaving a call out would rename an output of the network, or leave a model without layers."""
    if id(call.output) not in plan.wiring.outputs:
        return False
    return call.model is plan.model or id(call.node.input_tensors[0]) not in plan.wiring.makers


def _split_activations(plan: FoldPlan) -> dict[int, keras.layers.Activation]:
    """Activations that insertion had split off and that no batch normalization keeps apart any more.

    By the id of the layer that they belong to: they come behind every call of it, with nothing between but
    inserted batch normalization that is gone, of which there is some.
    """
    found = {}
    for key, layer_calls in plan.calls.items():
        layer = layer_calls[0].operation
        if target_of(layer) is None or fused_activation(layer) is not None:
            continue
        passed: list[Any] = []
        ends = [_after_inserted(plan, call.node, passed) for call in layer_calls]
        activation = ends[0]
        if (
            passed
            and type(activation) is keras.layers.Activation
            and re.fullmatch(re.escape(layer.name) + re.escape(SPLIT) + r"(_\d+)?", activation.name)
            and all(end is activation for end in ends)
            and len(plan.calls[id(activation)]) == len(ends)
        ):
            found[key] = activation
    return found


def _after_inserted(plan: FoldPlan, node: Any, passed: list[Any]) -> Any:
    """What comes next after a call and inserted batch normalization that is gone, if nothing else does."""
    while True:
        users = plan.wiring.users.get(id(node.outputs[0]), [])
        if len(users) != 1 or id(node.outputs[0]) in plan.wiring.outputs:
            return None
        operation = users[0].operation
        if id(operation) not in plan.gone or not re.search(INSERTED_NAME, operation.name):
            return operation
        node = users[0]
        passed.append(operation)


def _shift_layer(shift: np.ndarray, name: str) -> keras.layers.Rescaling:
    return keras.layers.Rescaling(1.0, offset=shift, name=name, dtype=str(shift.dtype))


def _assign(layer: keras.Layer, weights: Weights) -> None:
    for weight in holder_of(layer).weights:
        weight.assign(weights[weight.name])


def _copy_flags(result: keras.Model, original: keras.Layer, copy: keras.Layer) -> None:
    flags = {id(copy): original.trainable, id(holder_of(copy)): holder_of(original).trainable}
    trainable = {weight.name: weight.trainable for weight in holder_of(original).weights}
    weights = {
        id(weight): trainable[weight.name] for weight in holder_of(copy).weights if weight.name in trainable
    }
    set_flags(result, flags, weights)


def _hidden(model: keras.Model) -> dict[str, str]:
    """Batch normalization inside layers that the graph does not show."""
    shown = {call.path for call in calls(model)}
    return {
        entry.path: "it is inside another layer, which is not opened"
        for entry in layer_tree(model)
        if isinstance(entry.layer, keras.layers.BatchNormalization) and entry.path not in shown
    }
