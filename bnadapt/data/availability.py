"""Whether the data are there, said within about a second and without TensorFlow."""

import difflib
from pathlib import Path

from bnadapt.config import DataSettings
from bnadapt.data.image_tree import read_tree
from bnadapt.data.prepared import (
    DIGITS,
    SetName,
    data_directory,
    find_prepared,
    parse_name,
    prepared_names,
    prepared_versions,
)
from bnadapt.data.table_files import require_table
from bnadapt.data.wording import listing, printable
from bnadapt.errors import DataError

_SHOWN_NAMES = 20


def check_available(settings: DataSettings) -> None:
    """Return if the data can be expected to load: the folder has its classes, the table names, the set is prepared.

    Opens no image and imports no TensorFlow. A set that is to be downloaded is left to TensorFlow
    Datasets, and ``digits`` prepares itself.

    Raises:
        DataError: If a directory, a set or images of a class are missing; the message lists names that
            are close to the wanted one and says how to get the set.
    """
    if settings.source == "folder":
        tree = read_tree(settings.path or "")
        if len(tree.classes) < 2:
            raise DataError(
                f"data.path={printable(settings.path)}: holds one class folder ({listing(tree.classes)}); at least 2 "
                "are needed"
            )
        return
    if settings.source == "table":
        require_table(settings.path or "", settings.label_column)
        return
    wanted = parse_name(settings.name or "")
    if wanted.is_digits or settings.download:
        return
    if find_prepared(data_directory(settings), wanted) is None:
        raise not_prepared(wanted, data_directory(settings))


def not_prepared(wanted: SetName, directory: Path) -> DataError:
    """The error for a set that is not below the directory, with the nearest names and what would work."""
    prepared, official = prepared_names(directory), official_names()
    missing = "" if directory.is_dir() else ", which does not exist"
    lines = [f"data.name={wanted}: not prepared in {directory}{missing}"]
    versions = prepared_versions(directory, wanted)
    if versions:
        lines.append(f"versions prepared there: {', '.join(versions)}")
    if wanted.name in official:
        lines.append(f"to fetch it: data.name={wanted} data.download=true")
    elif not versions:
        lines.append("TensorFlow Datasets has no set of that name")
    close = close_names(wanted, [*prepared, DIGITS, *official])
    if close:
        lines.append(f"close names: {', '.join(close)}")
    shown = prepared[:_SHOWN_NAMES] + ["..."] * (len(prepared) > _SHOWN_NAMES)
    lines.append(f"prepared there: {', '.join(shown) or 'nothing'}")
    lines.append("another directory of prepared sets: data.dir=DIR, or the variable TFDS_DATA_DIR")
    return DataError("\n  ".join(lines))


def close_names(wanted: SetName, names: list[str]) -> list[str]:
    """At most five of the names that look like the wanted one, nearest first, without the name itself."""
    text = str(SetName(wanted.name, wanted.config)).lower()
    near = [*difflib.get_close_matches(text, names, n=5), *difflib.get_close_matches(wanted.name, names, n=5)]
    return [name for name in dict.fromkeys(near) if name != text][:5]


def official_names() -> list[str]:
    """Names of all sets that the installed TensorFlow Datasets can fetch; needs no network, no TensorFlow."""
    # Imported here because it takes half a second, which only a failure should cost. Community sets are
    # left out because asking for them waits for the network.
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)
