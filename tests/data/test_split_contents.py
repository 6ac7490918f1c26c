"""Copies in several splits, classes that are missing or much larger than others, and the two digests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_sets import write_folder, write_image

from bnadapt.config import DataSettings
from bnadapt.data.holdout import plan
from bnadapt.data.load import load
from bnadapt.data.splits import Splits

SHAPE = (10, 12, 3)
PARTS = ("train", "validation", "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three parts of two classes with four images each, no two alike."""
    for seed, part in enumerate(PARTS):
        write_folder(tmp_path / part, count=4, seed=seed)
    return tmp_path


def loaded(root: Path, shape: tuple[int, ...] = SHAPE, **others: object) -> Splits:
    return load(DataSettings(source="folder", path=str(root), **others), shape)  # type: ignore[arg-type]


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def encode_anew(source: Path, target: Path) -> None:
    """The same pixels in another encoding."""
    with Image.open(source) as image:
        image.save(target, **({"lossless": True} if target.suffix == ".webp" else {}))


def test_nothing_is_said_where_no_image_is_there_twice(root: Path) -> None:
    assert loaded(root).notes == ()


@pytest.mark.fault(
    "data: the same image in train and validation or test",
    "said, also where name or format differ (the run goes on)",
)
@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize(
    ("make", "name", "how"),
    [
        (copy, "00.png", "byte for byte"),
        (copy, "another name.jpg", "byte for byte"),
        (encode_anew, "other.bmp", "the same pixels in another file"),
        (encode_anew, "other.webp", "the same pixels in another file"),
    ],
)
def test_a_copy_of_a_training_image_is_found_under_any_name(
    root: Path, part: str, make: Callable[[Path, Path], None], name: str, how: str
) -> None:
    make(root / "train" / "cat" / "02.png", root / part / "cat" / name)
    total = 8 if name == "00.png" else 9
    assert loaded(root).notes == (f"{part}: 1 of {total} images is in train as well, {how}",)


@pytest.mark.fault(
    "data: the same image in train and test under two labels",
    "said with both labels (the run goes on)",
)
def test_a_copy_with_another_label_is_said_separately(root: Path) -> None:
    copy(root / "train" / "cat" / "02.png", root / "test" / "dog" / "00.png")
    copy(root / "train" / "dog" / "00.png", root / "test" / "dog" / "01.png")
    encode_anew(root / "train" / "cat" / "03.png", root / "test" / "dog" / "02.bmp")
    assert loaded(root).notes == (
        "test: 2 of 9 images are in train as well, byte for byte",
        "test: 1 of 9 images is in train as well, the same pixels in another file",
        "test: 2 of these have another label there, such as dog in test and cat in train: one of the two is wrong",
    )


def test_what_train_has_under_both_labels_contradicts_neither(root: Path) -> None:
    for part, name in (("train", "dog"), ("test", "cat"), ("test", "dog")):
        copy(root / "train" / "cat" / "02.png", root / part / name / "02.png")
    assert loaded(root).notes == ("test: 2 of 8 images are in train as well, byte for byte",)


def test_grey_and_colour_files_of_one_picture_are_one_to_a_network_of_one_channel(root: Path) -> None:
    grey = np.arange(120, dtype=np.uint8).reshape(10, 12)
    write_image(root / "train" / "cat" / "grey.png", grey)
    write_image(root / "test" / "cat" / "colour.png", np.repeat(grey[..., None], 3, axis=-1))
    for shape in ((10, 12, 1), SHAPE):
        note = "test: 1 of 9 images is in train as well, the same pixels in another file"
        assert note in loaded(root, shape).notes


def test_images_of_other_sizes_are_not_confused(root: Path) -> None:
    write_image(root / "train" / "cat" / "wide.png", np.zeros((6, 20, 3), np.uint8))
    write_image(root / "test" / "cat" / "high.png", np.zeros((20, 6, 3), np.uint8))
    assert loaded(root).notes == ("images of various sizes are resized to 10x12 pixels",)


