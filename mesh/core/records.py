"""Owned documents: one writer, one signed record, replaced and never merged.

The documents of the collections ``nodes``, ``distributions`` and ``receipts`` are ordinary documents whose
root map holds one key, ``record``: JSON text with the writer's key, (epoch, sequence), the body and a
signature over all of it; in a closed mesh also the writer's certificates, so that a record proves itself
however many nodes have passed it on. Of two states the one with the higher (epoch, sequence) wins whole; of
two contents under one (epoch, sequence), which only a cloned identity makes, the lower record hash wins
everywhere.
"""

from __future__ import annotations

from typing import Any

import msgspec
from blake3 import blake3

from mesh.core.certificates import ADMIN, PUBLISH, Grant
from mesh.core.document import DocumentState, Merged, check_update, single_value_state
from mesh.core.identity import Identity, node_id_of, short_id, verify
from mesh.core.library import registers_of
from mesh.core.membership import Membership
from mesh.core.receipts import check_owned, distribution_id_of
from mesh.core.structs import UNREADABLE
from mesh.core.versions import MAX_CLOCKS, MAX_COUNTER, Rank, VersionVector, covers, join
from mesh.core.wire import Change
from mesh.errors import InvalidDocument, MembershipRefused, PermissionDenied

OWNED_COLLECTIONS = frozenset({"nodes", "distributions", "receipts"})

MAX_RECORD_BYTES = 64 * 1024
"""Largest record, signature included."""

CLIENT_ID = 1
"""The Yjs client id of every record: equal records have equal bytes."""

_KEY = "record"
CANCELLED: Rank = (1 << 40, 0)
"""Ranks from here on are those of cancelled distributions."""
REMOVED: Rank = (1 << 41, 0)
"""Ranks from here on are those of removed distributions."""

_DOMAIN = b"mesh record 1\0"


class SignedRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the ``record`` key holds, as JSON. ``body`` is the JSON text that was signed, to the letter;
    ``chain`` the writer's certificates, packed (see :func:`~mesh.core.packed_chains.pack_chain`)."""

    public_key: bytes
    epoch: int
    sequence: int
    body: str
    signature: bytes
    chain: bytes = b""

    @property
    def rank(self) -> Rank:
        """Orders the states of one owned document."""
        return (self.epoch, self.sequence)


def _signed_bytes(collection: str, document_id: str, rank: Rank, body: str, chain: bytes) -> bytes:
    return _DOMAIN + msgspec.json.encode([collection, document_id, *rank, body, *([chain] if chain else [])])


def sign(
    identity: Identity,
    collection: str,
    document_id: str,
    body: dict[str, Any],
    held: DocumentState,
    clock: bytes,
    counter: int,
    *,
    adopted: bool,
    membership: Membership | None = None,
) -> tuple[Change, Merged]:
    """The next record of a document that this node owns, as a change and as the new state.

    ``adopted``: the record held was met at a peer, written by an earlier life of this node that may have
    written more; this one goes on in the next epoch, above all of it. ``membership``: of a closed mesh.

    Raises:
        PermissionDenied: the document is not this node's, or its certificate does not allow that.
        InvalidDocument: the record would be over ``MAX_RECORD_BYTES``, or is not what ``schema/`` says.
    """
    grant, chain = (None, b"") if membership is None else (membership.grant, membership.packed())
    if membership is not None and collection == "distributions":
        membership.require_publish()
    _check_right(collection, document_id, body, identity.node_id, grant)
    check_owned(collection, {**body, "_id": document_id})
    epoch, sequence = max(held.rank, (0, 0))
    rank = (epoch + 1, 1) if adopted else (epoch, sequence + 1)
    lowest, _ = _ranks(collection, body)
    if rank < lowest:
        rank = (lowest[0] + rank[0] % CANCELLED[0], rank[1])
    _check_rank(collection, rank, body)
    text = msgspec.json.encode(body, order="sorted").decode()
    record = SignedRecord(
        identity.public_key,
        *rank,
        text,
        identity.sign(_signed_bytes(collection, document_id, rank, text, chain)),
        chain,
    )
    encoded = msgspec.json.encode(record).decode()
    if len(encoded) > MAX_RECORD_BYTES:
        raise InvalidDocument(f"a record of {len(encoded)} bytes is over the limit of {MAX_RECORD_BYTES}")
    update = single_value_state(_KEY, encoded, CLIENT_ID)
    vector = _succeeding(held.vector, {clock: counter})
    change = Change(collection, document_id, rank, {}, vector, update)
    says: dict[str, Any] = msgspec.json.decode(text)  # in the order in which everybody reads it
    return change, Merged(DocumentState(rank, update, vector), says)


def arrive(held: DocumentState, change: Change, membership: Membership | None = None) -> Merged | None:
    """What becomes of an owned document when ``change`` arrives; ``None`` if it says nothing new.

    The state that is kept is built anew from the verified record, so that nothing else rides along.
    ``membership``: of a closed mesh, whose members alone write records.

    Raises:
        InvalidDocument: the record is malformed, or not what ``schema/`` says.
        PermissionDenied: its signature or owner is wrong, or who made it may not. Nothing has changed.
    """
    if change.rank < held.rank:
        return _advanced(held, change.until)
    if change.rank == held.rank and covers(held.vector, change.until) and change.update == held.update:
        return None
    record = _open(change, membership)
    update = single_value_state(_KEY, msgspec.json.encode(record).decode(), CLIENT_ID)
    if change.rank == held.rank and _digest(update) >= _digest(held.update):
        return _advanced(held, change.until)
    return Merged(
        DocumentState(change.rank, update, _succeeding(held.vector, change.until)),
        msgspec.json.decode(record.body, type=dict[str, Any]),
    )


