"""Small real data sets: prepared by TensorFlow Datasets, and written as image files by Pillow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

CLASSES = ("circle", "square", "triangle")


def mini_images(count: int, seed: int, shape: tuple[int, int, int] = (6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def mini_labels(count: int) -> np.ndarray:
    return np.arange(count) % len(CLASSES)


class Mini(tfds.core.GeneratorBasedBuilder):
    """What the tests of real sets vary: the splits, the features, the labels."""

    VERSION = tfds.core.Version("1.2.3")
    SIZES: ClassVar[dict[str, int]] = {"train": 60, "test": 20}
    SHAPE: ClassVar[tuple[int, int, int]] = (6, 5, 3)
    SUPERVISED: ClassVar[tuple[str, str] | None] = ("image", "label")

    def features(self) -> dict[str, Any]:
        return {
            "image": tfds.features.Image(shape=self.SHAPE, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        return {"image": image, "label": label}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="For tests.",
            features=tfds.features.FeaturesDict(self.features()),
            supervised_keys=self.SUPERVISED,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split, seed) for seed, split in enumerate(self.SIZES)}

    def _generate_examples(self, split: str, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
        count = self.SIZES[split]
        images = mini_images(count, seed, self.SHAPE)
        for number, (image, label) in enumerate(zip(images, mini_labels(count), strict=True)):
            yield number, self.example(split, number, image, int(label))


class MiniThreeParts(Mini):
    SIZES: ClassVar[dict[str, int]] = {"train": 30, "validation": 9, "test": 12}


class MiniTrainOnly(Mini):
    SIZES: ClassVar[dict[str, int]] = {"train": 50}


class MiniHiddenTest(MiniThreeParts):
    """The labels of the test part are hidden, as in many competitions."""

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        return {"image": image, "label": -1 if split == "test" else label}


class MiniIntegers(Mini):
    """Labels are plain integers, and nothing says which features are meant."""

    SUPERVISED: ClassVar[tuple[str, str] | None] = None

    def features(self) -> dict[str, Any]:
        return {"picture": tfds.features.Image(shape=self.SHAPE), "number": np.int32}

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        return {"picture": image, "number": label}


class MiniTwoLabels(Mini):
    """Two class labels and nothing that says which is meant; 16-bit grey images."""

    SUPERVISED: ClassVar[tuple[str, str] | None] = None
    SHAPE: ClassVar[tuple[int, int, int]] = (4, 4, 1)

    def features(self) -> dict[str, Any]:
        return {
            "image": tfds.features.Image(shape=self.SHAPE, dtype=np.uint16, encoding_format="png"),
            "coarse": tfds.features.ClassLabel(names=["even", "odd"]),
            "fine": tfds.features.ClassLabel(names=CLASSES),
        }

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        return {"image": image.astype(np.uint16) * 257, "coarse": number % 2, "fine": label}


class MiniNoImages(Mini):
    SUPERVISED: ClassVar[tuple[str, str] | None] = None

    def features(self) -> dict[str, Any]:
        return {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=CLASSES)}

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        return {"text": "words", "label": label}


class MiniVariousSizes(Mini):
    SHAPE: ClassVar[tuple[int, int, int]] = (8, 8, 3)

    def features(self) -> dict[str, Any]:
        return {**super().features(), "image": tfds.features.Image(encoding_format="png")}

    def example(self, split: str, number: int, image: np.ndarray, label: int) -> dict[str, Any]:
        return {"image": image[: 4 + number % 5], "label": label}


BUILDERS = (
    Mini,
    MiniThreeParts,
    MiniTrainOnly,
    MiniHiddenTest,
    MiniIntegers,
    MiniTwoLabels,
    MiniNoImages,
    MiniVariousSizes,
)


def write_image(path: Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    """Write uint8 pixels, random colours by default, in the format of the path's extension."""
    if pixels is None:
        pixels = np.random.default_rng(len(str(path))).integers(0, 256, (10, 12, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path, **options)
    return path


def write_folder(
    root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 6, seed: int = 0
) -> Path:
    """Write lossless colour images, ``count`` in each class."""
    random = np.random.default_rng(seed)
    for name in classes:
        for number in range(count):
            write_image(root / name / f"{number:02}.png", random.integers(0, 256, (10, 12, 3), np.uint8))
    return root
