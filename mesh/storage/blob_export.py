"""Copying a blob out, all at once."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from blake3 import blake3

from mesh.core.chunks import hash_chunk
from mesh.core.tokens import CHUNK_BYTES
from mesh.storage.blob_sources import check_room, storage_full, write_all
from mesh.storage.folders import sync_folder

_NO_RANGE_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}

_CLONE = 0x40049409
"""Linux's FICLONE."""


def export_file(source: int | memoryview, destination: Path, hash: str) -> bool:
    """Write ``source`` (an open file, or bytes) to ``destination``: durable, and visible only when whole.

    Returns whether what was copied has the hash ``hash``; if not, nothing is left.

    Blocking. The temporary name follows from the destination's, so that what a killed export left behind
    is overwritten by the next.

    Raises:
        StorageFull: there is no room.
        OSError: the directory cannot be written.
    """
    folder = destination.parent
    if destination.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a directory: name a file in it", str(destination))
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(folder))
    temporary = folder / f".{hash_chunk(os.fsencode(destination.name)).hex()[:16]}.partial"
    size = len(source) if isinstance(source, memoryview) else os.fstat(source).st_size
    temporary.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o666)  # the umask decides, as for any file that a program hands to people
    try:
        with storage_full(folder, size):
            if isinstance(source, memoryview):
                check_room(folder, size, beside_documents=False)
                for start in range(0, size, CHUNK_BYTES):
                    write_all(fd, source[start : start + CHUNK_BYTES], start)
            elif not _cloned(source, fd):
                on_one_disk = os.fstat(source).st_dev == os.fstat(fd).st_dev
                check_room(folder, size, beside_documents=on_one_disk, beside=size if on_one_disk else 0)
                _copy(source, fd, size)
            if _hash(fd, size) != hash:
                temporary.unlink()
                return False
            os.fsync(fd)
        temporary.rename(destination)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    sync_folder(folder)
    return True


def _hash(fd: int, size: int) -> str:
    """Of the copy: so what was copied is what is hashed, and it is still in memory."""
    digest, buffer, done = blake3(), memoryview(bytearray(min(CHUNK_BYTES, max(1, size)))), 0
    while count := os.preadv(fd, [buffer], done):
        digest.update(buffer[:count])
        done += count
    return digest.hexdigest()


def _cloned(source: int, target: int) -> bool:
    """Whether the two files share their bytes now, which takes no room."""
    try:
        fcntl.ioctl(target, _CLONE, source)
    except OSError:
        return False
    return True


def _copy_ranges(source: int, target: int, size: int) -> int:
    """Have the system copy, as far as it can; how far that is."""
    done = 0
    try:
        while done < size:
            copied = os.copy_file_range(source, target, min(64 * CHUNK_BYTES, size - done), done, done)
            if not copied:
                break
            done += copied
    except OSError as error:
        if error.errno not in _NO_RANGE_COPY:
            raise
    return done


def _copy(source: int, target: int, size: int) -> None:
    done = _copy_ranges(source, target, size) if hasattr(os, "copy_file_range") else 0  # Linux
    buffer = memoryview(bytearray(min(CHUNK_BYTES, max(1, size - done))))
    while done < size:
        count = os.preadv(source, [buffer], done)
        if not count:
            raise OSError(errno.EIO, "the file is shorter than it was")
        write_all(target, buffer[:count], done)
        done += count
