"""What somebody else put where a file of a blob belongs: it is never followed, and blocks nothing."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
from pathlib import Path

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Not blocking, should it be a FIFO."""

_NO_FILE = (errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What opening says of a symbolic link, or of a socket."""

log = logging.getLogger("mesh.storage")


def is_file(path: Path) -> bool:
    """Whether a regular file is there, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def open_file(path: Path | str) -> int:
    """A file descriptor to read from.

    Raises:
        FileNotFoundError: there is no regular file.
    """
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise FileNotFoundError(errno.ENOENT, "it is no file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "it is no file", str(path))
    return fd


def remove(path: Path) -> None:
    """Remove what is there, if anything; a directory, which may hold anything, gets another name."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (IsADirectoryError, PermissionError):  # the latter is what macOS says of a directory
        if path.is_symlink() or not path.is_dir():
            raise
        names = (path.with_name(f"{path.name}.aside{number}") for number in itertools.count(1))
        aside = next(name for name in names if not os.path.lexists(name))
        path.rename(aside)
        log.warning("%s was a directory, where a file of a blob belongs: it is %s now", path, aside)


def move(source: Path, target: Path) -> None:
    """Rename a file, in place of whatever is there."""
    try:
        source.rename(target)
    except IsADirectoryError:
        remove(target)
        source.rename(target)
