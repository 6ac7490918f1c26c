from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import write_folder, write_image

from bnadapt.config import DataSettings
from bnadapt.data.image_files import ImageFolder, decode
from bnadapt.data.load import describe, load
from bnadapt.data.splits import Split, Splits
from bnadapt.errors import DataError

COLOURS = np.random.default_rng(1).integers(0, 256, (10, 12, 3), np.uint8)
GREY = COLOURS[..., 0]


def decoded(path: Path, channels: int = 3) -> np.ndarray:
    with Image.open(path) as image:
        return decode(image, channels)


def loaded(root: Path, shape: tuple[int, int, int] = (10, 12, 3), **others: object) -> Splits:
    return load(DataSettings(source="folder", path=str(root), **others), shape)  # type: ignore[arg-type]


def images_of(split: Split) -> np.ndarray:
    return np.concatenate([images for images, _ in split.batches(7).as_numpy_iterator()])


@pytest.mark.parametrize("extension", ["png", "bmp"])
def test_lossless_formats_are_read_exactly(tmp_path: Path, extension: str) -> None:
    found = decoded(write_image(tmp_path / f"a.{extension}", COLOURS))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, COLOURS)


def test_lossless_webp(tmp_path: Path) -> None:
    np.testing.assert_array_equal(decoded(write_image(tmp_path / "a.webp", COLOURS, lossless=True)), COLOURS)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 32)[None, :, None], (32, 32, 3)).astype(np.uint8)
    found = decoded(write_image(tmp_path / "a.jpg", smooth, quality=95)).astype(int)
    np.testing.assert_allclose(found, smooth, atol=4)


def test_grey_png(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(decoded(path, 1)[..., 0], GREY)
    np.testing.assert_array_equal(decoded(path, 3), np.repeat(GREY[..., None], 3, axis=-1))


def test_colours_become_luma(tmp_path: Path) -> None:
    found = decoded(write_image(tmp_path / "a.png", COLOURS), 1)[..., 0]
    np.testing.assert_allclose(found, COLOURS @ [0.299, 0.587, 0.114], atol=1)


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert decoded(tmp_path / "a.png", 1)[..., 0].tolist() == [[0, 1, 1, 128, 253, 255]]
    assert decoded(tmp_path / "a.png", 3).shape == (1, 6, 3)


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False, True]])).save(tmp_path / "a.png")
    assert decoded(tmp_path / "a.png", 1)[..., 0].tolist() == [[255, 0, 255]]


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(decoded(tmp_path / "a.jpg")[8, 8].astype(int), [255, 0, 0], atol=6)


