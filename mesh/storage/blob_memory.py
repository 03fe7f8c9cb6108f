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
from mesh.errors import BlobNotFound, InvalidToken
from mesh.storage.blob_export import export_file
from mesh.storage.blob_sources import Intake, pieces_of
from mesh.storage.blobs import CorruptChunk, PartialBlob, Source
from mesh.storage.worker import InlineWorker, Worker


@dataclass
class _Blob:
    token: BlobToken
    hashes: bytes
    content: bytes | bytearray
    cached: bool


class MemoryBlobs:
    """See :class:`~mesh.storage.blobs.BlobStore`. What is in memory is not durable, and gone at ``close``."""

    def __init__(self, worker: Worker | None = None) -> None:
        """``worker`` runs what touches files: sources that are paths, and exports."""
        self._worker = worker or InlineWorker()
        self._blobs: dict[str, _Blob] = {}
        self._partials: dict[str, _MemoryPartial] = {}
        self._folder: str | None = None
        self._exporting = asyncio.Lock()

    async def open(self) -> None:
        """See the port."""

    async def close(self) -> None:
        """See the port."""
        self._blobs.clear()
        self._partials.clear()
        folder, self._folder = self._folder, None
        if folder is not None:
            await self._worker.run(shutil.rmtree, folder)
        await self._worker.close()

    async def add(self, source: Source, metadata: BlobMetadata) -> BlobToken:
        """See the port."""
        intake, content = Intake(), bytearray()
        async with aclosing(pieces_of(source, self._worker)) as pieces:
            async for piece in pieces:
                intake.update(piece)
                content += piece
        token, hashes = intake.finish(metadata)
        held = self._blobs.get(token.hash)
        if held is None:
            self._blobs[token.hash] = _Blob(token, hashes, content, cached=False)
            self._partials.pop(token.hash, None)
        else:
            held.cached = False
        return token

    async def begin(self, token: BlobToken, *, cached: bool) -> PartialBlob:
        """See the port."""
        token.check()
        derived = derived_hashes(token)
        partial = self._partials.get(token.hash)
        if partial is None or partial.token.size_bytes != token.size_bytes:
            partial = self._partials[token.hash] = _MemoryPartial(self, token)
        if partial.token.chunks_hash != token.chunks_hash:
            partial.held, partial.hashes = ChunkMap(token.chunk_count), None
        partial.token, partial.cached, partial.is_open = token, cached, True
        if derived is not None:
            await partial.set_hashes(derived)
        return partial

    def exists(self, hash: str) -> bool:
        """See the port."""
        return hash in self._blobs

    def hashes(self) -> list[str]:
        """See the port."""
        return list(self._blobs)

    def storage_bytes(self) -> int:
        """See the port."""
        return sum(blob.token.size_bytes for blob in self._blobs.values())

    async def info(self, hash: str) -> BlobToken | None:
        """See the port."""
        return self._blobs[hash].token if hash in self._blobs else None

    async def cached(self, hash: str) -> bool:
        """See the port."""
        return self._get(hash).cached

    async def keep(self, hash: str) -> None:
        """See the port."""
        self._get(hash).cached = False

    async def delete(self, hash: str) -> None:
        """See the port."""
        whole, partial = self._blobs.pop(hash, None), self._partials.pop(hash, None)
        if whole is None and partial is None:
            raise BlobNotFound(hash)
        if self._folder is not None:
            await self._worker.run(Path(self._folder, hash).unlink, missing_ok=True)

    async def chunk_list(self, hash: str) -> bytes:
        """See the port."""
        partial = self._partials.get(hash)
        if partial is not None and partial.is_open and partial.hashes is not None:
            return partial.hashes
        return self._get(hash).hashes

    async def read_chunk(self, hash: str, index: int, headroom: int = 0) -> bytearray:
        """See the port."""
        partial = self._partials.get(hash)
        if partial is not None and partial.is_open and index in partial.held:
            return bytearray(headroom) + partial.chunks[index]
        content = self._get(hash).content
        if not 0 <= index * CHUNK_BYTES < len(content):
            raise BlobNotFound(hash)
        return bytearray(headroom) + content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]

    async def read(self, hash: str) -> bytes:
        """See the port."""
        return bytes(self._get(hash).content)

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
            await self._worker.run(export_file, content, Path(destination), hash)

    def _get(self, hash: str) -> _Blob:
        if hash not in self._blobs:
            raise BlobNotFound(hash)
        return self._blobs[hash]

    def _finish(self, partial: _MemoryPartial, content: bytes) -> None:
        self._partials.pop(partial.token.hash, None)
        self._blobs[partial.token.hash] = _Blob(partial.token, partial.hashes or b"", content, partial.cached)

    def _forget(self, partial: _MemoryPartial) -> None:
        self._partials.pop(partial.token.hash, None)


class _MemoryPartial:
    def __init__(self, store: MemoryBlobs, token: BlobToken) -> None:
        self.token = token
        self.hashes: bytes | None = None
        self.held = ChunkMap(token.chunk_count)
        self.chunks: dict[int, bytes] = {}
        self.cached = False
        self.is_open = True
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
        self.chunks[index] = bytes(data)
        self.held.add(index)

    async def finish(self) -> list[int]:
        assert self.hashes is not None
        content = b"".join(self.chunks[index] for index in range(self.held.count))
        if blake3(content).hexdigest() != self.token.hash:
            self._store._forget(self)
            raise InvalidToken(
                f"every chunk is as the token of {self.token.hash} says, and the whole is not: "
                "whoever made the token must make it again"
            )
        self._store._finish(self, content)
        return []

    async def close(self) -> None:
        self.is_open = False
