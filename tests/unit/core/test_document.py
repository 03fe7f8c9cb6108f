"""Documents as CRDTs: whatever order changes arrive in, and however often, every replica is the same."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import timeit
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import document, library
from mesh.core.document import ABSENT, MAX_DOCUMENT_BYTES, MAX_FIELDS, MAX_STATE_BYTES, Merged, arrive
from mesh.core.library import EMPTY_UPDATE
from mesh.core.plans import plan_increment, plan_unset
from mesh.core.registers import unflatten
from mesh.core.update_reader import MAX_STRUCTS
from mesh.core.updates import clocks_of, read_update
from mesh.core.values import identical
from mesh.core.versions import covers
from mesh.core.wire import Change
from mesh.errors import DocumentTooLarge, InvalidDocument
from tests.unit.core.test_values import as_json, documents
from tests.unit.edits import plan_merge, plan_replace


class Replica:
    """One store's copy of one document."""

    def __init__(self, number: int) -> None:
        self.clock = bytes([number]) * 8
        self.counter = 0
        self.client_id = number
        self.state = ABSENT
        self.fields: dict[str, Any] | None = None

    def tick(self) -> tuple[bytes, int]:
        self.counter += 1
        return self.clock, self.counter

    def take(self, merged: Merged) -> None:
        self.state, self.fields = merged.state, merged.fields

    def edit(self, plan: Any) -> Change | None:
        if self.state.rank == document.NEVER or self.state.dead:
            self.client_id += 1000  # a new incarnation is a new copy
        outcome = document.edit(self.state, plan, tick=self.tick, client_id=self.client_id)
        if outcome is None:
            return None
        change, merged = outcome
        self.take(merged)
        return change

    def remove(self) -> Change | None:
        if self.fields is None:
            return None
        change, merged = document.remove(self.state, *self.tick())
        self.take(merged)
        return change

    def receive(self, change: Change) -> bool:
        """False if it builds on what is not here."""
        outcome = arrive(self.state, change)
        if isinstance(outcome, Merged):
            self.take(outcome)
        return outcome != "lacking"

    def pull(self, other: Replica) -> None:
        """Get what the other one has, as a reply to a Want does."""
        held, theirs = self.state, other.state
        if held.rank == theirs.rank and held.vector:
            update = library.difference(theirs.update, library.state_vector(held.update))
            change = Change("", "", theirs.rank, held.vector, theirs.vector, update)
        else:
            change = Change("", "", theirs.rank, {}, theirs.vector, theirs.update)
        assert self.receive(change)


def assert_same(replicas: list[Replica]) -> None:
    first = replicas[0]
    for other in replicas[1:]:
        assert other.state.rank == first.state.rank
        assert other.state.vector == first.state.vector
        assert identical(other.fields, first.fields)
        assert list(other.fields or {}) == list(first.fields or {})
    if first.state.dead or first.state.rank == document.NEVER:
        assert first.fields is None
        assert first.state.update == EMPTY_UPDATE
    else:
        assert identical(first.fields, unflatten(library.registers_of(first.state.update)))


edits = st.one_of(
    st.just(("remove", None)),
    st.tuples(st.just("merge"), documents),
    st.tuples(st.just("replace"), documents),
    st.tuples(st.just("merge"), st.fixed_dictionaries({"a": st.integers(0, 3)})),
    st.tuples(st.just("unset"), st.sampled_from(["/a", "/b", "/a/b"])),
    st.tuples(st.just("increment"), st.sampled_from(["/n", "/a", "/a/n"])),
)


def operate(replica: Replica, kind: str, argument: Any) -> Change | None:
    if kind == "remove":
        return replica.remove()
    if kind == "merge":
        return replica.edit(lambda held: plan_merge(held, argument))
    if kind == "replace":
        return replica.edit(lambda held: plan_replace(held, argument))
    if replica.fields is None:
        return None
    if kind == "unset":
        return replica.edit(lambda held: plan_unset(held, [argument]))
    try:
        return replica.edit(lambda held: plan_increment(held, argument, 1, replica.clock.hex()))
    except InvalidDocument:
        return None


