"""The state of a fit in a file, from which another process goes on as if nothing had happened."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bnadapt.array_file import UnusableFileError, read, write
from bnadapt.config import StageSettings
from bnadapt.data.splits import Splits
from bnadapt.evaluation.results import Epoch
from bnadapt.surgery.tree import layer_tree
from bnadapt.training.trained import Trained, history_from, trained_from

MAGIC = b"bnadapt checkpoint 1\n"
_GROUPS = ("network", "optimizer", "metrics", "best")

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class State:
    """Where a fit stands between two steps, or after its end.

    Attributes:
        step: Optimizer steps taken.
        network: All variables of the network in its order: weights, moving statistics, states of seed generators.
        optimizer: All variables of the optimizer in its order; empty where there is none.
        metrics: Variables of the metrics; empty but in the middle of a look.
        best: Weights of the best look so far; before there is one, those at the start. Empty after the end.
        best_loss: Validation loss of that look; infinite before there is one.
        best_look: Its number; 0 before there is one.
        waited: Looks since then.
        stopped: Whether the stage's patience has ended it.
        history: The looks so far.
        learning_rate: The one that the stage began with, as set or as found.
        seconds: Wall time spent so far, by all processes together.
        look_seconds: Of it, on the look in progress.
        trained: What the fit did, once it has ended.
    """

    step: int
    network: Arrays
    optimizer: Arrays = ()
    metrics: Arrays = ()
    best: Arrays = ()
    best_loss: float = float("inf")
    best_look: int = 0
    waited: int = 0
    stopped: bool = False
    history: tuple[Epoch, ...] = ()
    learning_rate: float | None = None
    seconds: float = 0.0
    look_seconds: float = 0.0
    trained: Trained | None = None


def identity_of(
    network: keras.Model,
    splits: Splits,
    how: StageSettings,
    before: Mapping[str, str],
    **arguments: Any,
) -> dict[str, Any]:
    """What must be the same for a fit to be gone on with: all that its outcome depends on; changes nothing.

    Args:
        network: Before the stage's policy is set.
        splits: The data.
        how: The stage.
        before: The network's fingerprint at the start of the fit.
        arguments: What else counts; plain values.
    """
    labels = hashlib.sha256(splits.train.labels().tobytes()).hexdigest()
    sizes = [split.size for split in (splits.train, splits.unlabelled, splits.validation)]
    identity = {
        "settings": asdict(how),
        "data": [splits.digest, sizes, labels],
        "weights at the start": dict(before),
        "precision": [entry.layer.dtype_policy.name for entry in layer_tree(network)],
        "version of Keras": keras.__version__,
        **arguments,
    }
    return json.loads(json.dumps(identity))  # as it comes out of a file


@dataclass(frozen=True)
class Checkpoint:
    """The file of a fit's state.

    Attributes:
        path: Of the file; without one nothing is written, and there is nothing to go on from.
        identity: What must be the same for a fit to be gone on with, as from ``identity_of``.
    """

    path: Path | None
    identity: Mapping[str, Any]

    def write(self, state: State) -> None:
        """Write the state of a fit, whole or not at all; raises a StorageError as ``files.replacing`` does."""
        if self.path is None:
            return
        groups = {name: getattr(state, name) for name in _GROUPS}
        plain = {each.name: getattr(state, each.name) for each in fields(state) if each.name not in groups}
        header = {
            "identity": self.identity,
            "groups": {name: len(arrays) for name, arrays in groups.items()},
            "state": {
                **plain,
                "history": [asdict(look) for look in state.history],
                "trained": None if state.trained is None else asdict(state.trained),
            },
        }
        write(self.path, MAGIC, header, [array for arrays in groups.values() for array in arrays])

    def read(self) -> State | None:
        """The state of a fit, or None where there is none to go on from.

        A file that is damaged, cut off, or of another fit is left where it is, and a warning says what is wrong.
        """
        if self.path is None:
            return None
        try:
            return self._state(*read(self.path, MAGIC))
        except FileNotFoundError:
            return None
        except UnusableFileError as error:
            self.warn(error)
        except (
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # a right checksum says nothing of what is inside
            self.warn(f"is damaged: {type(error).__name__} {error}")
        return None

    def warn(self, reason: object) -> None:
        """Say that the file is of no use."""
        warnings.warn(f"the state of a fit in {self.path} {reason}. The fit begins anew", stacklevel=2)

    def _state(self, header: dict[str, Any], arrays: list[np.ndarray]) -> State:
        there = header["identity"]
        different = [key for key in {**self.identity, **there} if self.identity.get(key) != there.get(key)]
        if different:
            raise UnusableFileError(f"belongs to another fit: it differs in {', '.join(different)}")
        groups: dict[str, Any] = {}
        for name in _GROUPS:
            count = header["groups"][name]
            groups[name], arrays = tuple(arrays[:count]), arrays[count:]
        plain = header["state"]
        trained = plain["trained"]
        return State(
            **groups,
            **{
                **plain,
                "history": history_from(plain["history"]),
                "trained": None if trained is None else trained_from(trained),
            },
        )


def values_of(variables: Sequence[Any]) -> Arrays:
    """Copies of the values of variables."""
    # Keras copies: TensorFlow's own arrays may be the variable's memory, which the next step writes to.
    return tuple(keras.ops.convert_to_numpy(variable) for variable in variables)


def assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Give variables their values back."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def restore(network: keras.Model, state: State) -> None:
    """Put a network and its optimizer, which must be compiled as then, into the state of a fit.

    Changes all variables of both.

    Raises:
        UnusableFileError: their variables have other shapes or types; nothing has been changed then.
    """
    optimizer = build_optimizer(network) if state.optimizer else []
    for whose, variables, values in (
        ("the network", network.variables, state.network),
        ("the optimizer", optimizer, state.optimizer),
        ("the best look", network.weights, state.best or network.weights),
    ):
        here, there = _kinds(variables), _kinds(values)
        if here != there:
            raise UnusableFileError(f"does not fit: the variables of {whose} have other shapes or types")
    assign(network.variables, state.network)
    assign(optimizer, state.optimizer)


def build_optimizer(network: keras.Model) -> list[Any]:
    """The variables of a compiled network's optimizer, made now where they were not; none without an optimizer."""
    optimizer = getattr(network, "optimizer", None)
    if optimizer is None:
        return []
    if not optimizer.built:
        optimizer.build(network.trainable_variables)
    return list(optimizer.variables)


def _kinds(values: Sequence[Any]) -> list[tuple[str, tuple[int, ...]]]:
    return [(keras.backend.standardize_dtype(each.dtype), tuple(each.shape)) for each in values]
