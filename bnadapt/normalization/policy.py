"""What trains, and how batch normalization behaves meanwhile, by one word."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from bnadapt.config import PER_CHANNEL, UPPER
from bnadapt.errors import SurgeryError
from bnadapt.normalization.drawn import channel_kernels, draw
from bnadapt.normalization.switches import (
    Normalize,
    Statistics,
    Switches,
    check_switches,
    flag_of,
    is_batch_norm,
    renew_training,
    set_call,
)
from bnadapt.surgery.graph import layer_paths
from bnadapt.surgery.head import head_layers
from bnadapt.surgery.kinds import is_normalization, is_weighted
from bnadapt.surgery.sites import as_patterns, matches
from bnadapt.surgery.tree import (
    Entry,
    layer_tree,
    layers_within,
    made_trainable,
    own_weights,
    set_flags,
    weights_by_path,
)
from bnadapt.surgery.wording import listed

ALL, BATCH_NORM, HEAD, BIASES = "all", "batch_norm", "head", "biases"
LISTED_AT_MOST = 60
_AT_REST = Switches(False, "stay", "moving")


def train_only(
    model: keras.Model,
    what: str | Sequence[str],
    *,
    statistics: Statistics = "move",
    normalize: Normalize = "batch",
) -> list[str]:
    """Set which weights train, and how batch normalization behaves meanwhile; returns the paths that train.

    Changes the ``trainable`` flag of every layer and weight and the switches of all batch normalization (see
    ``switch_batch_norm``), and nothing else. They want a new optimizer, so ``compile`` afterwards, and are not
    all saved with the model: set them before every stage.

    Args:
        model: a Sequential or Functional network.
        what: one or several of: "all"; "batch_norm"; "head" (see ``head_layers``); "biases" (weights named
            bias, so not batch normalization's beta); "upper 33%" (that share of the weighted layers, rounded
            up, counted from the output in graph order, and everything between and behind them); "2 per channel"
            (the kernels of all layers that could have batch normalization, of which the optimizer must then
            hold all but some entries: see ``drawn_entries``); or regular expressions over paths or names of
            layers (full match).
        statistics: whether the moving statistics of batch normalization that trains "move" or "stay".
        normalize: whether it normalizes with the "batch" or with the "moving" statistics meanwhile. Batch
            normalization of which neither gamma nor beta trains keeps its statistics and uses them, whatever
            is said here; ``switch_batch_norm`` afterwards can say otherwise. (Where it has neither, being
            selected counts.)

    Raises:
        SurgeryError: a selector that matches no weight, or a layer that does not follow its flags.
    """
    check_switches(statistics, normalize)
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
    _apply(model, entries, layers, weights, Switches(True, statistics, normalize))
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


def drawn_entries(model: keras.Model, what: str | Sequence[str], *, seed: int) -> dict[str, np.ndarray]:
    """Which entries of which kernels train, where "2 per channel" selects: two for every output channel.

    As many as batch normalization has gamma and beta, at random places: the control that shows whether
    training batch normalization alone does more than training just as few other weights (Frankle, Schwab and
    Morcos, 2021, "Training BatchNorm and only BatchNorm"). Changes nothing. No flag can freeze a part of a
    weight; the optimizer has to.

    Args:
        model: a Sequential or Functional network.
        what: as in ``train_only``; a kernel that another selector selects as a whole is left out.
        seed: of the draw, which depends on it and on the kernels' paths alone.

    Returns:
        By path of the kernel: True where an entry trains, of the kernel's shape. Empty where nothing is drawn.

    Raises:
        SurgeryError: a selector that matches no weight.
    """
    selectors = [what] if isinstance(what, str) else list(what)
    numbers = [int(match[1]) for each in selectors if (match := PER_CHANNEL.fullmatch(each))]
    if not numbers:
        return {}
    entries = layer_tree(model)
    whole = {
        id(weight)
        for selector in selectors
        if not PER_CHANNEL.fullmatch(selector)
        for entry, only in _select(model, entries, selector)
        for weight in own_weights(entry.layer)
        if only(weight)
    }
    paths = {id(weight): path for path, weight in weights_by_path(model).items()}
    return {
        paths[id(kernel.weight)]: draw(
            tuple(kernel.weight.shape), kernel.axes, max(numbers), seed, paths[id(kernel.weight)]
        )
        for kernel in channel_kernels(model)
        if id(kernel.weight) not in whole
    }


def without_weight_decay(model: keras.Model) -> list[Any]:
    """The variables that weight decay should spare: of normalizations all, of other layers the biases.

    For ``optimizer.exclude_from_weight_decay(var_list=...)``, before the optimizer is built. Changes nothing.
    """
    spared = []
    for entry in layer_tree(model):
        normalization = is_normalization(entry.layer)
        spared += [each for each in own_weights(entry.layer) if normalization or _is_bias(each)]
    return spared


def _select(model: keras.Model, entries: Sequence[Entry], selector: str) -> list[tuple[Entry, Any]]:
    """The layers that a selector means, each with a test of its weights."""
    owners = [entry for entry in entries if own_weights(entry.layer)]
    upper = UPPER.fullmatch(selector)
    per_channel = PER_CHANNEL.fullmatch(selector)
    only: Callable[[Any], bool] = _any
    if selector == ALL:
        chosen = owners
    elif selector == BATCH_NORM:
        chosen = [entry for entry in owners if isinstance(entry.layer, keras.layers.BatchNormalization)]
    elif selector == HEAD:
        heads = head_layers(model)
        chosen = _within(owners, [layer for path, layer in layer_paths(model).items() if path in heads])
    elif selector == BIASES:
        chosen = [entry for entry in owners if any(_is_bias(each) for each in own_weights(entry.layer))]
        only = _is_bias
    elif upper:
        chosen = _within(owners, _upper(model, float(upper[1])))
    elif per_channel:
        if int(per_channel[1]) < 1:
            raise SurgeryError(f"'{selector}': must be at least 1")
        kernels = channel_kernels(model)
        layers = {id(kernel.layer) for kernel in kernels}
        chosen = [entry for entry in owners if id(entry.layer) in layers]
        only = _one_of([kernel.weight for kernel in kernels])
    else:
        (pattern,) = as_patterns(selector)
        chosen = [entry for entry in owners if matches(pattern, entry.path)]
    if not chosen:
        there = listed([entry.path for entry in owners], LISTED_AT_MOST) or "none"
        raise SurgeryError(f"'{selector}' selects no layer with weights; there are: {there}")
    return [(entry, only) for entry in chosen]


def _any(_: Any) -> bool:
    return True


def _one_of(weights: Sequence[Any]) -> Callable[[Any], bool]:
    ids = {id(weight) for weight in weights}
    return lambda weight: id(weight) in ids


def _is_bias(weight: Any) -> bool:
    return weight.name in ("bias", "recurrent_bias")


def _within(owners: Sequence[Entry], leaves: Sequence[keras.Layer]) -> list[Entry]:
    inside = {id(each) for leaf in leaves for each in layers_within(leaf)}
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
    layers: set[int],
    weights: set[int],
    switches: Switches,
) -> None:
    flags, calls = {}, []
    for entry in entries:
        layer = entry.layer
        inside = [id(each) for each in layers_within(layer)]
        selected = any(each in layers for each in inside) or layer is model
        if is_batch_norm(layer):
            own = switches if selected else _AT_REST
            selected = flag_of(own)
            calls.append((layer, own))
        flags[id(layer)] = selected
    set_flags(model, flags, {id(each): id(each) in weights for each in model.weights})
    for layer, own in calls:
        set_call(layer, own)
    renew_training(model)
