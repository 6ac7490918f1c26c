"""What trains, what moves, what batch normalization normalizes with; and the proof of it afterwards."""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras

from bnadapt.config import UPPER
from bnadapt.errors import FrozenWeightMovedError, SurgeryError
from bnadapt.surgery.graph import layer_paths
from bnadapt.surgery.head import head_layers
from bnadapt.surgery.kinds import is_normalization, is_weighted
from bnadapt.surgery.sites import as_patterns, matches
from bnadapt.surgery.tree import Entry, layer_tree, made_trainable, own_weights, set_flags, weights_by_path

ALL, BATCH_NORM, HEAD, BIASES = "all", "batch_norm", "head", "biases"
LISTED_AT_MOST = 60


@dataclass(frozen=True)
class LayerPolicy:
    """How one layer takes part in training.

    Attributes:
        path: of the layer.
        layer_type: its class.
        trainable: scalars that training changes by gradients.
        frozen: scalars that it does not.
        normalizes_with: of batch normalization: "batch" or "moving statistics"; else "".
        statistics: of batch normalization: whether the moving statistics "move" or "stay"; else "".
    """

    path: str
    layer_type: str
    trainable: int
    frozen: int
    normalizes_with: str
    statistics: str


def train_only(
    model: keras.Model, what: str | Sequence[str], *, statistics: Literal["batch", "frozen"] = "batch"
) -> list[str]:
    """Set which weights train, and how batch normalization behaves meanwhile; returns the paths that train.

    Changes the ``trainable`` flag of every layer and weight, and nothing else. They take effect at the next
    ``compile``, want a new optimizer, and are not all saved with the model: set them before every stage.

    Args:
        model: a Sequential or Functional network.
        what: one or several of: "all"; "batch_norm"; "head" (see ``head_layers``); "biases" (weights named
            bias, so not batch normalization's beta); "upper 33%" (that share of the weighted layers, rounded
            up, counted from the output in graph order, and everything between and behind them); or regular
            expressions over paths or names of layers (full match).
        statistics: of batch normalization that trains. "batch": it normalizes with the batch and its moving
            statistics follow. "frozen": gamma and beta train, but it normalizes with its moving statistics,
            which stay (Kanavati and Tsuneki, 2021). Where neither gamma nor beta trains, they always stay.

    Raises:
        SurgeryError: a selector that matches no weight, or a layer that does not follow its flags.
    """
    if statistics not in ("batch", "frozen"):
        raise SurgeryError(f"statistics={statistics!r}: choose batch or frozen")
    entries = layer_tree(model)
    trainable = {id(entry.layer): made_trainable(entry.layer) for entry in entries}
    selectors = [what] if isinstance(what, str) else list(what)
    if not selectors:
        raise SurgeryError("nothing was selected to train: name what trains, such as 'all' or 'batch_norm'")
    layers: set[int] = set()
    weights: set[int] = set()
    for selector in selectors:
        chosen = _select(model, entries, selector)
        layers |= {id(entry.layer) for entry, _ in chosen}
        weights |= {id(each) for entry, only in chosen for each in trainable[id(entry.layer)] if only(each)}
    _apply(model, entries, trainable, layers, weights, statistics)
    trains = {path: each for path, each in weights_by_path(model).items() if id(each) in weights}
    actual = {id(each) for each in model.trainable_variables}
    if actual != weights:
        wrong = [
            path
            for path, each in weights_by_path(model).items()
            if (id(each) in actual) != (id(each) in weights)
        ]
        raise SurgeryError(f"some layers do not follow their trainable flag: {', '.join(wrong)}")
    return list(trains)


def fingerprint(model: keras.Model) -> dict[str, str]:
    """SHA-256 of the bytes of every weight by its path, such as "backbone/conv1/kernel"; changes nothing.

    The state of seed generators, which every stage with dropout moves, is left out.
    """
    found = {}
    for path, weight in weights_by_path(model).items():
        array = keras.ops.convert_to_numpy(weight)
        found[path] = hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
    return found


def declared_to_move(model: keras.Model) -> set[str]:
    """Paths of all weights that training may change under the present flags; changes nothing.

    Those are the trainable ones, the moving statistics of batch normalization that normalizes with batches,
    and what other layers that are not frozen keep for themselves (a recurrent state, spectral norms).
    """
    moves = {id(each) for each in model.trainable_variables}
    for entry in layer_tree(model):
        if entry.layer.trainable and not isinstance(entry.layer, keras.layers.Normalization):
            made = {id(each) for each in made_trainable(entry.layer)}
            moves |= {id(each) for each in own_weights(entry.layer) if id(each) not in made}
    return {path for path, weight in weights_by_path(model).items() if id(weight) in moves}


