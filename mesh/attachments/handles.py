"""What a fetch gives."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

from mesh.core.tokens import BlobToken


class Keeper(Protocol):
    """What a handle needs of the attachments it comes from."""

    def path(self, hash: str) -> Path: ...

    def open_file(self, hash: str) -> BinaryIO: ...

    async def read(self, hash: str) -> bytes: ...


class BlobHandle:
    """A blob that is here, whole and verified, and stays for as long as the handle is alive.

    ``async read()`` takes the content into memory; ``open()`` gives a binary file to read, at once. Both
    verify what they read once more, and raise ``BlobCorrupt`` where the disk has damaged it: it is fetched
    again then, if somebody else has it. ``path`` names a file for whoever needs one, which nothing verifies
    and which belongs to the mesh: never write to it.
    All of them raise ``BlobNotFound``, of which ``BlobCorrupt`` is one, once the blob was deleted here, and
    ``NotStarted`` once the node was closed.
    """

    def __init__(self, keeper: Keeper, token: BlobToken) -> None:
        self._keeper = keeper
        self.token = token

    def __repr__(self) -> str:
        return f"<BlobHandle {self.token.hash[:16]} of {self.token.size_bytes} bytes>"

    @property
    def path(self) -> Path:
        """A file with the content. In a node without a data directory it is made when first asked for."""
        return self._keeper.path(self.token.hash)

    def open(self) -> BinaryIO:
        """The content as a binary file to read; close it."""
        return self._keeper.open_file(self.token.hash)

    async def read(self) -> bytes:
        """The whole content, in memory."""
        return await self._keeper.read(self.token.hash)