@settings(max_examples=150)
@given(st.data())
def test_any_order_and_duplication_gives_the_same_document(data: st.DataObject) -> None:
    writers = [Replica(1), Replica(2), Replica(3)]
    changes: list[tuple[Change, Replica]] = []
    for _ in range(data.draw(st.integers(1, 12))):
        writer = data.draw(st.sampled_from(writers))
        if data.draw(st.booleans()):
            change = operate(writer, *data.draw(edits))
            if change is not None:
                changes.append((change, writer))
        elif changes:
            writer.receive(data.draw(st.sampled_from(changes))[0])

    readers = [Replica(8), Replica(9)]
    for reader in readers:
        for change, _ in data.draw(st.permutations(changes + changes[:3])):
            before = reader.state
            understood = reader.receive(change)
            if understood:
                assert covers(reader.state.vector, change.until)
                assert reader.state.rank >= change.rank
            else:
                assert reader.state is before
                assert not covers(before.vector, change.since) or change.rank > before.rank
    # Who lacked something asks for the difference, in whatever order.
    everyone = [*writers, *readers]
    for one in everyone:
        for other in data.draw(st.permutations(everyone)):
            one.pull(other)
    for one in everyone:
        one.pull(everyone[-1])
    assert_same(everyone)
    for change, _ in changes:
        assert arrive(everyone[0].state, change) == "held"


@given(documents)
def test_what_is_written_is_what_is_read(fields: dict[str, Any]) -> None:
    replica = Replica(1)
    change = replica.edit(lambda held: plan_merge(held, fields))
    assert change is not None
    assert change.since == {}
    assert identical(replica.fields, as_json(dict(sorted(fields.items()))))
    assert identical(unflatten(library.registers_of(replica.state.update)), replica.fields)
    other = Replica(2)
    assert other.receive(change)
    assert identical(other.fields, replica.fields)


def test_an_edit_that_changes_nothing_is_no_change_and_no_tick() -> None:
    replica = Replica(1)
    assert replica.edit(lambda held: plan_merge(held, {})) is not None, "an empty document is one, too"
    assert replica.edit(lambda held: plan_merge(held, {})) is None
    assert replica.counter == 1


def test_a_removal_wins_over_updates_that_have_not_seen_it_and_a_new_incarnation_over_it() -> None:
    a, b = Replica(1), Replica(2)
    first = a.edit(lambda held: plan_merge(held, {"x": 1, "old": 1}))
    assert first is not None
    assert b.receive(first)
    removal = a.remove()
    update = b.edit(lambda held: plan_merge(held, {"x": 2}))
    assert removal is not None
    assert update is not None
    assert b.receive(removal)
    assert a.receive(update)
    assert_same([a, b])
    assert a.state.dead
    assert not a.fields

    again = b.edit(lambda held: plan_merge(held, {"y": 1}))
    assert again is not None
    assert again.rank == (1, 0)
    assert a.receive(again)
    assert a.fields == {"y": 1}, "nothing old comes back"
    assert a.receive(first)
    assert a.receive(removal)
    assert a.receive(update)
    assert a.fields == {"y": 1}
    assert_same([a, b])


def test_two_that_start_the_same_incarnation_merge() -> None:
    a, b = Replica(1), Replica(2)
    one = a.edit(lambda held: plan_merge(held, {"x": 1}))
    two = b.edit(lambda held: plan_merge(held, {"y": 2}))
    assert one is not None
    assert two is not None
    assert a.receive(two)
    assert b.receive(one)
    assert a.fields == {"x": 1, "y": 2}
    assert_same([a, b])


def test_a_gap_is_noticed_and_the_difference_fills_it() -> None:
    a, b = Replica(1), Replica(2)
    changes = [a.edit(lambda held, i=i: plan_merge(held, {f"f{i}": i})) for i in range(4)]
    assert b.receive(changes[0])  # type: ignore[arg-type]
    before = b.state
    assert not b.receive(changes[2])  # type: ignore[arg-type]
    assert b.state is before
    b.pull(a)
    assert b.fields == {f"f{i}": i for i in range(4)}
    assert b.receive(changes[2])  # type: ignore[arg-type]
    assert_same([a, b])


