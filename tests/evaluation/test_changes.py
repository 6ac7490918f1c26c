"""Which images changed, and which of them are shown."""

from collections.abc import Iterator

import numpy as np
import pytest

from bnadapt.evaluation.changes import ChangedImage, changed_images, images_at
from bnadapt.evaluation.results import Scores


def scores(labels: list[int], predicted: list[int]) -> Scores:
    correct = np.array(labels) == np.array(predicted)
    return Scores(0.5, 0.5, 0.5, 0.1, np.array([0.5]), correct, np.array(predicted))


def test_gained_and_lost_images_are_told_apart() -> None:
    labels = [0, 1, 2, 2, 1]
    before, after = [0, 0, 0, 2, 1], [1, 1, 1, 2, 0]
    changes = changed_images(np.array(labels), scores(labels, before), scores(labels, after))
    assert (changes.gained, changes.lost) == (1, 2)
    # The third image stays wrong, with another answer.
    assert changes.shown == (ChangedImage(1, 1, 0, 1), ChangedImage(0, 0, 0, 1), ChangedImage(4, 1, 1, 0))
    assert [each.gained for each in changes.shown] == [True, False, False]


def test_no_class_crowds_out_the_others() -> None:
    labels = [0] * 50 + [1] * 2 + [2] * 50
    wrong = [3] * 102
    changes = changed_images(np.array(labels), scores(labels, wrong), scores(labels, labels), at_most=6)
    assert [each.index for each in changes.shown] == [0, 1, 50, 51, 52, 53]
    assert (changes.gained, changes.lost) == (102, 0)


@pytest.mark.parametrize(
    ("gained", "lost", "shown_gained", "shown_lost"),
    [
        (30, 30, 12, 12),
        (3, 30, 3, 21),
        (30, 3, 21, 3),
        (5, 5, 5, 5),
        (0, 0, 0, 0),
        (0, 40, 0, 24),
        (12, 13, 12, 12),
    ],
)
def test_each_kind_has_half_of_the_room_or_what_the_other_leaves(
    gained: int, lost: int, shown_gained: int, shown_lost: int
) -> None:
    labels = [0] * (gained + lost)
    before, after = [1] * gained + [0] * lost, [0] * gained + [1] * lost
    shown = changed_images(np.array(labels), scores(labels, before), scores(labels, after)).shown
    assert [each.gained for each in shown] == [True] * shown_gained + [False] * shown_lost


def test_scores_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 labels and scores of 2 and 2 images do not belong together"):
        changed_images(np.array([0, 1, 1]), scores([0, 1], [0, 1]), scores([0, 1], [0, 1]))


def batches(sizes: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    start = 0
    for size in sizes:
        yield np.arange(start, start + size, dtype="float32").reshape(size, 1, 1, 1), np.zeros(size)
        start += size


def test_images_are_read_once_in_the_order_asked_for_and_no_further() -> None:
    source = batches([4, 4, 4])
    np.testing.assert_array_equal(images_at(source, [6, 0, 3]).ravel(), [6, 0, 3])
    assert len(list(source)) == 1  # the last batch was not read
    assert images_at(batches([4]), []).shape[0] == 0


def test_an_image_that_is_not_there_is_named() -> None:
    with pytest.raises(IndexError, match="image 9 was asked for, and there are 8"):
        images_at(batches([4, 4]), [1, 9])
