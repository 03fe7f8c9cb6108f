"""Enrolment: how a node that has been invited, or whose certificate ends, comes by one.

    who asks                                 an admin
    Enrol(secret) or Renew(chain)  ------->
                                   <-------  Enrolled(chain), or the end of the connection, and why

    who changes its key                      an admin
    Renew(chain, retirement)       ------->
                                   <-------  Enrolled(chain of the new key)

    an admin                                 who has expired, and was dialled
    Enrolled(chain)                ------->
                                   <-------  the same, once it is kept

An invitation names the admin's TLS certificate, so that the secret is told to nobody else. What is asked for
is signed by the key that the certificate will be about, over the channel too: it says nothing on another one.
What is answered is no secret, and proves itself.
"""

from __future__ import annotations

import base64
import hashlib

import msgspec

from mesh.core.certificates import Certificate, Grant, Revocation
from mesh.core.frames import FrameReader, frames_of
from mesh.core.handshake import MAX_HANDSHAKE_BYTES
from mesh.core.identity import PUBLIC_KEY_BYTES, Identity, verify
from mesh.core.structs import UNREADABLE
from mesh.core.wire import Enrol, Enrolled, Message, Renew
from mesh.errors import InvitationRefused, ProtocolViolation

SECRET_BYTES = 20
"""Guessing one takes longer than any invitation lasts."""

MAX_TTL_SECONDS = 365 * 86_400
MAX_USES = 100_000
MAX_ADDRESSES = 16
MAX_TOKEN_CHARS = 4096

_PREFIX = "mesh1-"
_CHECKSUM_BYTES = 4
_ENROL, _RENEW, _SUCCEED = b"docmesh enrol 1\0", b"docmesh renew 1\0", b"docmesh succeed 1\0"


class Invitation(msgspec.Struct, array_like=True, frozen=True):
    """What a token says.

    Attributes:
        mesh_id: the mesh that it leads into.
        addresses: where the admin who made it can be dialled.
        pin: the fingerprint of that admin's TLS certificate.
        secret: worth a certificate.
    """

    mesh_id: str
    addresses: list[str]
    pin: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"<Invitation by way of {', '.join(self.addresses)}>"

    def token(self) -> str:
        """All of it on one line."""
        body = msgspec.msgpack.encode(self)
        return _PREFIX + _encoded(body + _checksum(body))


class Invited(msgspec.Struct, frozen=True):
    """What the admin keeps of an invitation: never the secret.

    Attributes:
        secret_hash: tells the secret when it comes.
        grant: what is granted.
        uses: how many nodes may be admitted.
        expires_at: in seconds since the epoch.
    """

    secret_hash: bytes
    grant: Grant
    uses: int
    expires_at: float


def read_token(token: str) -> Invitation:
    """What a token says.

    Raises:
        InvitationRefused: it is not one, or not a whole one.
    """
    text = token.strip() if isinstance(token, str) else ""
    if not text.startswith(_PREFIX) or len(text) > MAX_TOKEN_CHARS:
        raise InvitationRefused(f"this is no token of `mesh invite`, which starts with {_PREFIX}")
    encoded = text.removeprefix(_PREFIX)
    try:
        whole = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        body, checksum = whole[:-_CHECKSUM_BYTES], whole[-_CHECKSUM_BYTES:]
        if _checksum(body) != checksum or _encoded(whole) != encoded:
            raise InvitationRefused("the token was mistyped or cut: copy all of it")
        invitation = msgspec.msgpack.decode(body, type=Invitation)
    except (ValueError, *UNREADABLE) as error:
        raise InvitationRefused("the token was mistyped or cut: copy all of it") from error
    if not 1 <= len(invitation.addresses) <= MAX_ADDRESSES:
        raise InvitationRefused("the token does not say whom to dial")
    return invitation


def secret_hash(secret: bytes) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret).digest()


def enrol(identity: Identity, secret: bytes, binding: bytes) -> bytes:
    """The frame that asks for a first certificate, on the channel ``binding``."""
    signature = identity.sign(_ENROL + binding + secret_hash(secret))
    return _encode(Enrol(secret, identity.public_key, signature))


def renew(identity: Identity, chain: list[Certificate], binding: bytes) -> bytes:
    """The frame that asks for the next certificate, on the channel ``binding``."""
    return _encode(Renew(chain, identity.sign(_RENEW + binding)))


def succeed(identity: Identity, successor: Identity, retirement: Revocation, binding: bytes) -> bytes:
    """The frame that asks for a certificate of a node's next key, on the channel ``binding``."""
    signatures = [each.sign(_SUCCEED + binding + retirement.signed()) for each in (identity, successor)]
    return _encode(Renew([], signatures[0], retirement, signatures[1]))


def enrolled(chain: list[Certificate]) -> bytes:
    """The frame that answers, or offers."""
    return _encode(Enrolled(chain))


def read_request(frame: bytes, binding: bytes) -> Enrol | Renew | Enrolled:
    """What somebody asks for on the channel ``binding``, who holds the key that it is about; or what is
    offered there, of which nothing is verified.

    Raises:
        InvitationRefused: that is not so.
    """
    match _decode(frame):
        case Enrol(secret, public_key, signature) as request:
            signed = _ENROL + binding + secret_hash(secret)
        case Renew(chain, signature, None) as request if chain:
            public_key, signed = chain[0].public_key, _RENEW + binding
        case Renew(_, signature, Revocation(chain=[own, *_]) as retirement, consent) as request:
            public_key, signed = own.public_key, _SUCCEED + binding + retirement.signed()
            if not verify(retirement.successor, signed, consent):
                raise InvitationRefused("the next key does not agree with what is asked")
        case Enrolled() as offer:
            return offer
        case _:
            raise InvitationRefused("what was sent does not ask for a certificate")
    if len(public_key) != PUBLIC_KEY_BYTES or not verify(public_key, signed, signature):
        refusal = InvitationRefused("who asks does not hold the key that the certificate would be about")
        raise refusal from ProtocolViolation("a signature by another key, or on another channel")
    return request


def read_answer(frame: bytes) -> list[Certificate]:
    """The chain that was answered; nothing of it is verified.

    Raises:
        InvitationRefused: something else was.
    """
    answer = _decode(frame)
    if not isinstance(answer, Enrolled):
        raise InvitationRefused("the admin's node answered with something else than a certificate")
    return answer.chain


def _encode(message: Enrol | Renew | Enrolled) -> bytes:
    return next(frames_of(message, 0, max_frame=MAX_HANDSHAKE_BYTES))


def _decode(frame: bytes) -> Message | None:
    try:
        return FrameReader(max_frame=MAX_HANDSHAKE_BYTES, max_message=MAX_HANDSHAKE_BYTES).feed(frame)
    except ProtocolViolation as violation:
        raise InvitationRefused(f"what was sent is no request for a certificate: {violation}") from violation


def _encoded(whole: bytes) -> str:
    return base64.urlsafe_b64encode(whole).decode().rstrip("=")


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(_PREFIX.encode() + body).digest()[:_CHECKSUM_BYTES]
