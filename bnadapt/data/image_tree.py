"""Which image files lie in which class folder; nothing is opened, standard library only."""

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from bnadapt.data.wording import listing, printable
from bnadapt.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_PARTS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_LAYOUT = "make one folder per class: PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg"


@dataclass(frozen=True)
class ImageTree:
    """The image files of a folder.

    Attributes:
        classes: Names of the class folders, sorted by code point, in Unicode's composed form (NFC) and with
            what cannot be printed as escapes.
        parts: For ``train`` and, where there are such folders, ``validation`` and ``test``: the files
            and their classes as positions in ``classes``, sorted by class and then by file name.
        passed_over: Files and folders, relative to the root, that are no images and were not read;
            hidden ones are not counted.
    """

    root: Path
    classes: tuple[str, ...]
    parts: dict[str, tuple[tuple[Path, int], ...]]
    passed_over: tuple[str, ...]


def read_tree(path: str) -> ImageTree:
    """List the images of ``path/CLASS/`` or of ``path/{train,validation,val,test}/CLASS/``.

    A folder ``train`` that itself holds folders makes it the second layout; a class may be called
    "train". Files count as images by their extension, whatever its case. Folders may be links; no link
    is followed deeper than to the class folders.

    Raises:
        DataError: If the folder is missing, has no class folders, a class has no image, two folders are
            one class, or the parts have different classes.
    """
    root = Path(os.path.expanduser(path)).absolute()
    if not os.path.isdir(root):  # pathlib's raises where a name is too long
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise DataError(f"data.path={printable(path)}: {printable(root)} {what}; {_LAYOUT}")
    passed_over: list[Path] = []
    roots = _part_roots(root, passed_over)
    found = {part: _read_part(folder, passed_over) for part, folder in roots.items()}
    for part, folder in roots.items():
        if not found[part]:
            raise DataError(
                f"data.path={printable(path)}: {printable(folder)} holds no class folders; {_LAYOUT}"
            )
        _require_images(roots[part], found[part])
    classes = tuple(sorted(found["train"]))
    for part, files in found.items():
        _require_same_classes(roots, part, set(classes), set(files))
    parts = {
        part: tuple((file, label) for label, name in enumerate(classes) for file in files[name])
        for part, files in found.items()
    }
    others = sorted(printable(each.relative_to(root)) for each in passed_over)
    return ImageTree(root, classes, parts, tuple(others))


def _part_roots(root: Path, passed_over: list[Path]) -> dict[str, Path]:
    folders, files = _entries(root)
    named = {each: _PARTS.get(each.name.lower()) for each in folders}
    if not any(part and _entries(each)[0] for each, part in named.items()):
        return {"train": root}
    roots: dict[str, Path] = {}
    for folder, part in named.items():
        if part is None:
            passed_over.append(folder)
        elif part in roots:
            both = f"{roots[part].name} and {folder.name}"
            raise DataError(f"data.path={printable(root)}: {both} both mean {part}; keep one of them")
        else:
            roots[part] = folder
    passed_over += files
    if "train" not in roots:
        present = ", ".join(each.name for each in roots.values())
        raise DataError(f"data.path={printable(root)}: there is {present} but no folder train; {_LAYOUT}")
    return roots


def _read_part(root: Path, passed_over: list[Path]) -> dict[str, list[Path]]:
    folders, files = _entries(root)
    passed_over += files
    classes: dict[str, list[Path]] = {}
    spelled: dict[str, str] = {}
    for folder in folders:
        name = printable(unicodedata.normalize("NFC", folder.name))
        if name in classes:
            raise DataError(
                f"{printable(root)}: two folders are the class {name} in different spellings of Unicode "
                f"({spelled[name]!a} and {folder.name!a}); put their images into one of them"
            )
        nested, entries = _entries(folder)
        images = [each for each in entries if each.suffix.lower() in EXTENSIONS]
        passed_over += nested + [each for each in entries if each.suffix.lower() not in EXTENSIONS]
        classes[name], spelled[name] = images, folder.name
    return classes


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and everything else in a folder, each sorted by name, without the hidden ones."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if _is_folder(entry) else files).append(Path(entry.path))
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be read: {error.strerror}") from error
    return sorted(folders), sorted(files)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; what is wrong with it is said where it is read
        return False


def _require_images(root: Path, classes: dict[str, list[Path]]) -> None:
    empty = sorted(name for name, images in classes.items() if not images)
    if empty:
        kinds = ", ".join(each[1:] for each in EXTENSIONS)
        raise DataError(
            f"{printable(root)}: no images in {listing(empty)}; put images ({kinds}) directly into every class folder, "
            "or remove the folder"
        )


def _require_same_classes(roots: dict[str, Path], part: str, expected: set[str], found: set[str]) -> None:
    for missing, lacks, has in ((expected - found, part, "train"), (found - expected, "train", part)):
        if missing:
            raise DataError(
                f"{printable(roots[lacks])} has no folder {listing(sorted(missing))}, which {printable(roots[has])} "
                "has; "
                "every part needs the same class folders"
            )
