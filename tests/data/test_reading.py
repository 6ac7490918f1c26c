"""Files that vanish, change or turn out broken while a run goes on: said in words, with the file's name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from small_sets import Mini, write_folder, write_image

from bnadapt.config import DataSettings
from bnadapt.data.load import load
from bnadapt.data.reading import reading
from bnadapt.data.splits import Split, Splits
from bnadapt.errors import DataError

SHAPE = (10, 12, 3)


def loaded(root: Path, **others: object) -> Splits:
    return load(DataSettings(source="folder", path=str(root), **others), SHAPE)  # type: ignore[arg-type]


def read(split: Split) -> None:
    for _ in split.batches(4):
        pass


def fit(split: Split) -> None:
    network = keras.Sequential(
        [keras.Input(split.image_shape), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(split.shuffled(2, seed=0, epochs=1), verbose=0)


def change(path: Path) -> None:
    write_image(path, np.zeros(SHAPE, np.uint8))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


CHANGED = "is not the file any more that was checked when the run began"
GONE = "can no longer be read: there is no such file"


@pytest.mark.fault(
    "data: an image deleted, changed or truncated while the run is on",
    "stops; names the file and what became of it",
)
@pytest.mark.parametrize(
    ("memory_limit", "use", "harm", "why"),
    [
        (2048, read, Path.unlink, GONE),
        (2048, read, change, CHANGED),
        (0, read, truncate, CHANGED),
        (0, fit, Path.unlink, GONE),
    ],
)
@pytest.mark.filterwarnings("ignore:.*shuffle=True.*")
def test_a_file_that_is_another_one_since_it_was_checked_is_named(
    tmp_path: Path, memory_limit: int, use: Callable[[Split], None], harm: Callable[[Path], None], why: str
) -> None:
    for part in ("train", "test"):
        write_folder(tmp_path / part, seed=len(part))
    splits = loaded(tmp_path, memory_limit=memory_limit)
    for file in (tmp_path / "train" / "cat").iterdir():
        harm(file)
    with pytest.raises(DataError) as raised, reading():
        use(splits.train)
    text = str(raised.value)
    assert text.startswith(f"{tmp_path / 'train' / 'cat'}/0")
    assert f".png {why}; put it back, or start anew with the files as they are now" in text
    assert "\n" not in text
    with reading():
        use(splits.test)


def test_what_is_kept_in_memory_needs_its_files_no_longer(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_folder(tmp_path / part, seed=len(part))
    splits = loaded(tmp_path)
    read(splits.train)
    shutil.rmtree(tmp_path / "train")
    read(splits.train)
    with pytest.raises(tf.errors.InvalidArgumentError), reading():
        tf.reshape(tf.zeros(3), [2])


class MiniBrokenImage(Mini):
    """Image 13 of train is no image; the record that holds it is whole."""

    SIZES = {"train": 40, "test": 10}  # noqa: RUF012


def break_image(directory: Path) -> None:
    """Writes the set anew with other bytes for one image."""
    file = next(directory.glob("*-train.*"))
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
    example = tf.train.Example.FromString(records[13])
    example.features.feature["image"].bytes_list.value[0] = b"no image"
    records[13] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            writer.write(record)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("broken")
    tfds.disable_progress_bar()
    builder = MiniBrokenImage(data_dir=directory)
    builder.download_and_prepare()
    break_image(Path(builder.data_dir))
    return directory


def broken_splits(directory: Path, **others: object) -> Splits:
    parts = {"train_split": "train[:30]", "validation_split": "train[30:]"}
    return load(DataSettings(name="mini_broken_image", dir=str(directory), **parts, **others), (6, 5, 3))  # type: ignore[arg-type]


@pytest.mark.fault(
    "data: a broken image in a prepared data set",
    "named by its number",
)
def test_a_broken_image_of_a_prepared_set_is_named_by_its_number(broken: Path) -> None:
    splits = broken_splits(broken)
    read(splits.test)
    with pytest.raises(DataError) as raised:
        read(splits.train)
    text = str(raised.value)
    assert text.startswith("mini_broken_image: image 13 of train, counted from 0, cannot be decoded: ")
    assert "Unknown image file format" in text
    assert "function_node" not in text


@pytest.mark.parametrize("use", [read, fit])
@pytest.mark.filterwarnings("ignore:.*shuffle=True.*")
def test_a_broken_image_that_is_streamed_is_said_too(broken: Path, use: Callable[[Split], None]) -> None:
    splits = broken_splits(broken, memory_limit=0)
    with (
        pytest.raises(
            DataError, match=r"an image of the data cannot be decoded: .*Unknown image file format"
        ),
        reading(),
    ):
        use(splits.train)


@pytest.mark.fault(
    "data: a streamed data set damaged or deleted while it is read",
    "stops; names the file and the place",
)
@pytest.mark.parametrize("use", [read, fit])
@pytest.mark.filterwarnings("ignore:.*shuffle=True.*")
def test_a_streamed_set_that_vanishes_is_said(
    prepared: Path, tmp_path: Path, use: Callable[[Split], None]
) -> None:
    shutil.copytree(prepared / "mini", tmp_path / "mini")
    splits = load(DataSettings(name="mini", dir=str(tmp_path), memory_limit=0), (6, 5, 3))
    with reading():
        use(splits.train)
    file = next(tmp_path.rglob("*-train.*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with (
        pytest.raises(DataError, match=r"the data cannot be read any more: corrupted record at \d+"),
        reading(),
    ):
        use(splits.train)
    file.unlink()
    with pytest.raises(DataError, match=r"cannot be read any more: .*mini-train.*; No such file"), reading():
        use(splits.train)
