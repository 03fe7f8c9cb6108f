"""What is refused before it is published: peers ignore an owned document that they cannot read."""

from __future__ import annotations

import logging

import msgspec

from mesh.core.identity import is_node_id
from mesh.core.receipts import DistributionRecord, Receipt, RemovedDistribution, distribution_id_of
from mesh.core.scopes import DistributionScope, Nodes, check_scope
from mesh.core.status import DistributionHandle, TransferPriority
from mesh.core.tokens import BlobToken
from mesh.distributions.ports import DISTRIBUTIONS, NODES, RECEIPTS, OwnRecords
from mesh.errors import InvalidDistribution, InvalidDocument, InvalidScope, InvalidToken

logger = logging.getLogger("mesh.distributions")

MAX_SECONDS = 1e11
"""Some three thousand years."""

MIN_EXPIRY = 1e-3
"""Seconds."""

_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)


async def write_record(
    documents: OwnRecords, record: DistributionRecord | RemovedDistribution | Receipt
) -> None:
    """Write the document of ``record``; it is durable on return.

    Raises:
        InvalidDistribution: peers would not take it for a valid one. Nothing is written.
    """
    if isinstance(record, Receipt):
        collection, document_id = RECEIPTS, record.receipt_id
    else:
        collection, document_id = DISTRIBUTIONS, record.distribution_id
    try:
        body = record.body()
        type(record).parse({**body, "_id": document_id})
    except (InvalidDocument, *_UNWRITABLE) as error:
        raise InvalidDistribution(f"every peer would refuse {collection}/{document_id}: {error}") from error
    await documents.write(collection, document_id, body)


async def checked_scope(scope: object, documents: OwnRecords) -> DistributionScope:
    """``scope``, if it can be meant: names are no ids, and whoever has one is not guessed, as any node may
    call itself that. Whom nobody knows yet is waited for.

    Raises:
        InvalidScope: it is none, or has the name of a node instead of its id.
    """
    checked = check_scope(scope)
    given = [each for each in checked.node_ids if not is_node_id(each)] if isinstance(checked, Nodes) else []
    called = await documents.find(NODES, {"name": {"$in": given}}) if given else []
    for name in given:
        if ids := sorted(document["_id"] for document in called if document["name"] == name):
            raise InvalidScope(
                f"{name!r} is the name of {' and of '.join(ids[:5])}: Nodes takes ids; "
                "`await node.members()` lists who is known, with ids and names"
            )
        logger.warning(
            "no node has the id %r, as ids are 52 of the characters a-z and 2-7, nor is it the name of one "
            "that is known here: `await node.members()` lists those",
            name,
        )
    return checked


def new_distribution(
    publisher: str,
    nonce: str,
    now: float,
    token: object,
    scope: DistributionScope,
    priority: TransferPriority,
    expires_in: float | None,
    supersedes: str | None,
) -> DistributionRecord:
    """What ``distribute`` was asked for.

    Raises:
        InvalidToken, InvalidDistribution: see ``FileDistribution.distribute``.
    """
    token = check_token(token)
    if expires_in is not None:
        check_seconds("expires_in", expires_in, least=MIN_EXPIRY)
    try:
        priority = TransferPriority(priority)
    except ValueError as error:
        raise InvalidDistribution(f"{error}: use one of {[p.name for p in TransferPriority]}") from error
    return DistributionRecord(
        distribution_id_of(publisher, nonce),
        token,
        scope.to_dict(),
        priority,
        publisher,
        nonce,
        now,
        expires_at=None if expires_in is None else now + expires_in,
        supersedes=supersedes,
    )


def tried_again(record: DistributionRecord, *, live: bool) -> DistributionRecord:
    """``record``, for failed targets to try again.

    Raises:
        InvalidDistribution: it is not ``live``.
    """
    if not live:
        raise InvalidDistribution(
            f"distribution {record.distribution_id} is cancelled, superseded or expired: distribute it again"
        )
    return msgspec.structs.replace(record, attempt=record.attempt + 1)


def check_token(token: object) -> BlobToken:
    """``token``, if a peer can read it.

    Raises:
        InvalidToken: it is no token, or cannot be true.
    """
    if not isinstance(token, BlobToken):
        raise InvalidToken(f"a BlobToken is needed, as attachments.add() gives it, not {token!r}")
    try:
        read = BlobToken.from_dict(token.to_dict())
    except _UNWRITABLE as error:
        raise InvalidToken(f"no peer could read this token: {error}") from error
    read.check()
    return read


def check_seconds(what: str, value: object, *, least: float = 0.0) -> None:
    """Refuse a ``value`` that is no usable number of seconds.

    Raises:
        InvalidDistribution: it is none, or not between ``least`` and :data:`MAX_SECONDS`.
    """
    if not isinstance(value, int | float) or not least <= value <= MAX_SECONDS:
        raise InvalidDistribution(
            f"{what} is a number of seconds from {least:g} to {MAX_SECONDS:g}, not {value!r}"
        )


def id_of(handle: DistributionHandle | str) -> str:
    """The id that a caller means.

    Raises:
        InvalidDistribution: it is neither a handle nor an id.
    """
    distribution_id = handle.distribution_id if isinstance(handle, DistributionHandle) else handle
    if not isinstance(distribution_id, str):
        raise InvalidDistribution(f"a distribution's handle or id is needed, not {handle!r}")
    return distribution_id