def body_of(update: bytes) -> dict[str, Any]:
    """The body of a verified owned document that is held."""
    return msgspec.json.decode(_record(update).body, type=dict[str, Any])


def stands(update: bytes, membership: Membership) -> bool:
    """Whether a verified record that is held is still one of a member."""
    record = _record(update)
    try:
        membership.writer(record.public_key, record.chain)
    except MembershipRefused:
        return False
    return True


def owner_of(collection: str, document_id: str, body: dict[str, Any]) -> str | None:
    """The node_id of the only node that may write the document; ``None`` if the id fits no owner."""
    if collection == "nodes":
        return document_id
    if collection == "receipts":
        distribution_id, _, node_id = document_id.partition(":")
        fits = body.get("distribution_id") == distribution_id and body.get("node_id") == node_id
        return node_id if fits else None
    publisher, nonce = body.get("publisher"), body.get("nonce")
    if not isinstance(publisher, str) or not isinstance(nonce, str):
        return None
    return publisher if distribution_id_of(publisher, nonce) == document_id else None


def _ranks(collection: str, body: dict[str, Any]) -> tuple[Rank, Rank]:
    """The lowest rank that a record may have, and the one that it must stay below.

    Cancelled and removed are sticky: such records are above all others, whatever their sequence, so that no
    record of a publisher that has forgotten takes them back, on any node."""
    if collection == "distributions" and body.get("removed_at") is not None:
        return REMOVED, (MAX_COUNTER, MAX_COUNTER)
    if collection == "distributions" and body.get("cancelled_at") is not None:
        return CANCELLED, REMOVED
    return (0, 0), CANCELLED


def _check_rank(collection: str, rank: Rank, body: dict[str, Any]) -> None:
    lowest, limit = _ranks(collection, body)
    if not lowest <= rank < limit:
        raise InvalidDocument("a cancelled distribution stays cancelled, and a removed one removed")


def _check_right(
    collection: str, document_id: str, body: dict[str, Any], writer: str, grant: Grant | None
) -> None:
    """Refuse a record by who may not write it: only its owner may, who has to be a publisher if it is a
    distribution; and any admin may cancel one. ``grant``: the writer's in a closed mesh."""
    owner = owner_of(collection, document_id, body)
    if collection == "distributions" and grant is not None:
        if owner is not None and ADMIN in grant.roles and body.get("cancelled_at") is not None:
            return
        if PUBLISH not in grant.roles:
            raise PermissionDenied(
                f"{collection}/{document_id} is not by a publisher: the certificate of {short_id(writer)} "
                f"lacks the role {PUBLISH}"
            )
    if owner != writer:
        what = f"{collection}/{document_id} is signed by a node that does not own it"
        raise PermissionDenied(f"{what}: {short_id(writer)}")


def _open(change: Change, membership: Membership | None) -> SignedRecord:
    check_update(change.update)
    record = _record(change.update)
    if record.rank != change.rank:
        raise PermissionDenied(f"the record says {record.rank}, its change {change.rank}")
    if not verify(
        record.public_key,
        _signed_bytes(change.collection, change.id, record.rank, record.body, record.chain),
        record.signature,
    ):
        raise PermissionDenied(f"the signature of {change.collection}/{change.id} is not valid")
    try:
        body = msgspec.json.decode(record.body, type=dict[str, Any])
        msgspec.json.encode(body)
    except UNREADABLE as error:
        raise InvalidDocument(f"the body of a record is not a JSON object: {error}") from error
    _check_rank(change.collection, record.rank, body)
    grant = None
    if membership is not None:
        try:
            grant = membership.writer(record.public_key, record.chain).grant
        except MembershipRefused as error:
            what = f"{change.collection}/{change.id} is not by a member"
            raise PermissionDenied(f"{what}: {error.reason}") from error
    _check_right(change.collection, change.id, body, node_id_of(record.public_key), grant)
    check_owned(change.collection, {**body, "_id": change.id})
    return record


def _record(update: bytes) -> SignedRecord:
    text = registers_of(update).get(_KEY)
    if not isinstance(text, str) or len(text) > MAX_RECORD_BYTES:
        raise InvalidDocument(f"an owned document holds one record of at most {MAX_RECORD_BYTES} bytes")
    try:
        return msgspec.json.decode(text, type=SignedRecord)
    except UNREADABLE as error:
        raise InvalidDocument(f"a malformed record: {error}") from error


def _digest(update: bytes) -> bytes:
    return blake3(update).digest()


def _advanced(held: DocumentState, until: VersionVector) -> Merged | None:
    """What is held, known to be as new as ``until``; ``None`` if that says nothing, or more than fits."""
    vector = join(held.vector, until)
    if vector == held.vector or len(vector) > MAX_CLOCKS:
        return None
    return Merged(DocumentState(held.rank, held.update, vector), body_of(held.update))


def _succeeding(held: VersionVector, until: VersionVector) -> VersionVector:
    """The vector of a record that replaces another. Vectors are not signed: whoever passes a record on can
    fill one with clocks that never were. The rank decides alone, so then the former ones are left out."""
    vector = join(held, until)
    return vector if len(vector) <= MAX_CLOCKS else until
