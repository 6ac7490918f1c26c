"""Images in one folder per class, read with Pillow."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from bnadapt.config import DataSettings
from bnadapt.data.image_tree import ImageTree, read_tree
from bnadapt.data.records import Records
from bnadapt.data.regular import hindrance, read_regular
from bnadapt.data.wording import listing, printable
from bnadapt.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
# Headers looked at to learn whether all images have one size and whether any has colour.
_SAMPLED_HEADERS = 500
_NAMED_FILES = 10
_LARGEST_FILE = 2**30
_ORIENTATION = 0x0112
_ON_ITS_SIDE = range(5, 9)

_Failure = tuple[Path, str]


@dataclass(frozen=True)
class _Checked:
    """An image file that decodes.

    Attributes:
        digest: SHA-256 of the file.
        pixels: SHA-256 of size and pixels, as the network gets them but for their size.
        channels: Of the picture in the file: 1 grey, 2 grey and opacity, 3 RGB, 4 RGB and opacity.
        opaque: Whether no pixel is transparent.
    """

    digest: bytes
    pixels: bytes
    channels: int
    opaque: bool


class ImageFolder:
    """A :class:`~bnadapt.data.records.Source` over class folders."""

    def __init__(self, settings: DataSettings):
        """List the files and look at some headers; ``path`` and ``skip_corrupt`` of the settings are used.

        Raises:
            DataError: As :func:`~bnadapt.data.image_tree.read_tree` does.
        """
        self._tree: ImageTree = read_tree(settings.path or "")
        self._skip_corrupt = settings.skip_corrupt
        self.name = printable(self._tree.root.name)
        self.classes = self._tree.classes
        self.sizes = {part: len(files) for part, files in self._tree.parts.items()}
        self.image_shape, self.channels = _sampled_shape(self._tree)

    def part(self, role: str) -> str | None:
        """The part of the same name, where there is a folder for it."""
        return role if role in self.sizes else None

    def read(self, parts: list[str], channels: int) -> tuple[dict[str, Records], list[str]]:
        """Read and decode every file once, to find the broken ones; only digests are kept.

        Raises:
            DataError: If files cannot be decoded and may not be left out, or a class has none left.
        """
        records: dict[str, Records] = {}
        failures: list[_Failure] = []
        found: list[_Checked] = []
        for part in parts:
            files = self._tree.parts[part]
            with _bombs_as_errors(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                checked = list(pool.map(lambda file: _check(file[0], channels), files))
            good = []
            for (path, label), result in zip(files, checked, strict=True):
                if isinstance(result, _Checked):
                    good.append((path, label, result))
                else:
                    failures.append((path, result))
            found += [each for _, _, each in good]
            records[part] = _records(good, channels)
        self._judge(failures, records)
        notes = self._notes(failures) + _channel_notes([each.channels for each in found], channels)
        return records, notes + (_opacity_notes([each.opaque for each in found]) if channels == 4 else [])

    def _judge(self, failures: list[_Failure], records: dict[str, Records]) -> None:
        if failures and not self._skip_corrupt:
            raise DataError(
                f"{_files(failures)} cannot be decoded; mend or remove what is named here, or set "
                f"data.skip_corrupt=true to go on without:{_named(failures, _NAMED_FILES)}"
            )
        for part, left in records.items():
            present = set(left.labels.tolist())
            lost = [name for label, name in enumerate(self.classes) if label not in present]
            if lost:
                raise DataError(
                    f"no image of {listing(lost)} in {part} can be decoded; mend some of them or remove "
                    f"the class:{_named(failures, _NAMED_FILES)}"
                )

    def _notes(self, failures: list[_Failure]) -> list[str]:
        notes = []
        if failures:
            notes.append(f"{_files(failures)} left out that cannot be decoded:{_named(failures)}")
        names = self._tree.passed_over
        if names:
            shown = ", ".join(names[:_NAMED_FILES]) + (", ..." if len(names) > _NAMED_FILES else "")
            notes.append(f"passed over, no images of a class: {shown} ({len(names)} in all)")
        return notes


def decode(opened: Image.Image, channels: int) -> np.ndarray:
    """The first frame of an opened image, upright, as uint8 of shape ``(height, width, channels)``.

    Turned as its EXIF orientation says; 16 bits are scaled to 8; CMYK and palettes become RGB; 1 channel is
    the luma of ITU-R 601. What is transparent becomes white, except that 4 channels are RGB and opacity.
    """
    image = _upright(opened)
    if channels == 4:
        return np.asarray(image.convert("RGBA"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _upright(opened: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
        # Pillow's own conversion cuts 16-bit values off at 255 instead of scaling them.
        values = np.round(np.asarray(image).astype(np.float64) / 257)
        image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return image


def _decode_checked(path: Path, digest: bytes, channels: int) -> np.ndarray:
    """The pixels of a file that was checked before.

    Raises:
        DataError: it is gone, or another file than was checked.
    """
    try:
        content = read_regular(path, _LARGEST_FILE)
    except ValueError as error:
        why = f"can no longer be read: {error}"
    else:
        if hashlib.sha256(content).digest() == digest:
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                return decode(opened, channels)
        why = "is not the file any more that was checked when the run began"
    raise DataError(
        f"{printable(path)} {why}; put it back, or start anew with the files as they are now "
        "(a copy that nobody else changes is safest)"
    )


def _records(files: list[tuple[Path, int, _Checked]], channels: int) -> Records:
    paths = [path for path, _, _ in files]
    digests = [checked.digest for _, _, checked in files]
    labels = np.array([label for _, label, _ in files], np.int64)

    def select(indices: np.ndarray) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((indices.astype(np.int64), labels[indices]))

    def image(index: tf.Tensor) -> tf.Tensor:
        # Positions travel through TensorFlow instead of paths: file names need not be valid Unicode.
        pixels = tf.numpy_function(
            lambda chosen: _decode_checked(paths[chosen], digests[chosen], channels), [index], tf.uint8
        )
        return tf.ensure_shape(pixels, (None, None, channels))

    pixels = [checked.pixels for _, _, checked in files]
    return Records(labels, digests, select, image, block=max(1, len(files)), pixels=pixels)


def _check(path: Path, channels: int) -> _Checked | str:
    """What is to be known of a file that decodes, or the reason why it does not."""
    try:
        content = read_regular(path, _LARGEST_FILE)
        if not content:
            return "the file is empty"
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            stored = _stored_channels(image)
            pixels = decode(image, channels)
            opaque = pixels.shape[-1] != 4 or bool((pixels[..., 3] == 255).all())
    except UnidentifiedImageError:
        return f"not an image of a known format ({', '.join(FORMATS)})"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"it would have more than {Image.MAX_IMAGE_PIXELS:,} pixels; make a smaller copy of it"
    except Exception as error:  # Pillow's readers raise nearly anything on what they do not expect.
        return printable(str(error) or type(error).__name__)
    shape = np.array(pixels.shape, "<i8").tobytes()
    return _Checked(
        hashlib.sha256(content).digest(),
        hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).digest(),
        stored,
        opaque,
    )


@contextmanager
def _bombs_as_errors() -> Iterator[None]:
    """Files that would decode to far more pixels than any photo has raise, instead of a line on the terminal.

    Filters of warnings belong to the whole process: for the thread that waits for all others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _stored_channels(image: Image.Image) -> int:
    return (1 if _is_grey(image) else 3) + image.has_transparency_data


