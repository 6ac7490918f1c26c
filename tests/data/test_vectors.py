"""Sets of TensorFlow Datasets that hold vectors, and features and files of sets that cannot be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_iris
from small_sets import CLASSES, Mini, mini_images

from bnadapt.config import DataSettings
from bnadapt.data.load import choose_image_shape, describe, load
from bnadapt.data.splits import Split, StreamedSplit
from bnadapt.errors import DataError

Make = Callable[..., DataSettings]


def irises() -> tuple[np.ndarray, np.ndarray]:
    features, labels = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return features[order].astype(np.float32), labels[order]


class Irises(Mini):
    """The real measurements, as TensorFlow Datasets' own set of irises has them."""

    SIZES: ClassVar[dict[str, int]] = {"train": 150}
    SUPERVISED: ClassVar[tuple[str, str] | None] = ("features", "label")

    def features(self) -> dict[str, Any]:
        return {
            "features": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "label": tfds.features.ClassLabel(names=["setosa", "versicolor", "virginica"]),
        }

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        features, labels = irises()
        return {"features": features[number], "label": int(labels[number])}


class ManyVectors(Mini):
    """Vectors of several types and encodings, some of them with numbers that are not finite."""

    SIZES: ClassVar[dict[str, int]] = {"train": 30, "test": 10}
    SUPERVISED: ClassVar[tuple[str, str] | None] = None

    def features(self) -> dict[str, Any]:
        tensor = tfds.features.Tensor
        return {
            "bytes": tensor(shape=(3,), dtype=np.float64, encoding="bytes"),
            "packed": tensor(shape=(3,), dtype=np.float32, encoding="zlib"),
            "small": tensor(shape=(3,), dtype=np.uint8),
            "broken": tensor(shape=(3,), dtype=np.float32),
            "matrix": tensor(shape=(3, 1), dtype=np.float32),
            "flags": tensor(shape=(3,), dtype=np.bool_),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "below": np.int64,
            "number": np.int64,
        }

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        vector = np.array([number, number + 0.5, 100])
        bad = {5: np.nan, 7: np.inf}.get(number, 0.0) if split == "train" else 0.0
        return {
            "bytes": vector,
            "packed": vector.astype(np.float32),
            "small": vector.astype(np.uint8),
            "broken": np.add(vector, [0, bad, 0]).astype(np.float32),
            "matrix": vector[:, None].astype(np.float32),
            "flags": vector > 3,
            "label": label,
            "below": -1 if number == 4 else label,
            "number": 10**12 + number,
        }


class FloatPixels(Mini):
    def features(self) -> dict[str, Any]:
        image = tfds.features.Image(shape=(6, 5, 1), dtype=np.float32)
        return {"image": image, "label": tfds.features.ClassLabel(names=CLASSES)}

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        return {"image": np.full((6, 5, 1), np.nan, np.float32), "label": label}


class FourChannels(Mini):
    SHAPE: ClassVar[tuple[int, int, int]] = (6, 5, 4)


class OddNames(Mini):
    NAMES: ClassVar[tuple[str, ...]] = ("no", "قطة \x1b[31m", "1e3")

    def features(self) -> dict[str, Any]:
        return {**super().features(), "label": tfds.features.ClassLabel(names=self.NAMES)}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("vectors")
    tfds.disable_progress_bar()
    for builder in (Irises, ManyVectors, FloatPixels, FourChannels, OddNames):
        builder(data_dir=found).download_and_prepare()
    return found


@pytest.fixture
def vectors(directory: Path) -> Make:
    return lambda name="irises", **others: DataSettings(name=name, dir=str(directory), **others)


def examples(split: Split) -> np.ndarray:
    return np.concatenate([batch for batch, _ in split.batches(7).as_numpy_iterator()])


