"""The life of a receipt, and that merges do not depend on order."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.receipts import (
    MAX_ERROR_CHARS,
    DistributionRecord,
    Receipt,
    advanced,
    distribution_id_of,
    later_receipt,
    may_follow,
    merge_distributions,
    new_receipt,
    receipt_id_of,
)
from mesh.core.scopes import NodeFacts
from mesh.core.status import TransferPriority, TransferState
from mesh.core.tokens import BlobToken
from mesh.errors import InvalidDocument

NONCE = "0" * 32
RECORD = DistributionRecord(
    distribution_id_of("hq", NONCE),
    BlobToken("ab" * 32, 1000, "cd" * 32),
    {"type": "all"},
    TransferPriority.NORMAL,
    "hq",
    NONCE,
    1.0,
)
FACTS = NodeFacts(("north",))
STEPS = st.lists(
    st.tuples(st.sampled_from(TransferState), st.integers(-5, 2000), st.sampled_from([None, "why"])),
    max_size=8,
)


def _lives(steps: list[tuple[TransferState, int, str | None]]) -> list[Receipt]:
    """Every receipt that a node writes in a life like this, with a new attempt after each failure."""
    record, life = RECORD, [new_receipt(RECORD, "van", FACTS, 0.0)]
    for now, (status, progress, error) in enumerate(steps):
        last = life[-1]
        if last.status.is_terminal and last.status is not TransferState.COMPLETED:
            if last.status is TransferState.FAILED:
                record = msgspec.structs.replace(record, attempt=record.attempt + 1)
            life.append(new_receipt(record, "van", FACTS, now, last))
        if status is TransferState.FAILED:
            error = error or "no room"
        life.append(advanced(life[-1], status, now, progress_bytes=progress, error=error))
    return life


@given(STEPS)
def test_a_receipt_never_goes_back_and_is_always_valid(steps: list[Any]) -> None:
    for older, newer in itertools.pairwise(_lives(steps)):
        assert may_follow(older, newer)
        assert Receipt.parse(newer.to_dict()) == newer
        assert newer == older or newer.revision > older.revision


@given(STEPS, st.randoms())
def test_receipts_in_any_order_end_at_the_last(steps: list[Any], random: Any) -> None:
    life = _lives(steps)
    shuffled = [*life, *random.sample(life, len(life) // 2)]
    random.shuffle(shuffled)
    latest = shuffled[0]
    for receipt in shuffled[1:]:
        latest = later_receipt(latest, receipt)
        assert later_receipt(receipt, latest) == latest
    assert latest == life[-1]


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ({"status": "transferring"}, {"status": "pending"}, False),
        ({"status": "transferring", "progress_bytes": 9}, {"status": "transferring"}, False),
        ({"status": "failed"}, {"status": "pending"}, False),
        ({"status": "failed"}, {"status": "pending", "attempt": 2}, True),
        ({"status": "cancelled"}, {"status": "pending", "round": 1}, True),
        ({"status": "pending", "attempt": 2}, {"status": "failed", "attempt": 1}, False),
        ({"status": "completed"}, {"status": "pending", "attempt": 2}, False),
    ],
)
def test_what_may_follow(before: dict[str, Any], after: dict[str, Any], allowed: bool) -> None:
    base = new_receipt(RECORD, "van", FACTS, 0.0).to_dict() | {"error": "x"}
    assert may_follow(Receipt.from_dict(base | before), Receipt.from_dict(base | after)) is allowed


def test_a_receipt_tells_when_it_began_and_ended_and_keeps_its_size() -> None:
    receipt = new_receipt(RECORD, "van", FACTS, 10.0)
    receipt = advanced(receipt, TransferState.CONNECTING, 11.0, error="e" * 10_000)
    assert (receipt.started_at, len(receipt.error or "")) == (None, MAX_ERROR_CHARS)
    receipt = advanced(receipt, TransferState.TRANSFERRING, 12.0, progress_bytes=10)
    receipt = advanced(receipt, TransferState.TRANSFERRING, 13.0, progress_bytes=5000)
    receipt = advanced(receipt, TransferState.COMPLETED, 14.0)
    assert (receipt.started_at, receipt.completed_at, receipt.updated_at) == (12.0, 14.0, 14.0)
    assert (receipt.progress_bytes, receipt.error) == (1000, None)
    assert advanced(receipt, TransferState.FAILED, 15.0, error="no") is receipt


@given(
    st.lists(
        st.builds(
            lambda cancelled_at, attempt, created_at: msgspec.structs.replace(
                RECORD, cancelled_at=cancelled_at, attempt=attempt, created_at=created_at
            ),
            st.none() | st.floats(0, 100),
            st.integers(1, 5),
            st.sampled_from([1.0, 2.0]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.randoms(),
)
def test_distributions_merge_the_same_in_any_order_and_cancel_sticks(
    records: list[DistributionRecord], random: Any
) -> None:
    def merged(order: list[DistributionRecord]) -> DistributionRecord:
        result = order[0]
        for record in order[1:]:
            result = merge_distributions(result, record)
        return result

    expected = merged(records)
    shuffled = [*records, *records]
    random.shuffle(shuffled)
    assert merged(shuffled) == expected
    assert (expected.cancelled_at is None) == all(r.cancelled_at is None for r in records)
    assert expected.attempt == max(r.attempt for r in records)


def test_an_id_binds_its_publisher() -> None:
    assert distribution_id_of("hq", "n") != distribution_id_of("hqn", "")
    assert len(RECORD.distribution_id) == 26
    for forged in ({"publisher": "mallory"}, {"nonce": "1" * 32}, {"_id": "a" * 26}):
        with pytest.raises(InvalidDocument):
            DistributionRecord.parse(RECORD.to_dict() | forged)


def test_bodies_have_no_id_and_documents_do() -> None:
    assert "_id" not in RECORD.body()
    assert DistributionRecord.parse({**RECORD.body(), "_id": RECORD.distribution_id}) == RECORD
    assert receipt_id_of(RECORD.distribution_id, "van") == f"{RECORD.distribution_id}:van"
