"""Image files as the world makes them: every one is read as viewers show it, or named with the reason."""

import io
import os
import socket
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import write_folder, write_image

from bnadapt.config import DataSettings
from bnadapt.data.image_tree import read_tree
from bnadapt.data.load import describe, load
from bnadapt.data.splits import Splits
from bnadapt.errors import DataError

SHAPE = (10, 12, 3)
COLOURS = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)


def folder(root: Path, **others: object) -> DataSettings:
    return DataSettings(source="folder", path=str(root), **others)  # type: ignore[arg-type]


def loaded(root: Path, shape: tuple[int, ...] = SHAPE, **others: object) -> Splits:
    return load(folder(root, **others), shape)


def refusal(root: Path, shape: tuple[int, ...] = SHAPE, **others: object) -> str:
    started = time.monotonic()
    with pytest.raises(DataError) as raised:
        loaded(root, shape, **others)
    assert time.monotonic() - started < 10
    return str(raised.value)


def png(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tile(COLOURS, (8, 8, 1))).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as waiting:
        here = os.open(path.parent, os.O_RDONLY)
        os.fchdir(here)  # the name of a socket may have 107 bytes
        os.close(here)
        waiting.bind(path.name)


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**30 + 1)


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated JPEG": ("a.jpg", content(encoded("JPEG")[:-900]), "image file is truncated"),
    "truncated PNG": ("a.png", content(encoded("PNG")[:-900]), ""),
    "truncated WebP": ("a.webp", content(encoded("WEBP")[:-900]), ""),
    "header alone": ("a.png", content(encoded("PNG")[:33]), ""),
    "PNG with a wrong checksum": ("a.png", content(encoded("PNG").replace(b"IDAT", b"IDAU", 1)), ""),
    "text called PNG": (
        "a.png",
        content(b"no image"),
        "not an image of a known format (JPEG, PNG, BMP, GIF, WEBP)",
    ),
    "web page called JPEG": (
        "a.jpg",
        content(b"<!DOCTYPE html><html>404</html>"),
        "not an image of a known format",
    ),
    "TIFF called PNG": ("a.png", content(encoded("TIFF")), "not an image of a known format"),
    "zero bytes": ("a.bmp", content(b""), "the file is empty"),
    "nothing but zeros": ("a.gif", content(bytes(5000)), "not an image of a known format"),
    "bomb": (
        "a.png",
        content(png(30000, 30000)),
        "it would have more than 89,478,485 pixels; make a smaller copy",
    ),
    "half a bomb": ("a.png", content(png(10000, 10000)), "it would have more than 89,478,485 pixels"),
    "pipe": ("a.png", os.mkfifo, "a named pipe and no file"),
    "socket": ("a.png", bound, "a socket and no file"),
    "device": ("a.png", lambda path: path.symlink_to("/dev/zero"), "a device and no file"),
    "link to itself": ("a.png", lambda path: path.symlink_to("a.png"), "too many levels of symbolic links"),
    "link to nothing": ("a.png", lambda path: path.symlink_to("gone.png"), "a link that leads nowhere"),
    "more than a GiB": ("a.png", sparse, "1,073,741,825 bytes are more than the 1,073,741,824 that are read"),
    "odd name": ("a\n\x1b[31mb.png", content(b"no image"), "not an image of a known format"),
}


@pytest.fixture(autouse=True)
def same_directory() -> Iterator[None]:
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.mark.fault(
    "data: images truncated, mislabelled, empty, bombs, pipes, devices, dead links",
    "named with the reason within 10 seconds, before anything trains",
)
@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.filterwarnings("always")
def test_what_cannot_be_decoded_is_named_with_the_reason_within_seconds(tmp_path: Path, case: str) -> None:
    name, make, why = BROKEN[case]
    write_folder(tmp_path)
    make(tmp_path / "cat" / name)
    with warnings.catch_warnings(record=True) as said:
        assert describe(folder(tmp_path)).channels == 3
        text = refusal(tmp_path)
    assert not said
    assert text.startswith("1 image file cannot be decoded; mend or remove what is named here, or set ")
    shown = name.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert text.splitlines()[1].startswith(f"  {tmp_path / 'cat' / shown}: ")
    reason = text.splitlines()[1].partition(f"{shown}: ")[2]
    assert reason
    assert why in reason
    left = loaded(tmp_path, skip_corrupt=True)
    assert left.train.size + left.validation.size + left.test.size == 12


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat" / "00.png").chmod(0)
    assert "00.png: permission denied" in refusal(tmp_path)
    (tmp_path / "cat").chmod(0)
    text = refusal(tmp_path)
    (tmp_path / "cat").chmod(0o755)
    assert f"{tmp_path / 'cat'} cannot be read: Permission denied" in text


