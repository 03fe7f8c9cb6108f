"""What the owned documents say: a node of itself, a publisher of a distribution, a target of its progress.

These are the bodies of the documents in ``nodes``, ``distributions`` and ``receipts``. Their JSON forms
are described in ``schema/``. Unknown fields are ignored, so that a newer peer may say more; a scope is the
exception (see :mod:`mesh.core.scopes`) and is kept as it came.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from mesh.core.scopes import Capabilities, DistributionScope, Name, NodeFacts, Word, parse_scope
from mesh.core.status import TransferPriority, TransferState
from mesh.core.structs import Struct
from mesh.core.tokens import MAX_BLOB_BYTES, BlobToken
from mesh.errors import InvalidDocument, InvalidToken

MAX_ERROR_CHARS = 500
"""Longer reasons are cut, so that a receipt keeps its size."""

Time = Annotated[float, Meta(ge=0, le=1e12)]
Bytes = Annotated[int, Meta(ge=0, le=MAX_BLOB_BYTES)]
Rate = Annotated[float, Meta(ge=0, le=1e12)]
Attempt = Annotated[int, Meta(ge=1, le=10**9)]
Count = Annotated[int, Meta(ge=0, le=10**15)]
Nonce = Annotated[str, Meta(min_length=16, max_length=64)]
Instance = Annotated[str, Meta(min_length=1, max_length=64)]
DistributionId = Annotated[str, Meta(pattern=r"^[a-z2-7]{26}$(?!\n)")]

R = TypeVar("R", bound="OwnedRecord")


class OwnedRecord(Struct, frozen=True):
    """Base of the three bodies."""

    @classmethod
    def parse(cls: type[R], document: Mapping[str, Any]) -> R:
        """The record that a document (its body and ``_id``) holds.

        Raises:
            InvalidDocument: it does not have the shape of this record or contradicts itself.
        """
        try:
            record = msgspec.convert(document, cls)
        except msgspec.ValidationError as error:
            raise InvalidDocument(f"no valid {cls.__name__}: {error}") from error
        record.check()
        return record

    def check(self) -> None:
        """Refuse a record that contradicts itself.

        Raises:
            InvalidDocument: it does.
        """

    def body(self) -> dict[str, Any]:
        """The document without its ``_id``, as plain JSON."""
        plain = self.to_dict()
        del plain["_id"]
        return plain


class NodeRecord(OwnedRecord, frozen=True):
    """What a node says of itself. ``listen`` is where it can be dialled; ``version`` that of its software.

    ``instance`` names the process that says so, and ``answers`` another one, which has said something else in
    the node's name: see :mod:`mesh.core.clones`.
    """

    node_id: Word = msgspec.field(name="_id")
    name: Annotated[str, Meta(max_length=256)]
    formations: Annotated[list[Name], Meta(max_length=64)]
    capabilities: Capabilities
    hub: bool
    listen: str | None
    version: str
    started_at: Time
    instance: Instance | None = None
    answers: Instance | None = None

    @property
    def facts(self) -> NodeFacts:
        """What scopes are matched against."""
        return NodeFacts(self.formations, self.capabilities)


class DistributionRecord(OwnedRecord, frozen=True):
    """This token, for this scope, at this priority. Only ``cancelled_at`` and ``attempt`` ever change.

    Attributes:
        scope: as it came; :meth:`parsed_scope` understands it.
        nonce: random; with the publisher it makes the id, which nobody else can therefore claim.
        expires_at: seconds since the epoch. Every node compares it with its own wall clock.
        supersedes: an older distribution of the same publisher that nobody shall finish any more.
        cancelled_at: sticky: once it is set, no later record takes it back.
        attempt: raised by every retry.
    """

    distribution_id: DistributionId = msgspec.field(name="_id")
    token: BlobToken
    scope: dict[str, Any]
    priority: TransferPriority
    publisher: Word
    nonce: Nonce
    created_at: Time
    expires_at: Time | None = None
    supersedes: DistributionId | None = None
    cancelled_at: Time | None = None
    attempt: Attempt = 1

    def check(self) -> None:
        """See :meth:`OwnedRecord.check`."""
        _check_distribution_id(self)
        if self.supersedes == self.distribution_id:
            raise InvalidDocument("a distribution cannot supersede itself", "/supersedes")
        try:
            self.token.check()
        except InvalidToken as error:
            raise InvalidDocument(str(error), "/token") from error

    def parsed_scope(self) -> DistributionScope:
        """The scope.

        Raises:
            InvalidScope: this version does not understand it; it matches nobody.
        """
        return parse_scope(self.scope)


class RemovedDistribution(OwnedRecord, frozen=True):
    """What is left of a distribution that its publisher has removed: whoever still holds it forgets it.

    Attributes:
        removed_at: by the publisher's clock, seconds since the epoch.
        supersedes: what the distribution superseded stays superseded.
    """

    distribution_id: DistributionId = msgspec.field(name="_id")
    publisher: Word
    nonce: Nonce
    removed_at: Time
    supersedes: DistributionId | None = None

    def check(self) -> None:
        """See :meth:`OwnedRecord.check`."""
        _check_distribution_id(self)


def parse_distribution(document: Mapping[str, Any]) -> DistributionRecord | RemovedDistribution:
    """What a document of the collection ``distributions`` holds.

    Raises:
        InvalidDocument: neither.
    """
    kind = RemovedDistribution if "removed_at" in document else DistributionRecord
    return kind.parse(document)


class Receipt(OwnedRecord, frozen=True):
    """How far one node is with one distribution. Only that node writes it.

    Attributes:
        attempt: the distribution's attempt that it answers.
        round: how often the node has come back into the scope within the attempt.
        rate: bytes a second that arrived lately; 0.0: none, or it is over.
        revision: counts this receipt's writes; orders them when they arrive in another order.
        facts: by which the node judged that it is (or no longer is) in the scope.
        started_at, completed_at, updated_at: seconds since the epoch by the writer's clock.
    """

    receipt_id: str = msgspec.field(name="_id")
    distribution_id: DistributionId
    node_id: Word
    publisher: Word
    status: TransferState
    progress_bytes: Bytes
    total_bytes: Bytes
    updated_at: Time
    started_at: Time | None = None
    completed_at: Time | None = None
    error: Annotated[str, Meta(max_length=MAX_ERROR_CHARS)] | None = None
    attempt: Attempt = 1
    round: Count = 0
    revision: Count = 0
    facts: NodeFacts = NodeFacts()
    rate: Rate = 0.0

    def check(self) -> None:
        """See :meth:`OwnedRecord.check`."""
        if self.receipt_id != receipt_id_of(self.distribution_id, self.node_id):
            raise InvalidDocument("the id of a receipt is <distribution_id>:<node_id>", "/_id")
        if self.progress_bytes > self.total_bytes:
            raise InvalidDocument("more progress than there are bytes", "/progress_bytes")
        if self.status is TransferState.COMPLETED and self.progress_bytes != self.total_bytes:
            raise InvalidDocument("completed, but not all bytes are there", "/progress_bytes")
        if self.status is TransferState.FAILED and not self.error:
            raise InvalidDocument("a failed receipt says why", "/error")


def _check_distribution_id(record: DistributionRecord | RemovedDistribution) -> None:
    if record.distribution_id != distribution_id_of(record.publisher, record.nonce):
        raise InvalidDocument("the id of a distribution must fit its publisher and nonce", "/_id")


def distribution_id_of(publisher: str, nonce: str) -> str:
    """The id of a distribution: it binds the publisher, so that nobody else can write under it."""
    digest = hashlib.sha256(f"{publisher}\n{nonce}".encode()).digest()
    return base64.b32encode(digest).decode().lower()[:26]


def check_owned(collection: str, document: Mapping[str, Any]) -> None:
    """Refuse an owned document that is not what ``schema/`` says.

    Raises:
        InvalidDocument: it is not.
    """
    if collection == "nodes":
        NodeRecord.parse(document)
    elif collection == "receipts":
        Receipt.parse(document)
    else:
        parse_distribution(document)


def receipt_id_of(distribution_id: str, node_id: str) -> str:
    """The id of a node's receipt of a distribution."""
    return f"{distribution_id}:{node_id}"


