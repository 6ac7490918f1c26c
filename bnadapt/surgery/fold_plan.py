"""Which batch normalization can be merged into which layers, and the weights that those then have."""

import contextlib
from typing import Any

import keras
import numpy as np

from bnadapt.errors import SurgeryError
from bnadapt.surgery.affine import Affine, CannotFoldError, affine_of, carry, is_identity
from bnadapt.surgery.flow import wiring
from bnadapt.surgery.folds import Fold
from bnadapt.surgery.graph import Call, calls, models, nodes
from bnadapt.surgery.kinds import fused_activation, is_keras_own, target_of, type_name
from bnadapt.surgery.linear import Weights, holder_of, scaled_before, scaled_behind, weights_of
from bnadapt.surgery.rebuild import check_rewritable

# Of an output's standard deviation: more than that is not given up by folding a shift forward.
LOST_AT_MOST = 4e-6


class FoldPlan:
    """The folds done so far: the weights that layers will have, and what is left out."""

    def __init__(self, model: keras.Model) -> None:
        """Read the network; raises SurgeryError where ``check_rewritable`` does."""
        check_rewritable(model)
        self.model = model
        self.wiring = wiring(model)
        self.calls: dict[int, list[Call]] = {}
        for call in calls(model):
            self.calls.setdefault(id(call.operation), []).append(call)
        self.batch_norms = {
            each[0].path: each[0].operation
            for each in self.calls.values()
            if isinstance(each[0].operation, keras.layers.BatchNormalization)
        }
        self.used_directly = _variables_of_operations(model)
        self.weights: dict[int, tuple[keras.Layer, Weights]] = {}
        self.gone: dict[int, str] = {}
        self.shifts: dict[int, np.ndarray] = {}

    def repeat(self, fold: Fold) -> None:
        """Do a fold that was found before; raises SurgeryError where it is not possible, or another one."""
        ways = {"backward": self.backward, "forward": self.forward, "identity": self.identity}
        if fold.batch_norm not in self.batch_norms:
            raise SurgeryError(
                f"the network has no batch normalization '{fold.batch_norm}'; it has: "
                f"{', '.join(self.batch_norms) or 'none'}"
            )
        try:
            done = ways[fold.direction](fold.batch_norm)
        except CannotFoldError as obstacle:
            raise SurgeryError(
                f"'{fold.batch_norm}' cannot be folded {fold.direction}: {obstacle}. Find the folds in the "
                "network that they are used on, and keep their order"
            ) from obstacle
        if done != fold:
            raise SurgeryError(
                f"the fold of '{fold.batch_norm}' was found in another network, or with other weights: there it "
                f"was {fold}, here it is {done}"
            )

    def backward(self, path: str) -> Fold:
        """Merge batch normalization into the layer that it follows, or raise CannotFoldError."""
        batch_norm = self.checked(path)
        sources = [self.source(call.node) for call in self.calls[id(batch_norm)]]
        layer = sources[0].operation
        into = self.path(layer)
        if any(source.operation is not layer for source in sources):
            raise CannotFoldError("its calls follow different layers")
        self.check_linear(layer, into, "follows")
        if isinstance(layer, keras.layers.BatchNormalization):
            self.checked(into)
        elif fused_activation(layer) is not None:
            raise CannotFoldError(f"it follows the activation of '{into}'")
        total = len(self.calls[id(layer)])
        if total > len(sources):
            raise CannotFoldError(f"it follows {len(sources)} of {total} calls of '{into}'")
        node = sources[0]
        weights = scaled_behind(layer, self.weights_of(layer), self.affine(batch_norm, node.outputs[0]), node)
        self.take(batch_norm, {id(layer): (layer, weights)})
        return Fold(path, "backward", (into,))

    def forward(self, path: str) -> Fold:
        """Merge batch normalization into all layers that use it, or raise CannotFoldError."""
        batch_norm = self.checked(path)
        affine = self.affine(batch_norm, self.calls[id(batch_norm)][0].output)
        shift = None
        try:
            taken = self.absorbed(batch_norm, affine)
        except CannotFoldError as obstacle:
            shift = self.remaining_shift(batch_norm, affine, obstacle)
            taken = self.absorbed(batch_norm, Affine(affine.scale, np.zeros_like(affine.shift)))
        if shift is None and self.loses_digits(batch_norm, affine):
            with contextlib.suppress(CannotFoldError):
                before = self.remaining_shift(batch_norm, affine, CannotFoldError("it would lose digits"))
                rest = affine.shift - affine.scale * before  # of rounding what is added before
                taken, shift = self.absorbed(batch_norm, Affine(affine.scale, rest)), before
        self.take(batch_norm, taken)
        if shift is not None:
            self.shifts[id(batch_norm)] = shift
        into = tuple(self.wiring.paths[layer] for layer in taken)
        return Fold(path, "forward", into, shift is not None)

    def identity(self, path: str) -> Fold:
        """Leave batch normalization out that changes nothing, or raise CannotFoldError."""
        batch_norm = self.checked(path)
        if not self.affine(batch_norm, self.calls[id(batch_norm)][0].output).changes_nothing():
            raise CannotFoldError("it changes what passes through it")
        self.take(batch_norm, {})
        return Fold(path, "identity", ())

    def checked(self, path: str) -> keras.layers.BatchNormalization:
        """The batch normalization of that path, or a CannotFoldError if none of it can be folded."""
        layer = self.batch_norms[path]
        if id(layer) in self.gone:
            raise CannotFoldError("it is folded already")
        if type(layer) is not keras.layers.BatchNormalization:
            raise CannotFoldError(f"{type_name(layer)} is a class of its own")
        if layer.renorm:
            raise CannotFoldError("it renormalizes (renorm=True)")
        self.check_not_used_directly(layer, path)
        for call in self.calls[id(layer)]:
            arguments = call.node.arguments
            if arguments.kwargs.get("training"):
                raise CannotFoldError("it is called with training=True, and normalizes with the batch")
            if len(_values(call.node)) > 1 or len(arguments.args) > 1:
                raise CannotFoldError("it is called with a mask that is not that of its input")
            if call.output.dtype != call.node.input_tensors[0].dtype:
                raise CannotFoldError(f"it turns {call.node.input_tensors[0].dtype} into {call.output.dtype}")
        return layer

    def layer(self, key: int) -> Any:
        """The layer with that id."""
        return self.calls[key][0].operation

    def path(self, layer: Any) -> str:
        """The path of a layer, operation or model."""
        return self.wiring.paths[id(layer)]

    def check_linear(self, layer: Any, path: str, relation: str) -> None:
        """Raise CannotFoldError unless the layer, or one inside it, is a target whose weights may change."""
        if isinstance(layer, keras.Model):
            raise CannotFoldError(f"it {relation} the model '{path}': a border between models")
        if target_of(layer) is None and not isinstance(layer, keras.layers.BatchNormalization):
            raise CannotFoldError(f"it {relation} {type_name(layer)} '{path}', which is no linear layer")
        if not is_keras_own(layer) or not is_keras_own(holder_of(layer)):
            raise CannotFoldError(f"it {relation} '{path}', and {type_name(layer)} is a class of its own")
        if getattr(holder_of(layer), "lora_enabled", False):
            raise CannotFoldError(f"it {relation} '{path}', whose kernel has LoRA factors")
        self.check_not_used_directly(layer, path)

    def check_not_used_directly(self, layer: keras.Layer, path: str) -> None:
        """Raise CannotFoldError where a raw operation has a weight of the layer as its argument."""
        if any(id(weight) in self.used_directly for weight in layer.weights):
            raise CannotFoldError(f"an operation uses a weight of '{path}' directly")

    def weights_of(self, layer: keras.Layer) -> Weights:
        """The weights that a layer has after the folds so far."""
        return self.weights[id(layer)][1] if id(layer) in self.weights else weights_of(layer)

    def affine(self, batch_norm: keras.layers.BatchNormalization, tensor: Any) -> Affine:
        """What batch normalization does to a tensor, after the folds so far."""
        return affine_of(batch_norm, self.weights_of(batch_norm), len(tensor.shape))

    def loses_digits(self, batch_norm: keras.layers.BatchNormalization, affine: Affine) -> bool:
        """Whether the layers behind would cancel large numbers that are subtracted before them now."""
        weights = self.weights_of(batch_norm)
        subtracted = np.abs(affine.scale.ravel() * weights["moving_mean"])
        cancelled = np.minimum(subtracted, np.abs(affine.shift.ravel())).max()
        deviation = np.abs(weights.get("gamma", np.ones(1))).max()
        return bool(np.finfo(_kind_of_sums(batch_norm)).eps * cancelled > LOST_AT_MOST * deviation)

    def remaining_shift(
        self, batch_norm: keras.layers.BatchNormalization, affine: Affine, obstacle: CannotFoldError
    ) -> np.ndarray:
        """What is to be added before scaling, over one sample, as rounded; the obstacle again if nothing can be."""
        if not affine.shift.any():
            raise obstacle
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            shift = np.where(affine.shift == 0, 0, affine.shift / affine.scale)
            shift = shift.astype(_kind_of_sums(batch_norm))
            lost = ~np.isfinite(shift)
        if lost.any():
            raise CannotFoldError(
                f"{obstacle}, and {int(lost.sum())} of {lost.size} scales are zero or too small to shift before them"
            )
        return shift

    def passes(self, node: Any) -> bool:
        """Whether a call gives what it gets: in inference, and after the folds so far."""
        operation = node.operation
        if id(operation) in self.gone:
            return id(operation) not in self.shifts
        return is_identity(operation) and not node.arguments.kwargs.get("training")

    def source(self, node: Any) -> Any:
        """The node that computes what a call gets, if the call alone uses it."""
        while True:
            tensor = node.input_tensors[0]
            maker = self.wiring.makers.get(id(tensor))
            if maker is None:
                raise CannotFoldError("it follows an input of its model")
            path = self.path(maker.operation)
            users = self.wiring.users[id(tensor)]
            if len(users) > 1:
                others = [self.path(user.operation) for user in users if user is not node]
                raise CannotFoldError(f"the output of '{path}' also goes to '{(others or [path])[0]}'")
            if id(tensor) in self.wiring.outputs:
                raise CannotFoldError(f"the output of '{path}' is also an output of its model")
            if not self.passes(maker):
                return maker
            node = maker

    def absorbed(
        self, batch_norm: keras.layers.BatchNormalization, affine: Affine
    ) -> dict[int, tuple[keras.Layer, Weights]]:
        """The weights of all layers behind batch normalization that take up a scale and a shift of its output."""
        taken = {}
        for layer, arriving in self.arrivals(batch_norm, affine).values():
            path = self.path(layer)
            total = len(self.calls[id(layer)])
            if total > len(arriving):
                raise CannotFoldError(f"it goes to {len(arriving)} of {total} calls of '{path}'")
            node, own = arriving[0]
            if not all(own.equals(other) for _, other in arriving):
                raise CannotFoldError(f"it arrives at '{path}' in different ways")
            taken[id(layer)] = (layer, scaled_before(layer, self.weights_of(layer), own, node))
        return taken

    def arrivals(
        self, batch_norm: keras.layers.BatchNormalization, affine: Affine
    ) -> dict[int, tuple[keras.Layer, list[tuple[Any, Affine]]]]:
        """The linear layers that use the output of batch normalization, with the scale and shift of their inputs."""
        found: dict[int, tuple[keras.Layer, list[tuple[Any, Affine]]]] = {}
        queue = [(call.node, affine) for call in self.calls[id(batch_norm)]]
        while queue:
            maker, affine = queue.pop(0)
            tensor = maker.outputs[0]
            if id(tensor) in self.wiring.outputs:
                raise CannotFoldError(f"'{self.path(maker.operation)}' is an output of its model")
            for node in self.wiring.users[id(tensor)]:
                layer, path = node.operation, self.path(node.operation)
                if len(_values(node)) > 1:
                    raise CannotFoldError(
                        f"it goes to {type_name(layer)} '{path}', together with other values"
                    )
                if self.passes(node):
                    queue.append((node, affine))
                elif target_of(layer) is not None:
                    self.check_linear(layer, path, "goes to")
                    found.setdefault(id(layer), (layer, []))[1].append((node, affine))
                else:
                    queue.append((node, carry(layer, path, affine, node)))
        return found

    def take(
        self, batch_norm: keras.layers.BatchNormalization, taken: dict[int, tuple[keras.Layer, Weights]]
    ) -> None:
        """Accept a fold: the new weights of other layers, unless a type of theirs cannot hold them."""
        for layer, weights in taken.values():
            kind = holder_of(layer).weights[0].dtype
            with np.errstate(over="ignore"):
                values = [keras.ops.convert_to_numpy(keras.ops.cast(each, kind)) for each in weights.values()]
            if not all(np.isfinite(each).all() for each in values):
                raise CannotFoldError(f"the weights of '{self.path(layer)}' would overflow {kind}")
        self.weights |= taken
        self.gone[id(batch_norm)] = self.path(batch_norm)


def _kind_of_sums(batch_norm: keras.layers.BatchNormalization) -> str:
    """The type in which batch normalization adds: at least single precision."""
    return str(keras.backend.result_type(batch_norm.compute_dtype, "float32"))


def _values(node: Any) -> list[Any]:
    """The tensors that a call gets, without the mask that Keras passes along with the first of them."""
    mask = getattr(node.input_tensors[0], "_keras_mask", None)
    return [tensor for tensor in node.input_tensors if tensor is not mask]


def _variables_of_operations(model: keras.Model) -> set[int]:
    """Ids of the variables that are arguments of calls, as of keras.ops.matmul(x, layer.kernel)."""
    return {
        id(value)
        for inner in models(model).values()
        for node in nodes(inner)
        for value in keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
        if isinstance(value, keras.Variable)
    }
