"""The files beside the content of a blob: its token, its chunk list, and what else is remembered of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from mesh.core.chunks import hash_chunk
from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.storage.blob_sources import write_all, writing
from mesh.storage.blob_strays import move, open_file

SUFFIXES = (".token", ".chunks", ".cached", ".link")


class _Side(msgspec.Struct, frozen=True):
    token: BlobToken
    check: str | None = None  # None: written before there was one

    @classmethod
    def of(cls, token: BlobToken) -> _Side:
        return cls(token, hash_chunk(msgspec.json.encode(token)).hex())


class SideFiles:
    """Reads and writes them. ``durable``: else what is written may be lost in a power cut."""

    def __init__(self, place: Callable[[str], Path], create_temp: Callable[[], tuple[int, Path]]) -> None:
        """
        Args:
            place: where the content of a blob is.
            create_temp: makes a file on the same disk, open to be written.
        """
        self._place = place
        self._create_temp = create_temp

    def path(self, hash: str, suffix: str) -> Path:
        """Where one is."""
        return self._place(hash).with_suffix(suffix)

    def describe(self, token: BlobToken, hashes: bytes, *, durable: bool) -> None:
        """Write the token and, of more than one chunk, the chunk list."""
        if token.chunk_count > 1:
            self.write(self.path(token.hash, ".chunks"), hashes, durable=durable)
        self.write_token(self.path(token.hash, ".token"), token, durable=durable)

    def write_token(self, path: Path, token: BlobToken, *, durable: bool) -> None:
        """Write a token to ``path``."""
        self.write(path, msgspec.json.encode(_Side.of(token)), durable=durable)

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        """Write a file, all at once."""
        fd, temp = self._create_temp()
        try:
            with writing(temp.parent, len(data)):
                for start in range(0, len(data), CHUNK_BYTES):
                    write_all(fd, data[start : start + CHUNK_BYTES], start)
                if durable:
                    os.fsync(fd)
            move(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def read(self, hash: str, suffix: str) -> bytes:
        """What one holds."""
        return read_file(self.path(hash, suffix))

    def token(self, hash: str) -> BlobToken:
        """See :func:`read_token`."""
        return read_token(self.path(hash, ".token"))


def read_token(path: Path) -> BlobToken:
    """The token in ``path``, as it was written down.

    Raises:
        msgspec.MsgspecError: it is damaged.
    """
    side = msgspec.json.decode(read_file(path), type=_Side)
    if side.check is not None and side != _Side.of(side.token):
        raise msgspec.ValidationError(f"the token {path} is not as it was written")
    return side.token


def read_file(path: Path) -> bytes:
    """What is in a file that is no symbolic link."""
    with open(open_file(path), "rb") as file:
        return file.read()
