"""Cut: a new network with batch normalization at the given sites, which computes the same function."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from bnadapt.errors import SurgeryError
from bnadapt.surgery.graph import Call, calls, layer_paths, nodes, outputs_of
from bnadapt.surgery.kinds import fused_activation, is_activation, target_of
from bnadapt.surgery.rebuild import Edits, rebuild
from bnadapt.surgery.sites import Site
from bnadapt.surgery.tree import unique_name

Initialization = Literal["identity", "standard"]


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
    "<layer>_activation" with the activation and the activity regularizer follows every call of it. (Where
    such a call is an output of a model, the name of that output changes with it.) A layer that is called
    several times gets one batch normalization per call, each with statistics of its own; inside a nested
    model that is called several times, those calls share it.

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
    edits, inserted = Edits(), []
    by_call = {(call.path, call.index): call for call in calls(model)}
    for site in sites:
        call = _call_of(site, by_call)
        place = _place(call, site.position)
        if id(place) in edits.after:
            raise SurgeryError(
                f"two sites ask for batch normalization at one place: after '{place.operation.name}'"
            )
        layer = keras.layers.BatchNormalization(
            axis=site.axis,
            momentum=momentum,
            epsilon=epsilon,
            name=site.name,
            dtype=_policy(call.operation),
        )
        edits.after[id(place)] = [layer]
        inserted.append(layer)
        if site.position == "before_activation" and fused_activation(call.operation) is not None:
            edits.split.setdefault(id(call.operation), _activation_layer(call))
    result = rebuild(model, edits)
    for layer in inserted:
        _initialize(layer, init, gamma)
    _check_count(model, result, inserted)
    return result


def _call_of(site: Site, by_call: dict[tuple[str, int], Call]) -> Call:
    call = by_call.get((site.layer, site.call))
    if call is None or target_of(call.operation) is None:
        known = ", ".join(path for path, index in by_call if index == 0)
        raise SurgeryError(
            f"the network has no convolution or dense layer '{site.layer}' with a call {site.call}; "
            f"it has: {known}"
        )
    shape = call.output.shape
    if not -len(shape) <= site.axis < len(shape) or shape[site.axis] != site.channels:
        raise SurgeryError(
            f"the site at '{site.layer}' expects {site.channels} channels on axis {site.axis}; the layer's "
            f"output has the shape {tuple(shape)}: find the sites in the network that they are used on"
        )
    return call


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


def _activation_layer(call: Call) -> keras.layers.Activation:
    layer = call.operation
    names = {node.operation.name for node in nodes(call.model)}
    return keras.layers.Activation(
        fused_activation(layer),
        name=unique_name(f"{layer.name}_activation", names),
        activity_regularizer=layer.activity_regularizer,
        dtype=layer.dtype_policy,
    )


def _policy(layer: keras.Layer) -> Any:
    """The layer's policy, but with variables of at least float32: half precision cannot hold 1 - epsilon."""
    policy = layer.dtype_policy
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
    """The variance that gives exactly 1 when epsilon is added to it in the same floating-point type."""
    small, one = kind(epsilon), kind(1)
    around = one - small
    for candidate in (around, np.nextafter(around, one), np.nextafter(around, kind(0))):
        if candidate + small == one and candidate > 0:
            return candidate
    raise SurgeryError(f"epsilon={epsilon}: must lie between 0 and 1, such as 1e-5")


def _check_count(model: keras.Model, result: keras.Model, inserted: Sequence[keras.Layer]) -> None:
    def count(network: keras.Model) -> int:
        return sum(isinstance(each.operation, keras.layers.BatchNormalization) for each in calls(network))

    present = {id(layer) for layer in layer_paths(result).values()}
    missing = [layer.name for layer in inserted if id(layer) not in present]
    if missing or count(result) != count(model) + len(inserted):
        raise SurgeryError(
            f"{len(inserted)} batch normalization layers were to be inserted, {count(result) - count(model)} "
            f"were; missing: {', '.join(missing) or 'none'}. The network was not changed"
        )
