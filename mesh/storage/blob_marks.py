"""What is remembered of the blobs in a folder beside their content: who they are here for, and pins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from mesh.storage.blob_sources import writing
from mesh.storage.folders import sync_folder

_SERVED_SECONDS = 60.0
"""When a cached blob was last served is written down at most this often."""

_MARK = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class CachedMarks:
    """The blobs that are here for others only: an empty file beside each, modified when it was last served.

    Attributes:
        served: when each was last served, the least recent first.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.served: dict[str, float] = {}
        self._clock = clock

    def load(self, marks: Iterable[tuple[str, float]]) -> None:
        """Take what is on the disk: the blobs and when their marks were modified."""
        self.served = dict(sorted(marks, key=lambda mark: mark[1]))

    def set(self, hash: str, mark: Path, *, cached: bool) -> None:
        """Make or remove a mark; the folder has still to be synced."""
        if cached:
            os.close(os.open(mark, _MARK, 0o600))
            now = self.served[hash] = self._clock()
            os.utime(mark, (now, now))
        else:
            mark.unlink(missing_ok=True)
            self.served.pop(hash, None)

    def note_served(self, hash: str, mark: Path) -> None:
        """A cached blob was served."""
        before, now = self.served.pop(hash), self._clock()
        if now >= before + _SERVED_SECONDS:
            os.utime(mark, (now, now))
            before = now
        self.served[hash] = before


class Pins:
    """The blobs that are pinned, whole here or not: an empty file for each, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes: set[str] = set()

    def load(self) -> None:
        """Take what is on the disk."""
        self.hashes = {path.name for path in self.folder.iterdir()}

    def set(self, hash: str, *, pinned: bool) -> None:
        """Remember durably whether a blob is pinned."""
        if pinned == (hash in self.hashes):
            return
        with writing(self.folder, 0):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if pinned:
                os.close(os.open(self.folder / hash, _MARK, 0o600))
            else:
                (self.folder / hash).unlink(missing_ok=True)
            sync_folder(self.folder)
        (self.hashes.add if pinned else self.hashes.discard)(hash)