@pytest.mark.parametrize("memory_limit", [2048, 0])
def test_irises_arrive_as_they_were_measured(vectors: Make, memory_limit: int) -> None:
    settings = vectors(train_split="train[:100]", validation_split="train[100:120]", test_split="train[120:]")
    settings.memory_limit = memory_limit
    description = describe(settings)
    assert (description.image_shape, description.channels) == ((4,), 4)
    assert choose_image_shape(settings, description, (None,)) == (4,)
    splits = load(settings, (4,))
    features, labels = irises()
    for split, part in (
        (splits.train, slice(100)),
        (splits.validation, slice(100, 120)),
        (splits.test, slice(120, None)),
    ):
        assert isinstance(split, StreamedSplit) == (memory_limit == 0)
        found = examples(split)
        assert (found.dtype, split.image_shape) == (np.float32, (4,))
        np.testing.assert_array_equal(found, features[part])
        np.testing.assert_array_equal(split.labels(), labels[part])
    assert splits.classes == ("setosa", "versicolor", "virginica")
    # Two of the 150 irises, both virginica, measure the same.
    twins = [note for note in splits.notes if "number for number" in note]
    assert len({tuple(row) for row in features.tolist()}) == 149
    assert all(note.endswith("is in train as well, number for number") for note in twins)


def test_vectors_are_told_of_as_rows(vectors: Make) -> None:
    notes = load(vectors(labels_per_class=5), (4,)).notes
    assert notes[0].startswith("test: 30 of the 150 rows of train, held out at random")
    assert "train: labels of 15 of the 105 rows (data.labels_per_class=5, data.labels_seed=0)" in notes[2]


@pytest.mark.parametrize("feature", ["bytes", "packed", "small"])
def test_vectors_of_any_type_and_encoding_become_float32(vectors: Make, feature: str) -> None:
    splits = load(vectors("many_vectors", image_feature=feature, label_feature="label"), (3,))
    found = examples(splits.test)
    assert found.dtype == np.float32
    expected = np.stack([[n, n + (0.5 if feature != "small" else 0), 100] for n in range(10)])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.fault(
    "data: NaN and infinite values in a data set of vectors",
    "refused; counts them and names the first",
)
def test_numbers_that_are_not_finite_are_refused(vectors: Make) -> None:
    chosen = {"image_feature": "broken", "label_feature": "label"}
    with pytest.raises(
        DataError,
        match=r"many_vectors, split train: 2 of 30 vectors hold NaN or infinite numbers, the first at index 5; prepare "
        r"the set without them, or choose a part without them, such as data.train_split='train\[:80%\]'",
    ):
        load(vectors("many_vectors", **chosen), (3,))
    assert load(vectors("many_vectors", **chosen, train_split="train[10:]"), (3,)).test.size == 10


