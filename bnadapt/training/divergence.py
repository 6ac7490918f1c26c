"""Where a loss that is no number comes from: the steps before it are taken again, and every layer is looked at."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnadapt.errors import StageError
from bnadapt.surgery.tree import weights_by_path
from bnadapt.training.listening import Heard, is_finite, largest_of, listening, numbers_in
from bnadapt.training.repeat import Repeat

_TOO_LARGE = 1e30  # times a batch, and summed over steps, beyond float32
_LOOK_AT_IMAGES = "Look at those images"
_LOOK_AT_NETWORK = "The learning rate is not the cause: look at the network, and at the values that it gets"


class NotFinite(Exception):  # noqa: N818 - it ends Keras' fit, and train_stage makes an error of it
    """The loss of a step, or a weight after it, is no number."""

    def __init__(self, step: int, loss: float | None = None) -> None:
        """The step's number, from 1, and the mean loss of the look up to it; None where it is a weight."""
        super().__init__(step, loss)
        self.step = step
        self.loss = loss


class DivergedError(StageError):
    """A stage cannot go on because a loss or a weight is no longer a number.

    The network has the weights of the best look again. A checkpoint stays as it was at the last look or step that
    was kept: to go on from it leads to the same step and the same error.

    Attributes:
        step: Number of the step at which it was seen, from 1.
        began: Number of the step in which it began; 0 where it was so before the first one.
        layer: Path of the layer in which it began; empty where no layer is to blame.
        best_epoch: Number of the look whose weights the network has; 0: those that it began with.
        network: With those weights.
    """

    def __init__(
        self, message: str, *, step: int, began: int, layer: str, best_epoch: int, network: keras.Model
    ) -> None:
        """What to tell, and what a caller may want to know."""
        super().__init__(message)
        self.step = step
        self.began = began
        self.layer = layer
        self.best_epoch = best_epoch
        self.network = network


@dataclass(frozen=True)
class Cause:
    """What it began with.

    Attributes:
        step: Number of the step; 0 where it was so before the first one.
        layer: Path of the layer; empty where no layer is to blame.
        text: In words, behind "it began with".
        advice: What would work, a sentence without its end; empty where that is a lower learning rate.
    """

    step: int
    layer: str
    text: str
    advice: str = ""


def explain(
    repeat: Repeat,
    find: Callable[[Repeat], Cause],
    what: str,
    *,
    step: int,
    best: Sequence[np.ndarray],
    best_epoch: int,
    best_at: str,
    rate_key: str,
) -> DivergedError:
    """The error that says what a stage broke at, where that began, and what would work.

    Gives the network the weights of the best look back, whatever happens.

    Args:
        repeat: The fit.
        find: Finds the cause.
        what: What broke, with the stage and the place.
        step: Number of the step at which it was seen.
        best: Weights of the best look, in the network's order.
        best_epoch: Its number.
        best_at: Its place in words.
        rate_key: The setting that holds the learning rate.
    """
    network = repeat.network
    try:
        cause = find(repeat)
        rate = float(keras.ops.convert_to_numpy(network.optimizer.learning_rate))
    finally:
        network.set_weights(list(best))
    advice = cause.advice or f"Lower {rate_key} (now {rate:g}), or look for broken images"
    kept = (
        f"its weights of {best_at} again, the best so far"
        if best_epoch
        else "the weights again that it began with"
    )
    message = f"{what}. It began with {cause.text}. {advice}. The network has {kept}"
    return DivergedError(
        message, step=step, began=cause.step, layer=cause.layer, best_epoch=best_epoch, network=network
    )


def find_cause(repeat: Repeat, step: int) -> Cause:
    """Why the loss of a step is no number; the network is left somewhere before that step.

    Args:
        repeat: From a state before the step.
        step: Its number, from 1.
    """
    repeat.after(step - 1)
    seen = _forward(repeat, step)
    if isinstance(seen, Cause):
        return seen
    if isinstance(seen, Heard):
        return find_cause_of_weights(repeat, step - 1, seen.weights)
    return _of_the_loss(repeat, step, seen)


