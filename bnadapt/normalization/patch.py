"""Small files that turn one base network into many: batch normalization, head and nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bnadapt.array_file import LARGEST_HEADER
from bnadapt.errors import ModelError, SurgeryError
from bnadapt.normalization.patch_file import read_patch, write_patch
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.structure import (
    first_difference,
    first_difference_from_marks,
    line_marks,
    structure_hash,
    structure_of,
)
from bnadapt.normalization.switches import is_batch_norm
from bnadapt.surgery.graph import Call, calls, layer_paths, producer
from bnadapt.surgery.head import head_layers, replace_head
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.kinds import fused_activation, is_activation, target_of, type_name
from bnadapt.surgery.rebuild import rebuild
from bnadapt.surgery.sites import Site
from bnadapt.surgery.tree import layer_tree, layers_within, own_weights, weights_by_path
from bnadapt.surgery.wording import listed

_HEADER: dict[str, Any] = {
    "head": dict | None,
    "sites": list,
    "settings": dict,
    "base": dict,
    "structure": str,
    "lines": list,
    "keras": str,
}


def save_patch(path: str | Path, base: keras.Model, adapted: keras.Model) -> None:
    """Write what makes ``adapted`` of ``base`` into one file: kilobytes, however large the networks are.

    The file holds gamma, beta and statistics of all batch normalization, the weights of the head, where batch
    normalization was inserted that ``base`` lacks, the size of a new head, and SHA-256 of every other weight
    and of the structure of ``base``, by which ``apply_patch`` knows it again. One base then serves many data
    sets (Mudrakarta et al., 2019). Neither network is changed; flags, switches and compiled state are not
    stored.

    Args:
        path: of the file; it is replaced whole or not at all.
        base: the network before, with or without the batch normalization and the head of ``adapted``.
        adapted: the network after: ``base`` with batch normalization inserted (``insert_batch_norm``), its
            head replaced (``replace_head``), batch normalization and head trained; each of these or not.

    Raises:
        SurgeryError: another weight differs between the two, ``adapted`` is built otherwise, or ``base`` holds
            what cannot be compared (see ``structure_of``).
        ModelError: the folder of the file is not there.
    """
    recipe, twin = _recipe(base, adapted)
    values = weights_by_path(adapted)
    stored = _patched(adapted)
    found, expected = fingerprint(twin), fingerprint(adapted)
    wrong = [each for each in expected if each not in stored and expected[each] != found[each]]
    if wrong:
        raise SurgeryError(
            f"{len(wrong)} weights of '{adapted.name}' that are neither batch normalization's nor the head's "
            f"differ from those of the base: {listed(wrong)}. A patch cannot hold them: train only "
            "[BATCH_NORM, HEAD], or save the whole network"
        )
    header = {
        **recipe,
        "keras": keras.__version__,
        "structure": structure_hash(base),
        "lines": line_marks(structure_of(base)),
        "base": {each: value for each, value in expected.items() if each not in stored},
        "settings": {
            each.path: {"epsilon": each.layer.epsilon, "momentum": each.layer.momentum}
            for each in layer_tree(adapted)
            if is_batch_norm(each.layer)
        },
    }
    write_patch(path, header, {each: keras.ops.convert_to_numpy(values[each]) for each in stored})


def apply_patch(base: keras.Model, path: str | Path) -> keras.Model:
    """Return a new network: the base with a patch, which computes bit for bit what the adapted one computed.

    The base is not changed and serves the next patch. The result's ``trainable`` flags are the base's.

    Args:
        base: the network that the patch was made of, or one with the same structure and the same bits in its
            weights; those of its batch normalization and head do not matter.
        path: of the file.

    Raises:
        SurgeryError: the base is another one.
        ModelError: the file is not there, no patch, damaged, or larger than a patch of this base can be.
    """
    size = sum(int(np.prod(each.shape)) * 8 for each in base.weights)
    header, weights = read_patch(path, LARGEST_HEADER + 8 * size)
    _check_header(header, path)
    _check_base(base, header, path)
    try:
        result = _assembled(base, header)
        for name, settings in header["settings"].items():
            layer = next(each.layer for each in layer_tree(result) if each.path == name)
            layer.epsilon, layer.momentum = float(settings["epsilon"]), float(settings["momentum"])
        targets = weights_by_path(result)
        if set(weights) != _patched(result):
            raise SurgeryError(f"it holds other weights: {listed(sorted(set(weights) ^ _patched(result)))}")
        for name, value in weights.items():
            variable = targets[name]
            if (
                tuple(variable.shape) != value.shape
                or keras.backend.standardize_dtype(value.dtype) != variable.dtype
            ):
                raise SurgeryError(
                    f"'{name}' is {value.dtype} {value.shape}, not {variable.dtype} {variable.shape}"
                )
        for name, value in weights.items():
            targets[name].assign(value)
    except (SurgeryError, AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise SurgeryError(f"the patch {path} does not fit the network '{base.name}': {error}") from error
    return result


def _check_header(header: Mapping[str, Any], path: str | Path) -> None:
    for key, kind in _HEADER.items():
        if not isinstance(header.get(key), kind):
            raise ModelError(f"the patch {path} is damaged: its header has no '{key}' as patches have")


def _check_base(base: keras.Model, header: Mapping[str, Any], path: str | Path) -> None:
    known, found = header["base"], fingerprint(base)
    missing = [each for each in known if each not in found]
    wrong = [each for each in known if each in found and known[each] != found[each]]
    if missing or wrong:
        reasons = [
            f"{len(some)} weights {what} ({listed(some)})"
            for some, what in ((wrong, "differ"), (missing, "are missing"))
            if some
        ]
        raise SurgeryError(f"the patch {path} belongs to another base network: {' and '.join(reasons)}")
    if structure_hash(base) != header["structure"]:
        versions = f" (it was made with Keras {header['keras']}, this is {keras.__version__})"
        raise SurgeryError(
            f"the patch {path} belongs to another base network: the weights are the same, but the layers or "
            f"their settings are not: {first_difference_from_marks(header['lines'], structure_of(base))}"
            f"{versions if header['keras'] != keras.__version__ else ''}"
        )


def _patched(model: keras.Model) -> set[str]:
    """Paths of the weights that a patch holds."""
    heads = head_layers(model)
    leaves = [layer for path, layer in layer_paths(model).items() if path in heads]
    inside = {id(each) for leaf in leaves for each in layers_within(leaf)}
    held = {
        id(weight)
        for entry in layer_tree(model)
        if is_batch_norm(entry.layer) or id(entry.layer) in inside
        for weight in own_weights(entry.layer)
    }
    return {path for path, weight in weights_by_path(model).items() if id(weight) in held}


def _recipe(base: keras.Model, adapted: keras.Model) -> tuple[dict[str, Any], keras.Model]:
    """How to build the adapted network of the base, tried out; and what came of it, with the base's weights."""
    wanted = structure_of(adapted)
    differences = []
    for head in _possible_heads(base, adapted):
        try:
            recipe = {"head": head, "sites": [asdict(site) for site in _sites(_headed(base, head), adapted)]}
            twin = _assembled(base, recipe)
        except SurgeryError as error:
            differences.append(str(error))
            continue
        _take_settings(twin, adapted)
        difference = first_difference(structure_of(twin), wanted)
        if difference is None:
            return recipe, twin
        differences.append(difference)
    raise SurgeryError(
        f"'{adapted.name}' is not '{base.name}' with batch normalization inserted and its head replaced: "
        f"{differences[0]}. Make it by insert_batch_norm and replace_head, or save the whole network"
    )


