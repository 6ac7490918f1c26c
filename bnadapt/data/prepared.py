"""Where prepared TensorFlow Datasets sets lie on disk, found with the standard library alone.

The layout is the one of TensorFlow Datasets: ``DIR/NAME[/CONFIG]/VERSION/dataset_info.json``.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bnadapt.config import DataSettings
from bnadapt.errors import DataError

DIGITS = "digits"
"""The set that comes with bnadapt; it prepares itself."""

_NAME = re.compile(r"(?P<name>[A-Za-z_]\w*)(/(?P<config>[^:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class SetName:
    """A TensorFlow Datasets name taken apart; ``str()`` puts it together again."""

    name: str
    config: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{self.name}{config}" + (f":{self.version}" if self.version else "")

    @property
    def is_digits(self) -> bool:
        """Whether this is the set that comes with bnadapt."""
        return self.name == DIGITS and self.config is None


def parse_name(text: str) -> SetName:
    """Take ``NAME``, ``NAME/CONFIG``, ``NAME:VERSION`` or ``NAME/CONFIG:VERSION`` apart.

    Raises:
        DataError: For anything else.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise DataError(
            f"data.name={text}: not a TensorFlow Datasets name; write NAME, NAME/CONFIG or NAME:1.0.0, "
            "such as mnist, cmaterdb/bangla or mnist:3.0.1"
        )
    return SetName(match["name"], match["config"], match["version"])


def data_directory(settings: DataSettings) -> Path:
    """The directory of prepared sets: ``data.dir``, else TFDS_DATA_DIR, else TensorFlow Datasets' default."""
    chosen = settings.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser().absolute()


def prepared_names(directory: Path) -> list[str]:
    """Names of all sets prepared below a directory, ``NAME`` or ``NAME/CONFIG``, sorted."""
    names = []
    for folder in _subfolders(directory):
        if _versions(folder):
            names.append(folder.name)
        names += [f"{folder.name}/{config}" for config in _configs(folder)]
    return sorted(names)


def prepared_versions(directory: Path, wanted: SetName) -> list[str]:
    """Versions of a set in its configuration that are prepared below a directory, lowest first."""
    return _versions(directory / wanted.name / (wanted.config or ""))


def find_prepared(directory: Path, wanted: SetName) -> Path | None:
    """The directory of one version of a set, or None where it is not prepared below the directory.

    Without a version the highest is taken; without a configuration the set's default, else its only one.

    Raises:
        DataError: If the set has several configurations, none is wanted and none is its default.
    """
    folder = directory / wanted.name
    if wanted.config is not None:
        folder /= wanted.config
    elif not _versions(folder):
        config = _implied_config(folder, wanted)
        if config is None:
            return None
        folder /= config
    versions = [each for each in _versions(folder) if wanted.version in (None, each)]
    return folder / versions[-1] if versions else None


def _implied_config(folder: Path, wanted: SetName) -> str | None:
    configs = _configs(folder)
    default = _default_config(folder)
    if default is not None:
        return default
    if len(configs) > 1:
        raise DataError(
            f"data.name={wanted}: the set has several configurations; choose one of "
            f"{', '.join(f'{wanted.name}/{each}' for each in configs)}"
        )
    return configs[0] if configs else None


def _default_config(folder: Path) -> str | None:
    try:
        return json.loads((folder / ".config" / "metadata.json").read_text("utf-8")).get(
            "default_config_name"
        )
    except (OSError, ValueError, AttributeError):
        return None


def _configs(folder: Path) -> list[str]:
    return [each.name for each in _subfolders(folder) if _versions(each)]


def _versions(folder: Path) -> list[str]:
    """Names of the prepared versions in a folder, lowest first."""
    names = [
        each.name
        for each in _subfolders(folder)
        if _VERSION.fullmatch(each.name) and (each / "dataset_info.json").is_file()
    ]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return []
