"""Three switches of batch normalization: what trains, whether statistics move, what training normalizes with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.sites import Patterns, as_patterns, matches
from bnadapt.surgery.tree import layer_tree, made_trainable, set_flags

Statistics = Literal["move", "stay"]
Normalize = Literal["batch", "moving"]


@dataclass(frozen=True)
class Switches:
    """How one batch normalization layer takes part in training.

    Attributes:
        affine: whether gamma or beta trains.
        statistics: whether training lets the moving statistics "move" or has them "stay".
        normalize: whether training normalizes with the "batch" or with the "moving" statistics.
    """

    affine: bool
    statistics: Statistics
    normalize: Normalize


def switch_batch_norm(
    model: keras.Model,
    layers: Patterns | None = None,
    *,
    affine: bool | None = None,
    statistics: Statistics | None = None,
    normalize: Normalize | None = None,
) -> list[str]:
    """Set the switches of batch normalization layers for training; changes them, and returns their paths.

    Every combination is possible. Keras' own flags say two of them: batch and move (``trainable`` of the
    layer is True), and moving and stay (False). For the other two an object in the layer's attribute ``call``
    decides what training computes, and the flag is True. That object is neither configuration nor state: the
    layer stays a plain ``BatchNormalization``, a model saved meanwhile loads anywhere (and then behaves as its
    flags say), and copies of the layer come without it. Inference is the same under all switches.

    What else trains or not stays as it is: where a frozen model holds a layer of which anything shall train
    or move, that model is thawed, and whatever else it kept from training is frozen by itself. A training
    function that Keras had compiled is made anew; the optimizer may still know too few variables (see
    ``find_policy_problems``), so compile with a new one.

    Args:
        model: a network with batch normalization, at any depth, also inside wrappers.
        layers: paths, names, or regular expressions over either (full match); by default all.
        affine: True: gamma and beta train. False: they stay. None, here and below: as it is.
        statistics: "move": towards those of each batch, by the layer's momentum. "stay": not at all.
        normalize: "batch": training normalizes with the mean and variance of the batch, and gradients pass
            through them. "moving": with the moving statistics before this batch, which are constants to the
            gradient (Kanavati and Tsuneki, 2021, with statistics that stay).

    Raises:
        SurgeryError: no such layer, an unknown value, or gamma and beta to train of a layer that has neither.
    """
    check_switches(statistics, normalize)
    chosen = batch_norms(model, layers)
    if affine:
        without = [path for path, layer in chosen.items() if not made_trainable(layer)]
        if without:
            raise SurgeryError(f"affine=True: there is no gamma and no beta to train in {', '.join(without)}")
    entries = layer_tree(model)
    effective = {id(weight) for weight in model.trainable_variables}
    wanted = {}
    for path, layer in chosen.items():
        now = switches_of(layer, effective)
        wanted[path] = Switches(
            now.affine if affine is None else affine,
            statistics or now.statistics,
            normalize or now.normalize,
        )
        if affine is not None:
            own = {id(weight) for weight in made_trainable(layer)}
            effective = effective | own if affine else effective - own
    flags = {id(entry.layer): bool(entry.layer.trainable) for entry in entries}
    flags |= {id(layer): flag_of(wanted[path]) for path, layer in chosen.items()}
    awake = {id(chosen[path]) for path, each in wanted.items() if each.affine or flag_of(each)}
    for entry in entries:
        below = {id(each) for each in entry.layer._flatten_layers(include_self=False, recursive=True)}
        flags[id(entry.layer)] |= bool(below & awake)
    set_flags(model, flags, {id(weight): id(weight) in effective for weight in model.weights})
    for path, layer in chosen.items():
        set_call(layer, wanted[path])
    renew_training(model)
    return list(chosen)


def batch_norms(
    model: keras.Model, layers: Patterns | None = None
) -> dict[str, keras.layers.BatchNormalization]:
    """The batch normalization layers at every depth by path, also those inside wrappers; changes nothing.

    Args:
        model: any network.
        layers: paths, names, or regular expressions over either (full match); by default all.

    Raises:
        SurgeryError: the network has none, or one of ``layers`` matches none of them.
    """
    found = {entry.path: entry.layer for entry in layer_tree(model) if is_batch_norm(entry.layer)}
    if not found:
        raise SurgeryError(
            f"the model '{model.name}' has no batch normalization: insert some first (insert_batch_norm)"
        )
    if layers is None:
        return found
    chosen: set[str] = set()
    for wanted in [layers] if isinstance(layers, str) else layers:
        hits = {wanted} if wanted in found else set(_matching(found, wanted))
        if not hits:
            raise SurgeryError(
                f"'{wanted}' matches no batch normalization layer; there are: {', '.join(found)}"
            )
        chosen |= hits
    return {path: layer for path, layer in found.items() if path in chosen}


def is_batch_norm(layer: Any) -> bool:
    """Whether a layer is batch normalization of Keras, or derived from it."""
    return isinstance(layer, keras.layers.BatchNormalization)


def switches_of(layer: keras.layers.BatchNormalization, trainable: set[int]) -> Switches:
    """The switches of a layer as they are; ``trainable`` holds the ids of the variables that train."""
    affine = any(id(weight) in trainable for weight in made_trainable(layer))
    if not layer.trainable:  # to Keras that means inference, whatever else was said
        return Switches(affine, "stay", "moving")
    call = vars(layer).get("call")
    if isinstance(call, SwitchedCall):
        return Switches(affine, call.statistics, call.normalize)
    return Switches(affine, "move", "batch")


def flag_of(switches: Switches) -> bool:
    """The ``trainable`` flag that a layer needs for its switches."""
    return switches.statistics == "move" or switches.normalize == "batch"


def set_call(layer: keras.layers.BatchNormalization, switches: Switches) -> None:
    """Put in place, or take away, the object that decides what training computes; changes the layer.

    The flag has to be set besides (``flag_of``).
    """
    vars(layer).pop("call", None)
    if (switches.statistics, switches.normalize) in (("move", "moving"), ("stay", "batch")):
        vars(layer)["call"] = SwitchedCall(layer, switches.statistics, switches.normalize)


def check_switches(statistics: str | None, normalize: str | None) -> None:
    """Raise a SurgeryError where a value is none of a switch's; None is allowed."""
    for name, value, kind in (("statistics", statistics, Statistics), ("normalize", normalize, Normalize)):
        if value is not None and value not in get_args(kind):
            raise SurgeryError(f"{name}={value!r}: choose {' or '.join(get_args(kind))}")


