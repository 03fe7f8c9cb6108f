"""The folder of partial blobs: what is on its way in, and what is good of those that the disk has damaged."""

from __future__ import annotations

import logging
import os
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mesh.core.chunks import derived_hashes, list_matches
from mesh.core.tokens import BlobToken
from mesh.errors import DataDirUnusable, StorageFull
from mesh.storage.blob_sides import SideFiles, read_file, read_token
from mesh.storage.blob_sources import writing
from mesh.storage.blob_strays import move, remove
from mesh.storage.folders import sync_folder

if TYPE_CHECKING:
    from mesh.storage.blob_partial import PartialFile

log = logging.getLogger("mesh.storage")


class PartialBlobs:
    """The layout of that folder. Everything here blocks and runs on the store's worker.

    Attributes:
        folder: where it is.
        here: the blobs that are here in part.
        open: those among them that are being written.
        damaged: tokens of blobs that were wanted here, turned out to be damaged, and are not whole again.
    """

    def __init__(self, folder: Path, sides: SideFiles, whole: Container[str]) -> None:
        """``whole``: the blobs that are here whole."""
        self.folder = folder
        self.here: set[str] = set()
        self.open: dict[str, PartialFile] = {}
        self.damaged: dict[str, BlobToken] = {}
        self._sides = sides
        self._whole = whole

    def load(self) -> None:
        """Find out what is here, and remove what is left over."""
        self.here = {path.stem for path in self.folder.glob("*.data")}
        for path in self.folder.glob("*.chunks"):
            if path.stem not in self.here:
                path.unlink()
        self.damaged.clear()
        for path in self.folder.glob("*.token"):
            if path.stem in self._whole:
                path.unlink()
                continue
            with suppress(OSError, msgspec.MsgspecError):  # what it was is not known any more
                self.damaged[path.stem] = read_token(path)

    def path(self, hash: str) -> Path:
        """Where what has arrived of a blob is."""
        return self.folder / f"{hash}.data"

    def begin(self, partial: PartialFile) -> None:
        """Open the file; where the chunk list is known, hold what is there."""
        hash = partial.token.hash
        hashes = derived_hashes(partial.token)
        if hashes is None:
            with suppress(OSError):  # not known yet, or lost: it is fetched
                hashes = read_file(self.path(hash).with_suffix(".chunks"))
                if not list_matches(partial.token, hashes):
                    hashes = None
        partial.acquire()
        self.open[hash] = partial
        self.here.add(hash)
        if hashes is not None:
            partial.find(hashes)

    def closed(self, partial: PartialFile) -> None:
        """Called by a partial file when it is released."""
        del self.open[partial.token.hash]
        if partial.token.hash in self._whole:  # it was added meanwhile
            self.remove(partial.token.hash)

    def save_list(self, token: BlobToken, hashes: bytes) -> None:
        """Keep a verified chunk list, so that a later attempt need not ask for it."""
        if token.chunk_count > 1 and token.hash in self.open:  # else it was closed meanwhile
            with writing(self.folder, len(hashes)):
                self._sides.write(self.path(token.hash).with_suffix(".chunks"), hashes, durable=False)

    def mark_damaged(self, token: BlobToken) -> None:
        """Remember, over restarts too, that a blob that was wanted here has to be had again."""
        self.damaged[token.hash] = token
        try:
            self._sides.write_token(self.path(token.hash).with_suffix(".token"), token, durable=True)
        except (StorageFull, DataDirUnusable) as error:
            log.warning("that blob %s is damaged cannot be written down: %s", token.hash, error)

    def take_damaged(self, hash: str, final: Path) -> None:
        """Keep what is good of the content ``final`` of a blob, unless the blob is being fetched already."""
        if hash in self.open:
            return
        partial = self.path(hash)
        with suppress(FileNotFoundError):
            move(final.with_suffix(".chunks"), partial.with_suffix(".chunks"))
        move(final, partial)
        sync_folder(self.folder)
        self.here.add(hash)

    def delete(self, hash: str) -> bool:
        """Close and remove what there is of a blob; whether there was anything."""
        partial = self.open.get(hash)
        if partial is not None:
            partial.release()
        found = hash in self.damaged or os.path.lexists(self.path(hash))
        self.remove(hash)
        return found

    def remove(self, hash: str) -> None:
        """Forget what is left of a partial blob."""
        path = self.path(hash)
        remove(path)
        remove(path.with_suffix(".chunks"))
        if self.damaged.pop(hash, None) is not None:
            remove(path.with_suffix(".token"))
        self.here.discard(hash)
