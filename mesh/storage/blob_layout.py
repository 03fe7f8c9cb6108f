"""How blobs lie in a folder.

    blobs/ab/<hash>           the content; visible here only when whole, verified and durable. The folder is
                              named after the hash, or after another one that it came with: small blobs
                              that come together lie together
    blobs/ab/<hash>.link      in its place: where the file is that has the content, as JSON
    blobs/ab/<hash>.chunks    its chunk list, where it has more than one chunk
    blobs/ab/<hash>.token     its token, as JSON; of a small blob without metadata there is none
    blobs/ab/<hash>.cached    empty: it is here for others only, and was last served when this was modified
    pins/<hash>               empty: the blob is pinned, whole here or not
    partial/<hash>.data       a blob on its way in: full length, holes where chunks are missing
    partial/<hash>.chunks     its verified chunk list, once known
    partial/<hash>.token      the token of a blob that was wanted and is damaged, until it is whole again
    temp/                     copies being added; whatever is here at ``open`` is left over and removed

Tokens and chunk lists can be lost: they are made again from the content. Folders are 0700, files 0600.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec
from blake3 import blake3

from mesh.core.chunks import chunk_length, chunk_matches, chunks_hash, derived_hashes, list_matches
from mesh.core.tokens import CHUNK_BYTES, BlobMetadata, BlobToken
from mesh.errors import (
    BlobCorrupt,
    BlobNotFound,
    DataDirUnusable,
    InvalidToken,
    LinkedFileChanged,
    StorageFull,
)
from mesh.storage.blob_links import Link
from mesh.storage.blob_marks import CachedMarks, Pins
from mesh.storage.blob_partials import PartialBlobs
from mesh.storage.blob_reading import read_at
from mesh.storage.blob_sides import SUFFIXES, SideFiles
from mesh.storage.blob_sources import Intake, writing
from mesh.storage.blob_strays import move, open_file, remove
from mesh.storage.folders import sync_folder

_HASH = re.compile(r"[0-9a-f]{64}")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_CHUNKS_PER_JOB = 8
"""Chunks that are verified in one job of the worker: others wait for a few milliseconds at most."""

log = logging.getLogger("mesh.storage")


def plain_token(hash: str, size_bytes: int) -> BlobToken:
    """The token of a blob of at most one chunk, without metadata."""
    hashes = bytes.fromhex(hash) if size_bytes else b""
    return BlobToken(hash, size_bytes, chunks_hash(hashes))


class BlobFolder:
    """The layout on disk. Everything here blocks and runs on the store's worker.

    Attributes:
        sizes: of the blobs that are here whole.
        cached: which of them are here for others only.
        pins: the blobs that are pinned.
        partials: what is here in part.
        rotten: tokens of blobs that were wanted here and turned out to be damaged, until somebody is told.
    """

    def __init__(self, root: Path, clock: Callable[[], float]) -> None:
        self.blobs = root / "blobs"
        self.pins = Pins(root / "pins")
        self.temp = root / "temp"
        self.sizes: dict[str, int] = {}
        self.cached = CachedMarks(clock)
        self.rotten: dict[str, BlobToken] = {}
        self._links: dict[str, Link] = {}
        self._shelves: dict[str, str] = {}  # of what does not lie in the folder named after it
        self._list_of: tuple[str, bytes] | None = None  # of the blob that was last verified while it was read
        self._numbers = itertools.count()
        self._sides = SideFiles(self._place, self.create_temp)
        self.partials = PartialBlobs(root / "partial", self._sides, self.sizes)

    def load(self) -> None:
        """Find out what is here, by name and size only, and remove what is left over."""
        try:
            self.make_folders()
            for left in self.temp.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            self.sizes.clear()
            self._links.clear()
            self._shelves.clear()
            cached: dict[str, float] = {}
            for folder in self.blobs.iterdir():
                if not folder.is_dir():
                    continue
                with os.scandir(folder) as entries:
                    files = {entry.name: entry for entry in entries if entry.is_file(follow_symlinks=False)}
                for name, entry in files.items():
                    if _HASH.fullmatch(name) and name in self.sizes:  # deleted elsewhere, and a power cut
                        os.unlink(entry.path)
                    elif _HASH.fullmatch(name):
                        self.shelve(name, folder.name)
                        self.sizes[name] = entry.stat(follow_symlinks=False).st_size
                    elif name.endswith(".link") and name[:-5] not in files:
                        self._load_link(name[:-5])
                for name, entry in files.items():
                    hash = name.partition(".")[0]
                    if hash not in self.sizes:  # the side file of a blob that is not here
                        os.unlink(entry.path)
                    elif name == f"{hash}.cached":
                        cached[hash] = entry.stat(follow_symlinks=False).st_mtime
            self.cached.load(cached.items())
            self.pins.load()
            self.partials.load()
        except OSError as error:
            raise DataDirUnusable(str(self.blobs.parent), error.strerror or str(error)) from error

    def _load_link(self, hash: str) -> None:
        link = None
        with suppress(OSError, msgspec.MsgspecError):  # unreadable: it leads nowhere
            link = msgspec.json.decode(self._sides.read(hash, ".link"), type=Link)
        if link is not None and link.holds:
            self._links[hash], self.sizes[hash] = link, link.size_bytes
        else:
            where = "nowhere" if link is None else link.path
            log.warning("blob %s was linked to %s, which is not what it was: it is dropped", hash, where)

    def make_folders(self) -> None:
        """Make the folders; again, where somebody removed them."""
        for folder in (self.blobs, self.pins.folder, self.partials.folder, self.temp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    # --- where everything is -------------------------------------------------------------------------

    def content_path(self, hash: str) -> Path:
        """Where the content of a whole blob is, linked or not."""
        self.size(hash)
        link = self._links.get(hash)
        return self._place(hash) if link is None else Path(link.path)

    def _place(self, hash: str) -> Path:
        return Path(self._content(hash))

    def _content(self, hash: str) -> str:
        return f"{self.blobs}/{self._shelves.get(hash, hash[:2])}/{hash}"

    def shelve(self, hash: str, shelf: str) -> None:
        """A blob that is not here will lie in the folder ``shelf``."""
        self._shelves.pop(hash, None)
        if shelf != hash[:2]:
            self._shelves[hash] = shelf

    # --- becoming whole ------------------------------------------------------------------------------

    def create_temp(self) -> tuple[int, Path]:
        """A new file to write to."""
        with writing(self.temp, 0):
            fd, path = self.open_temp()
        return fd, Path(path)

    def open_temp(self) -> tuple[int, str]:
        """As :meth:`create_temp`, inside of :func:`~mesh.storage.blob_sources.writing`."""
        path = f"{self.temp}/{os.getpid()}-{next(self._numbers)}"
        try:
            return os.open(path, _NEW, 0o600), path
        except FileNotFoundError:
            self.make_folders()
            return os.open(path, _NEW, 0o600), path

    def publish(self, content: Path | Link, token: BlobToken, hashes: bytes, *, cached: bool) -> None:
        """Make the durable, verified content visible under its hash."""
        folder = self.put_in_place(content, token, hashes, cached=cached, durable=True)
        with writing(folder, 0):
            sync_folder(folder)
        self.show(content, token)

    def put_in_place(
        self, content: Path | Link, token: BlobToken, hashes: bytes, *, cached: bool, durable: bool
    ) -> Path:
        """Move the durable content to its place; the folder that has to be synced before it is shown.
        Side files that are not ``durable`` may be lost in a power cut, and are made again."""
        hash = token.hash
        folder = self._place(hash).parent
        with writing(folder, token.size_bytes):
            if not folder.is_dir():
                self.make_folders()
                remove(folder)
                folder.mkdir(mode=0o700)
                sync_folder(self.blobs)
            self._sides.describe(token, hashes, durable=durable)
            self.cached.set(hash, self._sides.path(hash, ".cached"), cached=cached)
            if isinstance(content, Link):
                self._sides.write(self._sides.path(hash, ".link"), msgspec.json.encode(content), durable=True)
            else:
                move(content, self._place(hash))
                remove(self._sides.path(hash, ".link"))
        return folder

    def show(self, content: Path | Link | None, token: BlobToken) -> None:
        """A blob is in its place, durably: its content, or a link."""
        self._links.pop(token.hash, None)
        if isinstance(content, Link):
            self._links[token.hash] = content
        self.sizes[token.hash] = token.size_bytes

    def set_cached(self, hash: str, *, cached: bool) -> None:
        """Remember whether a whole blob is here for others only."""
        self.size(hash)
        if cached != (hash in self.cached.served):
            folder = self._place(hash).parent
            with writing(folder, 0):
                self.cached.set(hash, self._sides.path(hash, ".cached"), cached=cached)
                sync_folder(folder)

    # --- what is known of a whole blob -----------------------------------------------------------------

    def size(self, hash: str) -> int:
        """The size of a whole blob."""
        if hash not in self.sizes:
            raise BlobNotFound(hash)
        return self.sizes[hash]

    def token(self, hash: str) -> BlobToken:
        """The token of a whole blob; made again from the content where it is lost."""
        size = self.size(hash)
        with suppress(OSError, msgspec.MsgspecError):  # damaged: made again below
            token = self._described(hash)
            if token.hash == hash and token.size_bytes == size:
                return token
        return self._renew(hash, BlobMetadata())[0]

    def _described(self, hash: str) -> BlobToken:
        """The token of a whole blob, as it was written down."""
        try:
            return self._sides.token(hash)
        except FileNotFoundError:
            if self.sizes[hash] > CHUNK_BYTES:
                raise
            return plain_token(hash, self.sizes[hash])

    def true_token(self, hash: str) -> BlobToken:
        """The token of a whole blob, if a file that it is linked to still looks as it did."""
        link = self._links.get(hash)
        if link is not None and not link.holds:
            self.delete(hash)
            raise LinkedFileChanged(hash, link.path, "was changed or removed")
        return self.token(hash)

    def chunk_list(self, hash: str) -> bytes:
        """The chunk list of a whole blob; made again from the content where it, or the token, is damaged."""
        token = self.token(hash)
        hashes = None
        with suppress(OSError, InvalidToken):
            hashes = derived_hashes(token)
            if hashes is None:
                hashes = self._sides.read(hash, ".chunks")
        if hashes is None or not list_matches(token, hashes):
            _, hashes = self._renew(hash, token.metadata)
        return hashes

    def _renew(self, hash: str, metadata: BlobMetadata) -> tuple[BlobToken, bytes]:
        intake = Intake()
        with open(self.open_blob(hash), "rb") as file:
            while data := file.read(CHUNK_BYTES):
                intake.update(data)
        token, hashes = intake.finish(metadata)
        if token.hash != hash:
            self.drop_rotten(hash)
        try:
            self._sides.describe(token, hashes, durable=True)
        except (StorageFull, DataDirUnusable) as error:  # to read it takes no room
            log.warning("what blob %s is cannot be written down, and is found out again: %s", hash, error)
        return token, hashes

    def is_linked(self, hash: str) -> bool:
        """Whether the content of a whole blob is somebody else's file."""
        return hash in self._links

    # --- reading -----------------------------------------------------------------------------------------

    def read(self, hash: str) -> bytes:
        """The whole content."""
        with open(self.open_blob(hash), "rb") as file:
            data = file.read()
        if blake3(data).hexdigest() != hash:
            self.drop_rotten(hash)
        return data

    def open_blob(self, hash: str) -> int:
        """A file descriptor to read a whole blob from."""
        self.size(hash)
        link = self._links.get(hash)
        try:
            return open_file(self._content(hash)) if link is None else link.open(hash)
        except FileNotFoundError as error:  # somebody removed or replaced it
            self._note_rotten(hash)
            self.delete(hash)
            self._mark_damaged(hash)
            raise BlobCorrupt(hash) from error
        except LinkedFileChanged:
            self.delete(hash)
            raise

    def read_chunk(self, hash: str, index: int, headroom: int, *, verified: bool) -> bytearray:
        """See the port."""
        partial = self.partials.open.get(hash)
        size = partial.token.size_bytes if partial is not None else self.size(hash)
        length = chunk_length(size, index)
        if index < 0 or length <= 0:
            raise BlobNotFound(hash)
        data = bytearray(headroom + length)
        view = memoryview(data)[headroom:]
        if partial is not None:
            if not partial.read_into(view, index):
                raise BlobNotFound(hash)
            return data
        fd = self.open_blob(hash)
        try:
            if len(read_at(fd, view, index * CHUNK_BYTES)) != length:
                self.drop_rotten(hash)
        finally:
            os.close(fd)
        if verified or hash in self._links:  # others can write to that file at any time
            if self._list_of is None or self._list_of[0] != hash:
                self._list_of = (hash, self.chunk_list(hash))
            if not chunk_matches(self.token(hash), self._list_of[1], index, view):
                self.drop_rotten(hash)
        if hash in self.cached.served:
            self.cached.note_served(hash, self._sides.path(hash, ".cached"))
        return data

    def damaged_chunks(self, hash: str, hashes: bytes, index: int) -> tuple[list[int], int]:
        """Which of a few chunks from ``index`` on are not those of the list, and where to go on."""
        token = self.token(hash)
        damaged: list[int] = []
        end = min(index + _CHUNKS_PER_JOB, token.chunk_count)
        buffer = memoryview(bytearray(min(CHUNK_BYTES, token.size_bytes)))
        fd = self.open_blob(hash)
        try:
            if os.fstat(fd).st_size > token.size_bytes:  # every chunk may be as it was, and the whole is not
                self.drop_rotten(hash)
            for index in range(index, end):  # noqa: B020
                if not chunk_matches(token, hashes, index, read_at(fd, buffer, index * CHUNK_BYTES)):
                    damaged.append(index)
        finally:
            os.close(fd)
        return damaged, end

    # --- leaving -------------------------------------------------------------------------------------------

    def drop_rotten(self, hash: str) -> NoReturn:
        """The content is not what it was. What is still good of it is left as a partial blob."""
        self.size(hash)  # others may have found that out too, or deleted it
        error = self.rotten_error(hash)
        if hash in self._links:
            self.delete(hash)
            raise error
        self._note_rotten(hash)
        self._mark_damaged(hash)
        self.make_folders()
        self.partials.take_damaged(hash, self._place(hash))
        self._forget(hash)
        raise error

    def rotten_error(self, hash: str) -> BlobCorrupt:
        """What whoever reads a blob gets whose content is not what it was."""
        link = self._links.get(hash)
        return (
            BlobCorrupt(hash) if link is None else LinkedFileChanged(hash, link.path, "has other content now")
        )

    def _note_rotten(self, hash: str) -> None:
        if hash not in self._links and hash not in self.cached.served:
            with suppress(OSError, msgspec.MsgspecError):
                self.rotten[hash] = self._described(hash)

    def _mark_damaged(self, hash: str) -> None:
        if hash in self.rotten:
            self.make_folders()
            self.partials.mark_damaged(self.rotten[hash])

    def delete(self, hash: str) -> None:
        """See the port."""
        had_partial = self.partials.delete(hash)
        if hash in self.sizes:
            self._forget(hash)
        elif not had_partial:
            raise BlobNotFound(hash)

    def _forget(self, hash: str) -> None:
        del self.sizes[hash]
        self._links.pop(hash, None)
        self._list_of = None
        folder = self.clear(hash)
        with suppress(FileNotFoundError, NotADirectoryError):  # somebody removed the folder with it
            sync_folder(folder)

    def clear(self, hash: str) -> Path:
        """Remove what lies in the place of a blob that is not here; the folder to be synced then."""
        self.cached.served.pop(hash, None)
        final = self._place(hash)
        for path in (final, *(final.with_suffix(suffix) for suffix in SUFFIXES)):
            remove(path)
        self._shelves.pop(hash, None)
        return final.parent
