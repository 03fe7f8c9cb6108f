"""Documents that are loaded: whatever is written and arrives, they are what their state says."""

from __future__ import annotations

import copy
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import document, library, live
from mesh.core.document import Merged
from mesh.core.library import EMPTY_UPDATE
from mesh.core.live import LiveDocuments, live_of
from mesh.core.plans import plan_unset
from mesh.core.registers import unflatten
from mesh.core.updates import fields_of
from mesh.core.values import identical
from mesh.core.wire import Change
from mesh.errors import DocumentTooLarge, InvalidDocument
from tests.unit.core.test_document import Replica, assert_same, edits, operate
from tests.unit.edits import plan_merge

KEYS = ("/a", "/b", "/a/x", "/c")
VALUES: tuple[Any, ...] = (0, "text", [1, {"k": 2}], {}, None, 1.5)


class KeptReplica(Replica):
    """A copy of a document at a store that keeps it loaded; each step is compared with one that does not."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.kept = LiveDocuments()

    def edit(self, plan: Any) -> Change | None:
        if self.state.rank == document.NEVER or self.state.dead:
            self.client_id += 1000
        counter = self.counter
        plain = document.edit(self.state, plan, tick=self.tick, client_id=self.client_id)
        self.counter = counter
        outcome = document.edit(self.state, plan, tick=self.tick, client_id=self.client_id, kept=self.kept)
        if outcome is None or plain is None:
            assert outcome is plain
            return None
        assert identical(outcome[1].fields, plain[1].fields)
        self.checked(outcome[1])
        return outcome[0]

    def receive(self, change: Change) -> bool:
        plain = document.arrive(self.state, change)
        outcome = document.arrive(self.state, change, self.kept)
        if isinstance(outcome, Merged) and isinstance(plain, Merged):
            assert identical(outcome.fields, plain.fields)
            self.checked(outcome)
        else:
            assert outcome == plain
        return outcome != "lacking"

    def checked(self, merged: Merged) -> None:
        """Keep ``merged``, which the library must read in the same way."""
        self.take(merged)
        if merged.fields is None:
            return
        registers = library.registers_of(self.state.update)
        assert identical(merged.fields, unflatten(registers))
        loaded = self.kept.take(self.state.update)
        if loaded is not None:
            read = fields_of(self.state.update, library.ROOT_NAME)
            assert identical(dict(sorted(loaded.registers.items())), dict(sorted(registers.items())))
            if read is not None:
                assert loaded._elements == read.elements
                assert loaded._clocks == read.clocks
                assert loaded._structs >= read.structs
            self.kept.keep(loaded)


@settings(max_examples=150)
@given(st.data())
def test_a_document_that_is_kept_loaded_is_what_its_state_says(data: st.DataObject) -> None:
    replicas = [KeptReplica(number) for number in (1, 2, 3)]
    for _ in range(data.draw(st.integers(1, 14))):
        replica = data.draw(st.sampled_from(replicas))
        change = operate(replica, *data.draw(edits))
        if change is not None:
            for other in data.draw(st.lists(st.sampled_from(replicas), max_size=3)):
                other.receive(change)
    for one in replicas:
        for other in replicas:
            if one is not other:
                one.pull(other)
    for one in replicas:
        for other in replicas:
            if one is not other:
                one.pull(other)
    assert_same(list(replicas))


@settings(max_examples=150)
@given(st.data())
def test_what_yjs_clients_send_to_a_loaded_document_is_read_as_the_library_does(data: st.DataObject) -> None:
    """Several clients that know of each other's writes, or not: whoever wins is for the library to say."""
    clients: list[pycrdt.Doc[Any]] = [pycrdt.Doc(client_id=number) for number in (7, 3, 11)]
    roots = [client.get("doc", type=pycrdt.Map) for client in clients]
    replica = KeptReplica(1)
    first = replica.edit(lambda held: plan_merge(held, {"a": 0}))
    assert first is not None
    for client in clients:
        client.apply_update(first.update)
    for counter in range(1, data.draw(st.integers(2, 12))):
        number = data.draw(st.integers(0, 2))
        client, root = clients[number], roots[number]
        before = client.get_state()
        with client.transaction():
            for key in data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)):
                if data.draw(st.booleans()) or key not in root:
                    root[key] = data.draw(st.sampled_from(VALUES))
                else:
                    del root[key]
        update = client.get_update(before)
        until = {**replica.state.vector, b"y" * 8: counter}
        try:
            replica.receive(Change("", "", replica.state.rank, {}, until, update))
        except InvalidDocument:  # it stands on what a client has not been told of here
            whole = Change("", "", replica.state.rank, {}, until, client.get_update())
            replica.receive(whole)
        for other in clients:
            if data.draw(st.booleans()):
                other.apply_update(replica.state.update)


