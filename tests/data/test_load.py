from collections.abc import Callable

import numpy as np
import pytest

from bnadapt.config import DataSettings
from bnadapt.data.load import DEFAULT_IMAGE_SIZE, Description, choose_image_shape, describe, load


def described(shape: tuple[int, int, int] | None, channels: int = 3) -> Description:
    return Description("set", ("a", "b"), shape, channels, {"train": 1, "validation": 1, "test": 1})


@pytest.mark.parametrize(
    ("image_size", "network", "stored", "chosen"),
    [
        (None, None, (28, 28, 1), (28, 28, 1)),
        (None, None, None, (*DEFAULT_IMAGE_SIZE, 3)),
        ([20, 10], None, (28, 28, 1), (20, 10, 1)),
        (None, (227, 227, 3), (28, 28, 1), (227, 227, 3)),
        (None, (None, None, 3), (28, 28, 1), (28, 28, 3)),
        (None, (None, 40, None), None, (128, 40, 3)),
        ([20, 10], (227, 227, 3), None, (20, 10, 3)),
    ],
)
def test_settings_come_before_the_network_and_that_before_the_set(
    image_size: list[int] | None,
    network: tuple[int | None, int | None, int | None] | None,
    stored: tuple[int, int, int] | None,
    chosen: tuple[int, int, int],
) -> None:
    assert choose_image_shape(DataSettings(image_size=image_size), described(stored), network) == chosen


def test_few_labels_leave_all_images_for_statistics(settings: Callable[..., DataSettings]) -> None:
    whole, few = load(settings("mini"), (6, 5, 3)), load(settings("mini", labels_per_class=2), (6, 5, 3))
    assert (whole.unlabelled is whole.train, few.train.size, few.unlabelled.size) == (
        True,
        6,
        whole.train.size,
    )
    assert np.bincount(few.train.labels()).tolist() == [2, 2, 2]
    images = {image.tobytes() for image, _ in whole.train.examples.as_numpy_iterator()}
    assert {image.tobytes() for image, _ in few.train.examples.as_numpy_iterator()} < images
    assert {image.tobytes() for image, _ in few.unlabelled.examples.as_numpy_iterator()} == images
    np.testing.assert_array_equal(few.test.labels(), whole.test.labels())
    assert few.digest != whole.digest
    assert any(note.startswith("train: labels of 6 of the 54 images") for note in few.notes)


@pytest.mark.parametrize("memory_limit", [2048, 0])
def test_a_shift_changes_every_split_and_the_data_sets_name(
    settings: Callable[..., DataSettings], memory_limit: int
) -> None:
    shift = {"shift": "inversion", "severity": 5, "memory_limit": memory_limit}
    plain, changed = load(settings("mini"), (6, 5, 3)), load(settings("mini", **shift), (6, 5, 3))
    assert (changed.name, describe(settings("mini", **shift)).name) == (
        "mini inversion 5",
        "mini inversion 5",
    )
    assert changed.digest != plain.digest
    for name in ("train", "validation", "test"):
        for (image, label), (other, same) in zip(
            getattr(plain, name).examples.as_numpy_iterator(),
            getattr(changed, name).examples.as_numpy_iterator(),
            strict=True,
        ):
            np.testing.assert_array_equal(other, 255 - image)
            assert same == label
    assert any(note == "every image is changed: inversion, severity 5 of 5" for note in changed.notes)
