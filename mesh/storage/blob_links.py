"""A blob that is a file of somebody else's, read where it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from mesh.errors import LinkedFileChanged


class Link(msgspec.Struct, frozen=True):
    """Where the file is, and what it looked like when it was hashed."""

    path: str
    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Link:
        """A link to the file at ``path``, as it is known to be."""
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)

    @property
    def holds(self) -> bool:
        """Whether the file still looks as it did."""
        try:
            return Link.of(self.path, os.stat(self.path)) == self
        except OSError:
            return False

    def open(self, hash: str) -> int:
        """A file descriptor to read the blob ``hash`` from.

        Raises:
            LinkedFileChanged: the file is not what it was.
        """
        with _reading(hash, self.path):
            # Not blocking, should it have become a FIFO.
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if Link.of(self.path, os.fstat(fd)) != self:
            os.close(fd)
            raise LinkedFileChanged(hash, self.path, "was changed")
        return fd


@contextmanager
def _reading(hash: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LinkedFileChanged(hash, path, f"cannot be read ({error.strerror or error})") from error