def frames(kind: str, **options: object) -> bytes:
    red, blue = (Image.new("RGB", (12, 10), colour) for colour in ("red", "blue"))
    buffer = io.BytesIO()
    red.save(buffer, kind, save_all=True, append_images=[blue], **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = np.zeros((12, 10, 3), np.uint8)
    picture[-1, 0] = 255  # the lower left corner is the upper left one of the upright picture
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", exif=exif, quality=100, subsampling=0)
    return buffer.getvalue()


def single(mode: str, value: object, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (12, 10), value).save(buffer, kind)  # type: ignore[arg-type]
    return buffer.getvalue()


READ: dict[str, tuple[str, bytes, list[int]]] = {
    "PNG called JPEG": ("a.jpg", single("RGB", (255, 0, 0), "PNG"), [255, 0, 0]),
    "CMYK": ("a.jpg", single("CMYK", (0, 255, 255, 0), "JPEG"), [255, 0, 0]),
    "grey": ("a.jpg", single("L", 128, "JPEG"), [128] * 3),
    "grey with opacity": ("a.png", single("LA", (10, 0), "PNG"), [255] * 3),
    "one bit": ("a.png", single("1", 1, "PNG"), [255] * 3),
    "palette": ("a.bmp", single("P", 0, "BMP"), [0] * 3),
    "16 bits": ("a.png", single("I;16", 257 * 77, "PNG"), [77] * 3),
    "animated GIF": ("a.gif", frames("GIF"), [255, 0, 0]),
    "animated WebP": ("a.webp", frames("WEBP", lossless=True), [255, 0, 0]),
    "animated PNG": ("a.png", frames("PNG"), [255, 0, 0]),
    "turned by EXIF": ("a.jpg", turned(), [255] * 3),
}


@pytest.mark.fault(
    "data: images CMYK, grey, one bit, 16 bits, animated, turned by EXIF, PNG called JPEG",
    "read as viewers show them",
)
@pytest.mark.parametrize("case", READ)
@pytest.mark.filterwarnings("error")
def test_odd_files_are_read_as_viewers_show_them(tmp_path: Path, case: str) -> None:
    name, data, corner = READ[case]
    for part in ("train", "validation", "test"):
        write_folder(tmp_path / part, count=2)
    (tmp_path / "test" / "cat" / name).write_bytes(data)
    images = np.stack([image for image, _ in loaded(tmp_path).test.examples.as_numpy_iterator()])
    assert images.shape == (5, *SHAPE)  # sorted: the two of the class, then this one
    np.testing.assert_allclose(images[2, 0, 0].astype(int), corner, atol=5)


def opacity_folder(root: Path, count: int = 6) -> np.ndarray:
    pixels = np.random.default_rng(4).integers(0, 256, (2 * count, 6, 5, 4), np.uint8)
    for number, each in enumerate(pixels):
        write_image(root / ("cat", "dog")[number // count] / f"{number:02}.png", each)
    return pixels


@pytest.mark.fault(
    "odd: images of four channels",
    "exact for a network of four channels, over white for others",
)
def test_a_network_of_four_channels_gets_opacity_and_others_what_is_seen(tmp_path: Path) -> None:
    pixels = np.concatenate([opacity_folder(tmp_path / part) for part in ("train", "val", "test")])
    description = describe(folder(tmp_path))
    assert (description.image_shape, description.channels) == ((6, 5, 3), 3)
    four = loaded(tmp_path, (6, 5, 4))
    found = np.stack([image for image, _ in four.test.examples.as_numpy_iterator()])
    np.testing.assert_array_equal(found, pixels[:12])
    assert not any("converted" in note or "opacity" in note for note in four.notes)
    three = np.stack([image for image, _ in loaded(tmp_path, (6, 5, 3)).test.examples.as_numpy_iterator()])
    opacity = pixels[:12, ..., 3:] / 255
    np.testing.assert_allclose(three, pixels[:12, ..., :3] * opacity + 255 * (1 - opacity), atol=1)
    assert loaded(tmp_path, (6, 5, 1)).test.image_shape == (6, 5, 1)


def test_images_without_opacity_are_opaque_and_it_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path)
    splits = loaded(tmp_path, (10, 12, 4))
    images = np.stack([image for image, _ in splits.train.examples.as_numpy_iterator()])
    assert (images[..., 3] == 255).all()
    assert (
        "the fourth channel is opacity: no image has transparent pixels, it is 255 all over them"
        in splits.notes
    )
    assert "images are converted from 3 to 4 channels, opacity is added" in splits.notes
    write_image(tmp_path / "cat" / "99.png", np.zeros((10, 12, 4), np.uint8))
    more = loaded(tmp_path, (10, 12, 4)).notes
    assert "12 of 13 images are converted from 3 to 4 channels, opacity is added" in more
    seen = loaded(tmp_path, (10, 12, 3)).notes
    assert "1 of 13 images are converted from 4 to 3 channels, what is transparent becomes white" in seen
    assert (
        "the fourth channel is opacity: 12 of 13 images have no transparent pixels, it is 255 all over them"
        in more
    )


NAMES = (
    "قطة", "猫", "🐈\u200d⬛", "e\u0301te", "mit Leerzeichen ", "two\nlines", "\u202eright", "no", "1e3", "null", "~",
    "-rf", "--help", "{a: b}", "'", "a..", "x" * 255, "ñ" * 127, "\x1b[31m", "a,b", "%s", "C:\\x",
)  # fmt: skip


@pytest.mark.fault(
    "data: class names in any script, with control characters, as long as may be",
    "all read; shown so that they can be printed",
)
def test_classes_may_have_any_name(tmp_path: Path) -> None:
    for name in NAMES:
        write_folder(tmp_path / "train", classes=(name,), count=2)
        write_folder(tmp_path / "test", classes=(name,), count=1)
    splits = loaded(tmp_path)
    assert len(splits.classes) == len(NAMES)
    assert all(each.isprintable() or "\u200d" in each for each in splits.classes)
    assert {
        "no",
        "1e3",
        "null",
        "-rf",
        "猫",
        "قطة",
        "🐈\u200d⬛",
        "éte",
        "two\\nlines",
        "\\u202eright",
    } <= set(splits.classes)
    assert np.bincount(splits.test.labels()).tolist() == [1] * len(NAMES)
    assert np.bincount(splits.train.labels()).min() >= 1
    for note in splits.notes:
        note.encode()
        assert "\x1b" not in note


@pytest.mark.fault(
    "data: class names that are no Unicode",
    "read under names that can be written",
)
def test_folders_that_are_no_unicode_have_names_that_can_be_written(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("a",))
    try:
        write_folder(tmp_path, classes=(b"\xff\xfe".decode("utf-8", "surrogateescape"),))
    except OSError:
        pytest.skip("this file system refuses such names")
    assert loaded(tmp_path).classes == ("\\udcff\\udcfe", "a")


def test_two_spellings_of_one_class_in_one_part_are_not_mixed_up(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("\u00e9", "e\u0301", "b"))
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system takes both spellings for one name")
    text = refusal(tmp_path)
    assert "two folders are the class é in different spellings of Unicode ('e\\u0301' and '\\xe9')" in text


@pytest.mark.parametrize("where", ["", "cat"])
def test_links_and_pipes_among_folders_are_passed_over(tmp_path: Path, where: str) -> None:
    write_folder(tmp_path)
    (tmp_path / where / "loop").symlink_to("loop")
    (tmp_path / where / "up").symlink_to(".." if where else "gone")
    os.mkfifo(tmp_path / where / "pipe")
    names = ", ".join((Path(where) / name).as_posix() for name in ("loop", "pipe", "up"))
    assert f"passed over, no images of a class: {names} (3 in all)" in loaded(tmp_path).notes


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "~nobody-of-this-name/x"])
def test_impossible_paths_are_refused_in_words(path: str) -> None:
    with pytest.raises(DataError, match=r"make one folder per class"):
        read_tree(path)