def _possible_heads(base: keras.Model, adapted: keras.Model) -> Iterator[dict[str, Any] | None]:
    yield None
    for path in head_layers(adapted):
        classes = int(layer_paths(adapted)[path].output.shape[-1])
        for append in (False, True):
            yield {"classes": classes, "name": path.rsplit("/", 1)[-1], "append": append}


def _headed(base: keras.Model, head: Mapping[str, Any] | None) -> keras.Model:
    return (
        base
        if head is None
        else replace_head(base, head["classes"], name=head["name"], append=head["append"])[0]
    )


def _assembled(base: keras.Model, recipe: Mapping[str, Any]) -> keras.Model:
    """A new network as the recipe says; batch normalization and head have weights that mean nothing yet."""
    sites = [Site(**{**site, "calls": tuple(site["calls"])}) for site in recipe["sites"]]
    headed = _headed(base, recipe["head"])
    return insert_batch_norm(headed, sites, init="standard") if sites else rebuild(headed)


def _take_settings(twin: keras.Model, adapted: keras.Model) -> None:
    settings = {each.path: each.layer for each in layer_tree(adapted) if is_batch_norm(each.layer)}
    for entry in layer_tree(twin):
        if is_batch_norm(entry.layer) and entry.path in settings:
            entry.layer.epsilon = settings[entry.path].epsilon


def _sites(headed: keras.Model, adapted: keras.Model) -> Iterator[Site]:
    """The sites that batch normalization was inserted at, in graph order, read from the adapted network."""
    before = layer_paths(headed)
    by_node = {id(call.node): call for call in calls(adapted)}
    for path, layer in layer_paths(adapted).items():
        if not is_batch_norm(layer) or path in before:
            continue
        places = [_place(call, by_node, before) for call in by_node.values() if call.operation is layer]
        yield Site(
            layer=places[0][0],
            layer_type=places[0][1],
            channels=int(layer.moving_mean.shape[0]),
            axis=layer.axis,
            position=places[0][2],
            name=layer.name,
            calls=tuple(sorted(place[3] for place in places)),
        )


def _place(
    call: Call, by_node: Mapping[int, Call], before: Mapping[str, keras.Layer]
) -> tuple[str, str, Any, int]:
    """Path and type of the layer that one call of batch normalization follows, position, and call of it."""
    node = producer(call.node.input_tensors[0])
    if node.is_input:
        return node.operation.name, "InputLayer", "input", 0
    position = "before_activation"
    if is_activation(node.operation) and target_of(node.operation) is None:
        position = "after_activation"
        node = producer(node.input_tensors[0])
    followed = by_node.get(id(node))
    if followed is None or target_of(followed.operation) is None:
        raise SurgeryError(f"the batch normalization '{call.path}' follows no layer that a site can name")
    if fused_activation(followed.operation) is not None:
        position = "after_activation"
    return followed.path, type_name(followed.operation), position, _number(followed, by_node.values())


def _number(call: Call, others: Iterable[Call]) -> int:
    """Which call of its layer it was before the insertion, which may have changed the order in the graph.

    The calls of a layer in a rewritten network are made in the order that they had before.
    """
    made = [id(node) for node in call.operation._inbound_nodes]
    of_layer = [each for each in others if each.operation is call.operation]
    return sorted(made.index(id(each.node)) for each in of_layer).index(made.index(id(call.node)))
