import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from small_sets import CLASSES, mini_images, mini_labels

from bnadapt.config import DataSettings
from bnadapt.data.load import describe, load
from bnadapt.data.splits import Split, StreamedSplit
from bnadapt.errors import DataError

Make = Callable[..., DataSettings]
SHAPE = (6, 5, 3)


def images_of(split: Split) -> np.ndarray:
    return np.concatenate([images for images, _ in split.batches(7).as_numpy_iterator()])


def test_images_and_labels_arrive_as_they_were_written(settings: Make) -> None:
    splits = load(settings("mini_three_parts"), SHAPE)
    assert splits.classes == CLASSES
    for seed, (split, size) in enumerate(((splits.train, 30), (splits.validation, 9), (splits.test, 12))):
        np.testing.assert_array_equal(images_of(split), mini_images(size, seed))
        np.testing.assert_array_equal(split.labels(), mini_labels(size))
    assert splits.notes == ()


def test_records_are_what_tensorflow_datasets_reads(prepared: Path, settings: Make) -> None:
    builder = tfds.builder_from_directory(prepared / "mini" / "1.2.3")
    expected = list(builder.as_dataset(split="test", as_supervised=True).as_numpy_iterator())
    found = list(load(settings("mini"), SHAPE).test.examples.as_numpy_iterator())
    for (image, label), (expected_image, expected_label) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(image, expected_image)
        assert label == expected_label


def test_a_set_without_a_builder_is_read_from_its_directory(prepared: Path, tmp_path: Path) -> None:
    # The builder of "mini" is known in this process; nobody has one of this name.
    target = tmp_path / "orphan" / "1.0.0"
    shutil.copytree(prepared / "mini" / "1.2.3", target)
    info = json.loads((target / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info | {"name": "orphan", "version": "1.0.0"}))
    for file in target.glob("mini-*"):
        file.rename(target / file.name.replace("mini-", "orphan-"))
    for name in target.glob("*.labels.txt"):
        assert name.read_text().split() == list(CLASSES)
    splits = load(DataSettings(name="orphan", dir=str(tmp_path)), SHAPE)
    assert splits.classes == CLASSES
    np.testing.assert_array_equal(images_of(splits.test), mini_images(20, 1))


def test_validation_is_held_out_where_the_set_has_none(settings: Make) -> None:
    splits = load(settings("mini"), SHAPE)
    assert (splits.train.size, splits.validation.size, splits.test.size) == (54, 6, 20)
    held_out = {image.tobytes() for image, _ in splits.validation.examples.as_numpy_iterator()}
    trained = {image.tobytes() for image, _ in splits.train.examples.as_numpy_iterator()}
    assert not held_out & trained
    assert held_out | trained == {image.tobytes() for image in mini_images(60, 0)}
    assert len(splits.notes) == 1


def test_test_is_held_out_where_the_set_has_none(settings: Make) -> None:
    splits = load(settings("mini_train_only"), SHAPE)
    assert (splits.train.size, splits.validation.size, splits.test.size) == (35, 5, 10)
    assert [note.split(":")[0] for note in splits.notes[:2]] == ["test", "validation"]
    assert splits.notes[2:] == ("validation has no image of square",)


def test_streamed_images_are_those_in_memory_in_the_same_order(settings: Make) -> None:
    kept, streamed = load(settings(), SHAPE), load(settings(memory_limit=0), SHAPE)
    assert isinstance(streamed.train, StreamedSplit)
    assert not isinstance(kept.train, StreamedSplit)
    assert kept.digest == streamed.digest
    for role in ("train", "validation", "test"):
        first, second = getattr(kept, role), getattr(streamed, role)
        np.testing.assert_array_equal(images_of(first), images_of(second))
        for one, other in zip(
            first.shuffled(8, seed=1, epochs=2), second.shuffled(8, seed=1, epochs=2), strict=True
        ):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


def test_splits_may_be_named_and_cut(settings: Make) -> None:
    splits = load(
        settings(train_split="train[:50%]", validation_split="train[50%:]", test_split="test[:5]"), SHAPE
    )
    np.testing.assert_array_equal(images_of(splits.train), mini_images(60, 0)[:30])
    np.testing.assert_array_equal(images_of(splits.validation), mini_images(60, 0)[30:])
    np.testing.assert_array_equal(images_of(splits.test), mini_images(20, 1)[:5])


def test_cuts_that_overlap_are_noticed(settings: Make) -> None:
    splits = load(settings(test_split="train[50%:]", validation_split="test"), SHAPE)
    assert splits.notes == ("test: 30 of 30 images are in train as well, byte for byte",)


@pytest.mark.parametrize("split", ["dev", "train[:x%]", "train[:200%]x"])
def test_an_unknown_split_is_named_with_those_there_are(settings: Make, split: str) -> None:
    with pytest.raises(DataError) as raised:
        describe(settings(validation_split=split))
    assert str(raised.value).startswith(
        f"data.validation_split={split}: mini has no split {split}; it has train, test"
    )


def test_plain_integers_serve_as_labels(settings: Make) -> None:
    splits = load(settings("mini_integers"), SHAPE)
    assert splits.classes == ("0", "1", "2")
    np.testing.assert_array_equal(splits.test.labels(), mini_labels(20))


