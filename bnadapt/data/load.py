"""Describing and loading any source of labelled images or vectors as three splits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from bnadapt.config import DataSettings
from bnadapt.data.contents import content_notes, digest_of, fingerprints
from bnadapt.data.holdout import Share, plan, with_labels
from bnadapt.data.image_files import ImageFolder
from bnadapt.data.reading import changed, reason
from bnadapt.data.records import Records, Source, require_channels, resize
from bnadapt.data.shift import shifted
from bnadapt.data.splits import ArraySplit, Split, Splits, StreamedSplit
from bnadapt.data.table import TableSource
from bnadapt.data.tfds_set import TfdsSet
from bnadapt.data.wording import unit_of
from bnadapt.errors import DataError

DEFAULT_IMAGE_SIZE = (128, 128)
"""Height and width in pixels where neither the settings, the network nor the set says otherwise."""

_ROLES = ("train", "validation", "test")
_MEBIBYTE = 2**20
_DECODED_AT_ONCE = 256
_SOURCES: dict[str, Callable[[DataSettings], Source]] = {
    "tfds": TfdsSet,
    "folder": ImageFolder,
    "table": TableSource,
}


@dataclass(frozen=True)
class Description:
    """What is known of a data set before its images are read.

    Attributes:
        name: What the user calls it.
        classes: Names of the classes in the order of the labels.
        image_shape: ``(height, width, channels)`` as stored, ``(numbers,)`` of vectors; None where sizes vary.
        channels: Of the images as stored, 1 for grey and 3 for RGB; the length of vectors.
        sizes: Examples in ``train``, ``validation`` and ``test``; files that turn out to be broken are
            still counted.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...] | None
    channels: int
    sizes: dict[str, int]


def describe(settings: DataSettings) -> Description:
    """Say what a data set holds without reading its images; it is fetched first where the settings say so.

    Raises:
        DataError: For everything that can be known without reading images.
    """
    source = _open(settings)
    shares, _ = _plan(source, settings)
    sizes = {role: len(shares[role].indices) for role in _ROLES}
    name = _name(source.name, settings)
    return Description(name, source.classes, source.image_shape, source.channels, sizes)


def choose_image_shape(
    settings: DataSettings,
    description: Description,
    network: tuple[int | None, ...] | None = None,
) -> tuple[int, ...]:
    """The shape to load: what the settings say, else the network, else the set, else 128 by 128 pixels.

    Vectors have the length that they have, whatever the network takes.

    Args:
        settings: ``image_size`` is used.
        description: Of the same data set.
        network: Shape that the network takes, None in it for what is free; None for a network that is
            built to fit the data.

    Raises:
        DataError: The network takes vectors and the set holds images, or the reverse, or vectors of another length.
    """
    stored = description.image_shape or (*DEFAULT_IMAGE_SIZE, description.channels)
    if network is not None:
        _require_fit(description.name, stored, network)
    if len(stored) == 1:
        return stored
    wanted = network or (None, None, None)
    height, width = settings.image_size or (wanted[0] or stored[0], wanted[1] or stored[1])
    return height, width, wanted[2] or stored[2]


