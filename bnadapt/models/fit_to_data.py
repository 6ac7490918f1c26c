"""Networks of the user's own: loaded, and given the input and the head that a data set needs."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from bnadapt.errors import ModelError
from bnadapt.surgery.graph import calls
from bnadapt.surgery.head import replace_head


@dataclass(frozen=True)
class Fitted:
    """A network that takes a data set's images and predicts its classes.

    Attributes:
        network: The network; the one given where nothing had to change.
        new_head: Path of the freshly initialised head; None where the network kept its own.
        notes: What was changed and why, for the user.
    """

    network: keras.Model
    new_head: str | None
    notes: tuple[str, ...]


def load_file(path: Path) -> keras.Model:
    """The network in a ``.keras`` file.

    Raises:
        ModelError: the file is not a Keras model, or needs code that is not there.
    """
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever the reader below it raised
        raise ModelError(f"model.path={path} cannot be loaded: {_reason(path, str(error))}") from error


def _reason(path: Path, error: str) -> str:
    """Why Keras did not load a file, and what would work, in words that are true of bnadapt."""
    if path.suffix != ".h5" and not zipfile.is_zipfile(path):
        return "it is no .keras file; save the network with model.save('network.keras') in Keras 3"
    if "Lambda" in error:
        return "it holds a Lambda layer, whose code is not run out of a file; use a layer of Keras instead"
    missing = re.search(r"Could not locate class '(\w+)'", error)
    if missing:
        return (
            f"it needs the class {missing[1]}, which is not Keras' own; build the network of Keras' layers as a "
            "Sequential or Functional model (subclassed models cannot be rewritten)"
        )
    return (error.strip().splitlines() or ["no reason was given"])[0]


def fit_to_data(
    network: keras.Model, image_shape: tuple[int, int, int], classes: int, *, always_new_head: bool = False
) -> Fitted:
    """Give a network a head of so many classes where it has another number, and say what the images must be.

    Args:
        network: Takes one batch of images; not changed.
        image_shape: What the network will get.
        classes: Number of classes of the data.
        always_new_head: Replace the head also where the number of classes fits.

    Raises:
        ModelError: the network does not take one image tensor, or not of that shape, or does not return the
            scores of classes of which one is right.
        SurgeryError: its head cannot be replaced.
    """
    if any(own not in (None, given) for own, given in zip(input_shape(network), image_shape, strict=True)):
        raise ModelError(
            f"the network takes images of shape {input_shape(network)}, the data gives {image_shape}"
        )
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


def input_shape(network: keras.Model) -> tuple[int | None, int | None, int | None]:
    """Height, width and channels of the images that a network takes; None for what it leaves free.

    Raises:
        ModelError: the network has several inputs, or its input is no batch of images.
    """
    shape = network.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ModelError(
            f"the network's input is {_shape(shape)}; it must be one batch of images (None, height, width, channels)"
        )
    height, width, channels = shape[1:]
    return height, width, channels


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


def _shape(shape: object) -> str:
    return str(shape).replace("'", "")