def test_a_label_must_be_chosen_where_there_are_two(settings: Make) -> None:
    with pytest.raises(
        DataError,
        match=r"mini_two_labels has several features that are a class label or an "
        r"integer: it has .*image \(Image\).*; set data.label_feature to one of coarse, fine",
    ):
        describe(settings("mini_two_labels"))
    assert describe(settings("mini_two_labels", label_feature="coarse")).classes == ("even", "odd")
    assert describe(settings("mini_two_labels", label_feature="fine")).classes == CLASSES


def test_sixteen_bits_are_scaled_to_eight(settings: Make) -> None:
    splits = load(settings("mini_two_labels", label_feature="fine"), (4, 4, 1))
    np.testing.assert_array_equal(images_of(splits.test), mini_images(20, 1, (4, 4, 1)))


def test_a_set_without_images_says_what_it_has(settings: Make) -> None:
    with pytest.raises(
        DataError,
        match=r"mini_no_images has no feature that is an image or a vector of numbers: it has "
        r"label \(ClassLabel\), text \(Text\)",
    ):
        describe(settings("mini_no_images"))


def test_a_feature_that_does_not_serve_is_refused(settings: Make) -> None:
    with pytest.raises(
        DataError, match=r"data.image_feature=label: mini has no feature of that name that is an image"
    ):
        describe(settings(image_feature="label"))
    with pytest.raises(
        DataError, match=r"data.label_feature=size: mini has no feature of that name that is a class"
    ):
        describe(settings(label_feature="size"))


def test_images_of_various_sizes(settings: Make) -> None:
    chosen = settings("mini_various_sizes")
    assert describe(chosen).image_shape is None
    assert describe(chosen).channels == 3
    splits = load(chosen, (6, 6, 3))
    assert images_of(splits.train).shape == (54, 6, 6, 3)
    assert "images of various sizes are resized to 6x6 pixels" in splits.notes


def test_resizing_and_conversion_are_mentioned(settings: Make) -> None:
    splits = load(settings(), (12, 12, 1))
    assert images_of(splits.test).shape == (20, 12, 12, 1)
    assert splits.notes[1:] == (
        "images are resized from 6x5 to 12x12 pixels",
        "images are converted from 3 to 1 channel",
    )


def test_hidden_labels_are_refused_before_training(settings: Make) -> None:
    with pytest.raises(
        DataError,
        match=r"mini_hidden_test, split test: 12 of 12 labels are outside 0..2, such as -1 at index 0; "
        r"its labels are hidden: choose other parts, such as data.test_split=validation",
    ):
        load(settings("mini_hidden_test"), SHAPE)
    splits = load(
        settings(
            "mini_hidden_test",
            test_split="validation",
            validation_split="train[80%:]",
            train_split="train[:80%]",
        ),
        SHAPE,
    )
    assert splits.test.size == 9


def test_one_part_cannot_be_both(settings: Make) -> None:
    with pytest.raises(DataError, match=r"data.validation_split and data.test_split are both test"):
        describe(settings(validation_split="test"))


def test_broken_files_are_said_to_be_broken(prepared: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(prepared / "mini", tmp_path / name / "mini")
        return tmp_path / name / "mini" / "1.2.3"

    def failure(name: str) -> str:
        with pytest.raises(DataError) as raised:
            load(DataSettings(name="mini", dir=str(tmp_path / name)), SHAPE)
        assert str(tmp_path / name) in str(raised.value)
        assert "remove it and prepare it anew" in str(raised.value)
        return str(raised.value)

    next(copy("missing").glob("*-train*")).unlink()
    assert "cannot be read as a prepared set" in failure("missing")
    record = next(copy("cut").glob("*-train*"))
    record.write_bytes(record.read_bytes()[:-100])
    failure("cut")
    (copy("garbled") / "features.json").write_text("{")
    failure("garbled")
    record = next(copy("short").glob("*-test*"))
    record.write_bytes(b"")
    assert "split test should hold 20 images, its files hold 0" in failure("short")


def test_the_digest_tells_data_apart(settings: Make) -> None:
    digests = [
        load(settings(), SHAPE).digest,
        load(settings(split_seed=1), SHAPE).digest,
        load(settings(train_limit=20), SHAPE).digest,
        load(settings("mini_train_only"), SHAPE).digest,
        load(settings(), (6, 5, 1)).digest,
        load(settings(test_split="test[:19]"), SHAPE).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert load(settings(), SHAPE).digest == digests[0]


def test_test_images_are_not_decoded_before_they_are_asked_for(settings: Make) -> None:
    splits = load(settings(), SHAPE)
    images_of(splits.train)
    images_of(splits.validation)
    assert splits.test._decoded is None  # type: ignore[attr-defined]
    images_of(splits.test)
    assert splits.test._decoded is not None  # type: ignore[attr-defined]


def test_classes_without_training_images_are_mentioned(settings: Make) -> None:
    notes = load(settings(train_limit=1), SHAPE).notes
    assert any(note.startswith("train has no image of ") and note.count(",") == 1 for note in notes)
