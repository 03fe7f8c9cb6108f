"""Bytes of a growing file go to the disk as they are written, not all at its end."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable

from mesh.storage.blob_sources import WRITE_BACK_BYTES
from mesh.storage.precedence import after_commits

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4


class WriteBack:
    """Has whatever is written begin its way to the disk at once, commits of documents first, and waits for
    the oldest while more than ``WRITE_BACK_BYTES`` are on theirs: the disk always has something to do, and
    never much.

    It makes nothing durable: that takes :func:`make_durable`, which then finds little left to do.
    """

    def __init__(self) -> None:
        self._under_way: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def wrote(self, fd: int, offset: int, length: int) -> None:
        """So many bytes were written at ``offset``.

        Raises:
            OSError: something that was written earlier did not get to the disk.
        """
        after_commits()
        start(fd, offset, length)
        self._under_way.append((offset, length))
        self._bytes += length
        while self._bytes > WRITE_BACK_BYTES:
            offset, length = self._under_way.popleft()
            self._bytes -= length
            wait(fd, offset, length)


def make_durable(fd: int) -> None:
    """Wait until the content of a file is on the disk, and its length.

    Raises:
        OSError: it does not get there.
    """
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def start(fd: int, offset: int, length: int) -> None:
    """Begin to write a range back, where the system can do that; 0 bytes: all from ``offset`` on."""
    if _sync_file_range is not None:
        _sync_range(fd, offset, length, _WRITE)


def wait(fd: int, offset: int, length: int) -> None:
    """Wait until a range is written back."""
    if _sync_file_range is not None:
        _sync_range(fd, offset, length, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
    else:
        os.fsync(fd)


def _sync_range(fd: int, offset: int, length: int, flags: int) -> None:
    assert _sync_file_range is not None
    if _sync_file_range(fd, offset, length, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _find() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range  # Linux; Python has no call for it
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find()
