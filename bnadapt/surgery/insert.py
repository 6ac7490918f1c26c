"""Cut: a new network with batch normalization at the given sites, which computes the same function."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from bnadapt.errors import SurgeryError
from bnadapt.surgery.graph import Call, calls, inputs_of, layer_paths, nodes, outputs_of, producer
from bnadapt.surgery.kinds import fused_activation, is_activation, target_of
from bnadapt.surgery.rebuild import Edits, rebuild
from bnadapt.surgery.sites import Site, layer_names
from bnadapt.surgery.tree import unique_name

Initialization = Literal["identity", "standard"]

SPLIT = "_inserted_activation"  # behind the name of a layer: the activation that was split off it


def insert_batch_norm(
    model: keras.Model,
    sites: Sequence[Site],
    *,
    init: Initialization = "identity",
    gamma: float = 1.0,
    epsilon: float = 1e-5,
    momentum: float = 0.99,
) -> keras.Model:
    """Return a new network with a plain ``BatchNormalization`` at every site; the argument is not changed.

    A fused activation before which batch normalization goes is split: the layer becomes linear, and
    "<layer>_inserted_activation" with the activation and the activity regularizer follows every call of it.
    (Where such a call is an output of a model, the name of that output changes with it.) A site with several calls
    gets one layer that follows each of them; inside a nested model that is called several times, those calls
    share it (see ``unnest``).

    Args:
        model: the network that the sites were found in.
        sites: as from ``find_sites``; none gives a faithful copy.
        init: "identity" gives gamma 1, beta 0, mean 0 and a variance that makes variance + epsilon exactly 1,
            so that inference computes the same numbers; "standard" gives gamma, 0, 0 and 1, and inference
            scales by gamma / sqrt(1 + epsilon).
        gamma: what gamma starts with, init="standard" only.
        epsilon: added to the variance.
        momentum: of the moving statistics.

    Raises:
        SurgeryError: the network cannot be rewritten, or a site is not of this network or cannot be used
            exactly once.
    """
    if init not in ("identity", "standard"):
        raise SurgeryError(f"init={init!r}: choose identity or standard")
    if not 0 < epsilon < 1:
        raise SurgeryError(f"epsilon={epsilon}: must lie between 0 and 1, such as 1e-5")
    if init == "identity" and gamma != 1.0:
        raise SurgeryError(f"gamma={gamma} is used by init='standard' only: the identity has gamma 1")
    edits = Edits()
    inserted: list[keras.layers.BatchNormalization] = []
    by_call = {(call.path, call.index): call for call in calls(model)}
    for site in sites:
        places, like = _places(model, site, by_call)
        layer = keras.layers.BatchNormalization(
            axis=site.axis, momentum=momentum, epsilon=epsilon, name=site.name, dtype=_policy(like)
        )
        for place in places:
            if id(place) in edits.after:
                raise SurgeryError(
                    f"two sites ask for batch normalization at one place: after '{place.operation.name}'"
                )
            edits.after[id(place)] = [layer]
        inserted.append(layer)
        if site.position == "before_activation" and fused_activation(like) is not None:
            edits.split.setdefault(id(like), _activation_layer(like, by_call.values()))
    _check_names(model, sites, by_call)
    result = rebuild(model, edits)
    for layer in inserted:
        _initialize(layer, init, gamma)
    _check_count(model, result, inserted, len(edits.after))
    return result


def _places(
    model: keras.Model, site: Site, by_call: Mapping[tuple[str, int], Call]
) -> tuple[list[Any], keras.Layer]:
    """The nodes after which a site's batch normalization goes, and the layer whose precision it takes."""
    if site.position == "input":
        source = producer(_input_of(model, site))
        return [source], source.operation
    if not site.calls:
        raise SurgeryError(f"the site at '{site.layer}' names no call of the layer: calls=(0,) is the first")
    found = [_call_of(site, number, by_call) for number in site.calls]
    return [_place(call, site.position) for call in found], found[0].operation


def _check_names(model: keras.Model, sites: Sequence[Site], by_call: Mapping[tuple[str, int], Call]) -> None:
    """Every name is free in each of the nested models where the site puts a layer."""
    taken: dict[int, set[str]] = {}
    for site in sites:
        at_input = site.position == "input"
        models = [model] if at_input else [by_call[site.layer, number].model for number in site.calls]
        for each in {id(each): each for each in models}.values():
            names = taken.setdefault(id(each), layer_names(each))
            if site.name in names:
                raise SurgeryError(
                    f"the site at '{site.layer}' wants the name '{site.name}', which another layer or site of "
                    f"'{each.name}' has: find all sites at once, or give it another with dataclasses.replace"
                )
            names.add(site.name)


