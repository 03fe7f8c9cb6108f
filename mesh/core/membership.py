"""What a node knows of its mesh: its own certificates, and who was revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from mesh.core.certificates import (
    FORGED,
    RENEW_SECONDS,
    Certificate,
    Grant,
    Member,
    Revocation,
    verify_chain,
    verify_revocation,
)
from mesh.errors import MembershipRefused


class Membership:
    """One node's knowledge of one mesh. Facts are only ever added.

    Attributes:
        mesh_id: the mesh.
        chain: this node's certificates, its own first; replaced when it is renewed.
        revoked: per node the highest epoch that is void.
    """

    def __init__(self, chain: Sequence[Certificate]) -> None:
        self.chain = list(chain)
        self.mesh_id = chain[0].mesh_id
        self._facts: dict[str, Revocation] = {}
        self._revoked: dict[str, int] = {}
        self.revoked: Mapping[str, int] = MappingProxyType(self._revoked)
        self._digest: bytes | None = None

    @property
    def grant(self) -> Grant:
        """What this node may do."""
        return self.chain[0].grant

    @property
    def facts(self) -> list[Revocation]:
        """Every revocation that matters: one per node."""
        return list(self._facts.values())

    def digest(self) -> bytes:
        """The same for two nodes that know of the same revocations."""
        if self._digest is None:
            self._digest = hashlib.sha256(msgspec.msgpack.encode(sorted(self._revoked.items()))).digest()
        return self._digest

    def admit(
        self, chain: Sequence[Certificate], public_key: bytes, now: float, *, expired_too: bool = False
    ) -> Member:
        """The member with this key.

        Raises:
            MembershipRefused: the chain does not prove that it is one.
        """
        member = verify_chain(chain, self.mesh_id, now, self._revoked, expired_too=expired_too)
        if member.public_key != public_key:
            raise MembershipRefused(FORGED, "the certificate is another node's")
        return member

    def still(self, member: Member, now: float) -> None:
        """Make sure that one who was admitted would be again.

        Raises:
            MembershipRefused: it would not.
        """
        verify_chain(member.chain, self.mesh_id, now, self._revoked)

    def learn(self, facts: Iterable[Revocation]) -> list[Revocation]:
        """Take over what is new; which that was.

        Raises:
            MembershipRefused: no admin of this mesh has said so. What came before it is taken over.
        """
        new = []
        for fact in facts:
            if fact.epoch <= self._revoked.get(fact.node_id, 0):
                continue
            verify_revocation(fact, self.mesh_id)
            self._facts[fact.node_id] = fact
            self._revoked[fact.node_id] = fact.epoch
            self._digest = None
            new.append(fact)
        return new

    def next_epoch(self, node_id: str) -> int:
        """The epoch of a membership that begins now."""
        return self._revoked.get(node_id, 0) + 1

    def renewed(self, chain: Sequence[Certificate], now: float) -> bool:
        """Go on with a newer chain of this node's; whether it is one.

        Raises:
            MembershipRefused: it proves nothing.
        """
        own = self.chain[0]
        member = self.admit(chain, own.public_key, now)
        if member.not_after <= own.not_after:
            return False
        self.chain = list(chain)
        return True

    def renewal_due(self, now: float) -> bool:
        """Whether it is time to ask for the next certificate."""
        return now > self.chain[0].not_after - RENEW_SECONDS

    def expired(self, now: float) -> bool:
        """Whether this node can only renew."""
        return now > self.chain[0].not_after
