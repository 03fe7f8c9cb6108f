"""Certificates: what makes a key a member of a mesh, and what it may do there.

The root key of a mesh signs its first admin, and admins sign members and further admins. A chain leads from a
node's own certificate to the one that the root key signed; the id of the mesh is that of its root key, so a
chain proves itself to whoever knows the mesh's id. An issuer was an admin, its certificate was valid when it
signed, and it granted nothing that it had not.

A revocation is a fact that an admin signs: the certificates of a node up to an epoch are void, and so is
whatever was signed with them, and what other admins have made of that since. Facts are only ever added, and
it does not matter in what order they arrive: so those of an admin who was revoked itself stand, too. The
epoch of a revocation is its time, or higher if a higher one is known, and who is let in again gets the next.
So it also ends certificates that other admins have made meanwhile, and who lets a node in without knowing of
a revocation does not undo it. (If two admins revoke a node and one lets it in again, within the seconds by
which their clocks differ and without knowing of each other, that admission may stand.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from mesh.core.identity import PUBLIC_KEY_BYTES, Identity, node_id_of, short_id, verify
from mesh.errors import MembershipRefused

ADMIN, PUBLISH, RELAY, MEMBER = "admin", "publish", "relay", "member"

ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    MEMBER: (MEMBER,),
    RELAY: (MEMBER, RELAY),
    PUBLISH: (MEMBER, PUBLISH),
    ADMIN: (ADMIN, MEMBER, PUBLISH, RELAY),
}
"""What a node that is invited as one of these is."""

VALID_SECONDS = 365 * 86_400
"""How long a certificate is valid."""

RENEW_SECONDS = 30 * 86_400
"""A node asks for its next certificate when it has this much left of its own."""

SKEW_SECONDS = 86_400
"""By how much the clock of an issuer may be ahead."""

MAX_CHAIN = 4
"""Certificates from a node to the root key."""

MAX_FORMER = 16
"""Admins on whom a certificate stands beside those of its chain."""

MAX_PATTERNS = 32
"""Collections that a certificate names, for reading and for writing."""

EVERYTHING = ("*",)

_MAX_ROLES = 16
_MAX_TIME = 1 << 40
MAX_EPOCH = _MAX_TIME - 1
"""The last that a revocation can name. Those of certificates stay below it: none is out of its reach."""

_ROLE = re.compile(r"[a-z][a-z-]{0,31}")
_NODE_ID = re.compile(r"[a-z2-7]{52}")
_PATTERN = re.compile(r"\*|[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\*?")
_CERTIFICATE, _REVOCATION = b"docmesh certificate 1\0", b"docmesh revocation 1\0"

NOT_A_MEMBER = "no-credentials"
CLOSED_MESH = "closed-mesh"
OTHER_MESH = "other-mesh"
REVOKED = "revoked"
EXPIRED = "expired"
NOT_YET_VALID = "not-yet-valid"
FORGED = "bad-certificate"
REFUSALS = (NOT_A_MEMBER, CLOSED_MESH, OTHER_MESH, REVOKED, EXPIRED, NOT_YET_VALID, FORGED)
"""Why two nodes do not talk, in words that both know: a reason that is sent starts with one of them."""


class Grant(msgspec.Struct, array_like=True, frozen=True):
    """What a certificate allows: roles, and the collections that may be read and written (names, or their
    starts with a ``*``), each sorted."""

    roles: list[str]
    read: list[str]
    write: list[str]

    def check(self) -> None:
        """Refuse what no certificate can say.

        Raises:
            ValueError: and why.
        """
        if len(self.roles) > _MAX_ROLES or not all(map(_ROLE.fullmatch, self.roles)):
            raise ValueError("malformed roles")
        for patterns in (self.read, self.write):
            if len(patterns) > MAX_PATTERNS:
                raise ValueError(f"more than {MAX_PATTERNS} collections; use patterns such as cars*")
            for pattern in patterns:
                if not _PATTERN.fullmatch(pattern):
                    raise ValueError(f"{pattern!r} is neither a collection's name nor the start of one and *")
        for names in (self.roles, self.read, self.write):
            if names != sorted(set(names)):
                raise ValueError("names that are not in order")

    def covers(self, other: Grant) -> bool:
        """Whether this allows everything that ``other`` does."""
        return (
            set(other.roles) <= set(self.roles)
            and all(covered(pattern, self.read) for pattern in other.read)
            and all(covered(pattern, self.write) for pattern in other.write)
        )


def grant_of(role: str, read: Iterable[str] = EVERYTHING, write: Iterable[str] | None = None) -> Grant:
    """What an invitation as ``role`` grants. ``write``: as ``read`` if ``None``.

    Raises:
        ValueError: there is no such role, or a collection is malformed.
    """
    if role not in ROLES:
        raise ValueError(f"there is no role {role!r}: choose one of {', '.join(ROLES)}")
    readable = _names(read)
    grant = Grant(list(ROLES[role]), readable, readable if write is None else _names(write))
    grant.check()
    return grant


def _names(given: Iterable[str]) -> list[str]:
    return [given] if isinstance(given, str) else sorted(set(given))  # not its letters: one may be a *


def role_of(grant: Grant) -> str:
    """The invitation that grants these roles; all of them, where none does."""
    granted = tuple(grant.roles)
    return next((role for role, roles in ROLES.items() if roles == granted), ", ".join(granted))


class Certificate(msgspec.Struct, array_like=True, frozen=True):
    """One link of a chain.

    Attributes:
        mesh_id: the mesh that it is about.
        issuer: the public key that signed it.
        public_key: whom it is about.
        epoch: which membership of that node it is, from 1: a revocation ends it, and renewals go on in it.
        not_before, not_after: seconds since the epoch of clocks.
        former: other admins, and their epochs, on whom the certificates stood that this one renews. They need
            not be members any more, but a revocation of one ends this certificate as well.
    """

    mesh_id: str
    issuer: bytes
    public_key: bytes
    epoch: int
    grant: Grant
    not_before: int
    not_after: int
    signature: bytes = b""
    former: list[tuple[str, int]] = []

    @property
    def node_id(self) -> str:
        """Whom it is about."""
        return node_id_of(self.public_key)

    def signed(self) -> bytes:
        """What the issuer signs."""
        fields = msgspec.structs.astuple(msgspec.structs.replace(self, signature=b""))
        return _CERTIFICATE + msgspec.msgpack.encode(trimmed(fields))


class Revocation(msgspec.Struct, array_like=True, frozen=True):
    """The certificates of a node up to an epoch are void. ``chain`` is that of the admin who says so.

    With a ``successor`` it is a retirement, which a node signs itself: it goes by that public key from now
    on, and is nobody any more by its former one, under which it comes to no link. What it has signed stands.
    """

    mesh_id: str
    node_id: str
    epoch: int
    at: int
    chain: list[Certificate]
    signature: bytes = b""
    successor: bytes = b""

    def signed(self) -> bytes:
        """What the admin signs, or the node itself."""
        fact = [
            self.mesh_id,
            self.node_id,
            self.epoch,
            self.at,
            *([self.successor] if self.successor else []),
        ]
        return _REVOCATION + msgspec.msgpack.encode(fact)


class Member(NamedTuple):
    """A node whose chain has been verified, and what it may do."""

    node_id: str
    public_key: bytes
    epoch: int
    grant: Grant
    not_after: int
    chain: tuple[Certificate, ...]

    def has(self, role: str) -> bool:
        """Whether it has a role."""
        return role in self.grant.roles

    def may_read(self, collection: str) -> bool:
        """Whether it may have the documents of a collection."""
        return covered(collection, self.grant.read)

    def may_write(self, collection: str) -> bool:
        """Whether it may change the documents of a collection."""
        return covered(collection, self.grant.write)


def stands_on(chain: Sequence[Certificate]) -> list[tuple[str, int]]:
    """Whose revocation, from which epoch on, voids a chain: its nodes, and those of earlier ones."""
    return [pair for each in chain for pair in ((each.node_id, each.epoch), *each.former)]


def verify_chain(
    chain: Sequence[Certificate],
    mesh_id: str,
    now: float,
    revoked: Mapping[str, int],
    *,
    expired_too: bool = False,
) -> Member:
    """The member that ``chain`` proves, its own certificate first.

    Args:
        mesh_id: the mesh that it has to lead to.
        now: seconds since the epoch.
        revoked: per node the highest epoch that is void.
        expired_too: take a certificate that has expired: for renewals, and for facts of the past.

    Raises:
        MembershipRefused: it proves nothing; ``code`` is one of ``REFUSALS``. That it has expired is looked
            at last.
    """
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise MembershipRefused(
            FORGED, f"a chain of {len(chain)} certificates (1 to {MAX_CHAIN} are allowed)"
        )
    for certificate in chain:
        _check_form(certificate)
        if certificate.mesh_id != mesh_id:
            raise MembershipRefused(OTHER_MESH, "the certificate is of another mesh")
    if node_id_of(chain[-1].issuer) != mesh_id:
        raise MembershipRefused(FORGED, "the chain does not lead to the root key of the mesh")
    for position, certificate in enumerate(chain):
        if not verify(certificate.issuer, certificate.signed(), certificate.signature):
            raise MembershipRefused(FORGED, f"{_whose(certificate)} is not signed by its issuer")
        if position + 1 < len(chain):
            _check_issued(certificate, chain[position + 1])
    own = chain[0]
    for node_id, epoch in stands_on(chain):
        if epoch <= revoked.get(node_id, 0):
            whose = "" if node_id == own.node_id else ", who admitted the node,"
            raise MembershipRefused(REVOKED, f"{short_id(node_id)}{whose} was revoked")
    if now < own.not_before - SKEW_SECONDS:
        raise MembershipRefused(NOT_YET_VALID, f"{_whose(own)} begins in the future: check both clocks")
    if now > own.not_after and not expired_too:
        raise MembershipRefused(EXPIRED, f"{_whose(own)} has expired: an admin has to renew it")
    return Member(own.node_id, own.public_key, own.epoch, own.grant, own.not_after, tuple(chain))


def issue(
    issuer: Identity,
    above: Sequence[Certificate],
    public_key: bytes,
    grant: Grant,
    now: float,
    *,
    epoch: int = 1,
    former: Sequence[tuple[str, int]] = (),
) -> list[Certificate]:
    """The chain of a new certificate for ``public_key``.

    Args:
        issuer: who signs: an admin, or the root key.
        above: the issuer's own chain; empty for the root key.
        now: seconds since the epoch; it is valid from then on.

    Raises:
        MembershipRefused: the issuer cannot grant that.
        ValueError: nobody can.
    """
    grant.check()
    mesh_id = above[0].mesh_id if above else issuer.node_id
    start = int(now)
    end = start + VALID_SECONDS
    unsigned = Certificate(
        mesh_id, issuer.public_key, public_key, epoch, grant, start, end, former=list(former)
    )
    certificate = msgspec.structs.replace(unsigned, signature=issuer.sign(unsigned.signed()))
    chain = [certificate, *above]
    verify_chain(chain, mesh_id, now, {})
    return chain


def revoke(admin: Identity, chain: Sequence[Certificate], node_id: str, epoch: int, now: float) -> Revocation:
    """The fact that ``node_id`` is no member any more, signed by ``admin``.

    Raises:
        MembershipRefused: who signs is no admin.
    """
    unsigned = Revocation(chain[0].mesh_id, node_id, epoch, int(now), list(chain))
    fact = msgspec.structs.replace(unsigned, signature=admin.sign(unsigned.signed()))
    verify_revocation(fact, fact.mesh_id)
    return fact


def verify_revocation(fact: Revocation, mesh_id: str) -> None:
    """Make sure that an admin of the mesh said so, or the node itself, whatever became of that one.

    Raises:
        MembershipRefused: none did.
    """
    signer = verify_chain(fact.chain, mesh_id, fact.at, {}, expired_too=True)
    if fact.successor:
        itself = signer.node_id == fact.node_id and signer.epoch == fact.epoch
        entitled = itself and len(fact.successor) == PUBLIC_KEY_BYTES
    else:
        entitled = signer.has(ADMIN)
    if fact.mesh_id != mesh_id or not entitled or not 0 < fact.epoch <= MAX_EPOCH:
        raise MembershipRefused(FORGED, "a revocation by a node that is no admin of the mesh")
    if not _NODE_ID.fullmatch(fact.node_id):
        raise MembershipRefused(FORGED, "a revocation of what is no node")
    if not verify(signer.public_key, fact.signed(), fact.signature):
        raise MembershipRefused(FORGED, "a revocation that is not signed by who is said to have")


def _check_form(certificate: Certificate) -> None:
    try:
        certificate.grant.check()
    except ValueError as error:
        raise MembershipRefused(FORGED, f"a certificate with {error}") from error
    if len(certificate.public_key) != PUBLIC_KEY_BYTES or not 0 < certificate.epoch < MAX_EPOCH:
        raise MembershipRefused(FORGED, "a certificate with a malformed key or epoch")
    start, end = certificate.not_before, certificate.not_after
    if not (0 <= start <= end <= _MAX_TIME and end - start <= VALID_SECONDS):
        raise MembershipRefused(FORGED, f"{_whose(certificate)} is valid for too long, or never")
    former = certificate.former
    well_formed = former == sorted(set(former)) and all(
        _NODE_ID.fullmatch(node_id) and 0 < epoch <= MAX_EPOCH for node_id, epoch in former
    )
    if len(former) > MAX_FORMER or not well_formed:
        raise MembershipRefused(FORGED, f"{_whose(certificate)} stands on too many, or on what is no node")


def _check_issued(certificate: Certificate, issuer: Certificate) -> None:
    who = short_id(issuer.node_id)
    if certificate.issuer != issuer.public_key:
        raise MembershipRefused(FORGED, "the certificates of the chain do not belong together")
    if ADMIN not in issuer.grant.roles:
        raise MembershipRefused(FORGED, f"{who} admitted a node and is no admin")
    if not issuer.grant.covers(certificate.grant):
        raise MembershipRefused(FORGED, f"{who} granted more than it has")
    if not issuer.not_before <= certificate.not_before <= issuer.not_after:
        raise MembershipRefused(FORGED, f"{who} admitted a node while it was not valid itself")


def trimmed(fields: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without an empty ``former``, the last: certificates that were never renewed by another are as they were
    before there was such a thing."""
    return fields if fields[-1] else fields[:-1]


def covered(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of ``patterns`` allows all that ``name``, a collection or itself a pattern, stands for."""
    return any(
        name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])) for pattern in patterns
    )


def _whose(certificate: Certificate) -> str:
    return f"the certificate of {short_id(certificate.node_id)}"
