"""What publisher and target of a direct distribution take from each other, and when it is said again."""

from __future__ import annotations

import msgspec
import pytest

from mesh.core.direct import MAX_OFFER_BYTES, must_offer, offer_of, offered_by, receipt_of
from mesh.core.receipts import DistributionRecord, Receipt, distribution_id_of, new_receipt
from mesh.core.scopes import NodeFacts
from mesh.core.status import TransferPriority, TransferState
from mesh.core.tokens import BlobMetadata, BlobToken
from mesh.core.wire import DirectOffer, DirectReceipt
from mesh.errors import InvalidDocument

NONCE = "0123456789abcdef"
TOKEN = BlobToken("a" * 64, 3, "b" * 64, BlobMetadata())
RECORD = DistributionRecord(
    distribution_id_of("hq", NONCE), TOKEN, {"type": "all"}, TransferPriority.NORMAL, "hq", NONCE, 1.0
)
RECEIPT = new_receipt(RECORD, "van", NodeFacts(), 2.0)
RUBBISH = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"_id": 1}']


def said(state: TransferState, attempt: int = 1) -> Receipt:
    return msgspec.structs.replace(RECEIPT, status=state, attempt=attempt)


def test_what_is_offered_and_answered_arrives_as_it_was() -> None:
    assert offered_by("hq", offer_of(RECORD)) == RECORD
    assert receipt_of("van", DirectReceipt(msgspec.json.encode(RECEIPT))) == RECEIPT


@pytest.mark.parametrize("data", RUBBISH)
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidDocument):
        offered_by("hq", DirectOffer(data))
    with pytest.raises(InvalidDocument):
        receipt_of("van", DirectReceipt(data))


def test_nobody_speaks_for_another() -> None:
    with pytest.raises(InvalidDocument, match="the publisher"):
        offered_by("evil", offer_of(RECORD))
    with pytest.raises(InvalidDocument, match="only a node itself"):
        receipt_of("evil", DirectReceipt(msgspec.json.encode(RECEIPT)))


def test_a_large_offer_is_neither_made_nor_taken() -> None:
    large = msgspec.structs.replace(RECORD, scope={"type": "x" * MAX_OFFER_BYTES})
    with pytest.raises(InvalidDocument, match="fewer nodes"):
        offer_of(large)
    with pytest.raises(InvalidDocument, match="at most"):
        offered_by("hq", DirectOffer(msgspec.json.encode(large)))


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_who_has_not_ended_hears_what_is_live_and_of_the_end_of_what_it_heard_of(
    live: bool, told: bool
) -> None:
    for receipt in (None, said(TransferState.PENDING), said(TransferState.TRANSFERRING)):
        assert must_offer(RECORD, receipt, live=live, told=told) == (live or told)
    assert not must_offer(RECORD, said(TransferState.COMPLETED), live=live, told=told)
    assert must_offer(RECORD, said(TransferState.CANCELLED), live=live, told=told) == live
    failed = said(TransferState.FAILED)
    assert not must_offer(RECORD, failed, live=live, told=told)
    again = msgspec.structs.replace(RECORD, attempt=2)
    assert must_offer(again, failed, live=live, told=told) == live