def assert_only_declared_moved(
    before: Mapping[str, str], after: Mapping[str, str], declared: Collection[str]
) -> list[str]:
    """Compare two fingerprints of one network; returns the paths that moved, all of them declared.

    Raises:
        FrozenWeightMovedError: a weight changed, appeared or vanished that was not declared to.
    """
    moved = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    wrong = [path for path in moved if path not in declared]
    if wrong:
        raise FrozenWeightMovedError(
            f"{len(wrong)} of {len(after)} weights changed although they were frozen: {', '.join(wrong)}"
        )
    return moved


def without_weight_decay(model: keras.Model) -> list[Any]:
    """The variables that weight decay should spare: of normalizations all, of other layers the biases.

    For ``optimizer.exclude_from_weight_decay(var_list=...)``, before the optimizer is built. Changes nothing.
    """
    spared = []
    for entry in layer_tree(model):
        normalization = is_normalization(entry.layer)
        spared += [each for each in own_weights(entry.layer) if normalization or _is_bias(each)]
    return spared


def describe_policy(model: keras.Model) -> list[LayerPolicy]:
    """One row for each layer that has weights, in graph order, under the present flags; changes nothing."""
    trains = {id(each) for each in model.trainable_variables}
    rows = []
    for entry in layer_tree(model):
        weights = own_weights(entry.layer)
        if not weights:
            continue
        count = sum(math.prod(each.shape) for each in weights if id(each) in trains)
        mode = statistics = ""
        if isinstance(entry.layer, keras.layers.BatchNormalization):
            moves = entry.layer.trainable
            mode, statistics = ("batch", "move") if moves else ("moving statistics", "stay")
        total = sum(math.prod(each.shape) for each in weights)
        rows.append(
            LayerPolicy(entry.path, type(entry.layer).__name__, count, total - count, mode, statistics)
        )
    return rows


def _select(model: keras.Model, entries: Sequence[Entry], selector: str) -> list[tuple[Entry, Any]]:
    """The layers that a selector means, each with a test of its weights."""
    owners = [entry for entry in entries if own_weights(entry.layer)]
    upper = UPPER.fullmatch(selector)
    only: Callable[[Any], bool] = _any
    if selector == ALL:
        chosen = owners
    elif selector == BATCH_NORM:
        chosen = [entry for entry in owners if isinstance(entry.layer, keras.layers.BatchNormalization)]
    elif selector == HEAD:
        heads = [layer for path, layer in layer_paths(model).items() if path in head_layers(model)]
        chosen = _within(owners, heads)
    elif selector == BIASES:
        chosen = [entry for entry in owners if any(_is_bias(each) for each in own_weights(entry.layer))]
        only = _is_bias
    elif upper:
        chosen = _within(owners, _upper(model, float(upper[1])))
    else:
        (pattern,) = as_patterns(selector)
        chosen = [entry for entry in owners if matches(pattern, entry.path)]
    if not chosen:
        paths = [entry.path for entry in owners]
        listed = ", ".join(paths[:LISTED_AT_MOST]) + (", ..." if len(paths) > LISTED_AT_MOST else "")
        raise SurgeryError(f"'{selector}' selects no layer with weights; there are: {listed or 'none'}")
    return [(entry, only) for entry in chosen]


def _any(_: Any) -> bool:
    return True


def _is_bias(weight: Any) -> bool:
    return weight.name in ("bias", "recurrent_bias")


def _within(owners: Sequence[Entry], leaves: Sequence[keras.Layer]) -> list[Entry]:
    inside = {id(each) for leaf in leaves for each in leaf._flatten_layers(include_self=True, recursive=True)}
    return [entry for entry in owners if id(entry.layer) in inside]


def _upper(model: keras.Model, percent: float) -> list[keras.Layer]:
    if not 0 < percent <= 100:
        raise SurgeryError(f"'upper {percent:g}%': must be above 0% and at most 100%")
    leaves = list(layer_paths(model).values())
    weighted = [index for index, layer in enumerate(leaves) if is_weighted(layer)]
    if not weighted:
        return []
    first = weighted[-math.ceil(len(weighted) * percent / 100 - 1e-9)]
    return leaves[first:]


def _apply(
    model: keras.Model,
    entries: Sequence[Entry],
    trainable: Mapping[int, Sequence[Any]],
    layers: set[int],
    weights: set[int],
    statistics: str,
) -> None:
    flags = {}
    for entry in entries:
        layer = entry.layer
        inside = [id(each) for each in layer._flatten_layers(include_self=True, recursive=True)]
        selected = any(each in layers for each in inside) or layer is model
        if isinstance(layer, keras.layers.BatchNormalization):
            affine = {id(each) for each in trainable[id(layer)]}
            selected = selected and statistics == "batch" and (bool(affine & weights) or not affine)
        flags[id(layer)] = selected
    set_flags(model, flags, {id(each): id(each) in weights for each in model.weights})
