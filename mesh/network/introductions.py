"""Introductions: connections on their way to a proven peer, in either direction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import NamedTuple

from mesh.core.certificates import REFUSALS, Certificate
from mesh.core.handshake import (
    CLONED,
    INSTANCE_BYTES,
    MAX_HANDSHAKE_BYTES,
    NONCE_BYTES,
    Handshake,
    PeerInfo,
)
from mesh.core.identity import Identity
from mesh.core.limits import crowder, origin_of, peer_log
from mesh.core.membership import Membership
from mesh.errors import (
    HandshakeFailed,
    IdentityCloned,
    InvitationRefused,
    LinkClosed,
    MembershipRefused,
    PeerUnreachable,
    ProtocolViolation,
)
from mesh.network.guard import Guard
from mesh.network.link import plain
from mesh.network.transport import Connection, Transport

HANDSHAKE_SECONDS = 10.0

MAX_STRANGERS = 256
"""Incoming connections that may be without a proof at once; one more drives out another (see ``crowder``)."""

CROWDED = "too many connections at once"

log = peer_log(__name__)


Answer = Callable[[bytes, bytes], Awaitable[bytes]]
"""Answers a message that came on a channel (its binding), or raises why not."""

Expired = Callable[[str, Sequence[Certificate]], None]
"""Told the URL and the certificates of somebody who was dialled, if only that they have expired is wrong."""


class Introduction(NamedTuple):
    """A connection to a peer that has proven its key.

    Attributes:
        connection: it belongs to whoever asked for the introduction.
        peer: who it leads to.
        last: frames to send before anything else, as the end of the handshake. Until then the other side does
            not take the connection for one of this node.
    """

    connection: Connection
    peer: PeerInfo
    last: Sequence[bytes]


class Introductions:
    """Makes connections and shakes hands on them, on behalf of one node.

    Attributes:
        identity: who this node is.
        offline: why connections are neither made nor taken; empty: they are.
        address: where this node says it accepts connections.
        on_expired: told of who was dialled for a link in vain because its certificate has expired.
    """

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        rng: random.Random,
        *,
        name: str,
        membership: Membership | None,
        features: Sequence[str],
        clock: Callable[[], float],
        guard: Guard,
    ) -> None:
        self.identity = identity
        self.offline = "the node is not started"
        self.address: str | None = None
        self.on_expired: Expired = lambda url, chain: None
        self._transport = transport
        self._rng = rng
        self._name = name
        self._membership = membership
        self._features = features
        self._clock = clock
        self._instance = rng.randbytes(INSTANCE_BYTES)
        self._guard = guard
        self._strangers: dict[Connection, asyncio.Timeout] = {}
        self._dials: dict[asyncio.Timeout, asyncio.Future[None]] = {}

    async def dial(
        self, url: str, *, refuse: Collection[str], purpose: str = "link", expect: str | None = None
    ) -> Introduction:
        """Dial ``url`` and shake hands.

        Args:
            url: whom to dial.
            refuse: node ids that will not do.
            purpose: ``"link"`` or ``"bulk"``.
            expect: the only node id that will do.

        Raises:
            PeerUnreachable: nobody answers there, or this node is offline.
            HandshakeFailed: who answers is not acceptable, or does not accept this node.
            IdentityCloned: who answers has this node's identity, or knows another node that has.
            InvalidAddress: ``url`` is not one.
        """
        if self.offline:
            raise PeerUnreachable(url, self.offline)
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        connection: Connection | None = None
        handshake: Handshake | None = None
        try:
            async with asyncio.timeout(None) as scope:
                self._dials[scope] = ended
                connection = await self._transport.dial(url)
                scope.reschedule(loop.time() + HANDSHAKE_SECONDS)
                handshake = self._handshake(
                    connection.binding, dialler=True, refuse=refuse, purpose=purpose, expect=expect
                )
                peer, last = await _shake_hands(connection, handshake)
            return Introduction(connection, peer, last)
        except BaseException as error:
            failure = self._why_not(url, error)
            if connection is not None:
                await connection.close(getattr(failure, "reason", ""))
            if handshake is not None and handshake.expired and purpose == "link":
                self.on_expired(url, handshake.expired)
            raise failure from error
        finally:
            del self._dials[scope]
            ended.set_result(None)

    async def admit(
        self,
        connection: Connection,
        *,
        refuse: Collection[str],
        cloned: Callable[[PeerInfo], Awaitable[bool]],
    ) -> PeerInfo | None:
        """Shake hands on a connection that came in; ``None``: nothing came of it, and it is closed.

        ``cloned``: whether somebody else than the one who claims to be a peer is known to be that peer.
        """
        try:
            async with self._staying(connection):
                handshake = self._handshake(connection.binding, dialler=False, refuse=refuse)
                peer, _ = await _shake_hands(connection, handshake, cloned)
            return peer
        except (HandshakeFailed, LinkClosed) as error:
            self._count(connection, error, asking=False)
            level = logging.ERROR if isinstance(error, IdentityCloned) else logging.INFO
            log.log(level, "no link with %s: %s", connection.remote, plain(error.reason))
            await connection.close(error.reason)
            return None

    @contextlib.asynccontextmanager
    async def _staying(self, connection: Connection, *, asking: bool = False) -> AsyncIterator[None]:
        """The time that somebody who came in has to say who it is, or to ask for a certificate.

        Raises:
            LinkClosed: there is none, or it is over.
        """
        refused = self.offline or self._guard.banned(origin_of(connection.remote), asking=asking)
        if refused:
            raise LinkClosed(refused)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS) as stay:
                self._strangers[connection] = stay
                self._make_room()
                yield
        except TimeoutError:
            crowded = connection not in self._strangers
            raise LinkClosed(CROWDED if crowded else "the handshake takes too long") from None
        finally:
            self._strangers.pop(connection, None)

    def _make_room(self) -> None:
        if len(self._strangers) > MAX_STRANGERS:
            leaving = crowder({stranger: origin_of(stranger.remote) for stranger in self._strangers})
            self._strangers.pop(leaving).reschedule(0)

    async def answer(self, connection: Connection, request: Answer) -> None:
        """Let ``request`` answer the one message of somebody who has no certificate yet, or not any more."""
        reason = ""
        try:
            async with self._staying(connection, asking=True):
                await connection.send(await request(bytes(await connection.receive()), connection.binding))
                await connection.receive()  # who asked closes the connection once it has the answer
        except (InvitationRefused, MembershipRefused, LinkClosed) as error:
            reason = error.reason
            self._count(connection, error, asking=True)
            level = logging.DEBUG if isinstance(error, LinkClosed) else logging.WARNING
            log.log(level, "no certificate for %s: %s", connection.remote, plain(reason))
        finally:
            await connection.close(reason)

    def _count(self, connection: Connection, error: Exception, *, asking: bool) -> None:
        """Hold it against the other end, if ``error`` comes from a violation of the protocol."""
        if isinstance(error.__cause__, ProtocolViolation):
            self._guard.offended(origin_of(connection.remote), asking=asking)

    async def end(self, reason: str) -> None:
        """Go offline for ``reason``: end what is under way, and start nothing until ``offline`` is empty."""
        self.offline = reason
        for scope in self._dials:
            scope.reschedule(0)
        await asyncio.gather(*(connection.close(reason) for connection in self._strangers))
        if self._dials:
            await asyncio.wait(list(self._dials.values()))

    def _why_not(self, url: str, error: BaseException) -> BaseException:
        match error:
            case TimeoutError():
                return PeerUnreachable(url, self.offline or "it does not complete the handshake")
            case LinkClosed(reason=reason) if CLONED in reason:
                return IdentityCloned(f"{CLONED} (says {url})")
            case IdentityCloned():
                return IdentityCloned(f"{CLONED} (at {url})")
            case LinkClosed():
                code, colon, reason = plain(error.reason).partition(": ")
                if colon and code in REFUSALS:
                    return MembershipRefused(code, f"{reason} (says {url})")
                return HandshakeFailed(f"{url} ended it: {plain(error.reason)}")
            case MembershipRefused():
                return error
            case HandshakeFailed():
                return HandshakeFailed(f"{error.reason} (at {url})")
        return error

    def _handshake(
        self,
        binding: bytes,
        *,
        dialler: bool,
        refuse: Collection[str],
        purpose: str = "link",
        expect: str | None = None,
    ) -> Handshake:
        return Handshake(
            self.identity,
            dialler=dialler,
            nonce=self._rng.randbytes(NONCE_BYTES),
            name=self._name,
            listen=self.address,
            membership=self._membership,
            now=self._clock(),
            binding=binding,
            purpose=purpose,
            features=self._features,
            expect=expect,
            refuse=refuse,
            instance=self._instance,
        )


async def _shake_hands(
    connection: Connection,
    handshake: Handshake,
    cloned: Callable[[PeerInfo], Awaitable[bool]] | None = None,
) -> tuple[PeerInfo, list[bytes]]:
    """Shake hands until the peer is proven; what is still to be sent then."""
    frames = handshake.start()
    received = 0
    while handshake.peer is None:
        for frame in frames:
            await connection.send(frame)
        answer = await connection.receive()
        received += len(answer)
        if received > MAX_HANDSHAKE_BYTES:
            much = ProtocolViolation(f"more than {MAX_HANDSHAKE_BYTES} bytes")
            raise HandshakeFailed("the other side sent too much before it proved its key") from much
        frames = handshake.receive(bytes(answer))
        # Before this side proves itself, so that the other one does not take the connection for a link.
        claimed = handshake.claimed if handshake.peer is None else None
        if cloned is not None and claimed is not None and await cloned(claimed):
            raise IdentityCloned(CLONED)
    return handshake.peer, frames
