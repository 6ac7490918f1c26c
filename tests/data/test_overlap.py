import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_sets import mini_images, write_image

from bnadapt.config import DataSettings
from bnadapt.data.load import load
from bnadapt.data.overlap import overlap_notes
from tests.digits import digit_splits

SHAPE = (6, 5, 3)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of twenty images each; two files of the first class hold the same image."""
    for name, seed in (("cat", 1), ("dog", 2)):
        for number, image in enumerate(mini_images(20, seed)):
            write_image(tmp_path / "pictures" / name / f"{number:02}.png", image)
    first = tmp_path / "pictures" / "cat" / "00.png"
    (tmp_path / "pictures" / "cat" / "01.png").write_bytes(first.read_bytes())
    return tmp_path / "pictures"


def folder(path: Path, **others: object) -> DataSettings:
    return DataSettings(
        source="folder", path=str(path), test_fraction=0.25, validation_fraction=0.25, **others
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{}, {"shift": "inversion", "severity": 3}, {"memory_limit": 0}])
def test_images_that_both_sides_use_are_counted(pictures: Path, change: dict[str, object]) -> None:
    """Against the pixels themselves, read without any shift."""
    source = load(folder(pictures, split_seed=1), SHAPE)
    plain = load(folder(pictures), SHAPE)
    target = load(folder(pictures, **change), SHAPE)
    trained = {image.tobytes() for image, _ in source.train.examples.as_numpy_iterator()}
    expected = []
    for split in (plain.validation, plain.test):
        shared = sum(image.tobytes() in trained for image, _ in split.examples.as_numpy_iterator())
        assert shared > 1
        expected.append(
            f"{split.name}: {shared} of {split.size} images are among the training images of baseline_data "
            "(pictures), byte for byte as stored: scores on them flatter every stage"
        )
    assert overlap_notes(source, target) == expected


def test_the_same_split_of_the_same_images_shares_none(
    pictures: Path, settings: Callable[..., DataSettings]
) -> None:
    # The two files with one image may lie on different sides of the split, which the set says by itself.
    (pictures / "cat" / "01.png").unlink()
    plain, shifted = load(folder(pictures), SHAPE), load(folder(pictures, shift="contrast"), SHAPE)
    assert overlap_notes(plain, shifted) == []
    assert overlap_notes(load(settings("mini"), SHAPE), plain) == []


def test_only_images_with_labels_were_trained_on(settings: Callable[..., DataSettings]) -> None:
    target = load(settings("mini"), SHAPE)
    whole = load(settings("mini", split_seed=1), SHAPE)
    few = load(settings("mini", split_seed=1, labels_per_class=1), SHAPE)
    assert overlap_notes(whole, target)[0].startswith("validation: ")
    trained = {image.tobytes() for image, _ in few.train.examples.as_numpy_iterator()}
    shared = sum(image.tobytes() in trained for image, _ in target.validation.examples.as_numpy_iterator())
    assert len(overlap_notes(few, target)) == (shared > 0)


def test_one_image_is_told_of_as_one(pictures: Path) -> None:
    target = load(folder(pictures), SHAPE)
    source = load(folder(pictures, split_seed=1), SHAPE)
    others = np.arange(target.test.size - 1, dtype=np.uint64)
    fingerprints = {"test": np.append(others, source.fingerprints["train"][0])}
    target = replace(target, fingerprints=fingerprints)
    assert overlap_notes(source, target) == [
        "test: 1 of 10 images is among the training images of baseline_data (pictures), byte for byte as stored: "
        "scores on it flatter every stage"
    ]


def test_fingerprints_are_the_beginnings_of_digests_in_the_splits_order(pictures: Path) -> None:
    splits = load(folder(pictures), SHAPE)
    files = {hashlib.sha256(file.read_bytes()).digest()[:8] for file in pictures.rglob("*.png")}
    found = [np.uint64(value).tobytes() for role in splits.fingerprints.values() for value in role]
    assert {role: len(values) for role, values in splits.fingerprints.items()} == {
        "train": splits.train.size,
        "validation": splits.validation.size,
        "test": splits.test.size,
    }
    assert set(found) == files
    assert len(found) == 40


def test_splits_without_fingerprints_are_silent() -> None:
    assert overlap_notes(digit_splits(), digit_splits()) == []