def merge_distributions(held: DistributionRecord, arrived: DistributionRecord) -> DistributionRecord:
    """What holds after both: cancelled is sticky, the attempt only grows, all else is what was published.

    Of two contradicting originals (a cloned publisher) the same one wins in either order.
    """
    first = min(held, arrived, key=_original)
    cancels = [r.cancelled_at for r in (held, arrived) if r.cancelled_at is not None]
    return msgspec.structs.replace(
        first,
        cancelled_at=min(cancels, default=None),
        attempt=max(held.attempt, arrived.attempt),
    )


def _original(record: DistributionRecord) -> bytes:
    return msgspec.json.encode(
        msgspec.structs.replace(record, cancelled_at=None, attempt=1), order="deterministic"
    )


_STAGES = {
    TransferState.PENDING: 0,
    TransferState.CONNECTING: 1,
    TransferState.TRANSFERRING: 2,
    TransferState.CANCELLED: 3,
    TransferState.FAILED: 3,
    TransferState.COMPLETED: 4,
}


def may_follow(held: Receipt, new: Receipt) -> bool:
    """Whether a node may write ``new`` after ``held``.

    Inside one attempt and round a receipt never goes back and a terminal one stays; completed stays
    completed in every attempt.
    """
    if held.status is TransferState.COMPLETED:
        return new == held
    era, new_era = (held.attempt, held.round), (new.attempt, new.round)
    if new_era != era:
        return new_era > era
    if held.status.is_terminal:
        return new == held
    return _STAGES[new.status] >= _STAGES[held.status] and new.progress_bytes >= held.progress_bytes