def test_a_palette_becomes_rgb_and_its_transparent_colour_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=1)
    assert decoded(tmp_path / "a.png").tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_opacity_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert decoded(tmp_path / "a.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decoded(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_images_are_turned_as_the_camera_was(tmp_path: Path, orientation: int, upright: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(tmp_path / "a.png", COLOURS, exif=exif)
    np.testing.assert_array_equal(decoded(path), upright(COLOURS))  # type: ignore[operator]


def test_broken_exif_does_not_matter(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", COLOURS, exif=b"Exif\0\0no tags at all")
    assert decoded(path).shape == (10, 12, 3)


def test_a_wrong_extension_is_no_matter(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat" / "00.png").rename(tmp_path / "cat" / "00.jpg")
    splits = loaded(tmp_path)
    assert splits.train.size + splits.validation.size + splits.test.size == 12
    assert images_of(splits.train).shape == (splits.train.size, 10, 12, 3)


def test_images_and_labels_arrive_as_they_were_written(tmp_path: Path) -> None:
    for part, seed in (("train", 1), ("val", 2), ("test", 3)):
        write_folder(tmp_path / part, count=5, seed=seed)
    splits = loaded(tmp_path)
    assert splits.name == tmp_path.name
    assert splits.classes == ("cat", "dog")
    for split, seed in ((splits.train, 1), (splits.validation, 2), (splits.test, 3)):
        expected = np.random.default_rng(seed).integers(0, 256, (10, 10, 12, 3), np.uint8)
        np.testing.assert_array_equal(images_of(split), expected)
        assert split.labels().tolist() == [0] * 5 + [1] * 5
    assert splits.notes == ()


def test_streamed_images_are_those_in_memory(tmp_path: Path) -> None:
    write_folder(tmp_path, count=20)
    kept, streamed = loaded(tmp_path, (8, 8, 3)), loaded(tmp_path, (8, 8, 3), memory_limit=0)
    assert kept.digest == streamed.digest
    np.testing.assert_array_equal(images_of(kept.test), images_of(streamed.test))
    for first, second in zip(
        kept.train.shuffled(4, seed=1, epochs=2), streamed.train.shuffled(4, seed=1, epochs=2), strict=True
    ):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    assert "train: decoded anew in every pass, more than data.memory_limit=0 MiB" in streamed.notes


def test_images_of_various_sizes_are_resized_and_it_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_image(tmp_path / "cat" / "large.png", np.zeros((40, 30, 3), np.uint8))
    description = describe(DataSettings(source="folder", path=str(tmp_path)))
    assert (description.image_shape, description.channels) == (None, 3)
    splits = loaded(tmp_path, (16, 16, 3))
    assert images_of(splits.train).shape[1:] == (16, 16, 3)
    assert "images of various sizes are resized to 16x16 pixels" in splits.notes


def test_the_size_is_known_where_all_images_share_it_upright(tmp_path: Path) -> None:
    write_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "cat" / "turned.png", np.zeros((12, 10, 3), np.uint8), exif=exif)
    assert describe(DataSettings(source="folder", path=str(tmp_path))).image_shape == (10, 12, 3)


def test_a_folder_of_grey_images_has_one_channel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(4):
            write_image(tmp_path / name / f"{number}.png", GREY + np.uint8(number))
    settings = DataSettings(source="folder", path=str(tmp_path))
    assert describe(settings).image_shape == (10, 12, 1)
    assert "images are converted from 1 to 3 channels" in load(settings, (10, 12, 3)).notes
    write_image(tmp_path / "b" / "colours.png", COLOURS)
    assert describe(settings).channels == 3


def broken_folder(root: Path) -> Path:
    write_folder(root)
    whole = write_image(
        root / "cat" / "whole.jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    )
    content = whole.read_bytes()
    (root / "cat" / "cut.jpg").write_bytes(content[: len(content) * 3 // 4])
    (root / "dog" / "empty.png").touch()
    (root / "dog" / "text.gif").write_text("no image")
    png = (root / "dog" / "00.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(png[: len(png) // 2])
    return root


def test_broken_images_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        loaded(broken_folder(tmp_path))
    text = str(raised.value)
    assert text.startswith(
        "4 image files cannot be decoded; mend or remove what is named here, or set "
        "data.skip_corrupt=true to go on without:\n"
    )
    assert f"{tmp_path / 'cat' / 'cut.jpg'}: image file is truncated" in text
    assert f"{tmp_path / 'dog' / 'empty.png'}: the file is empty" in text
    assert f"{tmp_path / 'dog' / 'text.gif'}: not an image of a known format (JPEG, PNG" in text
    assert f"{tmp_path / 'dog' / 'cut.png'}: " in text


@pytest.mark.fault(
    "data: broken images with data.skip_corrupt=true",
    "left out and named",
)
def test_broken_images_are_left_out_where_asked_for_and_named(tmp_path: Path) -> None:
    splits = loaded(broken_folder(tmp_path), skip_corrupt=True)
    assert splits.train.size + splits.validation.size + splits.test.size == 13
    note = next(note for note in splits.notes if "left out" in note)
    assert note.startswith("4 image files left out that cannot be decoded:\n")
    assert str(tmp_path / "dog" / "empty.png") in note
    assert images_of(splits.train).shape == (splits.train.size, 10, 12, 3)
    assert "of the 13 images of train" in splits.notes[0]


def test_a_broken_test_image_is_found_before_training(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", seed=1)
    (tmp_path / "test" / "dog" / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"1 image file cannot be decoded"):
        loaded(tmp_path)


def test_a_class_of_broken_images_alone(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel" / "1.png").touch()
    with pytest.raises(
        DataError, match=r"no image of eel in train can be decoded; mend some of them or remove"
    ):
        loaded(tmp_path, skip_corrupt=True)


def test_what_is_no_image_is_mentioned(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat" / "notes.txt").touch()
    assert "passed over, no images of a class: cat/notes.txt (1 in all)" in loaded(tmp_path).notes


@pytest.mark.fault(
    "data: one class",
    "refused",
)
def test_one_class_is_not_enough(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("cat",))
    with pytest.raises(DataError, match=r"has one class \(cat\); at least two are needed"):
        describe(DataSettings(source="folder", path=str(tmp_path)))


def test_file_names_need_not_be_valid_unicode(tmp_path: Path) -> None:
    write_folder(tmp_path)
    odd = tmp_path / "cat" / b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    try:
        (tmp_path / "cat" / "00.png").rename(odd)
    except OSError:
        pytest.skip("this file system refuses such names")
    assert images_of(loaded(tmp_path).train).shape[1:] == (10, 12, 3)


def test_a_changed_image_changes_the_digest(tmp_path: Path) -> None:
    write_folder(tmp_path)
    before = loaded(tmp_path).digest
    assert loaded(tmp_path).digest == before
    write_image(tmp_path / "dog" / "03.png", COLOURS)
    assert loaded(tmp_path).digest != before


def test_a_source_says_what_parts_it_has(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", seed=1, count=2)
    source = ImageFolder(DataSettings(source="folder", path=str(tmp_path)))
    assert [source.part(role) for role in ("train", "validation", "test")] == ["train", None, "test"]
    assert source.sizes == {"train": 12, "test": 4}
