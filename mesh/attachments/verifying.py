"""Reading every blob again, and getting back what the disk has damaged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mesh.attachments.repairing import Unrepaired
from mesh.core.structs import Struct
from mesh.core.tokens import BlobToken
from mesh.errors import BlobCorrupt, BlobNotFound
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
        repaired: the hashes of the damaged blobs that are whole again, some of which an earlier one found.
        lost: the hashes of those that are not.
        alone: no node was linked that could have repaired anything.
        unrepaired: why those are not, by their hashes, and how much of them is here.
    """

    checked: int
    checked_bytes: int
    damaged_chunks: int
    repaired: list[str]
    lost: list[str]
    alone: bool = False
    unrepaired: dict[str, Unrepaired] = {}


async def verify_all(
    store: BlobStore, repair: Callable[[BlobToken], Awaitable[Unrepaired | None]], alone: Callable[[], bool]
) -> VerifyReport:
    """Verify every blob of ``store``; those that are damaged, now or since earlier, are had again by
    ``repair``, the rest of them stays. ``alone``: whether no node is linked."""
    checked = checked_bytes = damaged_chunks = 0
    repaired: list[str] = []
    unrepaired: dict[str, Unrepaired] = {}
    limit = asyncio.Semaphore(MAX_REPAIRS)

    async def mend(token: BlobToken) -> None:
        async with limit:
            why = await repair(token)
        if why is None:
            repaired.append(token.hash)
        else:
            unrepaired[token.hash] = why

    async with asyncio.TaskGroup() as repairs:
        hashes = store.hashes()
        for token in store.damaged().values():
            repairs.create_task(mend(token))
        for hash in hashes:
            held = await store.info(hash)
            if held is None:  # it was deleted meanwhile, or is damaged
                damaged_token = store.damaged().get(hash)
                if damaged_token is not None:
                    repairs.create_task(mend(damaged_token))
                elif hash in store.partials():
                    unrepaired[hash] = Unrepaired(0, 0, "its token is damaged, too: fetch it with its token")
                else:
                    continue
                checked += 1
                continue
            try:
                damaged = await store.verify(hash)
            except BlobCorrupt:
                repairs.create_task(mend(held))
            except BlobNotFound:
                continue
            except OSError as error:
                log.error("blob %s can be neither read nor replaced: %s", hash, error)
                reason = f"it can be neither read nor replaced: {error.strerror or error}"
                unrepaired[hash] = Unrepaired(held.size_bytes, 0, reason)
            else:
                damaged_chunks += len(damaged)
                if damaged:
                    repairs.create_task(mend(held))
            checked += 1
            checked_bytes += held.size_bytes
    return VerifyReport(
        checked, checked_bytes, damaged_chunks, sorted(repaired), sorted(unrepaired), alone(), unrepaired
    )
