"""What a fetch gives."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from mesh.core.tokens import BlobToken
from mesh.storage.blobs import BlobStore


class BlobHandle:
    """A blob that is here, whole and verified.

    ``async read()`` takes the content into memory; ``open()`` gives an ordinary binary file, at once;
    ``path`` names a file to be read by others, which belongs to the mesh: never write to it.
    All of them raise ``BlobNotFound`` once the blob was deleted here.
    """

    def __init__(self, store: BlobStore, token: BlobToken) -> None:
        self._store = store
        self.token = token

    def __repr__(self) -> str:
        return f"<BlobHandle {self.token.hash[:16]} of {self.token.size_bytes} bytes>"

    @property
    def path(self) -> Path:
        """A file with the content. In a node without a data directory it is made when first asked for."""
        return self._store.path(self.token.hash)

    def open(self) -> BinaryIO:
        """The content as a binary file to read; close it."""
        return self._store.open_file(self.token.hash)

    async def read(self) -> bytes:
        """The whole content, in memory."""
        return await self._store.read(self.token.hash)
