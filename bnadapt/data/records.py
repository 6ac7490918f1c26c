"""Examples as a source holds them, and how an encoded image becomes one of the wanted shape."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf

from bnadapt.errors import DataError


@dataclass(frozen=True)
class Records:
    """One part of a source after every record of it was read once; nothing is kept decoded.

    Attributes:
        labels: int64 of shape ``(size,)``.
        digests: SHA-256 of every encoded image or vector, 32 bytes each.
        select: Gives (record, int64 label) of the records at these sorted positions, in order.
        decode: Makes of a record a uint8 image ``(height, width, channels)`` of the wanted channels and
            of any size, or a float32 vector ``(numbers,)``; a TensorFlow function.
        block: How many records may be held in memory while they are shuffled.
        pixels: SHA-256 of every decoded image, equal for one picture in two encodings; None where
            nothing was decoded.
    """

    labels: np.ndarray
    digests: list[bytes]
    select: Callable[[np.ndarray], tf.data.Dataset]
    decode: Callable[[tf.Tensor], tf.Tensor]
    block: int
    pixels: list[bytes] | None = None


class Source(Protocol):
    """What a kind of data set must be able to say and do.

    Attributes:
        name: What the user calls it.
        classes: Names of the classes in the order of the labels.
        image_shape: ``(height, width, channels)``, or ``(numbers,)`` of vectors; None where sizes vary.
        channels: Of the images as they are stored; the length of vectors.
        sizes: Number of examples of each part that may be used.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...] | None
    channels: int
    sizes: dict[str, int]

    def part(self, role: str) -> str | None:
        """Name of the part to be used as train, validation or test; None where there is none."""
        ...

    def read(self, parts: list[str], channels: int) -> tuple[dict[str, Records], list[str]]:
        """Read every record of these parts once; also returns notes for the user."""
        ...


def convert_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """A uint8 image with 1 (luma), 3 (RGB) or 4 channels (RGB and opacity) made from one with 1, 2, 3 or 4.

    The second and the fourth channel are opacity; where none is wanted, what is transparent becomes white, as
    image viewers show it, and where none is there, everything is opaque.
    """
    present = image.shape[-1]
    if present == channels:
        return image
    if channels == 4:
        colour = image if present == 3 else tf.image.grayscale_to_rgb(image[..., :1])
        opacity = (
            image[..., 1:] if present == 2 else tf.fill(tf.shape(image[..., :1]), tf.constant(255, tf.uint8))
        )
        return tf.concat([colour, opacity], -1)
    if present in (2, 4):
        colour, opacity = tf.cast(image[..., :-1], tf.float32), tf.cast(image[..., -1:], tf.float32) / 255
        image = tf.cast(tf.round(colour * opacity + 255 * (1 - opacity)), tf.uint8)
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return tf.image.grayscale_to_rgb(image)
    return tf.image.rgb_to_grayscale(image)


def require_channels(present: int, wanted: int) -> None:
    """Raise a DataError where images cannot be converted to the wanted number of channels."""
    if present != wanted and (wanted not in (1, 3, 4) or present not in (1, 2, 3, 4)):
        raise DataError(
            f"the network takes images of {wanted} channel{'s' * (wanted != 1)} and the data have {present}; "
            "only grey, RGB and RGB with opacity (1, 3 and 4 channels) can be made from other images"
        )


def resize(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """A uint8 image of this size: bilinear with antialiasing, rounded; the aspect ratio is not kept."""
    if image.shape[:2] == (height, width):
        return image
    resized = tf.image.resize(image, (height, width), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
