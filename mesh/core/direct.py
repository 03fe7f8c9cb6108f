"""What publisher and target of a direct distribution say to each other, and when it has to be said again."""

from __future__ import annotations

import msgspec

from mesh.core.receipts import DistributionRecord, Receipt
from mesh.core.status import TransferState
from mesh.core.structs import UNREADABLE
from mesh.core.wire import DirectOffer, DirectReceipt
from mesh.errors import InvalidDocument

FEATURE = "direct"
"""Peers without it are never offered anything."""

MAX_OFFER_BYTES = 256 * 1024

MAX_HELD_BYTES = 4 << 20
"""What a node remembers of the offers of one publisher: some thousands of distributions."""


def offer_of(record: DistributionRecord) -> DirectOffer:
    """The message that offers it.

    Raises:
        InvalidDocument: nobody would take one of this size.
    """
    encoded = msgspec.json.encode(record)
    if len(encoded) > MAX_OFFER_BYTES:
        raise InvalidDocument(
            f"the distribution takes {len(encoded)} bytes of {MAX_OFFER_BYTES}: name fewer nodes"
        )
    return DirectOffer(encoded)


def offered_by(node_id: str, message: DirectOffer) -> DistributionRecord:
    """The distribution that a peer offers.

    Raises:
        InvalidDocument: it is none, or not the peer's own.
    """
    if len(message.record) > MAX_OFFER_BYTES:
        raise InvalidDocument(f"an offer takes at most {MAX_OFFER_BYTES} bytes")
    try:
        record = DistributionRecord.parse(msgspec.json.decode(message.record))
    except UNREADABLE as error:
        raise InvalidDocument(f"an offer is JSON: {error}") from error
    if record.publisher != node_id:
        raise InvalidDocument("an offer comes from the publisher", "/publisher")
    return record


def receipt_of(node_id: str, message: DirectReceipt) -> Receipt:
    """What a peer says of itself.

    Raises:
        InvalidDocument: it is no receipt, or about another node.
    """
    try:
        receipt = Receipt.parse(msgspec.json.decode(message.receipt))
    except UNREADABLE as error:
        raise InvalidDocument(f"a receipt is JSON: {error}") from error
    if receipt.node_id != node_id:
        raise InvalidDocument("only a node itself says how far it is", "/node_id")
    return receipt


def must_offer(record: DistributionRecord, receipt: Receipt | None, *, live: bool, told: bool) -> bool:
    """Whether a node has to hear of a distribution (again), given its last word about it.

    Args:
        live: nodes may still begin.
        told: it has heard of it before, so it may be at work.
    """
    match receipt.status if receipt is not None else None:
        case TransferState.COMPLETED:
            return False
        case TransferState.FAILED:
            assert receipt is not None
            return live and receipt.attempt < record.attempt
        case TransferState.CANCELLED:
            return live  # it left the scope, and may have come back
    return live or told
