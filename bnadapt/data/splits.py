"""Train, validation and test as sequences of images and labels that come in the same order every time.

Examples are uint8 images ``(height, width, channels)``, or float32 vectors ``(numbers,)``, which are never scaled.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

_PREFETCHED_BATCHES = 4
# Far above the number of blocks of any split, so that no two pairs of epoch and block share a seed.
_BLOCKS_PER_EPOCH = 2**24


class Split(ABC):
    """One part of a data set.

    Attributes:
        name: ``train``, ``validation`` or ``test``.
        size: Number of examples.
        image_shape: ``(height, width, channels)`` of images, ``(numbers,)`` of vectors.
    """

    def __init__(self, name: str, labels: np.ndarray, image_shape: tuple[int, ...]):
        """Hold the labels, int64 of shape ``(size,)``; images come from the subclass."""
        self.name = name
        self.size = len(labels)
        self.image_shape = image_shape
        self._labels = labels.astype(np.int64)

    def labels(self) -> np.ndarray:
        """All labels in the split's order, int64 of shape ``(size,)``; decodes no image."""
        return self._labels.copy()

    def steps(self, batch_size: int) -> int:
        """Batches per epoch of :meth:`shuffled`: at least one; what does not fill a batch is left out."""
        return max(1, self.size // batch_size)

    @property
    @abstractmethod
    def examples(self) -> tf.data.Dataset:
        """Unbatched (uint8 image or float32 vector of ``image_shape``, int64 label), in the split's order."""

    @abstractmethod
    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Everything once, in order: float32 (images 0 to 255), int64 labels; the last batch may be smaller."""

    def shuffled(self, batch_size: int, *, seed: int, epochs: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Epochs ``first_epoch`` to ``epochs - 1`` one after the other, each in an order of its own.

        The order depends on the seed and the epoch's number alone, so that training that stopped after
        an epoch goes on exactly as if it had not. As in ``keras.Model.fit``, ``epochs`` is the number at
        which to end and not how many follow. All batches have the same size: ``batch_size``, or the
        whole split where it is smaller; the images left over differ from epoch to epoch.

        Returns:
            Batches of (float32, images 0 to 255, int64 labels), ``steps(batch_size)`` for each epoch.
        """
        epoch = self._epochs(min(batch_size, self.size), seed, drop_remainder=True)
        batches = tf.data.Dataset.range(first_epoch, max(first_epoch, epochs)).flat_map(epoch)
        return _finish(batches, self.steps(batch_size) * max(0, epochs - first_epoch))

    def mixed(self, batch_size: int, *, seed: int) -> tf.data.Dataset:
        """All images once, in an order that depends on the seed alone; the last batch may be smaller.

        For measuring: a set often comes class by class, and then neither its first images nor any single
        batch are like the whole.
        """
        first_epoch = self._epochs(batch_size, seed, drop_remainder=False)(tf.constant(0, tf.int64))
        return _finish(first_epoch, -(-self.size // batch_size))

    @abstractmethod
    def _epochs(
        self, batch_size: int, seed: int, *, drop_remainder: bool
    ) -> Callable[[tf.Tensor], tf.data.Dataset]:
        """What makes batches of an epoch's number, of equal size where the rest is dropped; may be traced."""


class ArraySplit(Split):
    """A split whose decoded images are kept in memory, from the first time that they are needed."""

    def __init__(
        self,
        name: str,
        images: np.ndarray | Callable[[], np.ndarray],
        labels: np.ndarray,
        image_shape: tuple[int, ...] | None = None,
    ):
        """Take uint8 images ``(size, height, width, channels)`` or float32 vectors, or a function that makes them.

        The function is called once; it needs ``image_shape``, which an array has itself.
        """
        if isinstance(images, np.ndarray):
            image_shape = images.shape[1:]
        assert image_shape is not None
        super().__init__(name, labels, image_shape)
        self._source: np.ndarray | Callable[[], np.ndarray] | None = images
        self._decoded: tuple[tf.Tensor, tf.Tensor] | None = None

    @property
    def examples(self) -> tf.data.Dataset:
        """Unbatched (uint8 image or float32 vector of ``image_shape``, int64 label), in the split's order."""
        return tf.data.Dataset.from_tensor_slices(self._arrays())

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Everything once, in order: float32 (images 0 to 255), int64 labels; the last batch may be smaller."""
        images, labels = self._arrays()
        starts = tf.data.Dataset.range(0, self.size, batch_size)
        batches = starts.map(
            lambda start: (
                tf.cast(images[start : start + batch_size], tf.float32),
                labels[start : start + batch_size],
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return _finish(batches, -(-self.size // batch_size))

    def _epochs(
        self, batch_size: int, seed: int, *, drop_remainder: bool
    ) -> Callable[[tf.Tensor], tf.data.Dataset]:
        images, labels = self._arrays()
        end = self.size // batch_size * batch_size if drop_remainder else self.size

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            order = permutation(self.size, seed, number)

            def take(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                chosen = order[start : start + batch_size]
                if drop_remainder:
                    chosen = tf.ensure_shape(chosen, [batch_size])
                return tf.cast(tf.gather(images, chosen), tf.float32), tf.gather(labels, chosen)

            starts = tf.data.Dataset.range(0, end, batch_size)
            return starts.map(take, num_parallel_calls=tf.data.AUTOTUNE)

        return epoch

    def _arrays(self) -> tuple[tf.Tensor, tf.Tensor]:
        if self._decoded is None:
            images = self._source() if callable(self._source) else self._source
            # tf.data reads from host memory; an accelerator has better uses for its own.
            with tf.device("CPU:0"):
                self._decoded = tf.constant(images), tf.constant(self._labels)
            self._source = None
        return self._decoded


class StreamedSplit(Split):
    """A split that is decoded anew in every pass because its images are too many to keep.

    Shuffling permutes blocks of ``block`` consecutive records, which are held encoded: the images of
    different blocks do not mix. The order is that of :class:`ArraySplit` where one block holds all.
    """

    def __init__(
        self,
        name: str,
        records: tf.data.Dataset,
        decode: Callable[[tf.Tensor], tf.Tensor],
        labels: np.ndarray,
        image_shape: tuple[int, ...],
        block: int,
    ):
        """Take unbatched (record, int64 label) in order and what makes an image or a vector of a record."""
        super().__init__(name, labels, image_shape)
        self._records, self._decode, self._block = records, decode, block

    @property
    def examples(self) -> tf.data.Dataset:
        """Unbatched (uint8 image or float32 vector of ``image_shape``, int64 label), in the split's order."""
        return self._decoded(self._records).apply(tf.data.experimental.assert_cardinality(self.size))

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Everything once, in order: float32 (images 0 to 255), int64 labels; the last batch may be smaller."""
        return _finish(_as_float(self.examples.batch(batch_size)), -(-self.size // batch_size))

    def _epochs(
        self, batch_size: int, seed: int, *, drop_remainder: bool
    ) -> Callable[[tf.Tensor], tf.data.Dataset]:
        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            def shuffle(block: tf.Tensor, held: tuple[tf.Tensor, tf.Tensor]) -> tf.data.Dataset:
                records, labels = held
                order = permutation(tf.size(labels), seed, number, block)
                return tf.data.Dataset.from_tensor_slices(
                    (tf.gather(records, order), tf.gather(labels, order))
                )

            records = self._records.batch(self._block).enumerate().flat_map(shuffle)
            return _as_float(self._decoded(records).batch(batch_size, drop_remainder=drop_remainder))

        return epoch

    def _decoded(self, records: tf.data.Dataset) -> tf.data.Dataset:
        return records.map(
            lambda record, label: (tf.ensure_shape(self._decode(record), self.image_shape), label),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )


@dataclass(frozen=True)
class Splits:
    """A data set ready for training and evaluation.

    Attributes:
        name: What the user calls it: a TensorFlow Datasets name, or the name of the folder or table.
        classes: Names of the classes, in the order of the labels 0, 1, ...
        image_shape: ``(height, width, channels)`` of every image; ``(numbers,)`` of vectors.
        train: Split to train on.
        unlabelled: All training images, of which only the pixels may be used; ``train`` itself where all of them
            have labels.
        validation: Split to choose by; no image of it is in train.
        test: Split to judge by; its images are not decoded before they are asked for.
        digest: SHA-256 over classes, image shape, shift, and the encoded images and labels of all splits
            in their order; 64 hexadecimal digits. Equal in every process, whatever the memory limit.
        notes: Sentences that the user should read: what was held out, resized, left out.
        fingerprints: By ``train``, ``validation`` and ``test`` the first 64 bits of every encoded image's
            SHA-256 in the split's order, uint64; empty where they are not known.
        training_digest: The same as ``digest`` without the test images: what training and choosing depend on.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    train: Split
    unlabelled: Split
    validation: Split
    test: Split
    digest: str
    notes: tuple[str, ...]
    fingerprints: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    training_digest: str = ""


def permutation(size: int | tf.Tensor, seed: int, epoch: tf.Tensor, block: int | tf.Tensor = 0) -> tf.Tensor:
    """The numbers 0 to size - 1 in an order that depends on the other arguments alone, int32.

    The generator is named and keyed by hand because TensorFlow's stateful shuffling also depends on the
    global seed.
    """
    number = tf.cast(epoch, tf.int64) * _BLOCKS_PER_EPOCH + tf.cast(block, tf.int64)
    key = tf.stack([tf.constant(seed, tf.int64), number])
    draws = tf.random.stateless_uniform([size], key, minval=None, maxval=None, dtype=tf.int64, alg="philox")
    return tf.argsort(draws, stable=True)


def _as_float(batches: tf.data.Dataset) -> tf.data.Dataset:
    return batches.map(lambda images, labels: (tf.cast(images, tf.float32), labels))


def _finish(batches: tf.data.Dataset, count: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    return (
        batches.apply(tf.data.experimental.assert_cardinality(count))
        .prefetch(_PREFETCHED_BATCHES)
        .with_options(options)
    )