def find_cause_of_weights(repeat: Repeat, steps: int, besides: Mapping[str, Any] | None = None) -> Cause:
    """Why weights are no numbers after so many steps; the network is left somewhere before.

    Args:
        repeat: From a state before they were so, or the first one of the fit.
        steps: After which they were.
        besides: Weights by path that do not train, and may be it.
    """
    network = repeat.network
    trained = {id(each) for each in network.trainable_variables}
    watched = {path: each for path, each in weights_by_path(network).items() if id(each) in trained}
    watched |= besides or {}
    began = repeat.after(steps, list(watched.values()))
    if began is None:
        return _not_again(repeat, steps)
    # In the order of gradients, from the output to the input.
    found = [path for path in reversed(watched) if not is_finite(watched[path])]
    if began == repeat.state.step:
        when = "before the first step" if began == 0 else f"after step {began}, from which the fit went on"
        return Cause(began, _layer(found[-1]), f"{found[-1]}, which is not finite {when}", _LOOK_AT_NETWORK)
    repeat.after(began - 1)
    seen = _forward(repeat, began)  # an activation that makes 0 of NaN hides it from the loss
    if isinstance(seen, Cause):
        return seen
    repeat.after(began - 1)
    loss, gradients = _gradients(network, *repeat.batch(began))
    of_path = {path: gradients[id(each)] for path, each in watched.items() if id(each) in gradients}
    wrong = [path for path in reversed(of_path) if not is_finite(of_path[path])]
    if wrong:
        text = (
            f"the gradient of {wrong[0]} in step {began}, which is not finite though the loss was {loss:.3g}"
        )
        return Cause(began, _layer(wrong[0]), text)
    first = found[0]
    from_what = f", from a gradient of at most {largest_of(of_path[first]):.3g}" if first in of_path else ""
    return Cause(began, _layer(first), f"the change of {first} in step {began}{from_what}")


def find_cause_in(network: keras.Model, batches: Any, step: int) -> Cause:
    """Why a loss in inference is no number; changes nothing.

    Args:
        network: As it was then.
        batches: Of the validation images.
        step: Steps taken before.
    """
    for images, *_ in batches:
        if not np.isfinite(np.asarray(images)).all():
            return Cause(step, "", "validation images that hold NaN or infinity", _LOOK_AT_IMAGES)
        with listening(network) as heard:
            network(images, training=False)
        if heard:
            return Cause(step, heard[0].path, f"the outputs of {heard[0].where}: {heard[0].how}")
    return Cause(step, "", "the loss itself, for every layer's outputs are finite")


def _forward(repeat: Repeat, step: int) -> Any:
    """What goes wrong in the forward pass of a step whose beginning the network is at; changes its state.

    Returns:
        A Cause; a Heard where the layer's own weights are to blame; else the outputs, which are finite.
    """
    images, labels, _ = repeat.batch(step)
    wrong = ~np.isfinite(np.asarray(images)).reshape(len(images), -1).all(axis=1)
    if wrong.any():
        classes = ", ".join(map(str, np.unique(np.asarray(labels)[wrong])))
        text = f"{wrong.sum()} of the {len(wrong)} images of step {step}, which hold NaN or infinity (class {classes})"
        return Cause(step, "", text, _LOOK_AT_IMAGES)
    with listening(repeat.network) as heard:
        outputs = repeat.network(images, training=True)
    if not heard:
        return outputs
    first = heard[0]
    if first.weights:
        return first
    text = f"the outputs of {first.where} in step {step}: {first.how}"
    return Cause(step, first.path, text, _LOOK_AT_NETWORK if step == 1 else "")


def _of_the_loss(repeat: Repeat, step: int, outputs: Any) -> Cause:
    """Of a step in which every layer's outputs are finite."""
    network, (images, labels, weights) = repeat.network, repeat.batch(step)
    added = [float(each) for each in network.losses]
    loss = float(network.compute_loss(x=images, y=labels, y_pred=outputs, sample_weight=weights))
    if not all(math.isfinite(each) for each in added):
        return Cause(
            step, "", f"what regularizers add to the loss in step {step}: every layer's outputs are finite"
        )
    if not math.isfinite(loss):
        largest = max(largest_of(each) for each in numbers_in(outputs))
        text = f"the loss itself in step {step}: the network's outputs are finite, at most {largest:.3g}"
        return Cause(step, "", text)
    if loss > _TOO_LARGE:
        return Cause(step, "", f"the loss of {loss:.3g} in step {step}, too large for a mean over steps")
    return _not_again(repeat, step)


def _not_again(repeat: Repeat, step: int) -> Cause:
    text = f"something that did not happen again when the steps from {repeat.state.step + 1} on were repeated"
    return Cause(step, "", text)


def _gradients(network: keras.Model, images: Any, labels: Any, weights: Any) -> tuple[float, dict[int, Any]]:
    """The loss of a training step, and the gradients as the optimizer gets them, by the id of their variable."""
    with tf.GradientTape() as tape:
        outputs = network(images, training=True)
        loss = network.compute_loss(x=images, y=labels, y_pred=outputs, sample_weight=weights)
        scaled = network.optimizer.scale_loss(loss)
    variables = network.trainable_variables
    gradients = tape.gradient(scaled, [each.value for each in variables])
    return float(loss), {
        id(each): tf.convert_to_tensor(gradient)  # that of an embedding is a sparse one
        for each, gradient in zip(variables, gradients, strict=True)
        if gradient is not None
    }


def _layer(path: str) -> str:
    return path.rpartition("/")[0]
