"""Describing and loading any source of labelled images as three splits."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from bnadapt.config import DataSettings
from bnadapt.data.holdout import Share, plan, with_labels
from bnadapt.data.image_files import ImageFolder
from bnadapt.data.records import Records, Source, require_channels, resize
from bnadapt.data.shift import shifted
from bnadapt.data.splits import ArraySplit, Split, Splits, StreamedSplit
from bnadapt.data.tfds_set import TfdsSet
from bnadapt.errors import DataError

DEFAULT_IMAGE_SIZE = (128, 128)
"""Height and width in pixels where neither the settings, the network nor the set says otherwise."""

_ROLES = ("train", "validation", "test")
_MEBIBYTE = 2**20
_DECODED_AT_ONCE = 256
_SOURCES: dict[str, Callable[[DataSettings], Source]] = {"tfds": TfdsSet, "folder": ImageFolder}


@dataclass(frozen=True)
class Description:
    """What is known of a data set before its images are read.

    Attributes:
        name: What the user calls it.
        classes: Names of the classes in the order of the labels.
        image_shape: ``(height, width, channels)`` as stored; None where sizes vary.
        channels: Of the images as stored, 1 for grey and 3 for RGB.
        sizes: Images in ``train``, ``validation`` and ``test``; files that turn out to be broken are
            still counted.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
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
    network: tuple[int | None, int | None, int | None] | None = None,
) -> tuple[int, int, int]:
    """The shape to load: what the settings say, else the network, else the set, else 128 by 128 pixels.

    Args:
        settings: ``image_size`` is used.
        description: Of the same data set.
        network: Shape that the network takes, None in it for what is free; None for a network that is
            built to fit the data.
    """
    stored = description.image_shape or (*DEFAULT_IMAGE_SIZE, description.channels)
    wanted = network or (None, None, None)
    height, width = settings.image_size or (wanted[0] or stored[0], wanted[1] or stored[1])
    return height, width, wanted[2] or stored[2]


def load(settings: DataSettings, image_shape: tuple[int, int, int]) -> Splits:
    """Read a data set as train, validation and test, all images of the given shape.

    Every record of the three is read once here: files are checked, labels too, and the digest is made.
    Images are decoded when a split is first used; a split whose decoded images fit below
    ``data.memory_limit`` keeps them, a larger one decodes them anew in every pass.

    Raises:
        DataError: If anything is missing, broken, mislabelled or cannot be converted.
    """
    source = _open(settings)
    channels = image_shape[2]
    require_channels(source.channels, channels)
    shares, notes = _plan(source, settings)
    records, more = source.read(sorted({share.part for share in shares.values()}), channels)
    sizes = {part: len(each.labels) for part, each in records.items()}
    if any(sizes[part] != source.sizes[part] for part in sizes):
        # Broken files were left out, so that positions have changed.
        shares, notes = plan({role: source.part(role) for role in _ROLES}, sizes, settings)
    notes += more
    notes += _shape_notes(source, image_shape)
    every = shares["train"]
    shares["train"], labelled = with_labels(every, records[every.part].labels, settings)
    notes += labelled
    notes += _content_notes(source, shares, records)
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
    digest = _digest(source, image_shape, {**shares, "unlabelled": every}, records, settings)
    return Splits(
        _name(source.name, settings),
        source.classes,
        image_shape,
        splits["train"],
        splits["unlabelled"],
        splits["validation"],
        splits["test"],
        digest,
        tuple(notes),
        {role: _fingerprints(records[shares[role].part].digests, shares[role].indices) for role in _ROLES},
    )


def _name(name: str, settings: DataSettings) -> str:
    return name if settings.shift == "none" else f"{name} {settings.shift} {settings.severity}"


def _open(settings: DataSettings) -> Source:
    source = _SOURCES[settings.source](settings)
    if len(source.classes) < 2:
        raise DataError(f"{source.name} has one class ({', '.join(source.classes)}); at least two are needed")
    return source


