"""How a lane gets its connection: dialled, or dialled back by the holder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mesh.core.limits import peer_log
from mesh.core.wire import BulkDial
from mesh.errors import MeshError
from mesh.network.link import Link
from mesh.network.transport import Connection

DIAL_BACK_SECONDS = 5.0
"""How long the holder may take to dial back before the shared link is used."""

log = peer_log(__name__)

Dial = Callable[[Link], Coroutine[Any, Any, Connection]]


class Dialling:
    """Connections to one holder."""

    def __init__(self, link: Link, dial: Dial) -> None:
        self._link = link
        self._dial = dial
        self._dialled_back: asyncio.Future[Connection] | None = None
        self._done_with: dict[Connection, asyncio.Event] = {}

    async def connect(self) -> Connection | None:
        """A connection; ``None``: neither side can dial."""
        try:
            return await self._dial(self._link)
        except MeshError as error:
            log.info("cannot dial a bulk connection to %s (%s): asking it to dial back", self._link, error)
        self._dialled_back = asyncio.get_running_loop().create_future()
        try:
            self._link.send(BulkDial())
            async with asyncio.timeout(DIAL_BACK_SECONDS):
                return await self._dialled_back
        except TimeoutError:
            log.info("%s did not dial back: its chunks come over the shared link", self._link)
            return None
        finally:
            self._dialled_back = None

    async def adopt(self, connection: Connection) -> None:
        """The holder dialled back; returns when the connection is not needed any more."""
        if self._dialled_back is None or self._dialled_back.done():
            return
        done = self._done_with[connection] = asyncio.Event()
        self._dialled_back.set_result(connection)
        await done.wait()

    async def close(self, connection: Connection) -> None:
        """A connection is not needed any more."""
        await connection.close()
        if (done := self._done_with.pop(connection, None)) is not None:
            done.set()