def test_a_delta_of_an_incarnation_that_is_not_here_is_lacking() -> None:
    a, b = Replica(1), Replica(2)
    first = a.edit(lambda held: plan_merge(held, {"x": 1}))
    assert b.receive(first)  # type: ignore[arg-type]
    a.remove()
    a.edit(lambda held: plan_merge(held, {"x": 2}))
    delta = a.edit(lambda held: plan_merge(held, {"x": 3}))
    assert delta is not None
    assert delta.since
    assert not b.receive(delta)
    b.pull(a)
    assert_same([a, b])


# --- limits -------------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_when_it_is_written() -> None:
    replica = Replica(1)
    assert replica.edit(lambda held: plan_merge(held, {"ok": 1}))
    before = replica.state
    with pytest.raises(DocumentTooLarge) as caught:
        replica.edit(lambda held: plan_merge(held, {"big": "x" * MAX_DOCUMENT_BYTES}))
    assert caught.value.limit == MAX_DOCUMENT_BYTES
    assert replica.state is before
    assert replica.counter == 1
    assert replica.edit(lambda held: plan_merge(held, {"big": "x" * (MAX_DOCUMENT_BYTES - 100)}))


def test_what_two_have_written_apart_always_merges() -> None:
    a, b = Replica(1), Replica(2)
    part = MAX_DOCUMENT_BYTES - 1000
    one = a.edit(lambda held: plan_merge(held, {"a": "x" * part}))
    two = b.edit(lambda held: plan_merge(held, {"b": "x" * part}))
    assert a.receive(two)  # type: ignore[arg-type]
    assert b.receive(one)  # type: ignore[arg-type]
    assert_same([a, b])
    with pytest.raises(DocumentTooLarge):
        a.edit(lambda held: plan_merge(held, {"c": "x" * 100}))
    assert a.edit(lambda held: plan_unset(held, ["/a"]))
    assert a.edit(lambda held: plan_merge(held, {"c": "x" * 100}))


def test_what_no_two_write_apart_is_refused() -> None:
    part = MAX_DOCUMENT_BYTES - 1000
    replica = Replica(9)
    changes = [
        Replica(n).edit(lambda held, n=n: plan_merge(held, {f"f{n}": "x" * part})) for n in range(1, 6)
    ]
    for change in changes[:4]:
        assert replica.receive(change)  # type: ignore[arg-type]
    with pytest.raises(DocumentTooLarge) as caught:
        replica.receive(changes[4])  # type: ignore[arg-type]
    assert caught.value.limit == MAX_STATE_BYTES
    assert set(replica.fields or {}) == {"f1", "f2", "f3", "f4"}


@pytest.mark.limit("core.document.MAX_FIELDS")
def test_too_many_fields_are_refused_when_they_are_written() -> None:
    replica = Replica(1)
    assert replica.edit(lambda held: plan_merge(held, {str(i): i for i in range(MAX_FIELDS)}))
    with pytest.raises(DocumentTooLarge, match="fields"):
        replica.edit(lambda held: plan_merge(held, {"more": 1}))
    assert isinstance(arrive(ABSENT, offered(replica.state.update)), Merged)


def test_more_items_than_anybody_writes_are_refused() -> None:
    collected = b"\0\1" * (MAX_STRUCTS + 1)
    with pytest.raises(InvalidDocument, match="items"):
        arrive(ABSENT, offered(b"\1" + number(MAX_STRUCTS + 1) + b"\5\0" + collected + b"\0"))
    with pytest.raises(InvalidDocument, match="bounds"):
        arrive(ABSENT, offered(b"\1" + number(MAX_STRUCTS) + b"\5\0" + collected[:-2] + b"\0"))


# --- hostile updates ----------------------------------------------------------------------------

CLOCK = b"evilevil"


def offered(update: bytes, rank: tuple[int, int] = (0, 0)) -> Change:
    return Change("", "", rank, {}, {CLOCK: 1}, update)


def number(n: int) -> bytes:
    encoded = b""
    while n >= 0x80:
        encoded += bytes([n & 0x7F | 0x80])
        n >>= 7
    return encoded + bytes([n])


