"""Sets that people use, read from the directory that BNADAPT_TEST_DATA names."""

import time
from pathlib import Path

import numpy as np
import pytest

from bnadapt.config import DataSettings
from bnadapt.data.availability import check_available
from bnadapt.data.load import choose_image_shape, describe, load


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("mnist", (28, 28, 1), (54000, 6000, 10000)),
        ("fashion_mnist:3.0.1", (28, 28, 1), (54000, 6000, 10000)),
        ("usps", (16, 16, 1), (6562, 729, 2007)),
        ("cmaterdb", (32, 32, 3), (4500, 500, 1000)),
        ("cmaterdb/telugu", (32, 32, 3), (2250, 250, 500)),
        ("cifar10_4k", (32, 32, 3), (2700, 300, 1000)),
    ],
)
def test_a_prepared_set(
    real_data: Path, name: str, shape: tuple[int, int, int], sizes: tuple[int, ...]
) -> None:
    settings = DataSettings(name=name, dir=str(real_data / "tfds"))
    check_available(settings)
    description = describe(settings)
    assert description.image_shape == shape
    assert len(description.classes) == 10
    splits = load(settings, shape)
    assert (splits.train.size, splits.validation.size, splits.test.size) == sizes
    images, labels = next(iter(splits.test.batches(256)))
    assert images.shape == (256, *shape)
    assert 0 <= images.numpy().min() < images.numpy().max() <= 255
    assert set(labels.numpy()) == set(range(10))


def test_an_epoch_of_mnist_takes_little_time(real_data: Path) -> None:
    splits = load(DataSettings(name="mnist", dir=str(real_data / "tfds")), (28, 28, 1))
    next(iter(splits.train.batches(1)))
    started = time.process_time()
    steps = sum(1 for _ in splits.train.shuffled(64, seed=0, epochs=1))
    assert steps == splits.train.steps(64) == 843
    assert time.process_time() - started < 2


def test_photos_in_folders(real_data: Path) -> None:
    settings = DataSettings(source="folder", path=str(real_data / "folders" / "flowers_small"))
    description = describe(settings)
    assert description.classes == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert description.image_shape is None
    shape = choose_image_shape(settings, description)
    splits = load(settings, shape)
    assert (splits.train.size, splits.validation.size, splits.test.size) == (360, 40, 100)
    images = np.concatenate([images for images, _ in splits.test.batches(32)])
    assert images.shape == (100, *shape)
    np.testing.assert_array_equal(np.bincount(splits.test.labels()), [20] * 5)
