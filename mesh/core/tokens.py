"""What names a blob and tells how far a fetch of it is."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from mesh.core.structs import Struct
from mesh.errors import InvalidToken

CHUNK_BYTES = 1 << 20
"""Every chunk but the last has this many bytes; larger ones halve the rate of writing."""

MAX_BLOB_BYTES = 1 << 44
"""16 TiB: what a token may claim at all. The chunk list of such a blob would have 512 MiB."""

BlobState = Literal["waiting", "stalled", "transferring", "completed", "failed"]

_HASH = re.compile(r"[0-9a-f]{64}")


class BlobMetadata(Struct, frozen=True):
    """What people want to know of a blob; never trusted, never part of its identity."""

    name: str | None = None
    content_type: str | None = None
    custom: dict[str, str] = {}


class BlobToken(Struct, frozen=True):
    """Refers to a blob: what a document holds instead of the bytes.

    Attributes:
        hash: BLAKE3 of the content, 64 lower-case hex digits; what ``b3sum`` prints.
        size_bytes: length of the content.
        chunks_hash: BLAKE3 of the concatenated 32-byte BLAKE3 hashes of the 1 MiB chunks,
            so that every chunk can be verified before it is written.
        metadata: display only.
    """

    hash: str
    size_bytes: int
    chunks_hash: str
    metadata: BlobMetadata = msgspec.field(default_factory=BlobMetadata)

    @property
    def chunk_count(self) -> int:
        """How many chunks the blob has; an empty blob has none."""
        return -(-self.size_bytes // CHUNK_BYTES)

    def check(self) -> None:
        """Refuse a token that cannot be true.

        Raises:
            InvalidToken: a hash is not 64 lower-case hex digits or the size is out of range.
        """
        for field, value in (("hash", self.hash), ("chunks_hash", self.chunks_hash)):
            if not _HASH.fullmatch(value):
                raise InvalidToken(f"{field} must be 64 lower-case hex digits (a BLAKE3 hash), not {value!r}")
        if not 0 <= self.size_bytes <= MAX_BLOB_BYTES:
            raise InvalidToken(f"size_bytes must be between 0 and {MAX_BLOB_BYTES}, not {self.size_bytes}")


class BlobProgress(Struct, frozen=True):
    """How far a fetch is.

    Attributes:
        sources: ids of the nodes that are asked for chunks, or sent some in the last seconds.
        reason: why it waits, stalls or failed.
        rate: bytes that arrive in a second, smoothed over the last ones; 0.0: none came for some seconds.
        eta: seconds until it is complete at that rate; ``None``: nothing arrives.
    """

    state: BlobState
    downloaded_bytes: int
    total_bytes: int
    sources: list[str] = []
    reason: str | None = None
    rate: float = 0.0
    eta: float | None = None
