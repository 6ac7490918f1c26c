"""A controlled shift of the images of any data set: the same pictures, taken under other conditions.

The kinds and the idea of five severities are those of Hendrycks and Dietterich (2019); the strengths are our
own, in parts of the range of pixels and of the size of an image, so that they fit small images too.
"""

import math
from collections.abc import Callable

import tensorflow as tf

WHITE = 255.0
SEVERITIES = 5
_CONTRAST = (0.6, 0.45, 0.3, 0.2, 0.1)
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
_NOISE = (0.06, 0.12, 0.2, 0.3, 0.4)
_BLUR = (0.02, 0.03, 0.045, 0.06, 0.08)
_DEGREES = (10.0, 20.0, 30.0, 45.0, 60.0)
_INVERTED_ABOVE = (0.8, 0.6, 0.4, 0.2, 0.0)
_MOVES_PIXELS = ("blur", "rotation")


def shifted(image: tf.Tensor, kind: str, severity: int, seed: int) -> tf.Tensor:
    """The image under a shift, as uint8 of the same shape.

    What is random depends on the seed and on the image's own pixels alone: it is the same in every pass and in
    every order.

    Args:
        image: uint8 ``(height, width, channels)``; the last of 2 or 4 channels is opacity, which light and
            noise do not change.
        kind: A key of ``SHIFTS``.
        severity: 1 to 5.
        seed: Of what is random.
    """
    pixels, opacity = tf.cast(image, tf.float32), None
    if image.shape[-1] in (2, 4) and kind not in _MOVES_PIXELS:
        pixels, opacity = pixels[..., :-1], pixels[..., -1:]
    changed = SHIFTS[kind](pixels, severity - 1, _key(image, seed))
    if opacity is not None:
        changed = tf.concat([changed, opacity], -1)
    return tf.ensure_shape(tf.cast(tf.clip_by_value(tf.round(changed), 0.0, WHITE), tf.uint8), image.shape)


def _key(image: tf.Tensor, seed: int) -> tf.Tensor:
    content = tf.strings.to_hash_bucket_fast(tf.io.serialize_tensor(image), 2**62)
    return tf.stack([tf.constant(seed, tf.int64), content])


def _contrast(pixels: tf.Tensor, severity: int, key: tf.Tensor) -> tf.Tensor:
    """Nearer to the image's own mean."""
    mean = tf.reduce_mean(pixels, [0, 1], keepdims=True)
    return mean + (pixels - mean) * _CONTRAST[severity]


def _brightness(pixels: tf.Tensor, severity: int, key: tf.Tensor) -> tf.Tensor:
    """Lighter by a part of white."""
    return pixels + WHITE * _BRIGHTNESS[severity]


def _noise(pixels: tf.Tensor, severity: int, key: tf.Tensor) -> tf.Tensor:
    """Normally distributed, another in every pixel and channel."""
    draws = tf.random.stateless_normal(tf.shape(pixels), key, alg="philox")
    return pixels + WHITE * _NOISE[severity] * draws


def _blur(pixels: tf.Tensor, severity: int, key: tf.Tensor) -> tf.Tensor:
    """A normally distributed window, as wide as a part of the shorter side."""
    height, width, channels = pixels.shape
    deviation = _BLUR[severity] * min(height, width)
    reach = min(math.ceil(3 * deviation), min(height, width) - 1)
    weights = tf.exp(-(tf.range(-reach, reach + 1, dtype=tf.float32) ** 2) / (2 * deviation**2))
    weights /= tf.reduce_sum(weights)
    padded = tf.pad(pixels, [[reach, reach], [reach, reach], [0, 0]], "REFLECT")[tf.newaxis]
    for shape in ([-1, 1, 1, 1], [1, -1, 1, 1]):
        window = tf.tile(tf.reshape(weights, shape), [1, 1, channels, 1])
        padded = tf.nn.depthwise_conv2d(padded, window, [1, 1, 1, 1], "VALID")
    return padded[0]


def _rotation(pixels: tf.Tensor, severity: int, key: tf.Tensor) -> tf.Tensor:
    """About the centre, anticlockwise; the corners are filled from the nearest border."""
    height, width, _ = pixels.shape
    angle = math.radians(_DEGREES[severity])
    cosine, sine = math.cos(angle), math.sin(angle)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    shift_x = middle_x - cosine * middle_x + sine * middle_y
    shift_y = middle_y - sine * middle_x - cosine * middle_y
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[tf.newaxis],
        transforms=[[cosine, -sine, shift_x, sine, cosine, shift_y, 0.0, 0.0]],
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]


def _inversion(pixels: tf.Tensor, severity: int, key: tf.Tensor) -> tf.Tensor:
    """Pixels above a threshold are inverted: at severity 5 all, a negative."""
    return tf.where(pixels >= WHITE * _INVERTED_ABOVE[severity], WHITE - pixels, pixels)


SHIFTS: dict[str, Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor]] = {
    "contrast": _contrast,
    "brightness": _brightness,
    "noise": _noise,
    "blur": _blur,
    "rotation": _rotation,
    "inversion": _inversion,
}
