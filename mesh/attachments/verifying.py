"""Reading every blob again, and getting back what the disk has damaged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mesh.core.structs import Struct
from mesh.core.tokens import BlobToken
from mesh.errors import BlobCorrupt, BlobNotFound, MeshError
from mesh.storage.blobs import BlobStore

log = logging.getLogger(__name__)

MAX_REPAIRS = 256
"""Damaged blobs that are fetched again at once."""


class VerifyReport(Struct, frozen=True):
    """What reading every blob again has shown.

    Attributes:
        checked: how many blobs were read.
        checked_bytes: how many bytes that were.
        damaged_chunks: how many chunks of them were not what they should be, where that can be told.
        repaired: the hashes of the damaged blobs that are whole again.
        lost: the hashes of those that are not: nobody had them in time, or the disk fails. What is good of
            them is still here for a while, for a later ``fetch``.
        alone: no node was linked that could have repaired anything.
    """

    checked: int
    checked_bytes: int
    damaged_chunks: int
    repaired: list[str]
    lost: list[str]
    alone: bool = False


async def verify_all(
    store: BlobStore, fetch: Callable[[BlobToken], Awaitable[object]], alone: Callable[[], bool]
) -> VerifyReport:
    """Verify every blob of ``store``; those that are damaged are had again by ``fetch``, the rest of them
    stays. ``alone``: whether no node is linked."""
    checked = checked_bytes = damaged_chunks = 0
    repaired: list[str] = []
    lost: list[str] = []
    limit = asyncio.Semaphore(MAX_REPAIRS)

    async def repair(token: BlobToken) -> None:
        async with limit:
            try:
                await fetch(token)
            except (MeshError, OSError):
                lost.append(token.hash)
            else:
                repaired.append(token.hash)

    async with asyncio.TaskGroup() as repairs:
        for hash in store.hashes():
            token = await store.info(hash)
            if token is None:  # it was deleted meanwhile, or nothing tells any more what it was
                if hash in store.partials():
                    checked += 1
                    lost.append(hash)
                continue
            try:
                damaged = await store.verify(hash)
            except BlobCorrupt:
                repairs.create_task(repair(token))
            except BlobNotFound:
                continue
            except OSError as error:
                log.error("blob %s can be neither read nor replaced: %s", hash, error)
                lost.append(hash)
            else:
                damaged_chunks += len(damaged)
                if damaged:
                    repairs.create_task(repair(token))
            checked += 1
            checked_bytes += token.size_bytes
    return VerifyReport(checked, checked_bytes, damaged_chunks, sorted(repaired), sorted(lost), alone())
