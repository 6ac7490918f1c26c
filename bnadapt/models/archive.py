"""The archive of a ``.keras`` file, looked over before Keras sees it: its members, their sizes, its HDF5 file."""

import errno
import json
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import h5py

from bnadapt.errors import ModelError

CONFIGURATION, METADATA, WEIGHTS, ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets"
# Keras stores weights as they are. What was compressed by other programs unpacks to little more, as weights
# look random; ten times the file and 64 MiB more is room enough for zeros, and no room for a bomb.
TIMES_THE_FILE, MEBIBYTES_MORE = 10, 64
LARGEST_CONFIGURATION = 32 << 20  # bytes; the largest network of keras.applications has 1.5 MB
LARGEST_COPY = 1 << 30  # bytes; what is larger would fill the disk of temporary files
_CHUNK = 1 << 20
_HARMLESS_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
}  # others are libraries that HDF5 would look for and load
_PLAIN_KINDS = "biufVS"


@dataclass(frozen=True)
class Contents:
    """What a ``.keras`` file says of itself.

    Attributes:
        configuration: The network's configuration, as parsed JSON.
        stored: How many numbers the file of weights holds.
    """

    configuration: dict[str, Any]
    stored: int


def check_archive(path: Path) -> None:
    """Look over the file that the setting ``model.path`` names, without TensorFlow; a ModelError names the setting."""
    try:
        read_archive(path)
    except ModelError as error:
        raise ModelError(f"model.path={path} cannot be loaded: {error}") from error


@contextmanager
def private_copy(path: Path) -> Iterator[Path]:
    """A copy of the file that nobody else can change, there while the block lasts.

    What was looked over and what Keras then reads are one and the same, also where the file is exchanged in between.
    A file of more than 1 GiB, or one for which the temporary directory has no room, is not copied: it is itself what
    is given.

    Raises:
        ModelError: the file is missing, or no regular file that could be a ``.keras`` file.
    """
    size = _size_of_regular_file(path)
    with tempfile.TemporaryDirectory(prefix="bnadapt-", ignore_cleanup_errors=True) as directory:
        copy = Path(directory) / f"network{path.suffix}"
        yield copy if size <= LARGEST_COPY and _copied(path, copy) else path


def _copied(path: Path, copy: Path) -> bool:
    """Copy a file up to the limit; False where there is no room for the copy."""
    try:
        source = path.open("rb")
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror or error}") from error
    with source:
        try:
            with copy.open("xb") as target:
                left = LARGEST_COPY  # the file may grow meanwhile
                while left > 0 and (part := source.read(min(_CHUNK, left))):
                    target.write(part)
                    left -= len(part)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise ModelError(f"it cannot be read: {error.strerror or error}") from error
            copy.unlink(missing_ok=True)
            return False
    return True


def read_archive(path: Path) -> Contents:
    """Look over an archive: only the members that Keras writes, of sizes that they can have, and no links out.

    Nothing is extracted and the file is not changed.

    Raises:
        ModelError: the file is missing, no regular file, no archive or damaged, or holds what Keras does not write.
    """
    size = _size_of_regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            limit = TIMES_THE_FILE * size + (MEBIBYTES_MORE << 20)
            _check_members(archive.infolist(), limit)
            configuration = _configuration(archive)
            with archive.open(WEIGHTS) as file:
                stored = _numbers_in(file, limit)
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"the archive is damaged or not all there ({error}); copy or save it again"
        ) from error
    except (OSError, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError) as error:
        # What zipfile, zlib and HDF5 raise over bytes that they do not expect.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"it is damaged: {reason}; copy or save it again") from error
    return Contents(configuration, stored)