def later_receipt(one: Receipt, other: Receipt) -> Receipt:
    """The one that says what is, of two states of one receipt; the same in either order."""
    return max(one, other, key=_age)


def _age(receipt: Receipt) -> tuple[bool, int, int, int, int, int, bytes]:
    return (
        receipt.status is TransferState.COMPLETED,
        receipt.attempt,
        receipt.round,
        receipt.revision,
        _STAGES[receipt.status],
        receipt.progress_bytes,
        msgspec.json.encode(receipt),
    )


def new_receipt(
    record: DistributionRecord,
    node_id: str,
    facts: NodeFacts,
    now: float,
    held: Receipt | None = None,
) -> Receipt:
    """The pending receipt with which a node begins, or begins again after ``held``."""
    return Receipt(
        receipt_id_of(record.distribution_id, node_id),
        record.distribution_id,
        node_id,
        record.publisher,
        TransferState.PENDING,
        0,
        record.token.size_bytes,
        now,
        attempt=max(record.attempt, held.attempt) if held else record.attempt,
        round=held.round + 1 if held and held.attempt >= record.attempt else 0,
        revision=held.revision + 1 if held else 0,
        facts=facts,
    )


def advanced(
    held: Receipt,
    status: TransferState,
    now: float,
    *,
    progress_bytes: int = 0,
    error: str | None = None,
    rate: float = 0.0,
    facts: NodeFacts | None = None,
) -> Receipt:
    """The receipt after ``held`` that says ``status``: or ``held`` itself, if nothing new is said or may be.

    A lower status or progress than has been told already is told as what it was, with the new ``error``.
    Another ``rate`` alone is nothing new, unless nothing comes any more.
    """
    if held.status.is_terminal:
        return held
    status = max(held.status, status, key=_STAGES.__getitem__)
    completed = status is TransferState.COMPLETED
    told = max(held.progress_bytes, progress_bytes)
    progress = held.total_bytes if completed else min(told, held.total_bytes)
    said = msgspec.structs.replace(
        held,
        status=status,
        progress_bytes=progress,
        error=_writable(error) if error is not None else None,
        facts=facts or held.facts,
    )
    if said == held and (rate or not held.rate):
        return held
    began = said.started_at is None and status in (TransferState.TRANSFERRING, TransferState.COMPLETED)
    return msgspec.structs.replace(
        said,
        started_at=now if began else said.started_at,
        completed_at=now if completed else None,
        rate=0.0 if status.is_terminal else round(rate, 1),
        updated_at=now,
        revision=held.revision + 1,
    )


def _writable(error: str) -> str:
    """``error`` as a document can hold it: names of files come with halves of characters in them."""
    return error[:MAX_ERROR_CHARS].encode(errors="replace").decode()