@pytest.mark.fault(
    "odd: classes of very different sizes",
    "said, with the setting that makes up for it",
)
def test_a_class_much_larger_than_another_is_said(root: Path) -> None:
    write_folder(root / "train", classes=("cat",), count=40, seed=7)
    assert loaded(root).notes == ()
    write_folder(root / "train", classes=("cat",), count=41, seed=7)
    sizes = "train: the largest class, cat, has 41 images, the smallest, dog, has 4: "
    remedy = "data.class_weights=balanced gives every class the same weight in the training loss"
    assert loaded(root).notes == (sizes + remedy,)
    assert loaded(root, class_weights="balanced").notes == (
        sizes + "their weights in the training loss make up for it",
    )
    assert not any("largest class" in note for note in loaded(root, labels_per_class=4).notes)


def test_a_change_of_test_images_alone_leaves_what_training_depends_on(root: Path) -> None:
    before = loaded(root)
    assert len(before.training_digest) == len(before.digest) == 64
    assert before.training_digest != before.digest
    write_image(root / "test" / "cat" / "00.png", np.zeros(SHAPE, np.uint8))
    after = loaded(root)
    assert after.digest != before.digest
    assert after.training_digest == before.training_digest


def test_whatever_training_depends_on_changes_its_digest(root: Path) -> None:
    def digest(**others: object) -> str:
        return loaded(root, **others).training_digest  # type: ignore[arg-type]

    found = [digest()]
    assert digest() == found[0]
    found += [
        digest(labels_per_class=2),
        digest(labels_per_class=2, labels_seed=1),
        digest(train_limit=5),
        digest(validation_limit=3),
        digest(shift="noise"),
        digest(shift="noise", shift_seed=1),
        digest(shape=(10, 12, 1)),
    ]
    write_image(root / "validation" / "cat" / "00.png", np.zeros(SHAPE, np.uint8))
    found.append(digest())
    (root / "train" / "cat" / "00.png").rename(root / "train" / "dog" / "99.png")
    found.append(digest())
    for part in PARTS:
        (root / part / "dog").rename(root / part / "eel")
    found.append(digest())
    assert len(set(found)) == len(found)


def test_images_without_labels_count_too(root: Path) -> None:
    """Their statistics are trained on, so that every training image changes the digest, labelled or not."""
    found = [loaded(root, labels_per_class=1).training_digest]
    for file in sorted((root / "train").rglob("*.png")):
        write_image(file, np.zeros(SHAPE, np.uint8))
        found.append(loaded(root, labels_per_class=1).training_digest)
    assert len(set(found)) == len(found) == 9


@pytest.mark.fault(
    "data: a class with one image",
    "it stays in train; the splits that lack the class are named",
)
def test_a_class_of_one_image_keeps_it_in_train_and_it_is_said_where_it_is_missing(tmp_path: Path) -> None:
    write_folder(tmp_path, count=20)
    write_image(tmp_path / "eel" / "1.png", np.zeros(SHAPE, np.uint8))
    for seed in range(12):  # in some of them it would be held out
        splits = loaded(tmp_path, split_seed=seed)
        assert (splits.train.labels() == 2).sum() == 1
        for role in ("validation", "test"):
            assert any(note.startswith(f"{role} has no image of ") and "eel" in note for note in splits.notes)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=12),
    seed=st.integers(0, 1000),
    fractions=st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4)),
)
def test_every_class_keeps_an_image_wherever_train_is_large_enough(
    sizes: list[int], seed: int, fractions: tuple[float, float]
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    settings = DataSettings(split_seed=seed, validation_fraction=fractions[0], test_fraction=fractions[1])
    parts = {"train": "train", "validation": None, "test": None}
    count = {role: max(1, round(len(labels) * part)) for role, part in zip(PARTS[1:], fractions, strict=True)}
    left = len(labels) - sum(count.values())
    if left < 1:
        return
    shares, notes = plan(parts, {"train": len(labels)}, settings, labels)
    plain, same = plan(parts, {"train": len(labels)}, settings)
    found = np.concatenate([share.indices for share in shares.values()])
    assert sorted(found.tolist()) == list(range(len(labels)))
    assert {role: len(share.indices) for role, share in shares.items()} == {**count, "train": left}
    assert len(set(labels[shares["train"].indices])) == min(left, len(sizes))
    assert notes == same
    if len(set(labels[plain["train"].indices])) == len(sizes):
        # Nothing is touched that needs no change: splits of earlier runs stay as they were.
        for role in PARTS:
            np.testing.assert_array_equal(shares[role].indices, plain[role].indices)
