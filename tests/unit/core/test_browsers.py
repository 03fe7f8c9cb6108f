from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pycrdt
import pytest

from mesh.core.browsers import contribute, mark_of, marked, marking, owned_view, standing
from mesh.core.document import ABSENT, DocumentState, Merged, arrive, edit, remove
from mesh.core.library import EMPTY_UPDATE, registers_of
from mesh.core.updates import Incomplete
from mesh.core.wire import Change
from mesh.errors import DocumentTooLarge, InvalidDocument
from tests.unit.edits import plan_merge

NAME = ("notes", "n1")
CLOCK = b"8 bytes."


class Browser:
    """A Yjs client's copy of a document."""

    def __init__(self) -> None:
        self.doc: pycrdt.Doc[Any] = pycrdt.Doc()
        self.map = self.doc.get("doc", type=pycrdt.Map)
        self.text = self.doc.get("body", type=pycrdt.Text)

    def news(self, work: Callable[[], object]) -> bytes:
        before = self.doc.get_state()
        work()
        return self.doc.get_update(before)


class Store:
    """What is held of one document, and how often it ticked."""

    def __init__(self, held: DocumentState = ABSENT) -> None:
        self.held = held
        self.ticks = 0

    def tick(self) -> tuple[bytes, int]:
        self.ticks += 1
        return CLOCK, self.ticks

    def write(self, fields: dict[str, Any]) -> Change:
        outcome = edit(self.held, lambda held: plan_merge(held, fields), tick=self.tick, client_id=7)
        assert outcome is not None
        return self.take(outcome)

    def remove(self) -> Change:
        return self.take(remove(self.held, *self.tick()))

    def hear(self, update: bytes, incarnation: int | None = None) -> Change | None:
        outcome = contribute(self.held, update, incarnation=incarnation, tick=self.tick, name=NAME)
        return None if outcome is None else self.take(outcome)

    def take(self, outcome: tuple[Change, Merged]) -> Change:
        self.held = outcome[1].state
        return outcome[0]


def test_an_update_that_says_something_is_one_change_and_one_tick() -> None:
    store, browser = Store(), Browser()
    update = browser.news(lambda: browser.map.update({"/a": 1, "/b/c": "x"}))
    change = store.hear(update)
    assert change is not None
    assert (change.rank, change.since, change.until, store.ticks) == ((0, 0), {}, {CLOCK: 1}, 1)
    assert store.hear(update) is None
    assert store.hear(EMPTY_UPDATE) is None
    assert store.ticks == 1

    deletion = browser.news(lambda: browser.map.pop("/a"))
    change = store.hear(deletion)
    assert change is not None
    assert (change.since, change.until) == ({CLOCK: 1}, {CLOCK: 2})
    assert store.hear(deletion) is None
    assert registers_of(store.held.update) == {"/b/c": "x"}


def test_other_replicas_take_the_changes() -> None:
    store, browser = Store(), Browser()
    other = ABSENT
    for work in (
        lambda: browser.map.update({"/a": 1}),
        lambda: browser.text.insert(0, "hello"),
        lambda: browser.text.__delitem__(slice(0, 2)),
        lambda: browser.map.update({"/a": 2}),
    ):
        change = store.hear(browser.news(work))
        assert change is not None
        merged = arrive(other, change)
        assert isinstance(merged, Merged)
        other = merged.state
    assert (other.rank, other.vector) == (store.held.rank, store.held.vector)
    copy = Browser()
    copy.doc.apply_update(other.update)
    assert str(copy.text) == "llo"
    assert copy.map.to_py() == {"/a": 2.0}


def test_an_update_that_builds_on_what_is_not_here() -> None:
    store, browser = Store(), Browser()
    browser.map["/a"] = 1
    with pytest.raises(Incomplete):
        store.hear(browser.news(lambda: browser.map.update({"/a": 2})))
    with pytest.raises(Incomplete):
        store.hear(browser.news(lambda: browser.map.pop("/a")))
    assert store.held == ABSENT
    assert store.ticks == 0