def _is_grey(image: Image.Image) -> bool:
    return image.mode[0] in "1LI"


def _channel_notes(stored: Sequence[int], channels: int) -> list[str]:
    notes = []
    for present in sorted(set(stored) - {channels}):
        count = stored.count(present)
        which = "images are" if count == len(stored) else f"{count:,} of {len(stored):,} images are"
        how = ""
        if present in (2, 4) and channels != 4:
            how = ", what is transparent becomes white"
        elif present in (1, 3) and channels == 4:
            how = ", opacity is added"
        notes.append(f"{which} converted from {present} to {channels} channel{'s' * (channels != 1)}{how}")
    return notes


def _opacity_notes(opaque: Sequence[bool]) -> list[str]:
    if not any(opaque):
        return []
    some = "no image has" if all(opaque) else f"{sum(opaque):,} of {len(opaque):,} images have no"
    return [f"the fourth channel is opacity: {some} transparent pixels, it is 255 all over them"]


def _sampled_shape(tree: ImageTree) -> tuple[tuple[int, ...] | None, int]:
    files = [path for part in tree.parts.values() for path, _ in part]
    step = max(1, len(files) // _SAMPLED_HEADERS)
    with _bombs_as_errors():
        headers = {header for header in map(_header, files[::step]) if header is not None}
    channels = 1 if headers and all(grey for _, _, grey in headers) else 3
    sizes = {(height, width) for height, width, _ in headers}
    if len(sizes) != 1:
        return None, channels
    height, width = sizes.pop()
    return (height, width, channels), channels


def _header(path: Path) -> tuple[int, int, bool] | None:
    """Height, width, and whether it is grey, as the image will be decoded; None for what cannot be read."""
    if hindrance(path) is not None:
        return None
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE:
                width, height = height, width
            return height, width, _is_grey(image)
    except Exception:  # What is wrong with it is said when the images are read.
        return None


def _files(failures: Sequence[_Failure]) -> str:
    return "1 image file" if len(failures) == 1 else f"{len(failures)} image files"


def _named(failures: Sequence[_Failure], limit: int | None = None) -> str:
    lines = [f"\n  {printable(path)}: {why}" for path, why in failures]
    more = f"\n  and {len(lines) - limit} more" if limit is not None and len(lines) > limit else ""
    return "".join(lines[:limit]) + more
