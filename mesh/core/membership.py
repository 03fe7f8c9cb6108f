"""What a node knows of its mesh: its own certificates, and who was revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import msgspec

from mesh.core.certificates import (
    FORGED,
    MAX_EPOCH,
    PUBLISH,
    RENEW_SECONDS,
    REVOKED,
    Certificate,
    Grant,
    Member,
    Revocation,
    covered,
    stands_on,
    verify_chain,
    verify_revocation,
)
from mesh.core.identity import short_id
from mesh.core.packed_chains import pack_chain, unpack_chain
from mesh.errors import MembershipRefused, PermissionDenied


class Membership:
    """One node's knowledge of one mesh. Facts are only ever added.

    Attributes:
        mesh_id: the mesh.
        chain: this node's certificates, its own first; replaced when it is renewed.
        revoked: per node the highest epoch that is void.
        retired: per node the highest epoch in which it has changed its key.
    """

    def __init__(self, chain: Sequence[Certificate]) -> None:
        self.chain = list(chain)
        self.mesh_id = chain[0].mesh_id
        self._facts: dict[tuple[str, bool], Revocation] = {}  # by node, and whether it is a retirement
        self._revoked: dict[str, int] = {}
        self._retired: dict[str, int] = {}
        self.retired: Mapping[str, int] = MappingProxyType(self._retired)
        self._seen: dict[str, int] = {}  # per node the highest epoch of a certificate
        self.revoked: Mapping[str, int] = MappingProxyType(self._revoked)
        self._digest: bytes | None = None

    @property
    def grant(self) -> Grant:
        """What this node may do."""
        return self.chain[0].grant

    def may_write(self, collection: str) -> bool:
        """Whether peers would take what this node writes there."""
        return covered(collection, self.grant.write)

    def require_write(self, collection: str) -> None:
        """Refuse what peers would not take from this node.

        Raises:
            PermissionDenied: it may not write the collection.
        """
        self._require(collection, self.grant.write, "write")

    def require_read(self, collection: str) -> None:
        """Refuse what peers would not send to this node.

        Raises:
            PermissionDenied: it may not read the collection.
        """
        self._require(collection, self.grant.read, "read")

    def require_publish(self) -> None:
        """Refuse what peers would not take from this node.

        Raises:
            PermissionDenied: it may not distribute.
        """
        if PUBLISH not in self.grant.roles:
            raise PermissionDenied(
                f"the certificate of this node lacks the role {PUBLISH}, without which nobody takes its "
                "distributions: an admin can give it another, by `mesh invite --role publish` there, then "
                "`mesh down` and `mesh join` here"
            )

    def _require(self, collection: str, allowed: list[str], what: str) -> None:
        if not covered(collection, allowed):
            raise PermissionDenied(
                f"the certificate of this node does not let it {what} {collection}, only "
                f"{', '.join(allowed) or 'nothing'}: an admin can give it another, by `mesh invite "
                "--collections` there, then `mesh down` and `mesh join` here"
            )

    def packed(self) -> bytes:
        """This node's chain, as it goes into the records that it signs."""
        return pack_chain(self.chain)

    def writer(self, public_key: bytes, packed: bytes) -> Member:
        """The member who signed a record. Neither the time nor the order of arrival matters: every node that
        knows of the same revocations comes to the same. Safe on any thread.

        Raises:
            MembershipRefused: it is none, or was revoked, or who admitted it was.
        """
        member, epochs = _writer(self.mesh_id, public_key, packed)
        self._see(epochs)
        for node_id, epoch in epochs:
            if epoch <= self._revoked.get(node_id, 0):
                raise MembershipRefused(REVOKED, f"{short_id(node_id)} was revoked")
        return member

    @property
    def facts(self) -> list[Revocation]:
        """Every revocation and every retirement that matters: one per node."""
        return list(self._facts.values())

    def digest(self) -> bytes:
        """The same for two nodes that know of the same revocations."""
        if self._digest is None:
            known = sorted((*key, fact.epoch) for key, fact in self._facts.items())
            self._digest = hashlib.sha256(msgspec.msgpack.encode(known)).digest()
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
        self._check_retired(member)
        self._see(stands_on(member.chain))
        return member

    def still(self, member: Member, now: float) -> None:
        """Make sure that one who was admitted would be again.

        Raises:
            MembershipRefused: it would not.
        """
        self._check_retired(verify_chain(member.chain, self.mesh_id, now, self._revoked))

    def _check_retired(self, member: Member) -> None:
        if member.epoch <= self._retired.get(member.node_id, 0):
            raise MembershipRefused(
                REVOKED, f"{short_id(member.node_id)} has changed its key, and this is the old"
            )

    def check_retirement(self, fact: Revocation, now: float) -> None:
        """Make sure that a member retires, and has not retired already in favour of another key.

        Raises:
            MembershipRefused: it is none, or has.
        """
        verify_revocation(fact, self.mesh_id)
        member = verify_chain(fact.chain, self.mesh_id, now, self._revoked)
        known = self._facts.get((fact.node_id, True))
        if known is None or known.successor != fact.successor:  # once more, its answer may have been lost
            self._check_retired(member)

    def learn(self, facts: Iterable[Revocation]) -> list[Revocation]:
        """Take over what is new; which that was.

        Raises:
            MembershipRefused: no admin of this mesh has said so. What came before it is taken over.
        """
        new = []
        for fact in facts:
            known = self._retired if fact.successor else self._revoked
            if fact.epoch <= known.get(fact.node_id, 0):
                continue
            verify_revocation(fact, self.mesh_id)
            self._facts[fact.node_id, bool(fact.successor)] = fact
            known[fact.node_id] = fact.epoch
            self._digest = None
            new.append(fact)
        return new

    def next_epoch(self, node_id: str) -> int:
        """The epoch of a membership that begins now."""
        return max(self._revoked.get(node_id, 0), self._retired.get(node_id, 0)) + 1

    def last_epoch(self, node_id: str, now: float) -> int:
        """The epoch that a revocation names to end every certificate of a node that there is: those that are
        known here, the next of each, on which stands who has taken over from it, and those that others have
        made since they revoked it some time before ``now``."""
        epoch = max(self.next_epoch(node_id), self._seen.get(node_id, 0) + 1, int(now))
        return min(epoch, MAX_EPOCH)

    def _see(self, epochs: Iterable[tuple[str, int]]) -> None:
        for node_id, epoch in epochs:
            if epoch > self._seen.get(node_id, 0):
                self._seen[node_id] = epoch

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


@lru_cache(4096)
def _writer(mesh_id: str, public_key: bytes, packed: bytes) -> tuple[Member, list[tuple[str, int]]]:
    """Who signs with a chain that was valid some time, and what of it can be revoked."""
    chain = unpack_chain(packed, mesh_id, public_key)
    end = chain[0].not_after if chain else 0
    member = verify_chain(chain, mesh_id, end, {})
    if pack_chain(chain) != packed:  # one chain is kept once, and nothing rides along
        raise MembershipRefused(FORGED, "a chain of certificates that is not packed as they all are")
    return member, stands_on(chain)