@pytest.mark.parametrize(
    "work",
    [
        lambda browser: browser.map.update({"title": 1}),
        lambda browser: browser.map.update({"record": "{}"}),
        lambda browser: browser.map.update({"/a": pycrdt.Map({"b": 1})}),
        lambda browser: browser.map.update({"/a" * 65: 1}),
    ],
)
def test_what_no_document_holds_is_refused(work: Callable[[Browser], object]) -> None:
    store, browser = Store(), Browser()
    with pytest.raises(InvalidDocument):
        store.hear(browser.news(lambda: work(browser)))
    assert store.ticks == 0


def test_counters_are_fields() -> None:
    store, browser = Store(), Browser()
    store.hear(browser.news(lambda: browser.map.update({"/a": 1, "+0.aa/n": 3})))
    assert registers_of(store.held.update) == {"/a": 1, "+0.aa/n": 3}


def test_a_document_that_is_too_large_is_refused() -> None:
    store, browser = Store(), Browser()
    with pytest.raises(DocumentTooLarge):
        store.hear(browser.news(lambda: browser.map.update({"/a": "x" * (2 << 20)})))
    browser = Browser()
    with pytest.raises(DocumentTooLarge):
        store.hear(browser.news(lambda: browser.text.insert(0, "x" * (3 << 20))))


# --- incarnations ---------------------------------------------------------------------------------


def test_a_client_is_known_by_the_mark_it_holds() -> None:
    browser = Browser()
    browser.map["/a"] = 1
    assert marked(NAME, browser.doc.get_state()) is None
    browser.doc.apply_update(marking(mark_of(NAME, 3)))
    assert marked(NAME, browser.doc.get_state()) == 3
    assert marked(("notes", "n2"), browser.doc.get_state()) is None
    assert browser.map.to_py() == {"/a": 1.0}
    assert mark_of(NAME, 2**53) < 2**53
    with pytest.raises(InvalidDocument):
        marked(NAME, b"\xff")


def test_the_standing_of_a_client() -> None:
    store = Store()
    assert standing(store.held, None) == standing(store.held, 5) == "current"
    store.write({"a": 1})
    assert [standing(store.held, held) for held in (None, 0, 1)] == ["current", "current", "ahead"]
    store.remove()
    assert [standing(store.held, held) for held in (None, 0, 1)] == ["current", "gone", "ahead"]
    store.write({"a": 2})
    assert [standing(store.held, held) for held in (None, 0, 1)] == ["current", "gone", "current"]


def test_incarnations_begin_as_with_any_other_write() -> None:
    store = Store()
    store.write({"a": 1})
    store.remove()
    change = store.hear(Browser().news(lambda: None) or EMPTY_UPDATE)
    assert change is None
    browser = Browser()
    change = store.hear(browser.news(lambda: browser.map.update({"/b": 1})))
    assert change is not None
    assert (change.rank, change.since) == ((1, 0), {})
    assert registers_of(store.held.update) == {"/b": 1}


def test_a_document_that_was_dropped_here_goes_on_in_its_incarnation() -> None:
    store, browser = Store(), Browser()
    change = store.hear(browser.news(lambda: browser.map.update({"/b": 1})), 4)
    assert change is not None
    assert change.rank == (4, 0)


def test_every_record_of_an_owned_document_is_an_incarnation() -> None:
    first, state = owned_view(NAME, {"_id": "n1", "name": "hub"})
    assert owned_view(NAME, {"_id": "n1", "name": "hub"}) == (first, state)
    assert owned_view(NAME, {"_id": "n1", "name": "van"})[0] != first
    browser = Browser()
    browser.doc.apply_update(state)
    assert browser.map.to_py() == {"/name": "hub"}
    assert marked(NAME, browser.doc.get_state()) == first
