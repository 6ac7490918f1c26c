"""Builders of plain networks for images in 0..255, or for rows of numbers. All return class probabilities."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from bnadapt.config import ModelSettings
from bnadapt.errors import DataError, ModelError

PIXEL_RANGE = 255.0
AUTO_PRECISION, FULL_PRECISION = "auto", "float32"
# A column whose values differ by less than their rounding in 32 bits does not vary.
ROUNDING = 1e-6


def build(
    settings: ModelSettings,
    shape: tuple[int, ...],
    classes: int,
    rows: Callable[[], Iterable[Any]] | None = None,
) -> keras.Model:
    """A new network of the kind that the settings name, with fresh weights.

    Args:
        settings: ``kind`` is ``mlp`` or ``cnn``. What lies between input and head computes in ``precision``; the
            head, and what scales the input, always compute in float32.
        shape: Height, width and channels of the images, or ``(features,)`` of rows of numbers.
        classes: Number of classes, the units of the head.
        rows: Gives the training rows in batches ``(batch, features)``; their means and variances become part of a
            network for rows. Not called for images.

    Returns:
        A functional model that maps float images ``(batch, height, width, channels)`` with values
        0 to 255, or float rows ``(batch, features)`` as they are in the table, to probabilities
        ``(batch, classes)``. Weights come from Keras' global seed.

    Raises:
        ModelError: a ``cnn`` for rows.
        DataError: a column of the rows cannot be normalized in 32 bits.
    """
    policy = FULL_PRECISION if settings.precision == AUTO_PRECISION else settings.precision
    if len(shape) == 1:
        inputs, features = _scaled_rows(settings, shape, rows)
    else:
        inputs = keras.Input(shape, name="images")
        features = keras.layers.Rescaling(1.0 / PIXEL_RANGE, name="rescaling", dtype=FULL_PRECISION)(inputs)
    body = {"mlp": _dense_layers, "cnn": _convolutions}[settings.kind]
    features = body(settings, features, policy)
    if settings.dropout:
        features = keras.layers.Dropout(settings.dropout, name="dropout", dtype=policy)(features)
    head = keras.layers.Dense(classes, activation="softmax", name="head", dtype=FULL_PRECISION)
    return keras.Model(inputs, head(features), name=settings.kind)


def _scaled_rows(
    settings: ModelSettings, shape: tuple[int, ...], rows: Callable[[], Iterable[Any]] | None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if settings.kind == "cnn":
        raise ModelError(
            f"model=cnn takes images, and these data are rows of {shape[0]} numbers: take model=mlp, or model=file "
            "with a network that takes rows"
        )
    if rows is None:
        raise ModelError("a network for rows of numbers needs the training rows: pass rows=")
    mean, variance = row_statistics(rows(), shape[0])
    inputs = keras.Input(shape, name="rows")
    scale = keras.layers.Normalization(
        mean=mean.tolist(), variance=variance.tolist(), name="normalization", dtype=FULL_PRECISION
    )
    return inputs, scale(inputs)


def row_statistics(batches: Iterable[Any], features: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of every column, float64 ``(features,)``; the variance of a constant column is 1.

    Args:
        batches: Of rows, ``(batch, features)``, read once.
        features: Number of columns.

    Raises:
        DataError: a column varies by so much or so little that its variance is beyond 32 bits.
    """
    # Merged batch by batch as Chan, Golub and LeVeque (1983) do, which keeps what squares of large numbers lose.
    count, mean, squares = 0, np.zeros(features), np.zeros(features)
    for batch in batches:
        values = np.asarray(batch, "float64")
        own, apart = values.mean(axis=0), values.mean(axis=0) - mean
        total = count + len(values)
        squares += ((values - own) ** 2).sum(axis=0) + apart**2 * (count * len(values) / total)
        mean += apart * (len(values) / total)
        count = total
    variance = squares / max(count, 1)
    constant = np.sqrt(variance) <= ROUNDING * np.abs(mean)
    variance = np.where(constant, 1.0, variance)
    _require_32_bits(np.sqrt(variance))
    return mean, variance


def _require_32_bits(deviations: np.ndarray) -> None:
    least, most = keras.backend.epsilon(), float(np.sqrt(np.finfo("float32").max))
    for column, deviation in enumerate(deviations, start=1):
        if not least <= deviation < most:
            raise DataError(
                f"column {column} of the rows has a standard deviation of {deviation:.1e}: networks here tell "
                f"numbers of {least:.0e} to {most:.0e} apart, so give the column in another unit"
            )


def _dense_layers(settings: ModelSettings, features: keras.KerasTensor, policy: str) -> keras.KerasTensor:
    if len(features.shape) > 2:
        features = keras.layers.Flatten(name="flatten", dtype=policy)(features)
    for number, width in enumerate(settings.widths, start=1):
        dense = keras.layers.Dense(width, activation=settings.activation, name=f"dense{number}", dtype=policy)
        features = dense(features)
    return features


def _convolutions(settings: ModelSettings, features: keras.KerasTensor, policy: str) -> keras.KerasTensor:
    for number, filters in enumerate(settings.filters, start=1):
        features = keras.layers.Conv2D(
            filters,
            settings.kernel_size,
            padding="same",
            activation=settings.activation,
            name=f"conv{number}",
            dtype=policy,
        )(features)
        # "same" keeps a last odd row, and lets images of a few pixels through any number of blocks.
        features = keras.layers.MaxPooling2D(padding="same", name=f"pool{number}", dtype=policy)(features)
    features = keras.layers.Flatten(name="flatten", dtype=policy)(features)
    return keras.layers.Dense(settings.dense, activation=settings.activation, name="dense", dtype=policy)(
        features
    )
