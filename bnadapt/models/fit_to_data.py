"""Networks of the user's own, given the input and the head that a data set needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from bnadapt.errors import ModelError
from bnadapt.surgery.graph import calls
from bnadapt.surgery.head import replace_head
from bnadapt.surgery.preprocess import with_rescaling


@dataclass(frozen=True)
class Fitted:
    """A network that takes a data set's images, or its rows of numbers, and predicts its classes.

    Attributes:
        network: The network; the one given where nothing had to change.
        new_head: Path of the freshly initialised head; None where the network kept its own.
        notes: What was changed and why, for the user.
    """

    network: keras.Model
    new_head: str | None
    notes: tuple[str, ...]


def fit_to_data(
    network: keras.Model, shape: tuple[int, ...], classes: int, *, always_new_head: bool = False
) -> Fitted:
    """Give a network a head of so many classes where it has another number, and say what the images must be.

    Args:
        network: Takes one batch of images, or of rows of numbers; not changed.
        shape: What the network will get: height, width and channels of images, or ``(features,)`` of rows.
        classes: Number of classes of the data.
        always_new_head: Replace the head also where the number of classes fits.

    Raises:
        ModelError: the network does not take one batch of images or rows, or not of that shape, or does not return
            the scores of classes of which one is right.
        SurgeryError: its head cannot be replaced.
    """
    own = input_shape(network)
    if len(own) != len(shape) or any(
        side not in (None, given) for side, given in zip(own, shape, strict=True)
    ):
        raise ModelError(f"the network takes {_in_words(own)}, the data gives {_in_words(shape)}")
    outputs = network.output_shape
    if len(network.outputs) != 1:
        raise ModelError(
            f"the network has {len(network.outputs)} outputs; it must have one, the scores of the classes"
        )
    if _last_activation(network) is keras.activations.sigmoid:
        raise ModelError(
            "the network ends in a sigmoid: it scores each class by itself, and bnadapt adapts networks that choose "
            "one class. End it in a softmax, or in no activation"
        )
    fits = isinstance(outputs, tuple) and len(outputs) == 2 and outputs[-1] == classes
    if fits and not always_new_head:
        return Fitted(network, None, ())
    network, head = replace_head(network, classes, append=not ends_as_classifier(network))
    reason = (
        "as model.head=new asks"
        if fits
        else f"the network's output is {_shape(outputs)}, the data has {classes} classes"
    )
    return Fitted(network, head, (f"new head {head!r} with {classes} classes ({reason})",))


def input_shape(network: keras.Model) -> tuple[int | None, ...]:
    """Height, width and channels of the images that a network takes, or ``(features,)`` of rows; None where free.

    Raises:
        ModelError: the network has several inputs, or its input is no batch of images or rows.
    """
    shape = network.input_shape
    if not isinstance(shape, tuple) or len(shape) not in (2, 4):
        raise ModelError(
            f"the network's input is {_shape(shape)}; it must be one batch of images (None, height, width, channels) "
            "or of rows of numbers (None, features)"
        )
    return shape[1:]


def with_pixels(network: keras.Model, input_range: Sequence[float]) -> keras.Model:
    """A network that takes pixels from 0 to 255 where this one was made for another range of them.

    Raises:
        ModelError: a range is named for a network that takes rows of numbers.
        SurgeryError: as in ``with_rescaling``.
    """
    rows = len(network.inputs) == 1 and len(network.inputs[0].shape) == 2
    if rows and tuple(input_range) != (0, 255):
        raise ModelError(
            f"model.input_range={list(input_range)} is of pixels, and the network takes rows of numbers, which it gets "
            "as they are: leave the setting out"
        )
    return with_rescaling(network, input_range)


def ends_as_classifier(network: keras.Model) -> bool:
    """Whether the outputs are scores of classes, probabilities or a linear dense layer's, and not features."""
    last = calls(network)[-1].operation
    if isinstance(last, keras.layers.Dense) and _last_activation(network) is keras.activations.linear:
        return True
    return len(network.output_shape) == 2 and returns_probabilities(network)


def _last_activation(network: keras.Model) -> object:
    return getattr(calls(network)[-1].operation, "activation", None)


def returns_probabilities(network: keras.Model) -> bool:
    """Whether a classifier's outputs are probabilities (rows that sum to one) and not logits.

    Decided by what comes out, because a softmax can stand anywhere: in the last layer, behind it, or as an
    operation of its own.
    """
    shape = [side or 32 for side in network.input_shape[1:]]
    images = np.random.default_rng(0).uniform(0, 255, (4, *shape)).astype("float32")
    outputs = np.asarray(keras.ops.convert_to_numpy(network(images, training=False)), "float64")
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1, atol=1e-2))


def _in_words(shape: tuple[int | None, ...]) -> str:
    if len(shape) == 1:
        return f"rows of {'any number of' if shape[0] is None else shape[0]} numbers"
    return f"images of shape {shape}"


def _shape(shape: object) -> str:
    return str(shape).replace("'", "")
