from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from bnadapt.data.splits import ArraySplit, Split, StreamedSplit, permutation

SHAPE = (3, 2, 1)
SIZE = 23


def images() -> np.ndarray:
    """Every pixel of image i is i."""
    return np.broadcast_to(np.arange(SIZE, dtype=np.uint8)[:, None, None, None], (SIZE, *SHAPE)).copy()


LABELS = np.arange(SIZE) * 7 % 5


def in_memory() -> Split:
    return ArraySplit("train", images(), LABELS)


def streamed(block: int = SIZE) -> Split:
    def decode(record: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.io.decode_raw(record, tf.uint8), SHAPE)

    records = tf.data.Dataset.from_tensor_slices(([image.tobytes() for image in images()], LABELS))
    return StreamedSplit("train", records, decode, LABELS, SHAPE, block)


BOTH = pytest.mark.parametrize("make", [in_memory, streamed])
Make = Callable[[], Split]


def numbers(dataset: tf.data.Dataset) -> list[list[int]]:
    """Which images are in each batch; checks images and labels on the way."""
    batches = []
    for batch, labels in dataset.as_numpy_iterator():
        assert batch.dtype == np.float32
        assert labels.dtype == np.int64
        assert batch.shape[1:] == SHAPE
        chosen = batch[:, 0, 0, 0].astype(int)
        np.testing.assert_array_equal(batch, images()[chosen])
        np.testing.assert_array_equal(labels, LABELS[chosen])
        batches.append(chosen.tolist())
    return batches


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


@BOTH
def test_examples_are_the_same_at_every_iteration(make: Make) -> None:
    examples = make().examples
    assert examples.element_spec == (tf.TensorSpec(SHAPE, tf.uint8), tf.TensorSpec((), tf.int64))
    for _ in range(2):
        found = list(examples.as_numpy_iterator())
        np.testing.assert_array_equal(np.stack([image for image, _ in found]), images())
        np.testing.assert_array_equal([label for _, label in found], LABELS)
    assert examples.cardinality() == SIZE


@BOTH
def test_labels_are_a_copy_in_order(make: Make) -> None:
    split = make()
    labels = split.labels()
    np.testing.assert_array_equal(labels, LABELS)
    labels[:] = 0
    np.testing.assert_array_equal(split.labels(), LABELS)
    assert split.labels().dtype == np.int64


@BOTH
def test_batches_hold_every_image_once_in_order(make: Make) -> None:
    batches = make().batches(10)
    assert numbers(batches) == [list(range(10)), list(range(10, 20)), [20, 21, 22]]
    assert batches.cardinality() == 3
    assert batches.element_spec[0].shape.as_list() == [None, *SHAPE]


@BOTH
def test_an_epoch_holds_images_once_and_drops_what_fills_no_batch(make: Make) -> None:
    split = make()
    shuffled = split.shuffled(5, seed=0, epochs=1)
    batches = numbers(shuffled)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert split.steps(5) == shuffled.cardinality() == 4
    seen = flat(batches)
    assert len(set(seen)) == 20
    assert seen != sorted(seen)


@BOTH
def test_mixed_holds_every_image_once_in_an_order_of_the_seed(make: Make) -> None:
    batches = numbers(make().mixed(5, seed=1))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert sorted(flat(batches)) == list(range(SIZE))
    assert flat(batches) != list(range(SIZE))
    assert batches == numbers(make().mixed(5, seed=1)) != numbers(make().mixed(5, seed=2))


@BOTH
def test_a_batch_larger_than_the_split_is_the_split(make: Make) -> None:
    split = make()
    batches = numbers(split.shuffled(64, seed=0, epochs=2))
    assert [sorted(batch) for batch in batches] == [list(range(SIZE))] * 2
    assert split.steps(64) == 1


@BOTH
def test_all_images_come_within_a_few_epochs(make: Make) -> None:
    assert set(flat(numbers(make().shuffled(5, seed=0, epochs=6)))) == set(range(SIZE))


@BOTH
def test_the_order_depends_on_seed_and_epoch_alone(make: Make) -> None:
    whole = numbers(make().shuffled(5, seed=1, epochs=4))
    tf.random.set_seed(99)
    assert numbers(make().shuffled(5, seed=1, epochs=4)) == whole
    assert numbers(make().shuffled(5, seed=2, epochs=4)) != whole
    epochs = [whole[start : start + 4] for start in range(0, 16, 4)]
    assert len({str(epoch) for epoch in epochs}) == 4


@BOTH
def test_training_can_be_taken_up_at_any_epoch(make: Make) -> None:
    whole = numbers(make().shuffled(5, seed=1, epochs=4))
    for first in range(4):
        rest = make().shuffled(5, seed=1, epochs=4, first_epoch=first)
        assert rest.cardinality() == (4 - first) * 4
        assert numbers(rest) == whole[first * 4 :]


@BOTH
def test_no_epochs_are_no_batches(make: Make) -> None:
    assert numbers(make().shuffled(5, seed=0, epochs=0)) == []
    assert numbers(make().shuffled(5, seed=0, epochs=2, first_epoch=2)) == []


def test_a_streamed_split_of_one_block_gives_what_memory_gives() -> None:
    assert numbers(streamed().shuffled(4, seed=5, epochs=3)) == numbers(
        in_memory().shuffled(4, seed=5, epochs=3)
    )


def test_a_streamed_split_shuffles_within_blocks_each_in_its_own_order() -> None:
    order = flat(numbers(streamed(block=10).shuffled(1, seed=5, epochs=1)))
    blocks = [order[:10], order[10:20], order[20:]]
    assert [sorted(block) for block in blocks] == [list(range(10)), list(range(10, 20)), [20, 21, 22]]
    assert [number + 10 for number in blocks[0]] != blocks[1]
    assert blocks[0] != sorted(blocks[0])


def test_images_are_decoded_when_first_needed_and_once() -> None:
    calls = []

    def make() -> np.ndarray:
        calls.append(1)
        return images()

    split = ArraySplit("test", make, LABELS, SHAPE)
    assert split.labels().tolist() == LABELS.tolist()
    assert (split.size, split.image_shape, split.steps(4)) == (SIZE, SHAPE, 5)
    assert calls == []
    split.shuffled(4, seed=0, epochs=1)
    numbers(split.batches(4))
    assert len(list(split.examples)) == SIZE
    assert calls == [1]


def test_permutations_hold_every_number_once_and_differ_by_every_argument() -> None:
    def order(seed: int, epoch: int, block: int) -> tuple[int, ...]:
        return tuple(permutation(50, seed, tf.constant(epoch, tf.int64), block).numpy().tolist())

    orders = [order(seed, epoch, block) for seed in (0, 1) for epoch in (0, 1, 2) for block in (0, 1)]
    assert all(sorted(each) == list(range(50)) for each in orders)
    assert len(set(orders)) == len(orders)


def test_permutations_are_the_same_in_every_release() -> None:
    # Written down so that no release of TensorFlow changes the course of anybody's training unnoticed.
    assert permutation(8, 3, tf.constant(2, tf.int64)).numpy().tolist() == [5, 6, 7, 1, 3, 0, 2, 4]
