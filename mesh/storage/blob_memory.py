"""Blobs in memory: for nodes without a data directory, and as the twin of the folder in tests."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tempfile
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from mesh.core.chunks import Buffer, ChunkMap, chunk_matches, derived_hashes, list_matches
from mesh.core.tokens import CHUNK_BYTES, BlobMetadata, BlobToken
from mesh.errors import BlobCorrupt, BlobNotFound, InvalidToken, MeshError, SourceError, StorageFull
from mesh.storage.blob_export import export_file
from mesh.storage.blob_sources import Intake, known_size, pieces_of
from mesh.storage.blobs import SMALL_BYTES, CorruptChunk, OnLost, PartialBlob, Source, verified_hashes
from mesh.storage.worker import InlineWorker, Worker

MAX_MEMORY_BYTES = 1 << 30
"""What blobs in memory may take together, unless their store is told otherwise."""


@dataclass
class _Blob:
    token: BlobToken
    hashes: bytes
    content: bytes | bytearray


class MemoryBlobs:
    """See :class:`~mesh.storage.blobs.BlobStore`. What is in memory is not durable, and gone at ``close``."""

    def __init__(self, worker: Worker | None = None, max_bytes: int = MAX_MEMORY_BYTES) -> None:
        """
        Args:
            worker: runs what touches files: sources that are paths, and exports.
            max_bytes: what all blobs may take together, whole and partial; there is no room for more.
        """
        self._worker = worker or InlineWorker()
        self._max_bytes = max_bytes
        self._taken = 0
        self._cached: dict[str, None] = {}  # the least recently served first
        self._pinned: set[str] = set()
        self._lost: OnLost = lambda error, token: None
        self._blobs: dict[str, _Blob] = {}
        self._partials: dict[str, _MemoryPartial] = {}
        self._damaged: dict[str, BlobToken] = {}
        self._folder: str | None = None
        self._exporting = asyncio.Lock()

    def on_lost(self, callback: OnLost) -> None:
        """See the port."""
        self._lost = callback

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port."""
        self._blobs.clear()
        self._partials.clear()
        self._damaged.clear()
        self._cached.clear()
        self._pinned.clear()
        self._taken = 0
        folder, self._folder = self._folder, None
        if folder is not None:
            await self._worker.run(shutil.rmtree, folder)
        await self._worker.close()

    async def add(self, source: Source, metadata: BlobMetadata) -> BlobToken:
        """See the port."""
        intake, content = Intake(), bytearray()
        self._check_room(known_size(source))
        async with aclosing(pieces_of(source, self._worker)) as pieces:
            async for piece in pieces:
                self._check_room(len(content) + len(piece))
                intake.update(piece)
                content += piece
        token, hashes = intake.finish(metadata)
        held = self._blobs.get(token.hash)
        self._damaged.pop(token.hash, None)
        if held is None:
            self._drop_partial(token.hash)
            self._taken += len(content)
        else:
            token = held.token  # its first metadata stay
        self._blobs[token.hash] = _Blob(token, hashes, content)
        self._cached.pop(token.hash, None)
        return token

    async def link(self, path: str | os.PathLike[str], metadata: BlobMetadata) -> BlobToken:
        """See the port."""
        raise SourceError(
            os.fsdecode(path),
            "a node in memory links to no files: give it a data directory, or leave link out",
        )

    async def begin(self, token: BlobToken, *, cached: bool) -> PartialBlob:
        """See the port."""
        token.check()
        derived = derived_hashes(token)
        partial = self._partials.get(token.hash)
        if partial is None or (partial.token.size_bytes, partial.token.chunks_hash) != (
            token.size_bytes,
            token.chunks_hash,
        ):
            self._drop_partial(token.hash)
            partial = _MemoryPartial(self, token)
        self._check_room(token.size_bytes - partial.taken)
        self._partials[token.hash] = partial
        partial.token, partial.cached, partial.is_open = token, cached, True
        if derived is not None:
            await partial.set_hashes(derived)
        return partial

    def take(self, token: BlobToken, data: bytes, *, cached: bool) -> asyncio.Future[None]:
        """See the port."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            hashes = verified_hashes(token, data)
            self._check_room(len(data))
        except MeshError as error:
            taken.set_exception(error)
        else:
            self._drop_partial(token.hash)
            self._keep(token, hashes, data, cached=cached)
            taken.set_result(None)
        return taken

    def exists(self, hash: str) -> bool:
        """See the port."""
        return hash in self._blobs

    def adding(self, hash: str) -> bool:
        """See the port: nothing else happens while it ends."""
        return False

    def is_small(self, hash: str) -> bool:
        """See the port."""
        return hash in self._blobs and self._blobs[hash].token.size_bytes <= SMALL_BYTES

    async def holds(self, hash: str) -> bool:
        """See the port."""
        return self.exists(hash)

    def hashes(self) -> list[str]:
        """See the port."""
        return list(self._blobs)

    def partials(self) -> list[str]:
        """See the port."""
        return list(self._partials)

    def has_partial(self, hash: str) -> bool:
        """See the port."""
        return hash in self._partials

    async def partial_extent(self, hash: str) -> tuple[int, int] | None:
        """See the port."""
        partial = self._partials.get(hash)
        return None if partial is None else (partial.taken, partial.token.size_bytes)

    def linked(self, hash: str) -> bool:
        """See the port."""
        return False

    def damaged(self) -> dict[str, BlobToken]:
        """See the port."""
        return self._damaged.copy()

    def cache(self) -> list[tuple[str, int]]:
        """See the port."""
        return [(hash, len(self._blobs[hash].content)) for hash in self._cached]

    def storage_bytes(self) -> int:
        """See the port."""
        return sum(blob.token.size_bytes for blob in self._blobs.values())

    async def info(self, hash: str) -> BlobToken | None:
        """See the port."""
        return self._blobs[hash].token if hash in self._blobs else None

    async def cached(self, hash: str) -> bool:
        """See the port."""
        self._get(hash)
        return hash in self._cached

    async def keep(self, hash: str) -> None:
        """See the port."""
        self._get(hash)
        self._cached.pop(hash, None)

    def pinned(self, hash: str) -> bool:
        """See the port."""
        return hash in self._pinned

    async def pin(self, hash: str, *, pinned: bool) -> None:
        """See the port."""
        (self._pinned.add if pinned else self._pinned.discard)(hash)

    async def delete(self, hash: str) -> None:
        """See the port."""
        partial = self._drop_partial(hash)
        self._damaged.pop(hash, None)
        if hash in self._blobs:
            self._forget(hash)
        elif not partial:
            raise BlobNotFound(hash)
        if self._folder is not None:
            await self._worker.run(Path(self._folder, hash).unlink, missing_ok=True)

    async def chunk_list(self, hash: str) -> bytes:
        """See the port."""
        partial = self._partials.get(hash)
        if partial is not None and partial.is_open and partial.hashes is not None:
            return partial.hashes
        return self._get(hash).hashes

    async def read_chunk(
        self, hash: str, index: int, headroom: int = 0, *, verified: bool = False
    ) -> bytearray:
        """See the port."""
        partial = self._partials.get(hash)
        if partial is not None and partial.is_open and index in partial.held:
            return bytearray(headroom) + partial.chunks[index]
        content = self._get(hash).content
        if not 0 <= index * CHUNK_BYTES < len(content):
            raise BlobNotFound(hash)
        if hash in self._cached:
            self._cached[hash] = self._cached.pop(hash)
        return bytearray(headroom) + content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]

    async def read(self, hash: str) -> bytes:
        """See the port."""
        content = bytes(self._get(hash).content)
        if blake3(content).hexdigest() != hash:
            raise self._drop_rotten(hash)
        return content

    def path(self, hash: str) -> Path:
        """See the port. Written the first time it is asked for."""
        content = self._get(hash).content
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="mesh-blobs-")
        path = Path(self._folder, hash)
        if not path.exists():
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
        return path

    def open_file(self, hash: str) -> BinaryIO:
        """See the port."""
        return io.BytesIO(self._get(hash).content)

    async def export(self, hash: str, destination: str | os.PathLike[str]) -> None:
        """See the port."""
        async with self._exporting:
            content = memoryview(self._get(hash).content)
            if not await self._worker.run(export_file, content, Path(destination), hash):
                raise self._drop_rotten(hash)

    async def verify(self, hash: str) -> list[int]:
        """See the port."""
        blob = self._get(hash)
        if len(blob.content) > blob.token.size_bytes:
            raise self._drop_rotten(hash)
        damaged = [
            index
            for index in range(blob.token.chunk_count)
            if not chunk_matches(blob.token, blob.hashes, index, _chunk(blob.content, index))
        ]
        if damaged:
            self._drop_rotten(hash)
        return damaged

    def _get(self, hash: str) -> _Blob:
        if hash not in self._blobs:
            raise BlobNotFound(hash)
        return self._blobs[hash]

    def _check_room(self, needed: int) -> None:
        if self._taken + needed > self._max_bytes:
            free = self._max_bytes - self._taken
            raise StorageFull("memory", needed, free, capacity=self._max_bytes)

    def _drop_rotten(self, hash: str) -> BlobCorrupt:
        """What is still good of the blob is left as a partial one."""
        blob, wanted = self._blobs[hash], hash not in self._cached
        self._forget(hash)
        partial = self._partials[hash] = _MemoryPartial(self, blob.token)
        partial.hashes, partial.is_open = blob.hashes, False
        for index in range(blob.token.chunk_count):
            chunk = _chunk(blob.content, index)
            if chunk_matches(blob.token, blob.hashes, index, chunk):
                partial.keep(index, bytes(chunk))
        error = BlobCorrupt(hash)
        if wanted:
            self._damaged[hash] = blob.token
        self._lost(error, blob.token if wanted else None)
        return error

    def _forget(self, hash: str) -> None:
        self._taken -= len(self._blobs.pop(hash).content)
        self._cached.pop(hash, None)

    def _drop_partial(self, hash: str) -> bool:
        partial = self._partials.pop(hash, None)
        if partial is not None:
            self._taken -= partial.taken
            partial.taken = 0
        return partial is not None

    def _finish(self, partial: _MemoryPartial, content: bytes) -> None:
        self._drop_partial(partial.token.hash)
        self._keep(partial.token, partial.hashes or b"", content, cached=partial.cached)

    def _keep(self, token: BlobToken, hashes: bytes, content: bytes, *, cached: bool) -> None:
        if token.hash in self._blobs:  # added meanwhile
            return
        self._blobs[token.hash] = _Blob(token, hashes, content)
        self._damaged.pop(token.hash, None)
        self._taken += len(content)
        if cached:
            self._cached[token.hash] = None


def _chunk(content: bytes | bytearray, index: int) -> bytes | bytearray:
    return content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


class _MemoryPartial:
    def __init__(self, store: MemoryBlobs, token: BlobToken) -> None:
        self.token = token
        self.hashes: bytes | None = None
        self.held = ChunkMap(token.chunk_count)
        self.chunks: dict[int, bytes] = {}
        self.cached = False
        self.is_open = True
        self.taken = 0
        self._store = store

    async def set_hashes(self, hashes: bytes) -> None:
        if not list_matches(self.token, hashes):
            raise CorruptChunk(self.token.hash, None)
        self.hashes = hashes

    async def write(self, index: int, data: Buffer) -> None:
        if index in self.held:
            return
        if self.hashes is None or not chunk_matches(self.token, self.hashes, index, data):
            raise CorruptChunk(self.token.hash, index)
        self._store._check_room(len(data))
        self.keep(index, bytes(data))

    def keep(self, index: int, chunk: bytes) -> None:
        """Hold a verified chunk."""
        self.chunks[index] = chunk
        self.held.add(index)
        if self._store._partials.get(self.token.hash) is self:  # else it was deleted meanwhile
            self.taken += len(chunk)
            self._store._taken += len(chunk)

    async def finish(self) -> list[int]:
        assert self.hashes is not None
        content = b"".join(self.chunks[index] for index in range(self.held.count))
        if blake3(content).hexdigest() != self.token.hash:
            self._store._drop_partial(self.token.hash)
            raise InvalidToken(
                f"every chunk is as the token of {self.token.hash} says, and the whole is not: "
                "whoever made the token must make it again"
            )
        self._store._finish(self, content)
        return []

    async def close(self) -> None:
        self.is_open = False