def _size_of_regular_file(path: Path) -> int:
    """Bytes of the file; what could block a reader, such as a pipe, is never opened."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            what = "a SavedModel" if (path / "saved_model.pb").exists() else "a directory"
            raise ModelError(f"it is {what}; {_SAVE}")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"it is no regular file but {_kind(status.st_mode)}; {_SAVE}")
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror or error}") from error
    if not start:
        raise ModelError(f"the file is empty; {_SAVE}")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ModelError(f"{_what_else(path, start)}; {_SAVE}")
    return status.st_size


_SAVE = "save the network with model.save('network.keras') in Keras 3, and give that file"


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISFIFO: "a pipe",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
        stat.S_ISSOCK: "a socket",
    }
    return next((words for test, words in kinds.items() if test(mode)), "something else")


def _what_else(path: Path, start: bytes) -> str:
    """What a file is that is no ``.keras`` file, in words."""
    if start.startswith(b"\x89HDF"):
        return "it is an HDF5 file, whose code and classes nobody can check"
    if start.startswith(b"PK") and path.suffix == ".keras":
        return "it is no .keras file, or the end of it is missing"
    if start.startswith(b"PK"):
        return f"its name ends in '{path.suffix}', not in .keras"
    if start.startswith(b"\x80") and start[1:2] in b"\x02\x03\x04\x05":
        return "it is a pickle, which is a program and is not run"
    return "it is no .keras file"


def _check_members(members: list[zipfile.ZipInfo], limit: int) -> None:
    names = [each.filename for each in members]
    for each in members:
        name, mode = each.filename, each.external_attr >> 16
        if names.count(name) > 1:
            raise ModelError(f"the archive holds {name!r} twice; {_SAVE}")
        if not _is_expected(name):
            raise ModelError(f"the archive holds {name!r}, which Keras does not write; {_SAVE}")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG) and not (name.endswith("/") and stat.S_ISDIR(mode)):
            raise ModelError(f"{name!r} in the archive is no regular file; {_SAVE}")
        if each.flag_bits & 1 or each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelError(f"{name!r} in the archive is encrypted or compressed in an unusual way; {_SAVE}")
    for name in (CONFIGURATION, WEIGHTS):
        if name not in names:
            raise ModelError(f"the archive holds no {name}, so it is no network of Keras 3; {_SAVE}")
    total = sum(each.file_size for each in members)
    if total > limit:
        raise ModelError(
            f"the archive would unpack to {total:,} bytes; a network of its size unpacks to {limit:,} at most "
            f"({TIMES_THE_FILE} times the file and {MEBIBYTES_MORE} MiB)"
        )


def _is_expected(name: str) -> bool:
    if name in (CONFIGURATION, METADATA, WEIGHTS):
        return True
    parts = PurePosixPath(name).parts
    plain = not any(letter in name for letter in "\\:\0") and ".." not in parts
    return plain and parts[:1] == (ASSETS,)


def _configuration(archive: zipfile.ZipFile) -> dict[str, Any]:
    size = archive.getinfo(CONFIGURATION).file_size
    if size > LARGEST_CONFIGURATION:
        raise ModelError(
            f"its {CONFIGURATION} has {size:,} bytes, and {LARGEST_CONFIGURATION:,} are the most"
        )
    with archive.open(CONFIGURATION) as file:
        text = file.read(LARGEST_CONFIGURATION + 1)
    try:
        parsed = json.loads(text)
    except RecursionError as error:
        raise ModelError(f"its {CONFIGURATION} is nested too deeply to be a network's") from error
    except ValueError as error:
        raise ModelError(f"its {CONFIGURATION} is no JSON: {str(error)[:200]}") from error
    if not isinstance(parsed, dict) or "class_name" not in parsed:
        raise ModelError(
            f"its {CONFIGURATION} describes no network but a {type(parsed).__name__} of other things"
        )
    return parsed


def _numbers_in(file: IO[bytes], limit: int) -> int:
    """How many numbers an HDF5 file holds, all of its objects walked without reading any values."""
    numbers = size = 0
    with h5py.File(file, "r") as root:
        seen, waiting = set(), [root["/"]]
        while waiting:
            group = waiting.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ModelError(
                        f"{WEIGHTS} holds a link at {group.name}/{name}, which Keras does not write"
                    )
                each = group[name]
                address = h5py.h5o.get_info(each.id).addr
                if address in seen:
                    continue  # one object may have several names, also one within itself
                seen.add(address)
                if isinstance(each, h5py.Group):
                    waiting.append(each)
                    continue
                _check_dataset(each)
                numbers += each.size
                size += each.size * each.dtype.itemsize
                if size > limit:
                    raise ModelError(
                        f"{WEIGHTS} declares more than {limit:,} bytes of weights, the most that a file of this size "
                        f"can hold ({TIMES_THE_FILE} times the file and {MEBIBYTES_MORE} MiB)"
                    )
    return numbers


def _check_dataset(dataset: Any) -> None:
    """Refuse what takes its values from elsewhere, or what is no plain array of numbers."""
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ModelError(f"{WEIGHTS} holds {dataset!r}, which is no array of numbers")
    if dataset.external or dataset.is_virtual:
        raise ModelError(f"the values of {dataset.name} in {WEIGHTS} lie in other files, which are not read")
    if dataset.dtype.hasobject or dataset.dtype.kind not in _PLAIN_KINDS:
        raise ModelError(f"{dataset.name} in {WEIGHTS} holds {dataset.dtype} values, which are no numbers")
    created = dataset.id.get_create_plist()
    filters = {created.get_filter(number)[0] for number in range(created.get_nfilters())}
    if filters - _HARMLESS_FILTERS:
        raise ModelError(f"{dataset.name} in {WEIGHTS} is compressed in a way that Keras does not know")
