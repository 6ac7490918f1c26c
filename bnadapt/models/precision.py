"""In which precision the layers of a network compute."""

from collections.abc import Sequence

import keras
import numpy as np

from bnadapt.errors import ModelError, SurgeryError
from bnadapt.surgery.flow import ahead, trace
from bnadapt.surgery.rebuild import rebuild
from bnadapt.surgery.tree import Entry, layer_tree, layers_within

AUTO, FULL = "auto", "float32"
FREE_SIDE = 32  # pixels of a trial image where the network leaves them free


def with_precision(network: keras.Model, precision: str) -> tuple[keras.Model, tuple[str, ...]]:
    """Return a network whose layers compute in the given precision, with the same weights in 32 bits.

    The head and what follows it, and layers that scale or change the input, compute in float32 always, because
    probabilities and pixels need its digits (as Keras' guide to mixed precision says). Batch normalization computes
    and keeps its statistics in float32 by itself.

    Args:
        network: Sequential or Functional; not changed.
        precision: ``auto`` (the network itself is returned), ``float32``, ``mixed_float16`` or ``mixed_bfloat16``.

    Returns:
        The network, and a note for the user where it is another one.

    Raises:
        ModelError: the network keeps weights in another type than float32, has a layer that does not take the
            precision, or overflows in it.
    """
    if precision == AUTO:
        return network, ()
    try:
        copy = rebuild(network)
        wanted = _policies(copy, precision)
        leaves = _leaves(copy)
        _require_32_bits(leaves, precision)
        before = {each.path: each.layer.dtype_policy.name for each in leaves}
        if all(before[each.path] == wanted[each.path] for each in leaves):
            return network, ()
        for each in leaves:
            for layer in layers_within(each.layer):
                layer.dtype_policy = wanted[each.path]
        converted = rebuild(copy)  # the graph anew, because its tensors know their types
    except SurgeryError as error:
        raise ModelError(f"model.precision={precision}: {error}") from error
    _require_taken(_leaves(converted), wanted, precision)
    _require_finite(network, converted, precision)
    changed = sum(before[path] != policy for path, policy in wanted.items())
    return converted, (f"{changed} of its {len(leaves)} layers now compute in {precision}",)


def _leaves(network: keras.Model) -> list[Entry]:
    """The layers that compute, at every depth of nested models; what a wrapper holds belongs to the wrapper."""
    entries = [each for each in layer_tree(network) if not isinstance(each.layer, keras.Model)]
    inside = {id(inner) for each in entries for inner in layers_within(each.layer) if inner is not each.layer}
    return [each for each in entries if id(each.layer) not in inside]


def _policies(network: keras.Model, precision: str) -> dict[str, str]:
    """The name of the policy that each layer is to have, by its path."""
    last = {
        id(step.call.operation)
        for step in trace(network)
        if ahead(step, through_normalization=True).reaches_output
    }
    return {
        each.path: FULL if id(each.layer) in last or _prepares_input(each.layer) else precision
        for each in _leaves(network)
    }


def _prepares_input(layer: keras.Layer) -> bool:
    return type(layer).__module__.startswith("keras.src.layers.preprocessing.")


def _require_32_bits(leaves: Sequence[Entry], precision: str) -> None:
    for each in leaves:
        for weight in each.layer.weights:
            if keras.backend.is_float_dtype(weight.dtype) and weight.dtype != FULL:
                raise ModelError(
                    f"model.precision={precision} needs weights in float32, and the layer '{each.path}' keeps "
                    f"'{weight.name}' in {weight.dtype}: model.precision=auto takes the network as it is"
                )


def _require_taken(leaves: Sequence[Entry], wanted: dict[str, str], precision: str) -> None:
    for each in leaves:
        if each.layer.dtype_policy.name != wanted[each.path]:
            raise ModelError(
                f"model.precision={precision}: the layer '{each.path}' ({type(each.layer).__name__}) stays at "
                f"{each.layer.dtype_policy.name}, because its get_config leaves out dtype: add that of its base class, "
                "or take model.precision=auto"
            )


def _require_finite(network: keras.Model, converted: keras.Model, precision: str) -> None:
    """A trial on noise: a layer may have no kernel for the type, and float16 ends at 65,504."""
    inputs = [
        np.random.default_rng(0).uniform(0, 255, [2, *(side or FREE_SIDE for side in tensor.shape[1:])])
        for tensor in network.inputs
    ]
    batch = [values.astype(tensor.dtype) for values, tensor in zip(inputs, network.inputs, strict=True)]
    try:
        outputs = converted(batch if len(batch) > 1 else batch[0], training=False)
    except Exception as error:  # TensorFlow raises whatever the kernel raised
        reason = (str(error).strip().splitlines() or ["no reason was given"])[0]
        raise ModelError(
            f"model.precision={precision}: the network does not compute in it: {reason}"
        ) from error
    for each in keras.tree.flatten(outputs):
        if not np.isfinite(keras.ops.convert_to_numpy(each)).all():
            raise ModelError(
                f"model.precision={precision}: outputs of the network are no longer finite (float16 holds numbers up "
                "to 65,504): take model.precision=mixed_bfloat16 or float32, and name the pixels that the network was "
                "made for (model.input_range)"
            )
