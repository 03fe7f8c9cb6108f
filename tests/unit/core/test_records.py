"""Owned documents: only the owner can change one, and of two states the later one stands."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pycrdt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import records
from mesh.core.document import ABSENT, DocumentState, Merged
from mesh.core.identity import Identity
from mesh.core.library import EMPTY_UPDATE, ROOT, registers_of
from mesh.core.receipts import distribution_id_of, receipt_id_of
from mesh.core.versions import MAX_CLOCKS, check_version
from mesh.core.wire import Change
from mesh.errors import InvalidDocument, PermissionDenied
from tests.unit.owned_bodies import NODE, distribution_body

ME = Identity(b"1" * 32)
OTHER = Identity(b"2" * 32)
CLOCK = b"clock--1"


def signed(
    body: dict[str, Any],
    held: DocumentState = ABSENT,
    *,
    identity: Identity = ME,
    counter: int = 1,
    clock: bytes = CLOCK,
    adopted: bool = False,
) -> tuple[Change, Merged]:
    return records.sign(
        identity, "nodes", identity.node_id, NODE | body, held, clock, counter, adopted=adopted
    )


def record_in(change: Change) -> dict[str, Any]:
    record: dict[str, Any] = msgspec.json.decode(registers_of(change.update)["record"])
    return record


def with_record(change: Change, **changes: Any) -> Change:
    """``change`` with parts of its record replaced, and nothing signed anew."""
    text = msgspec.json.encode(record_in(change) | changes).decode()
    return msgspec.structs.replace(change, update=in_a_document({"record": text}))


def in_a_document(root: dict[str, Any], client_id: int = 9) -> bytes:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client_id)
    doc.get(ROOT, type=pycrdt.Map).update(root)
    return doc.get_update()


def chain(length: int) -> list[tuple[Change, Merged]]:
    """What one owner writes, one after the other."""
    found: list[tuple[Change, Merged]] = []
    held = ABSENT
    for counter in range(1, length + 1):
        found.append(signed({"n": counter}, held, counter=counter))
        held = found[-1][1].state
    return found


def taken(held: DocumentState, change: Change) -> DocumentState:
    outcome = records.arrive(held, change)
    return held if outcome is None else outcome.state


def test_what_is_signed_arrives() -> None:
    change, mine = signed({"name": "me", "tags": ["a"], "half": 0.5})
    theirs = records.arrive(ABSENT, change)
    assert theirs == mine
    assert theirs is not None
    assert theirs.fields == NODE | {"name": "me", "tags": ["a"], "half": 0.5}
    assert records.body_of(theirs.state.update) == theirs.fields
    assert records.arrive(theirs.state, change) is None


@given(st.permutations(range(5)), st.lists(st.integers(0, 4)))
def test_the_latest_stands_in_whatever_order_they_come(order: list[int], again: list[int]) -> None:
    changes = chain(5)
    held = ABSENT
    for i in [*order, *again]:
        before = held.rank
        held = taken(held, changes[i][0])
        assert held.rank >= before
    assert held == changes[-1][1].state


def test_a_record_that_is_older_is_not_taken_back() -> None:
    (first, _), (_, second) = chain(2)
    assert records.arrive(second.state, first) is None
    late = msgspec.structs.replace(first, until={CLOCK: 1, b"unheard-": 5})
    outcome = records.arrive(second.state, late)
    assert outcome is not None
    assert outcome.state.update == second.state.update
    assert outcome.state.vector == {CLOCK: 2, b"unheard-": 5}, "versions join all the same"


@pytest.mark.parametrize(
    "tampered",
    [
        {"body": '{"n":"forged"}'},
        {"epoch": 9},
        {"sequence": 9},
        {"signature": "AAAA"},
        {"signature": "A" * 88},
        {"public_key": "AAAA"},
        {"public_key": msgspec.json.decode(msgspec.json.encode(OTHER.public_key))},
    ],
)
def test_a_forgery_is_refused(tampered: dict[str, Any]) -> None:
    change, mine = signed({"n": 1})
    forged = with_record(change, **tampered)
    rank = (tampered.get("epoch", change.rank[0]), tampered.get("sequence", change.rank[1]))
    for candidate in (forged, msgspec.structs.replace(forged, rank=rank)):
        for held in (ABSENT, mine.state):
            with pytest.raises((PermissionDenied, InvalidDocument)):
                records.arrive(held, candidate)


def test_a_rank_that_the_record_does_not_have_is_refused() -> None:
    change, mine = signed({"n": 1})
    with pytest.raises(PermissionDenied, match="the record says"):
        records.arrive(mine.state, msgspec.structs.replace(change, rank=(5, 1)))


def test_a_record_replayed_under_another_id_or_collection_is_refused() -> None:
    change, _ = signed({"n": 1})
    for moved in (
        msgspec.structs.replace(change, id=OTHER.node_id),
        msgspec.structs.replace(change, collection="receipts"),
        msgspec.structs.replace(change, collection="distributions"),
    ):
        with pytest.raises(PermissionDenied):
            records.arrive(ABSENT, moved)


def test_nobody_signs_for_somebody_else() -> None:
    with pytest.raises(PermissionDenied):
        records.sign(OTHER, "nodes", ME.node_id, NODE, ABSENT, CLOCK, 1, adopted=False)
    # Nor by a client that leaves out the check.
    theirs = Identity(b"2" * 32)
    theirs.node_id = ME.node_id
    change, _ = records.sign(theirs, "nodes", ME.node_id, NODE, ABSENT, CLOCK, 1, adopted=False)
    with pytest.raises(PermissionDenied, match="does not own"):
        records.arrive(ABSENT, change)


def test_who_owns_what() -> None:
    me = ME.node_id
    distribution = distribution_id_of(me, "nonce")
    assert records.owner_of("nodes", me, {}) == me
    assert records.owner_of("distributions", distribution, {"publisher": me, "nonce": "nonce"}) == me
    assert (
        records.owner_of("distributions", distribution, {"publisher": OTHER.node_id, "nonce": "nonce"})
        is None
    )
    assert records.owner_of("distributions", distribution, {"publisher": me, "nonce": "other"}) is None
    assert records.owner_of("distributions", distribution, {"publisher": 5}) is None
    receipt = receipt_id_of("d", me)
    assert records.owner_of("receipts", receipt, {"distribution_id": "d", "node_id": me}) == me
    assert records.owner_of("receipts", receipt, {"distribution_id": "e", "node_id": me}) is None
    assert records.owner_of("receipts", receipt, {"distribution_id": "d", "node_id": OTHER.node_id}) is None
    assert records.owner_of("receipts", "d", {"distribution_id": "d", "node_id": me}) is None


def test_of_two_contents_under_one_rank_the_same_one_stands_everywhere() -> None:
    clones = [signed({"n": n}, clock=bytes([n]) * 8)[0] for n in range(1, 5)]
    assert len({clone.rank for clone in clones}) == 1
    ends = set()
    for order in itertools.permutations(clones):
        held = ABSENT
        for change in (*order, order[0]):
            held = taken(held, change)
        ends.add((held.rank, held.update, tuple(sorted(held.vector.items()))))
    assert len(ends) == 1


def test_how_a_record_is_wrapped_decides_nothing() -> None:
    change, mine = signed({"n": 1})
    text = registers_of(change.update)["record"]
    spaced = msgspec.json.format(text.encode(), indent=2).decode()
    for client_id in range(1, 30):
        for root in ({"record": text}, {"record": spaced}, {"record": text, "rider": "x"}):
            wrapped = msgspec.structs.replace(change, update=in_a_document(root, client_id))
            assert records.arrive(mine.state, wrapped) is None
            arrived = records.arrive(ABSENT, wrapped)
            assert arrived is not None
            assert arrived.state == mine.state, "nothing else rides along"


def test_an_adopted_record_goes_on_in_the_next_epoch() -> None:
    [(_, met)] = chain(1)
    for _ in range(5):
        _, met = signed({"n": 1}, met.state)
    assert met.state.rank == (0, 6)
    change, mine = signed({"n": 2}, met.state, clock=b"clock--2", adopted=True)
    assert change.rank == (1, 1)
    assert taken(met.state, change) == mine.state
    # Whatever the other life writes now is stale.
    stale, _ = signed({"n": 9}, met.state, counter=99)
    assert taken(mine.state, stale).update == mine.state.update
    assert signed({"n": 3}, mine.state, adopted=False)[0].rank == (1, 2)


@pytest.mark.parametrize(
    "update",
    [
        EMPTY_UPDATE,
        b"junk",
        in_a_document({"record": 5}),
        in_a_document({"record": "not json"}),
        in_a_document({"record": "{}"}),
        in_a_document({"record": "[" * 5000}),
        in_a_document({"record": "x" * (records.MAX_RECORD_BYTES + 1)}),
        in_a_document({"other": "x"}),
        b"\1\1\1\0\x28\1\3doc\6record\1" + b"\x75\1" * 200_000 + b"\x7e\0",
    ],
)
def test_what_is_no_record_is_refused(update: bytes) -> None:
    change, mine = signed({"n": 1})
    for held in (ABSENT, mine.state):
        with pytest.raises(InvalidDocument):
            records.arrive(held, msgspec.structs.replace(change, update=update))


def signed_text(body: str) -> Change:
    """A record with any text as its body, correctly signed."""
    rank = (0, 1)
    message = b"mesh record 1\0" + msgspec.json.encode(["nodes", ME.node_id, *rank, body])
    record = records.SignedRecord(ME.public_key, *rank, body, ME.sign(message))
    update = in_a_document({"record": msgspec.json.encode(record).decode()})
    return Change("nodes", ME.node_id, rank, {}, {CLOCK: 1}, update)


def test_the_helper_signs_as_the_mesh_does() -> None:
    assert records.arrive(ABSENT, signed_text(json.dumps(NODE))) is not None


@pytest.mark.parametrize("body", ["[]", "5", "", "{", '{"a":' * 5000 + "1" + "}" * 5000, '{"a":1e999}'])
def test_a_signed_body_that_is_no_object_is_refused(body: str) -> None:
    with pytest.raises(InvalidDocument):
        records.arrive(ABSENT, signed_text(body))


def test_a_record_has_a_size() -> None:
    with pytest.raises(InvalidDocument, match="over the limit"):
        signed({"x": "y" * records.MAX_RECORD_BYTES})


def test_no_later_record_takes_a_cancel_back() -> None:
    nonce = "0" * 32
    distribution_id = distribution_id_of(ME.node_id, nonce)

    def write(held: DocumentState, cancelled_at: float | None, counter: int) -> tuple[Change, Merged]:
        body = distribution_body(ME.node_id, nonce, cancelled_at=cancelled_at)
        return records.sign(ME, "distributions", distribution_id, body, held, CLOCK, counter, adopted=False)

    first, live = write(ABSENT, None, 1)
    cancel, cancelled = write(live.state, 1.0, 2)
    # A backup that was made before the cancel is restored, and goes on writing.
    second, forgetful = write(live.state, None, 2)
    third, _ = write(forgetful.state, None, 3)
    for order in itertools.permutations([first, cancel, second, third]):
        held = ABSENT
        for change in order:
            held = taken(held, change)
        assert records.body_of(held.update)["cancelled_at"] == 1.0
    with pytest.raises(InvalidDocument, match="stays cancelled"):
        write(cancelled.state, None, 3)


def test_no_later_record_takes_a_removal_back() -> None:
    nonce = "0" * 32
    distribution_id = distribution_id_of(ME.node_id, nonce)

    def write(held: DocumentState, body: dict[str, Any], counter: int) -> tuple[Change, Merged]:
        return records.sign(ME, "distributions", distribution_id, body, held, CLOCK, counter, adopted=False)

    first, live = write(ABSENT, distribution_body(ME.node_id, nonce), 1)
    cancel, cancelled = write(live.state, distribution_body(ME.node_id, nonce, cancelled_at=1.0), 2)
    gone = {"publisher": ME.node_id, "nonce": nonce, "removed_at": 9.0}
    removal, removed = write(cancelled.state, gone, 3)
    again, _ = write(cancelled.state, distribution_body(ME.node_id, nonce, cancelled_at=5.0), 3)
    for order in itertools.permutations([first, cancel, removal, again]):
        held = ABSENT
        for change in order:
            held = taken(held, change)
        assert records.body_of(held.update) == gone
    for body in (
        distribution_body(ME.node_id, nonce),
        distribution_body(ME.node_id, nonce, cancelled_at=1.0),
    ):
        with pytest.raises(InvalidDocument, match="a removed one removed"):
            write(removed.state, body, 4)


@pytest.mark.parametrize(
    ("collection", "document_id", "body"),
    [
        ("nodes", ME.node_id, NODE | {"started_at": -1.0}),
        ("nodes", ME.node_id, {}),
        (
            "receipts",
            receipt_id_of("a" * 26, ME.node_id),
            {"distribution_id": "a" * 26, "node_id": ME.node_id},
        ),
        (
            "distributions",
            distribution_id_of(ME.node_id, "0" * 32),
            distribution_body(ME.node_id, "0" * 32, created_at="yesterday"),
        ),
    ],
)
def test_what_is_not_as_the_schemas_say_is_neither_signed_nor_taken(
    collection: str, document_id: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign() -> Change:
        return records.sign(ME, collection, document_id, body, ABSENT, CLOCK, 1, adopted=False)[0]

    with pytest.raises(InvalidDocument):
        sign()
    with monkeypatch.context() as patched:
        patched.setattr(records, "check_owned", lambda *_: None)
        change = sign()
    with pytest.raises(InvalidDocument):
        records.arrive(ABSENT, change)


def test_a_record_keeps_its_size_however_often_it_is_written() -> None:
    distribution = distribution_id_of(ME.node_id, "0" * 32)
    sizes, held = [], ABSENT
    for n in range(1000):
        body = {
            "distribution_id": distribution, "node_id": ME.node_id, "publisher": ME.node_id,
            "status": "transferring", "progress_bytes": 10**9 + n, "total_bytes": 10**10,
            "updated_at": 1.0, "revision": 10**6 + n,
        }  # fmt: skip
        receipt = receipt_id_of(distribution, ME.node_id)
        change, merged = records.sign(ME, "receipts", receipt, body, held, CLOCK, n + 1, adopted=False)
        held = merged.state
        sizes.append(len(change.update))
    assert len(held.vector) == 1
    assert sizes[-1] - sizes[0] <= 4, "the digits of its sequence"


def test_clocks_that_others_make_up_do_not_keep_a_record_from_being_passed_on() -> None:
    """A vector is not signed: nobody may fill it until every node refuses what its owner writes next."""
    (old, _), (new, merged) = chain(2)
    held = merged.state
    for change in (old, new):
        for batch in range(2):
            clocks = {b"%08d" % (batch * MAX_CLOCKS + n): 1 for n in range(MAX_CLOCKS - 1)}
            held = taken(held, msgspec.structs.replace(change, until=clocks))
            check_version(held.rank, held.vector)
    assert len(held.vector) == MAX_CLOCKS
    following, written = signed({"n": 3}, held, counter=3, clock=b"clock--2")
    check_version(following.rank, following.until)
    for received in (written.state, taken(held, following)):
        assert (received.rank, received.vector) == (following.rank, following.until)
