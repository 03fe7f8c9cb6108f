"""What carries chunks: lanes to holders, the server for downloaders, and the connections they use."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from mesh.attachments.downlink import Downlink
from mesh.attachments.lanes import Lane
from mesh.attachments.readers import Readers
from mesh.attachments.serving import Server, Stopped
from mesh.core.frames import FrameReader, frames_of
from mesh.core.limits import peer_log
from mesh.core.rates import Limits
from mesh.core.wire import BulkDial, ChunkList, ChunkListGet, ChunkPiece, ChunkRefused, PieceGet
from mesh.errors import LinkClosed, MeshError, ProtocolViolation
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.network.transport import Connection
from mesh.storage.blobs import BlobStore

FIRST_MESSAGE_SECONDS = 30.0

log = peer_log(__name__)


class Bulk:
    """See the module.

    Attributes:
        server: the uploading side.
        downlink: lets transfers ask for chunks.
        received_bytes: bytes of chunks received so far, with their heads.
        running: whether anything is served; set by whoever owns this.
    """

    def __init__(self, store: BlobStore, peers: Peers, readers: Readers) -> None:
        self.server = Server(store, readers)
        self.downlink = Downlink()
        self.received_bytes = 0
        self.running = False
        self._peers = peers
        self._lanes: dict[str, Lane] = {}
        self._dialling_back: set[str] = set()
        self._dial_backs: set[asyncio.Task[None]] = set()
        peers.handle(BulkDial, self._on_bulk_dial)
        peers.handle(ChunkListGet, self._on_request)
        peers.handle(PieceGet, self._on_request)
        peers.handle(ChunkList, self._on_list)
        peers.handle(ChunkRefused, self._on_refused)
        peers.handle(ChunkPiece, self._on_piece)
        peers.on_bulk(self._on_bulk)

    def set_limits(self, limits: Limits) -> None:
        """Cap what is sent and asked for."""
        self.server.uplink.set_limits(limits.upload, limits.link)
        self.downlink.set_limits(limits.download, limits.link)

    def lane(self, peer: str) -> Lane | None:
        """The lane to a peer; ``None``: there is no link with it."""
        link = self._peers.links.get(peer)
        if link is None:
            return None
        if peer not in self._lanes:
            self._lanes[peer] = Lane(link, self._peers.dial_bulk, self._count)
        return self._lanes[peer]

    def drop(self, peer: str) -> Coroutine[Any, Any, None]:
        """The link with a peer ended: so does everything else with it. What is left to be awaited."""
        self.downlink.forget(peer)
        return self._drop(self._lanes.pop(peer, None), self.server.stop(peer))

    async def _drop(self, lane: Lane | None, served: Stopped) -> None:
        try:
            if lane is not None:
                await lane.close()
        finally:
            await self.server.end(served)

    async def close(self) -> None:
        """End everything."""
        self.running = False
        for peer in list(self._lanes):
            await self.drop(peer)
        await self.server.close()
        self.downlink.close()
        for task in self._dial_backs:
            task.cancel()
        if self._dial_backs:
            await asyncio.wait(self._dial_backs)

    def _count(self, size: int) -> None:
        self.received_bytes += size

    def _on_request(self, link: Link, request: ChunkListGet | PieceGet) -> None:
        if self.running:
            self.server.serve_on_link(link, request)

    def _on_list(self, link: Link, message: ChunkList) -> None:
        if lane := self._lanes.get(link.node_id):
            lane.list_came(message)

    def _on_refused(self, link: Link, message: ChunkRefused) -> None:
        if lane := self._lanes.get(link.node_id):
            lane.refused(message)

    async def _on_piece(self, link: Link, message: ChunkPiece) -> None:
        if lane := self._lanes.get(link.node_id):
            await lane.piece_came(message)

    async def _on_bulk(self, peer: str, connection: Connection) -> None:
        try:
            async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
                first = await connection.receive()
            message = FrameReader().feed(first)
        except (TimeoutError, ProtocolViolation) as error:
            log.warning("closing a bulk connection with %s: %s", peer, error or "it says nothing")
            return
        if not self.running:
            return
        if not isinstance(message, BulkDial):
            await self.server.serve(peer, connection, first)
        elif lane := self._lanes.get(peer):
            await lane.adopt(connection)

    def _on_bulk_dial(self, link: Link, message: BulkDial) -> None:
        if self.running and link.node_id not in self._dialling_back:
            self._dialling_back.add(link.node_id)
            self._dial_backs.add(task := asyncio.get_running_loop().create_task(self._dial_back(link)))
            task.add_done_callback(self._dial_backs.discard)

    async def _dial_back(self, link: Link) -> None:
        try:
            connection = await self._peers.dial_bulk(link)
        except MeshError as error:
            log.info("cannot dial back to %s: %s", link, error)
            return
        finally:
            self._dialling_back.discard(link.node_id)
        try:
            for frame in frames_of(BulkDial(), 0):
                await connection.send(frame)
            await self.server.serve(link.node_id, connection)
        except LinkClosed as error:
            log.debug("the bulk connection to %s ended: %s", link, error.reason)
        finally:
            await connection.close()