def _plan(source: Source, settings: DataSettings) -> tuple[dict[str, Share], list[str]]:
    return plan({role: source.part(role) for role in _ROLES}, source.sizes, settings)


def _split(
    role: str,
    share: Share,
    records: dict[str, Records],
    image_shape: tuple[int, int, int],
    settings: DataSettings,
) -> Split:
    part = records[share.part]
    labels = part.labels[share.indices]
    height, width, _ = image_shape
    streamed = StreamedSplit(
        role,
        part.select(share.indices),
        lambda record: _image(part.decode(record), height, width, settings),
        labels,
        image_shape,
        part.block,
    )
    if len(labels) * int(np.prod(image_shape)) > settings.memory_limit * _MEBIBYTE:
        return streamed
    return ArraySplit(role, lambda: _decode_all(streamed), labels, image_shape)


def _image(decoded: tf.Tensor, height: int, width: int, settings: DataSettings) -> tf.Tensor:
    image = resize(decoded, height, width)
    if settings.shift == "none":
        return image
    image = tf.ensure_shape(image, (height, width, decoded.shape[-1]))
    return shifted(image, settings.shift, settings.severity, settings.shift_seed)


def _decode_all(split: Split) -> np.ndarray:
    images = np.empty((split.size, *split.image_shape), np.uint8)
    start = 0
    for batch, _ in split.examples.batch(_DECODED_AT_ONCE):
        images[start : start + len(batch)] = batch.numpy()
        start += len(batch)
    return images


def _shape_notes(source: Source, image_shape: tuple[int, int, int]) -> list[str]:
    height, width, channels = image_shape
    notes = []
    if source.image_shape is None:
        notes.append(f"images of various sizes are resized to {height}x{width} pixels")
    elif source.image_shape[:2] != image_shape[:2]:
        stored = f"{source.image_shape[0]}x{source.image_shape[1]}"
        notes.append(f"images are resized from {stored} to {height}x{width} pixels")
    if source.channels != channels:
        notes.append(
            f"images are converted from {source.channels} to {channels} channel{'s' * (channels != 1)}"
        )
    return notes


def _content_notes(source: Source, shares: dict[str, Share], records: dict[str, Records]) -> list[str]:
    notes = []
    train = records[shares["train"].part]
    counts = np.bincount(train.labels[shares["train"].indices], minlength=len(source.classes))
    absent = [name for name, count in zip(source.classes, counts, strict=True) if not count]
    if absent:
        notes.append(f"train has no image of {', '.join(absent)}")
    trained = {train.digests[index] for index in shares["train"].indices}
    for role in ("validation", "test"):
        share = shares[role]
        digests = records[share.part].digests
        repeated = sum(digests[index] in trained for index in share.indices)
        if repeated:
            total = len(share.indices)
            verb = "is" if repeated == 1 else "are"
            notes.append(f"{role}: {repeated} of {total} images {verb} in train as well, byte for byte")
    return notes


def _fingerprints(digests: list[bytes], indices: np.ndarray) -> np.ndarray:
    """Eight bytes of each digest: as good as unique among millions, and small enough to keep."""
    return np.frombuffer(b"".join(digests[index][:8] for index in indices), np.uint64)


def _digest(
    source: Source,
    image_shape: tuple[int, int, int],
    shares: dict[str, Share],
    records: dict[str, Records],
    settings: DataSettings,
) -> str:
    digest = hashlib.sha256(repr((source.classes, image_shape)).encode())
    if settings.shift != "none":
        digest.update(repr((settings.shift, settings.severity, settings.shift_seed)).encode())
    whole = shares["unlabelled"] is shares["train"]
    for role in _ROLES if whole else (*_ROLES, "unlabelled"):
        part, indices = records[shares[role].part], shares[role].indices
        digest.update(role.encode())
        digest.update(b"".join(part.digests[index] for index in indices))
        digest.update(part.labels[indices].astype("<i8").tobytes())
    return digest.hexdigest()
