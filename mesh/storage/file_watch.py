"""The store's file as others see it: whether it is still the one that was opened, and how long its log is."""

from __future__ import annotations

import logging
import os

from mesh.errors import DataDirUnusable

LOG_BYTES = 256 << 20
"""A write-ahead log of this size is held up by somebody."""

_LOOK_EVERY = 64
"""Commits between two looks at the size of the log."""

_log = logging.getLogger("mesh.storage")


class FileWatch:
    """Looks after an open file with every commit, at about 3 µs each.

    Args:
        path: the file, which is open and there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened = _identity(path)
        self._commits = 0
        self._warned = False

    def check(self) -> None:
        """Make sure that what is committed now is found at the next start.

        Raises:
            DataDirUnusable: it would not be.
        """
        found = _identity(self._path)
        if found == self._opened:
            return
        happened = "was removed" if found is None else "was replaced by another one"
        raise DataDirUnusable(
            self._path,
            f"the file {happened} while the node was using it, so nothing is written any more: close the "
            "node, put the file back that shall be used, and start the node again. Until then, what it holds "
            "can still be read; what peers hold of it comes back from them",
        )

    def committed(self) -> None:
        """Warn, once, of a log that does not shrink."""
        self._commits += 1
        if self._commits % _LOOK_EVERY or self._warned:
            return
        try:
            size = os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return
        if size > LOG_BYTES:
            self._warned = True
            _log.warning(
                "the write-ahead log of %s has %d MiB and grows with every write: another process keeps "
                "reading the store in one long transaction. Once that ends, the log shrinks again",
                self._path,
                size >> 20,
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