def test_a_vector_must_be_chosen_where_there_are_several(vectors: Make) -> None:
    with pytest.raises(
        DataError,
        match=r"several features that are an image or a vector of numbers: .*; set data.image_feature to one of "
        r"broken, bytes, packed, small$",
    ):
        describe(vectors("many_vectors"))
    with pytest.raises(
        DataError, match=r"data.image_feature=matrix: many_vectors has no feature of that name that is an"
    ):
        describe(vectors("many_vectors", image_feature="matrix"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"image_size": [8, 8]},
            r"data.image_size=\[8, 8\]: irises holds vectors of 4 numbers and no images; leave",
        ),
        (
            {"shift": "noise"},
            r"data.shift=noise: irises holds vectors of 4 numbers and no images; leave data.shift out",
        ),
    ],
)
def test_settings_of_images_are_refused(vectors: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        describe(vectors(**settings))


def test_images_are_no_vectors(settings: Make) -> None:
    with pytest.raises(
        DataError, match=r"the network takes vectors of 90 numbers and mini holds images; choose another"
    ):
        choose_image_shape(settings(), describe(settings()), (90,))


def test_labels_that_are_no_classes_are_refused(vectors: Make) -> None:
    with pytest.raises(
        DataError,
        match=r"many_vectors: feature number goes up to 1,000,000,000,029, which no 40 rows have as numbers of "
        r"classes; choose another one by data.label_feature",
    ):
        describe(vectors("many_vectors", image_feature="small", label_feature="number"))
    settings = vectors("many_vectors", image_feature="small", label_feature="below")
    with pytest.raises(
        DataError,
        match=r"many_vectors, split test: 1 of 10 labels are outside 0..2, such as -1 at index 4; choose another "
        r"feature by data.label_feature, now below",
    ):
        load(settings, (3,))


@pytest.mark.fault(
    "data: an empty split",
    "refused; the message names the split",
)
def test_an_empty_split_is_refused(directory: Path, vectors: Make, tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"irises: split train\[:0\] is empty; choose another one by data.train_split=NAME: train has 150",
    ):
        describe(vectors("irises", train_split="train[:0]"))
    # TensorFlow Datasets writes no such set, and reads it.
    shutil.copytree(directory / "irises", tmp_path / "irises")
    info = next(tmp_path.rglob("dataset_info.json"))
    known = json.loads(info.read_text())
    known["splits"].append({**known["splits"][0], "name": "test", "numBytes": "0", "shardLengths": ["0"]})
    info.write_text(json.dumps(known))
    with pytest.raises(
        DataError, match=r"split test is empty; choose .* data.test_split=NAME: test has 0, train has 150"
    ):
        describe(DataSettings(name="irises", dir=str(tmp_path)))


def test_pixels_that_are_no_integers_are_refused(vectors: Make) -> None:
    with pytest.raises(
        DataError,
        match=r"feature image holds float32 pixels; only uint8 and uint16 can be read: .* with uint8 pixels, 0 to 255",
    ):
        describe(vectors("float_pixels"))


def test_four_channels_stay_or_are_laid_over_white(vectors: Make) -> None:
    settings = vectors("four_channels")
    assert choose_image_shape(settings, describe(settings)) == (6, 5, 4)
    pixels = mini_images(20, 1, (6, 5, 4))
    np.testing.assert_array_equal(examples(load(settings, (6, 5, 4)).test), pixels)
    opacity = pixels[..., 3:] / 255
    expected = pixels[..., :3] * opacity + 255 * (1 - opacity)
    np.testing.assert_allclose(examples(load(settings, (6, 5, 3)).test), expected, atol=0.51)
    assert load(settings, (6, 5, 1)).test.image_shape == (6, 5, 1)


def test_class_names_of_a_set_can_be_written_anywhere(vectors: Make) -> None:
    assert describe(vectors("odd_names")).classes == ("no", "قطة \\x1b[31m", "1e3")


@pytest.mark.fault(
    "data: shards truncated, damaged or missing",
    "refused; names the file",
)
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: data[:-30], "truncated record at"),
        (lambda data: data[: len(data) // 2] + b"?" + data[len(data) // 2 + 1 :], "corrupted record at"),
        (lambda data: bytes(100), "truncated record at 0|corrupted record at 0"),
        (None, "No such file or directory|does not exist|not found"),
    ],
)
def test_broken_shards_are_said(
    directory: Path, tmp_path: Path, harm: Callable[[bytes], bytes] | None, message: str
) -> None:
    shutil.copytree(directory / "irises", tmp_path / "irises")
    shard = next(tmp_path.rglob("*-train.*"))
    if harm is None:
        shard.unlink()
    else:
        shard.write_bytes(harm(shard.read_bytes()))
    with pytest.raises(
        DataError, match=rf"irises.* cannot be read as a prepared set: .*({message})"
    ) as raised:
        load(DataSettings(name="irises", dir=str(tmp_path)), (4,))
    assert str(raised.value).endswith("; remove it and prepare it anew")
    assert "function_node" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_records_of_another_set_are_said(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory / "irises", tmp_path / "irises")
    info = next(tmp_path.rglob("features.json"))
    known = json.loads(info.read_text())
    entries = known["featuresDict"]["features"]
    entries["other"] = entries.pop("features")
    info.write_text(json.dumps(known))
    with pytest.raises(DataError, match=r"cannot be read as a prepared set: .*other"):
        load(DataSettings(name="irises", dir=str(tmp_path)), (4,))
