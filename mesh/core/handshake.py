"""The handshake: two nodes prove their keys to each other before anything else is said.

    dialler                      acceptor
    Hello            ------->
                     <-------    Hello, Proof
    Proof            ------->

A proof signs both hellos, byte for byte as they were sent, the signer's role, and the channel: the hash of
the TLS certificate that the acceptor presents and the dialler sees. The hellos carry both keys, both chains
of certificates and a fresh nonce of either side, so a proof is worth nothing in another connection, to
another peer, sent back to its maker, or passed on by somebody in the middle.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from mesh.core.certificates import CLOSED_MESH, EXPIRED, NOT_A_MEMBER, OTHER_MESH, Certificate, Member
from mesh.core.frames import FrameReader, frames_of
from mesh.core.identity import PUBLIC_KEY_BYTES, Identity, node_id_of, short_id, verify
from mesh.core.membership import Membership
from mesh.core.wire import PROTOCOL_MAX, PROTOCOL_MIN, Hello, Message, Proof
from mesh.errors import HandshakeFailed, IdentityCloned, MembershipRefused, ProtocolViolation

MAX_HANDSHAKE_BYTES = 64 * 1024
"""What a peer may send before it has proven who it is."""

NONCE_BYTES = 32

INSTANCE_BYTES = 16

DIGEST_BYTES = 32

CLONED = "another running node has the same identity, from a copy of its data directory"
"""Why a clone is refused, word for word: the other side knows it by that. It fits the end of a WebSocket."""

_DOMAIN = b"docmesh handshake 2\0"
_DIALLER, _ACCEPTOR = b"dialler\0", b"acceptor\0"
_PURPOSES = ("link", "bulk")
_MAX_TEXT = 256
_MAX_FEATURES = 64
_MAX_TIME = 1 << 40


class PeerInfo(NamedTuple):
    """What a peer said of itself; ``node_id`` and ``public_key`` are proven, the rest is only claimed.

    Attributes:
        node_id: who it is.
        public_key: its key, 32 bytes.
        name: for people.
        listen: where it accepts connections, ``None``: nowhere.
        purpose: ``"link"`` or ``"bulk"``.
        features: the optional parts of the protocol that both sides know.
        protocol: the version that both sides speak.
        instance: the run of it that speaks.
        member: what it may do in this mesh; ``None``: the mesh is open.
        revoked: the digest of the revocations that it knows.
        clock_skew: seconds by which its clock is ahead of this node's, about; ``None``: it does not say.
    """

    node_id: str
    public_key: bytes
    name: str
    listen: str | None
    purpose: str
    features: frozenset[str]
    protocol: int
    instance: bytes = b""
    member: Member | None = None
    revoked: bytes = b""
    clock_skew: int | None = None


class Handshake:
    """One side of one handshake. Send what :meth:`start` and :meth:`receive` return, in order, as frames.

    Attributes:
        peer: the proven peer, once it is; the handshake is then over for this side.
        claimed: who the other side says it is, once it has.
        expired: its certificates, if that they have expired is all that is wrong with them.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        dialler: bool,
        nonce: bytes,
        name: str = "",
        listen: str | None = None,
        membership: Membership | None = None,
        now: float = 0.0,
        binding: bytes = b"",
        purpose: str = "link",
        features: Sequence[str] = (),
        expect: str | None = None,
        refuse: Collection[str] = (),
        instance: bytes = b"",
    ) -> None:
        """
        Args:
            identity: this node.
            dialler: whether this side made the connection.
            nonce: ``NONCE_BYTES`` fresh, unpredictable bytes.
            name: this node's name for people.
            listen: where this node accepts connections.
            membership: what this node knows of its mesh; ``None``: it is an open one.
            now: seconds since the epoch, to judge certificates by.
            binding: names the channel, the same for both of its ends and for no other.
            purpose: what the dialler wants; an acceptor takes over what it is asked for.
            features: optional parts of the protocol that this node knows.
            expect: the only node id that will do.
            refuse: node ids that will not do.
            instance: names this run of the node.
        """
        self.peer: PeerInfo | None = None
        self._identity = identity
        self._dialler = dialler
        self._expect = expect
        self._refuse = refuse
        self._membership = membership
        self._now = now
        self._binding = binding
        self._mine = Hello(
            PROTOCOL_MIN,
            PROTOCOL_MAX,
            list(features),
            identity.public_key,
            nonce,
            purpose,
            name,
            listen,
            membership.mesh_id if membership else "",
            instance,
            membership.chain if membership else [],
            membership.digest() if membership else b"",
            int(now),
        )
        self._my_hello = b""
        self._their_hello = b""
        self.claimed: PeerInfo | None = None
        self.expired: Sequence[Certificate] = ()
        self._failed = False

    def start(self) -> list[bytes]:
        """The frames to send first: the dialler's hello. An acceptor waits for it."""
        return [self._say_hello()] if self._dialler else []

    def receive(self, frame: bytes) -> list[bytes]:
        """Take the next frame of the other side; the frames to answer with.

        Raises:
            HandshakeFailed: this connection is not to be used; the reason says which side is wrong.
        """
        if self._failed or self.peer is not None:
            raise HandshakeFailed("the handshake is over already")
        try:
            return self._advance(frame)
        except HandshakeFailed:
            self._failed = True
            raise

    def _advance(self, frame: bytes) -> list[bytes]:
        message = _decode(frame)
        if self.claimed is not None:
            self.peer = self._check_proof(message, self.claimed)
            return [self._prove()] if self._dialler else []
        if not isinstance(message, Hello):
            raise HandshakeFailed("the other side did not say hello: it is not a mesh node of this kind")
        self.claimed = self._check_hello(message)
        self._their_hello = bytes(frame)
        if self._dialler:
            return []
        return [self._say_hello(self.claimed.purpose), self._prove()]

    def _say_hello(self, purpose: str | None = None) -> bytes:
        mine = self._mine
        if purpose is not None:
            mine = msgspec.structs.replace(mine, purpose=purpose)
        self._my_hello = _encode(mine)
        return self._my_hello

    def _check_hello(self, hello: Hello) -> PeerInfo:
        mine = self._mine
        protocol = min(hello.protocol_max, mine.protocol_max)
        if protocol < max(hello.protocol_min, mine.protocol_min):
            behind = "the other side" if hello.protocol_max < mine.protocol_min else "this node"
            raise HandshakeFailed(
                f"the other side speaks protocol {hello.protocol_min} to {hello.protocol_max}, this node "
                f"{mine.protocol_min} to {mine.protocol_max}: upgrade {behind}"
            )
        self._check_form(hello)
        if hello.public_key == mine.public_key:
            if hello.instance != mine.instance:
                raise IdentityCloned(CLONED)
            raise HandshakeFailed("this node reached itself: the address is its own")
        if hello.mesh_id != mine.mesh_id:
            raise _other_mesh(hello.mesh_id, mine.mesh_id)
        node_id = node_id_of(hello.public_key)
        if self._expect not in (None, node_id):
            raise HandshakeFailed(
                f"{short_id(self._expect or '')} was expected there, but {short_id(node_id)} answers"
            )
        if node_id in self._refuse:
            raise HandshakeFailed(
                f"links with {short_id(node_id)} are refused until connect() is called for it"
            )
        return PeerInfo(
            node_id,
            hello.public_key,
            hello.name,
            hello.listen,
            hello.purpose,
            frozenset(hello.features) & frozenset(mine.features),
            protocol,
            hello.instance,
            self._admit(hello),
            hello.revoked,
            hello.at - int(self._now) if hello.at else None,
        )

    def _admit(self, hello: Hello) -> Member | None:
        if self._membership is None:
            return None
        try:
            return self._membership.admit(hello.chain, hello.public_key, self._now)
        except MembershipRefused as error:
            if error.code == EXPIRED:
                self.expired = hello.chain
            raise

    def _check_form(self, hello: Hello) -> None:
        if len(hello.public_key) != PUBLIC_KEY_BYTES or len(hello.nonce) != NONCE_BYTES:
            raise HandshakeFailed("the other side's key or nonce has a wrong length")
        if len(hello.instance) > INSTANCE_BYTES or len(hello.revoked) > DIGEST_BYTES:
            raise HandshakeFailed("the other side's instance or digest has a wrong length")
        if not 0 <= hello.at < _MAX_TIME:
            raise HandshakeFailed("the other side's clock shows what no clock can")
        if hello.purpose not in _PURPOSES or (self._dialler and hello.purpose != self._mine.purpose):
            raise HandshakeFailed("the other side wants the connection for something else")
        texts = (hello.name, hello.listen or "", hello.mesh_id, *hello.features)
        if len(hello.features) > _MAX_FEATURES or not all(
            len(t) <= _MAX_TEXT and t.isprintable() for t in texts
        ):
            raise HandshakeFailed("the other side's name, address or features are too long or not printable")

    def _check_proof(self, message: Message | None, claimed: PeerInfo) -> PeerInfo:
        if not isinstance(message, Proof):
            raise HandshakeFailed("the other side did not prove its key")
        role = _ACCEPTOR if self._dialler else _DIALLER
        if not verify(claimed.public_key, self._transcript(role), message.signature):
            raise HandshakeFailed(f"the other side does not hold the key of {short_id(claimed.node_id)}")
        if self._membership is not None and claimed.member is not None:
            self._membership.still(claimed.member, self._now)  # it may have been revoked since its hello
        return claimed

    def _prove(self) -> bytes:
        return _encode(Proof(self._identity.sign(self._transcript(_DIALLER if self._dialler else _ACCEPTOR))))

    def _transcript(self, role: bytes) -> bytes:
        """What a proof signs. Whatever else the two sides must agree on belongs in here."""
        hellos = [self._my_hello, self._their_hello]
        if not self._dialler:
            hellos.reverse()
        return _DOMAIN + role + b"".join(len(part).to_bytes(4) + part for part in (self._binding, *hellos))


def _encode(message: Hello | Proof) -> bytes:
    return next(frames_of(message, 0, max_frame=MAX_HANDSHAKE_BYTES))


def _decode(frame: bytes) -> Message | None:
    reader = FrameReader(max_frame=MAX_HANDSHAKE_BYTES, max_message=MAX_HANDSHAKE_BYTES)
    try:
        return reader.feed(frame)
    except ProtocolViolation as violation:
        raise HandshakeFailed(
            f"the other side sent something else than a handshake: {violation}"
        ) from violation


def _other_mesh(theirs: str, mine: str) -> MembershipRefused:
    if not mine:
        return MembershipRefused(
            CLOSED_MESH, "one side belongs to a closed mesh, the other has no credentials"
        )
    if not theirs:
        return MembershipRefused(NOT_A_MEMBER, "one side has no credentials, the other is in a closed mesh")
    return MembershipRefused(OTHER_MESH, "the two sides belong to different meshes")