def test_a_field_that_is_written_for_ever_takes_no_more_space() -> None:
    replica, kept = KeptReplica(1), Replica(1)
    for n in range(300):
        for one in (replica, kept):
            one.edit(lambda held, n=n: plan_merge(held, {"n": n, "m": -n, "z": {"k": n}}))
    assert len(replica.state.update) < 1.2 * len(kept.state.update)
    assert replica.fields == {"n": 299, "m": -299, "z": {"k": 299}}


def test_whoever_is_given_a_document_may_change_it() -> None:
    replica = KeptReplica(1)
    replica.edit(lambda held: plan_merge(held, {"list": [1, {"k": []}], "o": {"p": 1}}))
    replica.edit(lambda held: plan_merge(held, {"n": 1}))
    given_away = replica.fields
    assert given_away is not None
    wanted = copy.deepcopy(given_away)
    given_away["list"][1]["k"].append(2)
    given_away["o"]["p"] = 2
    assert replica.edit(lambda held: plan_merge(held, wanted)) is None
    replica.edit(lambda held: plan_unset(held, ["/n"]))
    assert replica.fields == {"list": [1, {"k": []}], "o": {"p": 1}}


def test_a_failed_change_leaves_nothing_half_done() -> None:
    kept = LiveDocuments()
    replica = Replica(1)
    replica.edit(lambda held: plan_merge(held, {"n": 1}))
    held = replica.state

    def plan(registers: Any) -> Any:
        return plan_merge(registers, {"n": 2, "long": "x" * (document.MAX_DOCUMENT_BYTES + 1)})

    with pytest.raises(DocumentTooLarge):
        document.edit(held, plan, tick=replica.tick, client_id=1, kept=kept)
    outcome = document.edit(
        held, lambda r: plan_merge(r, {"n": 3}), tick=replica.tick, client_id=1, kept=kept
    )
    assert outcome is not None
    assert outcome[1].fields == {"n": 3}
    assert library.registers_of(outcome[1].state.update) == {"/n": 3}


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_DOCUMENTS", 2)
    states = []
    for number in range(1, 5):
        replica = Replica(number)
        replica.edit(lambda held: plan_merge(held, {"n": 1}))
        states.append(replica.state.update)
    kept = LiveDocuments()
    loaded = [live_of(state) for state in states]
    for one in loaded:
        assert one is not None
        kept.keep(one)
    assert [kept.take(state) is one for state, one in zip(states, loaded, strict=True)] == [
        False,
        False,
        True,
        True,
    ]
    assert kept.take(EMPTY_UPDATE) is not None
    monkeypatch.setattr(live, "MAX_BYTES", len(states[0]))
    for one in loaded:
        assert one is not None
        kept.keep(one)
    assert kept.take(states[2]) is not loaded[2]
    assert kept.take(states[3]) is loaded[3]


def test_documents_in_turn_do_not_drive_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_DOCUMENTS", 10)
    states = []
    for number in range(1, 21):
        replica = Replica(number)
        replica.edit(lambda held: plan_merge(held, {"n": 1}))
        states.append(replica.state.update)
    kept = LiveDocuments()
    found = 0
    for _ in range(10):
        for state in states:
            loaded = kept.take(state)
            assert loaded is not None
            found += loaded.kept
            kept.keep(loaded)
    assert found > 50
