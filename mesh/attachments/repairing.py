"""Getting damaged blobs back from other nodes, for as long as that gets on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mesh.attachments.waiters import OnProgress
from mesh.core.structs import Struct
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.errors import MeshError

REPAIR_SECONDS = 60.0
"""Repairs are given up once nothing has come of any of them for so long."""

ALONE_SECONDS = 0.5
"""The same, while no node is linked: for what needs nothing from others."""


class Unrepaired(Struct, frozen=True):
    """Why a damaged blob is not whole again.

    Attributes:
        size_bytes: of the whole blob.
        here_bytes: how much of it is here: a later ``verify`` or ``fetch`` goes on from there.
        reason: what stopped it, for people.
        nobody: no node that is linked has what is missing of it.
    """

    size_bytes: int
    here_bytes: int
    reason: str
    nobody: bool = False


class Repairs:
    """Those that are under way. One that waits for its turn is not given up while others get on."""

    def __init__(
        self,
        fetch: Callable[[BlobToken, OnProgress], Coroutine[Any, Any, object]],
        moved_at: Callable[[str], float],
    ) -> None:
        """
        Args:
            fetch: fetches a blob, however long that takes.
            moved_at: when the transfer of a blob last got on, on the clock of the event loop.
        """
        self._fetch = fetch
        self._moved_at = moved_at
        self._running: list[str] = []

    async def repair(self, token: BlobToken, alone: Callable[[], bool] = lambda: False) -> Unrepaired | None:
        """Have a damaged blob again; ``None``: it is whole. ``alone``: whether no node is linked, where
        nobody is to be waited for then."""
        last = BlobProgress("waiting", 0, token.size_bytes)

        def look(progress: BlobProgress) -> None:
            nonlocal last
            last = progress

        loop = asyncio.get_running_loop()
        began = loop.time()
        fetching = loop.create_task(self._fetch(token, look), name=f"repair {token.hash[:16]}")
        self._running.append(token.hash)
        try:
            while not fetching.done():
                moved_at = max(began, *map(self._moved_at, self._running))
                left = moved_at + (ALONE_SECONDS if alone() else REPAIR_SECONDS) - loop.time()
                if left <= 0:
                    reason = last.reason or last.state
                    return Unrepaired(
                        token.size_bytes, last.downloaded_bytes, reason, nobody=last.state == "waiting"
                    )
                await asyncio.wait({fetching}, timeout=left)
            fetching.result()
        except (MeshError, OSError) as error:
            return Unrepaired(token.size_bytes, last.downloaded_bytes, str(error))
        finally:
            self._running.remove(token.hash)
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        return None
