"""What a node has of every blob, and what keeps it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec.structs import replace

from mesh.core.structs import Struct
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.storage.blobs import BlobStore

_UNNAMED = BlobMetadata()


class Holding(Struct, frozen=True):
    """A blob of which something is here: what its token says, and what keeps it.

    Attributes:
        chunks_hash: ``None``: of a partial one that is not fetched now, it is not known.
        metadata: empty then.
        partial: it is not whole here.
        held_bytes: so much of it is here; about so much, where it is partial.
        pinned: see ``Attachments.pin``.
        linked: its content is the file that it was added from.
        cached: it is here for others only.
    """

    hash: str
    size_bytes: int
    chunks_hash: str | None
    metadata: BlobMetadata
    held_bytes: int
    partial: bool = False
    pinned: bool = False
    linked: bool = False
    cached: bool = False


async def holdings(
    store: BlobStore, coming: Callable[[str], BlobToken | None], relayed: Collection[str]
) -> list[Holding]:
    """Every blob of which something is here: the whole ones, then the others.

    Args:
        coming: the token of a blob that is on its way in.
        relayed: those that are so for others only.
    """
    found = []
    cached = {hash for hash, _ in store.cache()}
    for hash in store.hashes():
        token = await store.info(hash)
        if token is not None:
            holding = Holding(hash, token.size_bytes, token.chunks_hash, token.metadata, token.size_bytes)
            marks = {"pinned": store.pinned(hash), "linked": store.linked(hash), "cached": hash in cached}
            found.append(replace(holding, **marks))
    for hash in store.partials():
        extent = await store.partial_extent(hash)
        if extent is None or store.exists(hash):
            continue  # it is whole, or gone, by now
        held_bytes, size_bytes = extent
        token = coming(hash)
        chunks_hash, metadata = (token.chunks_hash, token.metadata) if token is not None else (None, _UNNAMED)
        holding = Holding(hash, size_bytes, chunks_hash, metadata, held_bytes, partial=True)
        found.append(replace(holding, pinned=store.pinned(hash), cached=hash in relayed))
    return found
