"""Proof of a policy: fingerprints of every weight before and after, and what was declared to differ."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import keras

from bnadapt.errors import FrozenWeightMovedError, NothingMovedError
from bnadapt.normalization.switches import is_batch_norm, switches_of
from bnadapt.surgery.tree import layer_tree, made_trainable, own_weights, weights_by_path


@dataclass(frozen=True)
class Movement:
    """What differs between two fingerprints of one network, beside what was declared to.

    Attributes:
        moved: paths that were declared and changed.
        still: paths that were declared and did not change, as where the gradient is zero.
        undeclared: paths that changed, appeared or vanished without having been declared.
    """

    moved: tuple[str, ...]
    still: tuple[str, ...]
    undeclared: tuple[str, ...]


def fingerprint(model: keras.Model) -> dict[str, str]:
    """SHA-256 of the bytes of every weight by its path, such as "backbone/conv1/kernel"; changes nothing.

    The state of seed generators, which every stage with dropout moves, is left out.
    """
    found = {}
    for path, weight in weights_by_path(model).items():
        array = keras.ops.convert_to_numpy(weight)
        found[path] = hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
    return found


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over every weight and its path, 64 hexadecimal digits."""
    lines = [f"{path} {digest}" for path, digest in sorted(fingerprint(model).items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def declared_to_move(model: keras.Model) -> set[str]:
    """Paths of all weights that training may change under the present flags and switches; changes nothing.

    Those are the trainable ones, the statistics of batch normalization whose switch lets them move, and what
    other layers that are not frozen keep for themselves (a recurrent state, spectral norms).
    """
    moves = {id(each) for each in model.trainable_variables}
    for entry in layer_tree(model):
        if _state_moves(entry.layer):
            made = {id(each) for each in made_trainable(entry.layer)}
            moves |= {id(each) for each in own_weights(entry.layer) if id(each) not in made}
    return {path for path, weight in weights_by_path(model).items() if id(weight) in moves}


def compare_fingerprints(
    before: Mapping[str, str], after: Mapping[str, str], declared: Collection[str]
) -> Movement:
    """What moved between two fingerprints, what did not although declared, and what did undeclared."""
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    return Movement(
        moved=tuple(path for path in changed if path in declared),
        still=tuple(path for path in after if path in declared and path not in set(changed)),
        undeclared=tuple(path for path in changed if path not in declared),
    )


def assert_only_declared_moved(
    before: Mapping[str, str],
    after: Mapping[str, str],
    declared: Collection[str],
    *,
    all_may_stay: bool = False,
) -> list[str]:
    """Compare two fingerprints of one network; returns the paths that moved, all of them declared.

    Single weights may stay where they were, as with a gradient of zero (``compare_fingerprints`` says which).

    Args:
        before: as from ``fingerprint``.
        after: likewise.
        declared: as from ``declared_to_move``, taken before training.
        all_may_stay: no error where nothing at all moved, as where statistics are measured a second time.

    Raises:
        FrozenWeightMovedError: a weight changed, appeared or vanished that was not declared to.
        NothingMovedError: something was declared, and nothing moved.
    """
    movement = compare_fingerprints(before, after, declared)
    if movement.undeclared:
        raise FrozenWeightMovedError(
            f"{len(movement.undeclared)} of {len(after)} weights changed although they were frozen: "
            f"{', '.join(movement.undeclared)}"
        )
    if declared and not movement.moved and not all_may_stay:
        raise NothingMovedError(
            f"{len(declared)} of {len(after)} weights were to change, and none did. Most likely the network was "
            "compiled before the policy was set: set it first, then compile with a new optimizer "
            "(find_policy_problems names what is stale). It also happens where the learning rate is 0, where no "
            "step was taken, and where all gradients are 0"
        )
    return list(movement.moved)


def _state_moves(layer: keras.Layer) -> bool:
    if is_batch_norm(layer):
        return switches_of(layer, set()).statistics == "move"
    return layer.trainable and not isinstance(layer, keras.layers.Normalization)