def renew_training(model: keras.Model) -> None:
    """Replace compiled training functions, which hold the flags of the time when they were traced."""
    for entry in layer_tree(model):
        inner = entry.layer
        if getattr(inner, "train_function", None) is not None:
            inner.make_train_function(force=True)
            # Of the time of compile; the new function is not older than what is written here now.
            inner._compiled_trainable_state = {each: each.trainable for each in inner._flatten_layers()}


class SwitchedCall:
    """What a layer computes where Keras' flag cannot say it; stands in for the layer's method ``call``.

    All arithmetic is the layer's own, and so are masks, data types and synchronization: its assignments are
    caught, and kept or dropped.
    """

    def __init__(
        self, layer: keras.layers.BatchNormalization, statistics: Statistics, normalize: Normalize
    ) -> None:
        """Stand in for the ``call`` of this layer."""
        self.layer = layer
        self.statistics = statistics
        self.normalize = normalize

    def __call__(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """The normalized inputs; moves the statistics, or not, as the switch says."""
        layer = self.layer
        call = type(layer).call
        if not training:
            return call(layer, inputs, training=training, mask=mask)
        # The values go in explicitly because a scope of Keras does not see those of a scope around it.
        values = [(variable, variable) for variable in layer.variables]
        with keras.StatelessScope(values, initialize_variables=False) as caught:
            outputs = call(layer, inputs, training=True, mask=mask)
        if self.normalize == "moving":
            outputs = call(layer, inputs, training=False, mask=mask)
        if self.statistics == "move":
            made = {id(each) for each in made_trainable(layer)}
            for variable in layer.variables:
                if id(variable) not in made:
                    variable.assign(caught.get_current_value(variable))
        return outputs


def _matching(found: Mapping[str, Any], pattern: str) -> list[str]:
    (checked,) = as_patterns(pattern)
    return [path for path in found if matches(checked, path)]