def _input_of(model: keras.Model, site: Site) -> keras.KerasTensor:
    by_name = {producer(tensor).operation.name: tensor for tensor in inputs_of(model)}
    if site.layer not in by_name:
        raise SurgeryError(f"the network has no input '{site.layer}'; it has: {', '.join(by_name)}")
    _check_channels(site, by_name[site.layer].shape)
    return by_name[site.layer]


def _call_of(site: Site, number: int, by_call: Mapping[tuple[str, int], Call]) -> Call:
    call = by_call.get((site.layer, number))
    if call is None or target_of(call.operation) is None:
        known = ", ".join(path for path, index in by_call if index == 0)
        raise SurgeryError(
            f"the network has no convolution or dense layer '{site.layer}' with a call {number}; "
            f"it has: {known}"
        )
    _check_channels(site, call.output.shape)
    return call


def _check_channels(site: Site, shape: tuple[int | None, ...]) -> None:
    if not -len(shape) <= site.axis < len(shape) or shape[site.axis] != site.channels:
        raise SurgeryError(
            f"the site at '{site.layer}' expects {site.channels} channels on axis {site.axis}; the shape "
            f"there is {tuple(shape)}: find the sites in the network that they are used on"
        )


def _place(call: Call, position: str) -> Any:
    """The node after which batch normalization goes."""
    if position == "before_activation" or fused_activation(call.operation) is not None:
        return call.node
    users = [
        node for node in nodes(call.model) if any(tensor is call.output for tensor in node.input_tensors)
    ]
    is_output = any(tensor is call.output for tensor in keras.tree.flatten(outputs_of(call.model)))
    if len(users) == 1 and not is_output and is_activation(users[0].operation):
        return users[0]
    return call.node


def _activation_layer(layer: keras.Layer, all_calls: Iterable[Call]) -> keras.layers.Activation:
    models = {id(call.model): call.model for call in all_calls if call.operation is layer}
    names = set().union(*map(layer_names, models.values()))
    return keras.layers.Activation(
        fused_activation(layer),
        name=unique_name(layer.name + SPLIT, names),
        activity_regularizer=layer.activity_regularizer,
        dtype=layer.dtype_policy,
    )


def _policy(layer: keras.Layer) -> Any:
    """The layer's policy, but with variables of at least float32: half precision cannot hold 1 - epsilon."""
    is_input = isinstance(layer, keras.layers.InputLayer)
    policy = keras.DTypePolicy(layer.output.dtype) if is_input else layer.dtype_policy
    if policy.variable_dtype in ("float16", "bfloat16"):
        return keras.DTypePolicy(f"mixed_{policy.variable_dtype}")
    return policy


def _initialize(layer: keras.layers.BatchNormalization, init: Initialization, gamma: float) -> None:
    channels = layer.moving_mean.shape
    if init == "standard":
        layer.gamma.assign(np.full(channels, gamma))
        return
    kind = np.dtype(layer.moving_variance.dtype).type
    layer.moving_variance.assign(np.full(channels, variance_of_identity(layer.epsilon, kind)))


def variance_of_identity(epsilon: float, kind: Any = np.float32) -> Any:
    """The variance that gives exactly 1 when epsilon is added to it in the same floating-point type.

    It is 1 - epsilon: that is rounded by at most a quarter of the distance from 1 to the number above it, and
    the sum is rounded back to 1.
    """
    variance = kind(1) - kind(epsilon)
    if not 0 < variance <= 1:
        raise SurgeryError(f"epsilon={epsilon}: must lie between 0 and 1, such as 1e-5")
    return variance


def _check_count(
    model: keras.Model, result: keras.Model, inserted: Sequence[keras.Layer], expected: int
) -> None:
    def count(network: keras.Model) -> int:
        return sum(isinstance(each.operation, keras.layers.BatchNormalization) for each in calls(network))

    present = {id(layer) for layer in layer_paths(result).values()}
    missing = [layer.name for layer in inserted if id(layer) not in present]
    if missing or count(result) != count(model) + expected:
        raise SurgeryError(
            f"batch normalization was to be inserted at {expected} places, and is at "
            f"{count(result) - count(model)}; missing: {', '.join(missing) or 'none'}. "
            "The network was not changed"
        )
