"""The UCI handwritten digits that come with scikit-learn, as a TensorFlow Datasets set."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from bnadapt.config import DataSettings
from bnadapt.data.prepared import DIGITS, SetName, data_directory, find_prepared
from bnadapt.errors import DataError

TRAIN_SIZE = 1297


class Digits(tfds.core.GeneratorBasedBuilder):
    """1797 images of handwritten digits, 8x8 grey, 1297 to train on and the last 500 to test on.

    The images are the test part of the UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin and
    C. Kaynak, 1998): 13 people, none of whom wrote for the original training part. Their order is kept.
    Writers are not recorded, but the images lie in blocks of about 130 with the same sequence of
    labels, 13 or 14 in all, and cross-validation without shuffling scores lower than with it (a test of
    scikit-learn's KFold rests on that): blocks are most likely writers. The last 500 images begin ten
    images into such a block, so that the test images are mostly by people who wrote no training image.
    A validation part drawn at random from train does share its writers, and scores higher than test.

    Pixel values 0..16 become 0..255: times 255/16, rounded.
    """

    name = DIGITS
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {
            "train": self._generate_examples(slice(None, TRAIN_SIZE)),
            "test": self._generate_examples(slice(TRAIN_SIZE, None)),
        }

    def _generate_examples(self, which: slice) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        pixels = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        for key, (image, label) in enumerate(zip(pixels[which], labels[which], strict=True)):
            yield key, {"image": image, "label": int(label)}


def prepared_digits(settings: DataSettings, version: str | None = None) -> Path:
    """Directory of the prepared digits; they are prepared first where they are not yet.

    Looked for in the directory of prepared sets, then in the user's cache. Prepared in ``data.dir``
    where it is set and can be written to, else below ``$XDG_CACHE_HOME/bnadapt/tfds`` (``~/.cache``
    without that variable). Several processes may do this at once.

    Raises:
        DataError: If another version is wanted, or neither directory can be written to.
    """
    places = [data_directory(settings), _cache()]
    for place in places:
        found = find_prepared(place, SetName(DIGITS, None, version))
        if found is not None:
            return found
    if version not in (None, str(Digits.VERSION)):
        raise DataError(f"data.name={DIGITS}:{version}: there is only {DIGITS}:{Digits.VERSION}")
    failures = []
    for place in places if settings.dir else places[1:]:
        try:
            return _prepare(place)
        except OSError as error:
            failures.append(f"{place}: {error.strerror or error}")
    raise DataError(
        f"data.name={DIGITS}: nowhere to prepare it ({'; '.join(failures)}); "
        "set data.dir or XDG_CACHE_HOME to a directory that can be written to"
    )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "bnadapt" / "tfds"


def _prepare(place: Path) -> Path:
    """Prepare the set in a directory of this process's own and move it into place in one step."""
    final = place / DIGITS / str(Digits.VERSION)
    final.parent.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=".digits-", dir=place))
    try:
        # Bars and messages on both streams are TFDS's own; the set is made within a fraction of a second.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            Digits(data_dir=own).download_and_prepare()
        try:
            (own / DIGITS / final.name).rename(final)
        except OSError:
            if not (final / "dataset_info.json").is_file():
                raise
            # Another process was first; its copy is the same.
        return final
    finally:
        shutil.rmtree(own, ignore_errors=True)
