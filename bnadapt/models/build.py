"""Builders of plain networks. All take images in 0..255 and return class probabilities."""

import keras

from bnadapt.config import ModelSettings

PIXEL_RANGE = 255.0


def build(settings: ModelSettings, image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A new network of the kind that the settings name, with fresh weights.

    Args:
        settings: ``kind`` is ``mlp`` or ``cnn``.
        image_shape: Height, width and channels of the images.
        classes: Number of classes, the units of the head.

    Returns:
        A functional model that maps float images ``(batch, height, width, channels)`` with values
        0 to 255 to probabilities ``(batch, classes)``. Weights come from Keras' global seed.
    """
    images = keras.Input(image_shape, name="images")
    features = keras.layers.Rescaling(1.0 / PIXEL_RANGE, name="rescaling")(images)
    body = {"mlp": _dense_layers, "cnn": _convolutions}[settings.kind]
    features = body(settings, features)
    if settings.dropout:
        features = keras.layers.Dropout(settings.dropout, name="dropout")(features)
    probabilities = keras.layers.Dense(classes, activation="softmax", name="head")(features)
    return keras.Model(images, probabilities, name=settings.kind)


def _dense_layers(settings: ModelSettings, images: keras.KerasTensor) -> keras.KerasTensor:
    features = keras.layers.Flatten(name="flatten")(images)
    for number, width in enumerate(settings.widths, start=1):
        features = keras.layers.Dense(width, activation=settings.activation, name=f"dense{number}")(features)
    return features


def _convolutions(settings: ModelSettings, features: keras.KerasTensor) -> keras.KerasTensor:
    for number, filters in enumerate(settings.filters, start=1):
        features = keras.layers.Conv2D(
            filters,
            settings.kernel_size,
            padding="same",
            activation=settings.activation,
            name=f"conv{number}",
        )(features)
        # "same" keeps a last odd row, and lets images of a few pixels through any number of blocks.
        features = keras.layers.MaxPooling2D(padding="same", name=f"pool{number}")(features)
    features = keras.layers.Flatten(name="flatten")(features)
    return keras.layers.Dense(settings.dense, activation=settings.activation, name="dense")(features)