@pytest.mark.fault(
    "data: a thousand classes of one or two images",
    "read in 20 seconds; messages stay short",
)
def test_a_thousand_classes_are_quick_and_never_all_named(tmp_path: Path) -> None:
    """Each class once in train; every second one has an image more."""
    data = encoded("PNG")
    for number in range(1000):
        for copy in range(1 + number % 2):
            path = tmp_path / f"class {number:03}" / f"{copy}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(
                data + bytes([number % 256, number // 256, copy])
            )  # behind the end: another file
    started = time.monotonic()
    splits = loaded(tmp_path, (8, 8, 3))
    assert time.monotonic() - started < 20
    assert len(set(splits.train.labels().tolist())) == 1000
    assert all(len(note) < 400 for note in splits.notes)
    assert any(
        note.startswith("test has no image of class 000, ") and "more" in note for note in splits.notes
    )
    for each in tmp_path.glob("*/*.png"):
        each.write_bytes(b"")
    assert len(refusal(tmp_path)) < 3000
    assert len(refusal(tmp_path, skip_corrupt=True)) < 3000
    for each in tmp_path.glob("*/*.png"):
        each.unlink()
    assert len(refusal(tmp_path)) < 500


@pytest.mark.fault(
    "data: an empty split",
    "refused; the message names the split",
)
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("test", "test holds no class folders"),
        ("test/cat", "no images in cat"),
    ],
)
def test_an_empty_part_is_said(tmp_path: Path, part: str, message: str) -> None:
    write_folder(tmp_path / "train")
    (tmp_path / part).mkdir(parents=True)
    (tmp_path / "test" / "notes.txt").touch()
    assert message in refusal(tmp_path)


@pytest.mark.fault(
    "data: too few images to hold any out",
    "refused, with what would work",
)
def test_too_few_images_to_hold_any_out(tmp_path: Path) -> None:
    write_folder(tmp_path, count=1)
    assert (
        "no images are left for train: train has 2; give more images, or smaller data.validation"
        in refusal(tmp_path)
    )
