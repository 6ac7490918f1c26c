"""The pixel values that a network expects, made part of the network."""

from collections.abc import Sequence

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.graph import inputs_of, nodes, producer
from bnadapt.surgery.rebuild import Edits, rebuild
from bnadapt.surgery.tree import unique_name


def with_rescaling(model: keras.Model, input_range: Sequence[float]) -> keras.Model:
    """Return a network that takes pixels from 0 to 255 and feeds the given range to what the model was.

    A ``Rescaling`` layer, computed in float32, follows the input; all else is carried over bit for bit and
    the argument is not changed. For the range (0, 255) nothing is to be done: the model itself is returned.

    Args:
        model: a network with one input.
        input_range: the lowest and the highest pixel value that the model was made for.

    Raises:
        SurgeryError: a range that is none, several inputs, or a network that cannot be rewritten.
    """
    lowest, highest = (float(value) for value in input_range)
    if not lowest < highest:
        raise SurgeryError(f"input_range={list(input_range)}: give the lowest and the highest pixel value")
    if (lowest, highest) == (0.0, 255.0):
        return model
    inputs = inputs_of(model)
    if len(inputs) != 1:
        raise SurgeryError(f"rescaling needs a network with one input; this one has {len(inputs)}")
    source = producer(inputs[0])
    taken = {source.operation.name} | {node.operation.name for node in nodes(model)}
    rescaling = keras.layers.Rescaling(
        (highest - lowest) / 255.0, offset=lowest, name=unique_name("rescaling", taken), dtype="float32"
    )
    return rebuild(model, Edits(after={id(source): [rescaling]}))
