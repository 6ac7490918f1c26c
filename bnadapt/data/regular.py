"""Reading regular files, and no pipe, device or endless link that bears a file's name."""

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def hindrance(path: Path) -> str | None:
    """Why there is no regular file at a path that could be opened, in words; None where there is one.

    Nothing is opened: a pipe without a writer would wait for ever.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if path.is_symlink() else "there is no such file"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except ValueError as error:  # a null character in the name
        return str(error)
    return None if stat.S_ISREG(mode) else f"{_KINDS.get(stat.S_IFMT(mode), 'something')} and no file"


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        path: Where it should be.
        limit: In bytes; larger files are refused unread.

    Raises:
        ValueError: there is no regular file, it is too large, or it cannot be read; says why.
    """
    why = hindrance(path)
    if why is not None:
        raise ValueError(why)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise ValueError(f"{size:,} bytes are more than the {limit:,} that are read")
            return file.read()
    except OSError as error:
        raise ValueError((error.strerror or str(error)).lower()) from error
