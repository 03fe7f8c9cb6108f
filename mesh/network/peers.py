"""Peers: who this node is linked with, and what becomes of connections on their way to being links.

Invariants:

1. Nothing of a peer is dispatched before it has proven its key.
2. There is at most one link per peer in ``links``, and both sides keep the same one (see ``_prefer``).
3. For every link, ``on_up`` callbacks run once, then handlers, then ``on_down`` callbacks once.
4. After ``close()`` there is no task and no socket left.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from mesh.core.handshake import PeerInfo
from mesh.core.identity import Identity, short_id
from mesh.core.limits import origin_of, peer_log
from mesh.core.membership import Membership
from mesh.core.wire import Message
from mesh.errors import HandshakeFailed, LinkClosed, MeshError, PeerUnreachable
from mesh.network.dialer import Dialer
from mesh.network.guard import Guard
from mesh.network.introductions import Answer, Expired, Introductions
from mesh.network.link import Link
from mesh.network.transport import BULK_PATH, JOIN_PATH, Connection, Listener, Transport

MAX_BULK_PER_PEER = 8
"""Bulk connections that one peer may have dialled at once."""

CLONE_SECONDS = 3.0
"""A link on which a ping is answered within this time is alive: who else claims to be that peer is not."""

TOGETHER_SECONDS = 20.0
"""Two links that came up within this time may be two sides dialling each other at once: it is as long as a
dial and a handshake may take."""

log = peer_log(__name__)

Handler = Callable[[Link, Any], Awaitable[None] | None]
BulkHandler = Callable[[str, Connection], Awaitable[None]]


class Peers:
    """All links of one node.

    Attributes:
        links: the links that are up, by the peer's node id.
        address: where this node accepts connections (``ws://host:port``), ``None``: nowhere, or unknown.
        dialer: what is dialled for ever.
    """

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        *,
        name: str = "",
        membership: Membership | None = None,
        features: Sequence[str] = (),
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            identity: who this node is.
            transport: what makes its connections.
            name: what people call it; at most 256 printable characters.
            membership: what it knows of its mesh; ``None``: it is an open one.
            features: optional parts of the protocol that it knows.
            rng: nonces and jitter; ``None``: the system's, and only a simulation wants another.
            clock: seconds since the epoch.
        """
        self._links: dict[str, Link] = {}
        self.links: Mapping[str, Link] = MappingProxyType(self._links)
        rng = rng or random.SystemRandom()
        self._guard = Guard()
        self._introductions = Introductions(
            identity,
            transport,
            rng,
            name=name,
            membership=membership,
            features=features,
            clock=clock,
            guard=self._guard,
        )
        self._transport = transport
        self._clock = clock
        self.dialer = Dialer(self._dial_target, self._links.__contains__, rng)
        self._handlers: dict[type, Handler] = {}
        self._up_callbacks: list[Callable[[Link], None]] = []
        self._down_callbacks: list[Callable[[Link, str], None]] = []
        self._bulk_handler: BulkHandler | None = None
        self._join_handler: Answer | None = None
        self._listen: str | None = None
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._bulk: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
        self._bulk_accepted: Counter[str] = Counter()
        self._refused: set[str] = set()
        self._ended_in = 0
        self._ended_out = 0

    # --- what services register -------------------------------------------------------------------

    def handle(self, message_type: type, handler: Handler) -> None:
        """Let ``handler`` have every message of a type. It is awaited before that link's next frame is read.

        A ``ProtocolViolation`` that it raises closes the link; so does any other error, which is logged as
        the bug that it is.
        """
        assert message_type not in self._handlers, f"two handlers for {message_type.__name__}"
        self._handlers[message_type] = handler

    def on_up(self, callback: Callable[[Link], None]) -> None:
        """Call ``callback`` with every link once it is up, before its first message."""
        self._up_callbacks.append(callback)

    def on_down(self, callback: Callable[[Link, str], None]) -> None:
        """Call ``callback`` with every link that ended, and why."""
        self._down_callbacks.append(callback)

    def on_bulk(self, handler: BulkHandler) -> None:
        """Let ``handler`` have every bulk connection that comes in. The connection ends with it."""
        self._bulk_handler = handler

    def on_join(self, handler: Answer) -> None:
        """Let ``handler`` answer who asks for a certificate."""
        self._join_handler = handler

    def on_expired(self, callback: Expired) -> None:
        """Call ``callback`` with the URL and the certificates of who is dialled in vain because they have
        expired."""
        self._introductions.on_expired = callback

    # --- life -------------------------------------------------------------------------------------

    @property
    def address(self) -> str | None:
        """Where this node accepts connections (``ws://host:port``); ``None``: nowhere."""
        return self._introductions.address

    @property
    def binding(self) -> bytes:
        """What names the channel of every connection that comes in; empty: none does, or without TLS."""
        return self._listener.binding if self._listener else b""

    @property
    def bytes_in(self) -> int:
        """Payload received on all links since the start."""
        return self._ended_in + sum(link.bytes_in for link in self._links.values())

    @property
    def bytes_out(self) -> int:
        """Payload sent on all links since the start."""
        return self._ended_out + sum(link.bytes_out for link in self._links.values())

    async def start(self, listen: str | None) -> None:
        """Accept connections at ``listen`` (``host:port``; ``None``: nowhere), and dial what was added.

        Raises:
            AddressInUse: somebody else listens there.
            InvalidAddress: it is not an address of this machine.
            PlaintextRefused: it is not loopback, and must be.
        """
        self._listen = listen
        await self.resume()

    async def resume(self) -> None:
        """Undo :meth:`pause`: accept connections at the same address as before, and dial at once.

        Raises:
            AddressInUse: somebody else has taken the address meanwhile.
        """
        if self._listen is not None and self._listener is None:
            self._listener = await self._transport.listen(self._listen, self._accept)
            # A free port that was chosen once is kept: peers redial the address that they know.
            host = self._listen.rpartition(":")[0]
            self._listen = f"{host}:{self._listener.port}"
            self._introductions.address = self._listener.address or None
        self._introductions.offline = ""
        self.dialer.start()

    async def pause(self, reason: str = "the node is paused") -> None:
        """Go offline: close every connection, accept none and dial nobody until :meth:`resume`."""
        await self._go_offline(reason)

    async def close(self) -> None:
        """Close everything. May be repeated."""
        await self._go_offline("the node is closed")

    async def _go_offline(self, reason: str) -> None:
        self._introductions.offline = reason
        await self.dialer.stop()
        for link in list(self._links.values()):
            link.close(reason)
        await self._introductions.end(reason)
        await asyncio.gather(*(connection.close(reason) for connection in list(self._bulk)))
        if self._tasks:
            await asyncio.wait(self._tasks)
        listener, self._listener = self._listener, None
        self._introductions.address = None
        if listener is not None:
            await listener.close()

    # --- dialling ---------------------------------------------------------------------------------

    def keep(self, url: str) -> None:
        """Dial ``url`` for ever, from :meth:`start` on.

        Raises:
            InvalidAddress, PlaintextRefused: it can never be dialled.
        """
        self._transport.check(url)
        self.dialer.add(url)

    async def connect(self, url: str) -> str:
        """Dial ``url`` now and, once that worked, for ever; the peer's node id. Undoes :meth:`disconnect`.

        Raises:
            PeerUnreachable: nobody answers there, or this node is offline.
            HandshakeFailed: who answers is not acceptable, or does not accept this node.
            IdentityCloned: another running node has this node's identity.
            InvalidAddress: ``url`` is not ``ws://host:port``.
            PlaintextRefused: it is not loopback, and must be.
        """
        node_id = await self._dial(url, refuse=frozenset())
        self._refused.discard(node_id)
        self.dialer.add(url, node_id)
        return node_id

    async def disconnect(self, node_id: str) -> None:
        """Close the link with this peer, stop dialling it, and refuse it until :meth:`connect`."""
        self._refused.add(node_id)
        await self.dialer.remove_peer(node_id)
        await self.cut(node_id, "disconnected")

    async def cut(self, node_id: str, reason: str) -> None:
        """Close every connection with this peer at once."""
        link = self._links.get(node_id)
        if link is not None:
            link.close(reason, drop=True)
            self._take_down(link, reason)
        bulk = [connection for connection, peer in list(self._bulk.items()) if peer == node_id]
        await asyncio.gather(*(connection.close(reason) for connection in bulk))

    async def dial_bulk(self, link: Link) -> Connection:
        """A bulk connection to a linked peer, where this node dialled it or where it says it listens.

        Messages over ``MAX_STRANGER_BYTES`` may be sent on it once a message of the peer has arrived.

        Raises:
            PeerUnreachable: it cannot be dialled.
            HandshakeFailed: somebody else answers there.
        """
        addresses = list(dict.fromkeys(a for a in (link.url, link.listen) if a is not None))
        failure: MeshError = PeerUnreachable(str(link), "it accepts no connections")
        for address in addresses:
            try:
                return await self.dial_bulk_at(address, link.node_id)
            except MeshError as error:
                failure = error
        raise failure

    async def dial_bulk_at(self, address: str, node_id: str) -> Connection:
        """A bulk connection to the peer ``node_id`` at ``address`` (``ws://host:port``).

        Raises:
            PeerUnreachable: nobody answers there.
            HandshakeFailed: who answers does not prove to be ``node_id``.
        """
        url = address.rstrip("/") + BULK_PATH
        introduction = await self._introductions.dial(
            url, refuse=self._refused, purpose="bulk", expect=node_id
        )
        connection = introduction.connection
        self._bulk[connection] = node_id
        connection.trust()
        try:
            for frame in introduction.last:
                await connection.send(frame)
        except LinkClosed as error:
            await connection.close()
            raise PeerUnreachable(url, error.reason) from error
        return connection

    async def _dial_target(self, url: str) -> str:
        return await self._dial(url, refuse=self._refused)

    async def _dial(self, url: str, refuse: Collection[str]) -> str:
        connection, peer, last = await self._introductions.dial(url, refuse=refuse)
        # Without this side's proof the other one forgets the connection: the link that stands, stays.
        if peer.node_id in self._links:
            await connection.close("there is a link already")
        elif banned := self._guard.banned(peer.node_id):
            await connection.close(banned)
            raise HandshakeFailed(f"{short_id(peer.node_id)} is {banned} (at {url})")
        else:
            link = self._adopt(connection, peer, url, last)
            assert link is not None
            self._track(asyncio.create_task(self._serve(link), name=f"link {short_id(link.node_id)}"))
        return peer.node_id

    # --- accepting --------------------------------------------------------------------------------

    async def _accept(self, connection: Connection) -> None:
        self._track(asyncio.current_task())
        if connection.path == JOIN_PATH:
            if self._join_handler is not None:
                await self._introductions.answer(connection, self._join_handler)
            return
        peer = await self._introductions.admit(connection, refuse=self._refused, cloned=self._cloned)
        if peer is None:
            return
        refused = self._introductions.offline or self._guard.banned(peer.node_id)
        if refused:
            await connection.close(refused)
        elif peer.purpose == "bulk":
            await self._serve_bulk(connection, peer.node_id)
        else:
            await self._accept_link(connection, peer)

    async def _accept_link(self, connection: Connection, peer: PeerInfo) -> None:
        address = origin_of(connection.remote)
        full = self._guard.full(address)
        if full:
            await connection.close(full)
        elif (link := self._adopt(connection, peer, None)) is not None:
            self._guard.came(address)
            await self._serve(link)
            self._guard.went(address)
        else:
            await connection.close("another link with this peer is kept")

    async def _cloned(self, claimed: PeerInfo) -> bool:
        """Whether another run of the peer is at the other end of the link that stands, alive."""
        link = self._links.get(claimed.node_id)
        if link is None or link.instance == claimed.instance or claimed.purpose != "link":
            return False
        return await link.answers(CLONE_SECONDS)

    async def _serve_bulk(self, connection: Connection, node_id: str) -> None:
        if self._bulk_handler is None or self._bulk_accepted[node_id] >= MAX_BULK_PER_PEER:
            await connection.close("no more bulk connections")
            return
        connection.trust()
        self._bulk[connection] = node_id
        self._bulk_accepted[node_id] += 1
        try:
            await self._bulk_handler(node_id, connection)
        except LinkClosed as error:
            log.debug("a bulk connection with %s ended: %s", short_id(node_id), error.reason)
        finally:
            self._bulk_accepted[node_id] -= 1
            if not self._bulk_accepted[node_id]:
                del self._bulk_accepted[node_id]

    # --- links ------------------------------------------------------------------------------------

    def _adopt(
        self, connection: Connection, peer: PeerInfo, url: str | None, first: Sequence[bytes] = ()
    ) -> Link | None:
        """Make a link of a connection with a proven peer; ``None``: the link that stands is kept."""
        old = self._links.get(peer.node_id)
        if old is not None:
            if not self._replaces(old, url):
                return None
            old.close("another link with this peer is kept")
            self._take_down(old, "replaced by another link")
        link = Link(connection, peer, url=url, since=self._clock(), deliver=self._deliver, first=first)
        self._links[peer.node_id] = link
        log.info("linked with %s at %s", link, connection.remote)
        link.start()
        self.dialer.peer_changed(peer.node_id, link.listen)
        for callback in self._up_callbacks:
            self._call(callback, link)
        return link

    def _replaces(self, old: Link, url: str | None) -> bool:
        """Whether a link that this node (or, without ``url``, the peer) just dialled replaces ``old``.

        Nobody proves itself on a connection that it dialled while it has a link with the peer. So either
        both dialled at once, and both keep what the lower node id dialled, or ``old`` is dead at the other
        end and its end was not noticed here.
        """
        together = asyncio.get_running_loop().time() - old.started_at <= TOGETHER_SECONDS
        if not together or (old.url is None) == (url is None):
            return True
        return (url is not None) == (self._introductions.identity.node_id < old.node_id)

    async def _serve(self, link: Link) -> None:
        reason = await link.ended()
        self._take_down(link, reason)
        await link.finish()

    def _take_down(self, link: Link, reason: str) -> None:
        if self._links.get(link.node_id) is not link:
            return
        del self._links[link.node_id]
        self._ended_in += link.bytes_in
        self._ended_out += link.bytes_out
        if link.violations:
            self._guard.offended(link.node_id)
        log.info("the link with %s ended: %s", link, reason)
        self.dialer.peer_changed(link.node_id)
        for callback in self._down_callbacks:
            self._call(callback, link, reason)

    def _call(self, callback: Callable[..., None], link: Link, *args: str) -> None:
        try:
            callback(link, *args)
        except Exception:
            log.exception("closing the link with %s: a callback failed", link)
            link.close("internal error")

    def _deliver(self, link: Link, message: Message) -> Awaitable[None] | None:
        handler = self._handlers.get(type(message))
        return None if handler is None else handler(link, message)

    def _track(self, task: asyncio.Task[Any] | None) -> None:
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