def of_value(value: bytes) -> bytes:
    return b"\1\1\1\0\x28\1\3doc\2/a\1" + value + b"\0"


def of_shared_type(build: Any) -> bytes:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=5)
    build(doc)
    return doc.get_update()


HOSTILE = {
    "nothing": b"",
    "not an update": b"hello, world",
    "more clients than bytes": number(2**31) + b"\1\1\0",
    "more clients than memory": number(2**63 - 1) + b"\1\1\0",
    "more items than memory": b"\1" + number(2**31) + b"\1\0",
    "a number without end": b"\xff" * 100,
    "lists nested deeper than the stack": of_value(b"\x75\1" * 200_000 + b"\x7e"),
    "objects nested deeper than the stack": of_value(b"\x76\1\1k" * 100_000 + b"\x7e"),
    "lists nested with neighbours": of_value(b"\x75\2\x7e" * 50_000 + b"\x7e"),
    "a list longer than memory": of_value(b"\x75" + number(2**40) + b"\x7e"),
    "a text longer than the update": of_value(b"\x77" + number(2**60) + b"ab"),
    "bytes": of_value(b"\x74\2ab"),
    "a key twice and one that is cut short": of_value(b"\x76\2\1k\x76\0\1k\x75"),
    "a text that is not UTF-8": of_value(b"\x77\1\xff"),
    "a key that is not UTF-8": of_value(b"\x76\1\1\xff\x7e"),
    "a big integer": of_value(b"\x7a" + b"\0" * 8),
    "an unknown kind of value": of_value(b"\x10"),
    "deletions without end": b"\0" + number(2**40) + b"\1\1\0\5",
    "a deletion of everything": b"\0\1\1\1" + number(2**62) + number(2**62),
    "an item as long as all clocks": b"\1\1\1\0\0" + number(2**32 - 1) + b"\0",
    "an item of no length": b"\1\1\1\0\0\0\0",
    "a gap that says so": b"\1\1\1\0\x0a" + number(2**31) + b"\0",
    "a gap that does not": b"\1\1\1\5\x28\1\3doc\2/a\1\x7e\0",
    "an item after one that is not there": b"\1\1\1\0\x88\7\5\1\x7e\0",
    "an item after itself": b"\1\1\1\0\x88\1\0\1\x7e\0",
    "something after the end": of_value(b"\x7e") + b"x",
    "a client twice": b"\2\1\1\0\x28\1\3doc\2/a\1\x7e\1\1\1\x28\1\3doc\2/b\1\x7e\0",
    "another root": of_shared_type(lambda doc: doc.get("other", type=pycrdt.Map).update({"/a": 1})),
    "a nested map": of_shared_type(
        lambda doc: doc.get("doc", type=pycrdt.Map).update({"/a": pycrdt.Map({"b": 1})})
    ),
    "a text": of_shared_type(lambda doc: doc.get("doc", type=pycrdt.Text).insert(0, "text")),
    "an array": of_shared_type(lambda doc: doc.get("doc", type=pycrdt.Array).append(1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_updates_are_refused(name: str) -> None:
    with pytest.raises(InvalidDocument):
        arrive(ABSENT, offered(HOSTILE[name]))
    held = Replica(3)
    assert held.edit(lambda h: plan_merge(h, {"fine": True}))
    with pytest.raises(InvalidDocument):
        held.receive(offered(HOSTILE[name]))
    assert held.fields == {"fine": True}


def test_without_the_check_one_of_them_kills_the_process() -> None:
    """The reason for reading updates before the library does; if this fails, the check may be relaxed."""
    code = (
        "import pycrdt; pycrdt.Doc().apply_update("
        r"b'\1\1\1\0\x28\1\3doc\2/a\1' + b'\x75\1' * 500_000 + b'\x7e\0')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode < 0


@settings(max_examples=300)
@given(st.data())
def test_damaged_updates_are_refused_or_read_as_json(data: st.DataObject) -> None:
    replica = Replica(1)
    for fields in data.draw(st.lists(documents, min_size=1, max_size=3)):
        replica.edit(lambda held, fields=fields: plan_replace(held, fields))
    damaged = bytearray(replica.state.update)
    for _ in range(data.draw(st.integers(1, 4))):
        match data.draw(st.integers(0, 2)):
            case 0 if damaged:
                damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
            case 1:
                at = data.draw(st.integers(0, len(damaged)))
                damaged[at:at] = data.draw(st.binary(max_size=5))
            case _:
                del damaged[data.draw(st.integers(0, len(damaged))) :]
    for held in (ABSENT, replica.state):
        try:
            outcome = arrive(held, offered(bytes(damaged)))
        except InvalidDocument:
            continue
        assert isinstance(outcome, Merged)
        assert outcome.fields is not None
        # What was taken in can be passed on.
        assert isinstance(arrive(ABSENT, offered(outcome.state.update)), Merged)


@given(st.binary(max_size=40))
def test_state_vectors_from_outside_are_read_or_refused(junk: bytes) -> None:
    replica = Replica(1)
    replica.edit(lambda held: plan_merge(held, {"a": 1}))
    with contextlib.suppress(InvalidDocument):
        library.difference(replica.state.update, junk)


@pytest.mark.parametrize("junk", [number(2**62), number(2**31) + b"\1\1", b"", b"\1\1", b"\0\0"])
def test_malformed_state_vectors_are_refused(junk: bytes) -> None:
    with pytest.raises(InvalidDocument, match="state vector"):
        library.difference(EMPTY_UPDATE, junk)


@pytest.mark.parametrize("rank", [(0, 2), (5, 7)])
def test_ranks_that_cannot_be_are_refused(rank: tuple[int, int]) -> None:
    with pytest.raises(InvalidDocument, match="rank"):
        arrive(ABSENT, offered(EMPTY_UPDATE, rank))


@given(documents, documents)
def test_the_structure_that_is_read_is_the_one_that_the_library_has(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    replica = Replica(1)
    replica.edit(lambda held: plan_replace(held, one))
    replica.client_id = 77
    replica.edit(lambda held: plan_replace(held, two))
    ranges = read_update(replica.state.update, library.ROOT.encode()).ranges
    clocks = clocks_of(library.state_vector(replica.state.update))
    assert {client: end for client, (_, end) in ranges.items()} == clocks
    assert all(start == 0 for start, _ in ranges.values())


@given(documents, st.booleans())
def test_a_document_that_was_written_once_is_read_as_the_library_reads_it(
    fields: dict[str, Any], more: bool
) -> None:
    replica = Replica(1)
    replica.edit(lambda held: plan_merge(held, fields))
    if more:
        replica.client_id = 2
        replica.edit(lambda held: plan_merge(held, {"another client's": [{"z": 1, "a": 2.5}]}))
    registers = read_update(replica.state.update, library.ROOT.encode()).registers
    assert registers is not None
    by_library = library.registers_of(replica.state.update)
    assert identical(registers, by_library)
    assert json.dumps(unflatten(registers)) == json.dumps(unflatten(by_library))
    # Once something was overwritten, only the library knows what became of it.
    replica.edit(lambda held: plan_merge(held, {"n": 1}))
    replica.edit(lambda held: plan_merge(held, {"n": 2}))
    assert read_update(replica.state.update, library.ROOT.encode()).registers is None


@pytest.mark.parametrize(
    "value",
    [
        b"\x7d\x05",
        b"\x7f",
        b"\x7b\x7f\xf0" + b"\0" * 6,
        b"\x7b\x43\x50" + b"\0" * 6,
        b"\x76\2\1k\x76\0\1k\x75\0",
    ],
)
def test_values_of_other_clients_are_read_by_the_library(value: bytes) -> None:
    arrived = arrive(ABSENT, offered(of_value(value)))
    assert isinstance(arrived, Merged)
    assert arrived.fields == unflatten(library.registers_of(of_value(value)))


def test_reading_an_update_takes_microseconds() -> None:
    replica, rng = Replica(1), random.Random(1)
    replica.edit(lambda held: plan_merge(held, {f"field{i}": rng.random() for i in range(8)}))
    seconds = (
        min(timeit.repeat(lambda: document.check_update(replica.state.update), number=100, repeat=5)) / 100
    )
    assert seconds < 500e-6
