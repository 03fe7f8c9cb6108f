"""The port that attachments stand on: where the bytes of blobs live.

Two implementations keep one contract (tests/unit/storage/test_blob_store_contract.py):
:class:`~mesh.storage.blob_folder.FolderBlobs` and :class:`~mesh.storage.blob_memory.MemoryBlobs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Protocol

from mesh.core.chunks import Buffer, ChunkMap, chunk_matches, derived_hashes
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.errors import BlobCorrupt, MeshError

Source = str | PathLike[str] | bytes | bytearray | memoryview | AsyncIterable[bytes]


OnLost = Callable[[BlobCorrupt, BlobToken | None], None]
"""Told of a blob that turned out to be damaged, with its token where that is known and it was wanted here."""

SMALL_BYTES = 64 * 1024
"""Blobs of up to so many bytes may be taken whole (see :meth:`BlobStore.take`)."""


class CorruptChunk(MeshError):
    """The bytes offered as a chunk, or as a chunk list, are not those that the token names."""

    def __init__(self, hash: str, index: int | None) -> None:
        what = "the chunk list" if index is None else f"chunk {index}"
        super().__init__(
            f"what was offered as {what} of blob {hash} does not verify: get it from somebody else"
        )
        self.hash = hash
        self.index = index


def verified_hashes(token: BlobToken, data: Buffer) -> bytes:
    """The chunk list of a blob of at most one chunk, whose content is ``data``.

    Raises:
        CorruptChunk: it is not.
        InvalidToken: the token contradicts itself.
    """
    hashes = derived_hashes(token)
    whole = len(data) == token.size_bytes and (not data or chunk_matches(token, hashes or b"", 0, data))
    if hashes is None or not whole:
        raise CorruptChunk(token.hash, 0)
    return hashes


class PartialBlob(Protocol):
    """A blob on its way in. At most one is open per hash."""

    token: BlobToken
    hashes: bytes | None
    """The verified chunk list; ``None`` until :meth:`set_hashes`."""

    cached: bool
    """Whether it will be there for others only; may be changed until it is finished."""

    held: ChunkMap
    """The chunks that are here. They were verified before they were kept; those that an earlier attempt left
    are so again before anybody gets them, at the latest when it is finished."""

    async def set_hashes(self, hashes: bytes) -> None:
        """Take the chunk list; chunks that were left here by an earlier attempt are held.

        Raises:
            CorruptChunk: it is not the list that the token names.
            StorageFull: there is no room for it.
        """

    async def write(self, index: int, data: Buffer) -> None:
        """Verify chunk ``index`` and keep it. Writing a chunk that is held already does nothing.

        Raises:
            CorruptChunk: nothing was written.
            StorageFull: there is no room for it; what had arrived before stays.
        """

    async def finish(self) -> list[int]:
        """Verify the whole and make it visible under its hash, durably.

        Returns:
            Chunks that turned out to be damaged here and are missing again; empty: the blob is visible.

        Raises:
            InvalidToken: every chunk is as the token says, and the whole is not: the token contradicts
                itself. Nothing of it is kept.
            StorageFull: the disk had promised room that it has not; what had arrived is dropped.
        """

    async def close(self) -> None:
        """Stop; what arrived is kept and found again by the next ``begin``. May be repeated."""


class BlobStore(Protocol):
    """Keeps blobs by their hash. ``open`` before use, ``close`` after."""

    def on_lost(self, callback: OnLost) -> None:
        """Call ``callback`` on the event loop whenever a blob turned out to be damaged, and so is not here
        whole any more."""

    async def open(self) -> None:
        """Find out what is here and remove what an interrupted ``add`` left behind.

        Raises:
            DataDirUnusable: the folder cannot be created or read.
        """

    async def close(self) -> None:
        """Leave no file handle, thread or temporary file behind. May be repeated."""

    async def add(self, source: Source, metadata: BlobMetadata) -> BlobToken:
        """Copy ``source`` in, durably, in constant memory; bytes that are held already are kept once,
        in this copy of them: the held one may have been damaged.

        Raises:
            SourceError: the source cannot be read (its subclasses say why).
            StorageFull: there is no room for it. Nothing of it is kept.
            DataDirUnusable: the folder cannot be written to.
        """

    async def link(self, path: str | PathLike[str], metadata: BlobMetadata) -> BlobToken:
        """Hold the file at ``path`` as a blob, where it is. If it changes, the blob is not held any more.

        Where a copy is held already, that stays and the file is not needed.

        Raises:
            SourceError: the file cannot be read, or this store links to no files.
            DataDirUnusable, StorageFull: the link cannot be written down.
        """

    async def begin(self, token: BlobToken, *, cached: bool) -> PartialBlob:
        """Start to receive a blob that is not held, or go on with what is left of an earlier attempt.

        Args:
            cached: it is kept for others only (see :meth:`keep`).

        Raises:
            InvalidToken: the token contradicts itself.
            StorageFull: there is no room for what is missing of it.
            DataDirUnusable: the folder cannot be written to.
        """

    def take(self, token: BlobToken, data: bytes, *, cached: bool) -> asyncio.Future[None]:
        """Verify a blob of 1 to ``SMALL_BYTES`` bytes that came whole, and make it visible, durably, with
        others that come at the same time. Cancelled before that has begun, it is not kept.

        Raises:
            CorruptChunk: it is not what the token names.
            InvalidToken: the token contradicts itself.
            StorageFull: there is no room for it.
            DataDirUnusable: the folder cannot be written to.
        """

    def exists(self, hash: str) -> bool:
        """Whether the blob is here, whole and verified."""

    async def holds(self, hash: str) -> bool:
        """The same; a file that the blob is linked to is looked at as well."""

    def adding(self, hash: str) -> bool:
        """Whether an ``add`` of the blob is about to end."""

    def is_small(self, hash: str) -> bool:
        """Whether the blob is here whole, and has at most ``SMALL_BYTES`` bytes."""

    def hashes(self) -> list[str]:
        """Every blob that is here whole."""

    def partials(self) -> list[str]:
        """Every blob that is here in part, or on its way in."""

    def has_partial(self, hash: str) -> bool:
        """Whether a blob is among them."""

    async def partial_extent(self, hash: str) -> tuple[int, int] | None:
        """About how many bytes of a blob are here in part, and how many it has; ``None``: none are."""

    def linked(self, hash: str) -> bool:
        """Whether the content of a blob that is here whole is a file that it is linked to."""

    def damaged(self) -> dict[str, BlobToken]:
        """The tokens, by hash, of the blobs that were wanted here and turned out to be damaged, and that are
        neither whole again nor deleted since."""

    def cache(self) -> list[tuple[str, int]]:
        """Hash and size of every blob that is here whole for others only: the least recently served first."""

    def storage_bytes(self) -> int:
        """The sum of the sizes of the blobs that are here whole."""

    async def info(self, hash: str) -> BlobToken | None:
        """The token of a blob that is here whole; a file that it is linked to is looked at."""

    async def cached(self, hash: str) -> bool:
        """Whether the blob is here for others only."""

    async def keep(self, hash: str) -> None:
        """The blob is wanted here: no longer ``cached``.

        Raises:
            BlobNotFound: it is not here.
        """

    def pinned(self, hash: str) -> bool:
        """Whether the blob is pinned; it need not be here."""

    async def pin(self, hash: str, *, pinned: bool) -> None:
        """Remember durably whether the blob is pinned. It need not be here."""

    async def delete(self, hash: str) -> None:
        """Remove the blob, or what is here of it.

        Raises:
            BlobNotFound: nothing of it is here.
        """

    async def chunk_list(self, hash: str) -> bytes:
        """The chunk list of a blob that is here, whole or open and partial.

        Raises:
            BlobNotFound: it is not here.
        """

    async def read_chunk(
        self, hash: str, index: int, headroom: int = 0, *, verified: bool = False
    ) -> bytearray:
        """``headroom`` zero bytes, then chunk ``index`` of a blob that is here, whole or open and partial.

        Args:
            verified: it may not be damaged. Otherwise whoever gets it has to look.

        Raises:
            BlobNotFound: the chunk is not here.
            BlobCorrupt: it was damaged; the blob is not here whole any more.
        """

    async def read(self, hash: str) -> bytes:
        """The whole content, in memory; verified.

        Raises:
            BlobNotFound: it is not here.
            BlobCorrupt: it was damaged on disk and is not here whole any more.
        """

    def path(self, hash: str) -> Path:
        """A file with the content, to be read only; it is there until ``delete`` or, in memory, ``close``.

        Raises:
            BlobNotFound: it is not here.
        """

    def open_file(self, hash: str) -> BinaryIO:
        """The content as a binary file to read, which verifies what it reads and raises ``BlobCorrupt`` where
        the disk has damaged it: the blob is not here whole any more then.

        Raises:
            BlobNotFound: it is not here.
        """

    async def export(self, hash: str, destination: str | PathLike[str]) -> None:
        """Copy the blob to ``destination``, durably and all at once: an existing file is replaced whole.

        What is copied is verified before it is visible.

        Raises:
            BlobNotFound: it is not here.
            BlobCorrupt: it was damaged on disk and is not here whole any more; nothing is left behind.
            StorageFull: there is no room for it; nothing is left behind.
            OSError: the destination's directory cannot be written.
        """

    async def verify(self, hash: str) -> list[int]:
        """Read a whole blob again; which chunks of it are damaged. If any are, it is not here whole any more,
        and the others are found by the next ``begin``.

        Raises:
            BlobNotFound: it is not here.
            BlobCorrupt: it is damaged, and so is what would tell where.
        """