def _require_fit(name: str, stored: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    if len(stored) != len(wanted):
        takes, holds = (
            f"vectors of {shape[0]} numbers" if len(shape) == 1 else "images" for shape in (wanted, stored)
        )
        raise DataError(
            f"the network takes {takes} and {name} holds {holds}; choose another network or other data"
        )
    if len(stored) == 1 and wanted[0] not in (None, stored[0]):
        raise DataError(
            f"the network takes vectors of {wanted[0]} numbers and {name} holds vectors of {stored[0]}; choose "
            "another network, or data with as many columns"
        )


def load(settings: DataSettings, image_shape: tuple[int, ...]) -> Splits:
    """Read a data set as train, validation and test, all images of the given shape.

    Every record of the three is read once here: files are checked, labels too, and the digest is made.
    Images are decoded when a split is first used; a split whose decoded images fit below
    ``data.memory_limit`` keeps them, a larger one decodes them anew in every pass.

    Raises:
        DataError: If anything is missing, broken, mislabelled or cannot be converted.
    """
    source = _open(settings)
    unit = unit_of(source.image_shape)
    _require_fit(source.name, source.image_shape or (*DEFAULT_IMAGE_SIZE, source.channels), image_shape)
    channels = image_shape[-1]
    require_channels(source.channels, channels)
    shares, _ = _plan(source, settings)
    records, more = source.read(sorted({share.part for share in shares.values()}), channels)
    # Again, because labels are known now, and broken files that were left out have changed positions.
    parts = {role: source.part(role) for role in _ROLES}
    sizes = {part: len(each.labels) for part, each in records.items()}
    shares, notes = plan(parts, sizes, settings, records[shares["train"].part].labels, unit)
    notes += more
    notes += _shape_notes(source, image_shape)
    every = shares["train"]
    shares["train"], labelled = with_labels(every, records[every.part].labels, settings, unit)
    notes += labelled
    notes += content_notes(source, shares, records, settings)
    splits = {role: _split(role, shares[role], records, image_shape, settings) for role in _ROLES}
    splits["unlabelled"] = (
        splits["train"]
        if shares["train"] is every
        else _split("unlabelled", every, records, image_shape, settings)
    )
    notes += [
        f"{role}: decoded anew in every pass, more than data.memory_limit={settings.memory_limit} MiB"
        for role, split in splits.items()
        if isinstance(split, StreamedSplit) and not (role == "unlabelled" and split is splits["train"])
    ]
    if settings.shift != "none":
        notes.append(f"every image is changed: {settings.shift}, severity {settings.severity} of 5")
    unlabelled = [] if shares["train"] is every else ["unlabelled"]
    digests = [
        digest_of(source, image_shape, roles, {**shares, "unlabelled": every}, records, settings)
        for roles in ([*_ROLES, *unlabelled], ["train", "validation", *unlabelled])
    ]
    return Splits(
        _name(source.name, settings),
        source.classes,
        image_shape,
        splits["train"],
        splits["unlabelled"],
        splits["validation"],
        splits["test"],
        digests[0],
        tuple(notes),
        {role: fingerprints(records[shares[role].part].digests, shares[role].indices) for role in _ROLES},
        digests[1],
    )


def _name(name: str, settings: DataSettings) -> str:
    return name if settings.shift == "none" else f"{name} {settings.shift} {settings.severity}"


def _open(settings: DataSettings) -> Source:
    source = _SOURCES[settings.source](settings)
    if len(source.classes) < 2:
        raise DataError(f"{source.name} has one class ({', '.join(source.classes)}); at least two are needed")
    if source.image_shape is not None and len(source.image_shape) == 1:
        for key, value in (("image_size", settings.image_size), ("shift", settings.shift)):
            if value not in (None, "none"):
                raise DataError(
                    f"data.{key}={value}: {source.name} holds vectors of {source.channels} numbers and no images; "
                    f"leave data.{key} out"
                )
    return source


def _plan(source: Source, settings: DataSettings) -> tuple[dict[str, Share], list[str]]:
    parts = {role: source.part(role) for role in _ROLES}
    return plan(parts, source.sizes, settings, unit=unit_of(source.image_shape))


def _split(
    role: str,
    share: Share,
    records: dict[str, Records],
    image_shape: tuple[int, ...],
    settings: DataSettings,
) -> Split:
    part = records[share.part]
    labels = part.labels[share.indices]
    streamed = StreamedSplit(
        role,
        part.select(share.indices),
        lambda record: _example(part.decode(record), image_shape, settings),
        labels,
        image_shape,
        part.block,
    )
    bytes_each = int(np.prod(image_shape)) * np.dtype(_dtype(image_shape)).itemsize
    if len(labels) * bytes_each > settings.memory_limit * _MEBIBYTE:
        return streamed
    return ArraySplit(role, lambda: _decode_all(streamed, settings), labels, image_shape)


def _dtype(image_shape: tuple[int, ...]) -> type[np.float32] | type[np.uint8]:
    return np.float32 if len(image_shape) == 1 else np.uint8


def _example(decoded: tf.Tensor, image_shape: tuple[int, ...], settings: DataSettings) -> tf.Tensor:
    if len(image_shape) == 1:
        return decoded
    height, width, _ = image_shape
    image = resize(decoded, height, width)
    if settings.shift == "none":
        return image
    image = tf.ensure_shape(image, (height, width, decoded.shape[-1]))
    return shifted(image, settings.shift, settings.severity, settings.shift_seed)


def _decode_all(split: Split, settings: DataSettings) -> np.ndarray:
    images = np.empty((split.size, *split.image_shape), _dtype(split.image_shape))
    start = 0
    try:
        for batch, _ in split.examples.batch(_DECODED_AT_ONCE):
            images[start : start + len(batch)] = batch.numpy()
            start += len(batch)
    except tf.errors.OpError as error:
        raise changed(error) or _broken(split, start, settings) from error
    return images


def _broken(split: Split, start: int, settings: DataSettings) -> DataError:
    """Which example of a split it was, among those behind the first ``start``, that cannot be decoded."""
    number = start
    try:
        for _ in split.examples.skip(start):
            number += 1
        why = f"the split ends behind {number:,}"
    except tf.errors.OpError as error:
        why = reason(error)
    return DataError(
        f"{settings.name or settings.path}: image {number:,} of {split.name}, counted from 0, cannot be decoded: "
        f"{why}; mend it where the set is prepared from, and prepare the set anew"
    )


def _shape_notes(source: Source, image_shape: tuple[int, ...]) -> list[str]:
    if len(image_shape) == 1:
        return []
    height, width, channels = image_shape
    notes = []
    if source.image_shape is None:
        notes.append(f"images of various sizes are resized to {height}x{width} pixels")
    elif source.image_shape[:2] != image_shape[:2]:
        stored = f"{source.image_shape[0]}x{source.image_shape[1]}"
        notes.append(f"images are resized from {stored} to {height}x{width} pixels")
    # Files of a folder differ; it tells of each kind itself.
    if source.channels != channels and not isinstance(source, ImageFolder):
        notes.append(
            f"images are converted from {source.channels} to {channels} channel{'s' * (channels != 1)}"
        )
    return notes
