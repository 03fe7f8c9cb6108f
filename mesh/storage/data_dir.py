"""A node's data directory: one per node, private, and open in one node only."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mesh.errors import DataDirInUse, DataDirUnusable

_SHORTEST_STORE = 512
"""Bytes; to SQLite, less of them is no file, or none that holds anything."""


CERTIFICATES = "certificates.json"
"""The file that makes the node in a directory a member of a closed mesh."""


class DataDir:
    """Holds the directory's lock from :meth:`open` to :meth:`close`.

    The kernel releases the lock when the process dies, however it dies.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self.store = self.path / "store.sqlite"
        self.blobs = self.path / "blobs"
        self.identity = self.path / "identity.key"
        self.certificates = self.path / CERTIFICATES
        self._lock: int | None = None

    def open(self) -> None:
        """Create the directory if need be, and lock it.

        Raises:
            DataDirInUse: another node has it open, in this process or another.
            DataDirUnusable: it cannot be created or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise DataDirUnusable(str(self.path), "it is not a directory") from error
        except (OSError, ValueError) as error:  # ValueError: the path has a NUL in it
            raise DataDirUnusable(str(self.path), str(error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise DataDirInUse(str(self.path)) from None
        self._lock = lock

    def lost_its_store(self) -> bool:
        """Whether a node has lived here, and its documents are gone."""
        # Who joins a mesh has a key before it is a node.
        lived = self.blobs.exists() or (self.identity.exists() and not self.certificates.exists())
        try:
            return lived and self.store.stat().st_size < _SHORTEST_STORE
        except FileNotFoundError:
            return lived

    def close(self) -> None:
        """Release the lock. May be repeated."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
