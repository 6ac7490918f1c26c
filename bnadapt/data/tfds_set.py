"""Any prepared TensorFlow Datasets set with images or vectors and labels, with or without its builder."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from bnadapt.config import DataSettings
from bnadapt.data.availability import not_prepared
from bnadapt.data.digits import prepared_digits
from bnadapt.data.download import fetch
from bnadapt.data.prepared import data_directory, find_prepared, parse_name
from bnadapt.data.reading import reason
from bnadapt.data.records import Records, convert_channels
from bnadapt.data.tfds_features import image_feature, label_feature
from bnadapt.data.wording import printable, unit_of
from bnadapt.errors import DataError

_READ_AT_ONCE = 1024
_MEBIBYTE = 2**20
_SHUFFLED_BYTES = 256 * _MEBIBYTE
# Integers that go higher, and higher than there are images, are no classes.
_MOST_CLASSES = 1000


class TfdsSet:
    """A :class:`~bnadapt.data.records.Source` over a prepared set, read from its directory."""

    def __init__(self, settings: DataSettings):
        """Find the set, fetching it first where the settings say so, and its image and label features.

        Raises:
            DataError: If it is not there, cannot be fetched, or has no images or vectors with labels.
        """
        self._settings = settings
        self.name = settings.name or ""
        self._directory = _locate(settings)
        self._builder = _open(self._directory)
        features = self._builder.info.features
        self._image = image_feature(self._builder.info, settings.image_feature)
        self._label = label_feature(self._builder.info, settings.label_feature)
        shape = features[self._image].shape
        self.channels = shape[-1] or 3
        self.image_shape: tuple[int, ...] | None = None if None in shape else shape
        self.sizes: dict[str, int] = {}
        roles = {role: self.part(role) for role in ("train", "validation", "test")}
        for role, part in roles.items():
            if part is not None:
                self.sizes[part] = self._split(part).num_examples
                if not self.sizes[part]:
                    raise DataError(
                        f"{self.name}: split {part} is empty; choose another one by data.{role}_split=NAME: "
                        f"{', '.join(f'{name} has {each.num_examples:,}' for name, each in self._splits())}"
                    )
        self.classes = self._classes([part for part in roles.values() if part is not None])

    def _splits(self) -> list[tuple[str, Any]]:
        return sorted(self._builder.info.splits.items())

    def part(self, role: str) -> str | None:
        """The TFDS split that the settings name for a role, else the one of the role's name.

        Raises:
            DataError: If the settings name a split that the set does not have, or there is no train.
        """
        chosen = getattr(self._settings, f"{role}_split")
        if chosen is not None:
            self._split(chosen, f"data.{role}_split={chosen}: ")
            return chosen
        if role == "train" and "train" not in self._builder.info.splits:
            raise DataError(
                f"{self.name} has no split train, only {', '.join(self._builder.info.splits)}; "
                "choose one by data.train_split=NAME"
            )
        return role if role in self._builder.info.splits else None

    def read(self, parts: list[str], channels: int) -> tuple[dict[str, Records], list[str]]:
        """Read the encoded images, or the vectors, and labels of these parts once; no image is decoded.

        Encoded images stay in memory where a part's fit below ``data.memory_limit``, and are read from
        disk again where not.

        Raises:
            DataError: If a file is missing or broken, a label is not one of the classes, or a vector holds a
                number that is not finite.
        """
        return {part: self._read_part(part, channels) for part in parts}, []

    def _read_part(self, part: str, channels: int) -> Records:
        split = self._split(part)
        keep = split.num_bytes <= self._settings.memory_limit * _MEBIBYTE
        kept, found = [], []
        digests: list[bytes] = []
        wrong: list[int] = []
        with _reading(self._directory):
            for images, labels in self._stored(part):
                if self._holds_vectors:
                    finite = np.isfinite(images.numpy()).all(axis=1)
                    wrong += (len(digests) + np.flatnonzero(~finite)).tolist()
                digests += [hashlib.sha256(image).digest() for image in images.numpy()]
                found.append(labels.numpy())
                if keep:
                    kept.append(images)
        labels = np.concatenate(found) if found else np.zeros(0, np.int64)
        if len(labels) != split.num_examples:
            raise DataError(
                f"{self._directory}: split {part} should hold {split.num_examples} {unit_of(self.image_shape)}, its "
                f"files hold "
                f"{len(labels)}; remove it and prepare it anew"
            )
        self._check_labels(part, labels)
        if wrong:
            raise DataError(
                f"{self.name}, split {part}: {len(wrong):,} of {len(labels):,} vectors hold NaN or infinite numbers, "
                f"the first at index {wrong[0]}; prepare the set without them, or choose a part without them, such as "
                f"data.train_split='train[:80%]'"
            )
        with tf.device("CPU:0"):
            encoded = tf.concat(kept, 0) if kept else None

        def select(indices: np.ndarray) -> tf.data.Dataset:
            if encoded is not None:
                return tf.data.Dataset.from_tensor_slices((tf.gather(encoded, indices), labels[indices]))
            chosen = np.zeros(len(labels), bool)
            chosen[indices] = True
            with tf.device("CPU:0"):
                mask = tf.constant(chosen)
            numbered = self._stored(part).unbatch().enumerate()
            return numbered.filter(lambda number, _: mask[number]).map(lambda _, record: record)

        feature = self._builder.info.features[self._image]

        def decode(record: tf.Tensor) -> tf.Tensor:
            if self._holds_vectors:
                return record
            image = feature.decode_example(record)
            if image.dtype == tf.uint16:
                image = tf.cast(tf.round(tf.cast(image, tf.float32) / 257), tf.uint8)
            return convert_channels(image, channels)

        block = max(_READ_AT_ONCE, _SHUFFLED_BYTES * split.num_examples // max(1, split.num_bytes))
        return Records(labels, digests, select, decode, block)

    def _stored(self, part: str) -> tf.data.Dataset:
        """Batches of (encoded images or float32 vectors, int64 labels) in the order of the files."""
        files = self._split(part).file_instructions
        feature = self._builder.info.features[self._image]
        content = tf.io.FixedLenFeature((), tf.string)
        if self._holds_vectors and feature.get_serialized_info().shape:
            numbers = tf.int64 if np.issubdtype(feature.np_dtype, np.integer) else tf.float32
            content = tf.io.FixedLenFeature(feature.shape, numbers)
        stored = {
            self._image: content,
            self._label: tf.io.FixedLenFeature((), tf.int64),
        }

        def records(name: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
            return tf.data.TFRecordDataset(name).skip(skip).take(take)

        def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # as_dataset() parses records one by one, which takes ten times as long.
            parsed = tf.io.parse_example(serialized, stored)
            return parsed[self._image], parsed[self._label]

        names = [str(file.filename) for file in files]
        skips = np.array([file.skip for file in files], np.int64)
        takes = np.array([file.take for file in files], np.int64)
        ranges = tf.data.Dataset.from_tensor_slices((names, skips, takes))
        batches = ranges.flat_map(records).batch(_READ_AT_ONCE).map(parse)
        if not self._holds_vectors:
            return batches
        if content.dtype == tf.string:  # compressed, or as bytes
            vectors = batches.unbatch().map(lambda vector, label: (feature.decode_example(vector), label))
            batches = vectors.batch(_READ_AT_ONCE)
        return batches.map(lambda vectors, labels: (tf.cast(vectors, tf.float32), labels))

    @property
    def _holds_vectors(self) -> bool:
        return self.image_shape is not None and len(self.image_shape) == 1

    def _split(self, name: str, prefix: str = "") -> Any:
        try:
            return self._builder.info.splits[name]
        except (KeyError, ValueError, AssertionError) as error:
            raise DataError(
                f"{prefix}{self.name} has no split {name}; it has {', '.join(self._builder.info.splits)}, "
                "and parts of them such as 'train[:80%]'"
            ) from error

    def _classes(self, parts: list[str]) -> tuple[str, ...]:
        feature = self._builder.info.features[self._label]
        if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes is not None:
            return tuple(map(printable, feature.names))
        # Integers without a list of classes: the largest one says how many there are.
        with _reading(self._directory):
            highest = max(int(tf.reduce_max(labels)) for part in parts for _, labels in self._stored(part))
        if highest >= max(_MOST_CLASSES, sum(self.sizes.values())):
            raise DataError(
                f"{self.name}: feature {self._label} goes up to {highest:,}, which no {sum(self.sizes.values()):,} "
                f"{unit_of(self.image_shape)} have as numbers of classes; choose another one by data.label_feature"
            )
        return tuple(str(label) for label in range(highest + 1))

    def _check_labels(self, part: str, labels: np.ndarray) -> None:
        wrong = labels[(labels < 0) | (labels >= len(self.classes))]
        if not len(wrong):
            return
        advice = f"choose another feature by data.label_feature, now {self._label}"
        if np.all(labels == -1):
            advice = "its labels are hidden: choose other parts, such as data.test_split=validation"
        raise DataError(
            f"{self.name}, split {part}: {len(wrong)} of {len(labels)} labels are outside "
            f"0..{len(self.classes) - 1}, such as {wrong[0]} at index {np.flatnonzero(labels == wrong[0])[0]}; {advice}"
        )


def _locate(settings: DataSettings) -> Path:
    wanted = parse_name(settings.name or "")
    if wanted.is_digits:
        return prepared_digits(settings, wanted.version)
    directory = data_directory(settings)
    found = find_prepared(directory, wanted)
    if found is None and settings.download:
        fetch(wanted, directory)
        found = find_prepared(directory, wanted)
    if found is None:
        raise not_prepared(wanted, directory)
    return found


def _open(directory: Path) -> tfds.core.DatasetBuilder:
    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:  # Files of any origin are read by several parsers and import what they name.
        raise _unreadable(directory, error) from error
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise DataError(
            f"{directory} is stored as {builder.info.file_format.value}; only tfrecord can be read: "
            "prepare it anew in that format"
        )
    return builder


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise _unreadable(directory, error) from error


def _unreadable(directory: Path, error: Exception) -> DataError:
    return DataError(
        f"{directory} cannot be read as a prepared set: {reason(error)}; remove it and prepare it anew"
    )
