"""Collaborative roots beside the fields: carried as they are, and refused where they would harm."""

from __future__ import annotations

import os
import time
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import document, library
from mesh.core.document import ABSENT, DocumentState, Merged, arrive
from mesh.core.library import EMPTY_UPDATE, ROOT
from mesh.core.plans import plan_unset
from mesh.core.wire import Change
from mesh.errors import InvalidDocument
from tests.unit.edits import plan_merge

CLOCK = b"c" * 8
EXAMPLES = int(os.environ.get("MESH_FUZZ_EXAMPLES", "300"))


def offered(update: bytes, since: dict[bytes, int] | None = None, clock: bytes = CLOCK) -> Change:
    return Change("", "", (0, 0), since or {}, {clock: 1}, update)


def arrived(update: bytes, held: DocumentState = ABSENT, clock: bytes = CLOCK) -> Merged:
    outcome = arrive(held, offered(update, clock=clock))
    assert isinstance(outcome, Merged)
    return outcome


class Client:
    """A Yjs client of a document."""

    def __init__(self, client_id: int, update: bytes = EMPTY_UPDATE) -> None:
        self.doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client_id)
        self.fields = self.doc.get(ROOT, type=pycrdt.Map)
        self.notes = self.doc.get("notes", type=pycrdt.Text)
        self.list = self.doc.get("list", type=pycrdt.Array)
        self.doc.apply_update(update)

    def update(self) -> bytes:
        return self.doc.get_update()

    def read(self) -> tuple[str, Any]:
        return str(self.notes), self.list.to_py()


def rich() -> Client:
    """A client that has written of everything, and deleted some."""
    client = Client(7)
    client.fields["/title"] = "rich"
    client.notes += "Hello 😀, world"
    client.notes.format(0, 5, {"bold": True, "link": {"to": ["x"]}})
    client.notes.insert_embed(3, {"image": "a.png"})
    client.list.extend([1, "two", {"three": [3]}])
    client.list.append(pycrdt.Map({"k": pycrdt.Array([1, 2]), "t": pycrdt.Text("inner")}))
    client.list.append(pycrdt.Map({"gone": pycrdt.Text("with it")}))
    del client.list[4]
    del client.list[0]
    del client.notes[1:3]
    return client


def test_roots_survive_edits_and_merges_both_ways() -> None:
    client = rich()
    held = arrived(client.update())
    assert held.fields == {"title": "rich"}
    text = str(client.notes)

    outcome = document.edit(
        held.state,
        lambda h: plan_merge(h, {"n": 1, "title": "new"}),
        tick=lambda: (b"s" * 8, 1),
        client_id=99,
    )
    assert outcome is not None
    change, merged = outcome
    assert merged.fields == {"n": 1, "title": "new"}
    assert Client(8, merged.state.update).read() == client.read()

    # Meanwhile the client goes on, and both hear of each other.
    client.notes += "! 😀"
    client.notes.insert(2, "é😀")
    client.list.insert(0, "first")
    both = arrived(client.update(), merged.state, b"d" * 8)
    client.doc.apply_update(change.update)
    assert Client(8, both.state.update).read() == client.read()
    assert client.read()[0] != text
    assert both.fields == {"n": 1, "title": "new"}
    assert dict(client.fields.to_py()) == {"/n": 1, "/title": "new"}

    unset = document.edit(
        both.state, lambda h: plan_unset(h, ["/n"]), tick=lambda: (b"s" * 8, 2), client_id=99
    )
    assert unset is not None
    assert unset[1].fields == {"title": "new"}
    assert Client(8, unset[1].state.update).read() == client.read()

    # Who lacks some asks for the difference.
    lacking = library.difference(both.state.update, library.state_vector(held.state.update))
    caught_up = arrive(held.state, Change("", "", (0, 0), held.state.vector, both.state.vector, lacking))
    assert isinstance(caught_up, Merged)
    assert Client(8, caught_up.state.update).read() == client.read()

    tombstone, gone = document.remove(unset[1].state, b"s" * 8, 3)
    assert tombstone.update == gone.state.update == EMPTY_UPDATE


def test_a_text_that_is_typed_arrives_key_by_key() -> None:
    client = Client(7)
    held = arrived(Client(3).update())
    since: bytes = client.doc.get_state()
    for i, letter in enumerate("Grüße 😀 from afar"):
        client.notes.insert(0 if i % 3 else len(str(client.notes).encode()), letter)
        held = arrived(client.doc.get_update(since), held.state, bytes([i + 1]) * 8)
        since = client.doc.get_state()
    assert Client(8, held.state.update).read() == client.read()


# --- hostile ------------------------------------------------------------------------------------

KILLERS = {
    "a character that never ends": "010102000401017804f09f988000",
    "types within each other": "010102002801016d016b01" + "7501" * 50_000 + "7e00",
    "collected, of no length": "01014d01000000",
    "clocks that overflow": "010101ffffffff0f00ffffffff0f010102ffffffff0f010501",
    "deletes all that a client will write": "00012a0100ffffffff07",
    "uses up all clocks of a client": "01012a0000808080800400",
}


def array_with(update: bytes) -> bytes:
    """``update`` beside a root ``x`` that is an array."""
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=9)
    doc.get("x", type=pycrdt.Array).append(1)
    both: bytes = pycrdt.merge_updates(doc.get_update(), update)
    return both


def test_known_killers_are_refused() -> None:
    for name, killer in KILLERS.items():
        update = bytes.fromhex(killer)
        update = array_with(update) if name.startswith("a character") else update
        for held in (ABSENT, arrived(rich().update()).state):
            with pytest.raises(InvalidDocument):
                arrive(held, offered(update, clock=b"k" * 8))
    held = arrived(array_with(EMPTY_UPDATE)).state
    with pytest.raises(InvalidDocument, match="as a text and as an array"):
        arrive(held, offered(bytes.fromhex(KILLERS["a character that never ends"]), clock=b"k" * 8))


def after(build: Any) -> bytes:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=9)
    build(doc)
    return doc.get_update()


def nested(depth: int) -> pycrdt.Array[Any]:
    return pycrdt.Array([nested(depth - 1)] if depth else [])


MISUSED = {
    "a root that is a map": after(lambda doc: doc.get("m", type=pycrdt.Map).update({"a": 1})),
    "a root of XML": after(
        lambda doc: doc.get("m", type=pycrdt.XmlFragment).children.append(pycrdt.XmlElement("p"))
    ),
    "bytes in an array": after(lambda doc: doc.get("a", type=pycrdt.Array).append(b"bytes")),
    "arrays within arrays": after(lambda doc: doc.get("a", type=pycrdt.Array).append(nested(40))),
    "a document in an array": after(lambda doc: doc.get("a", type=pycrdt.Array).append(pycrdt.Doc())),
    "a text among the fields": after(
        lambda doc: doc.get(ROOT, type=pycrdt.Map).update({"/a": pycrdt.Text("x")})
    ),
    "text after a field": b"\1\2\5\0\x28\1\3doc\2/a\1\x7e\x84\5\0\1x\0",
    "a field after a text": b"\1\2\5\0\x04\1\5notes\1x\x88\5\0\1\x7e\0",
    "an item after itself": b"\1\1\5\0\x84\5\0\1x\0",
    "items after each other": b"\2\1\6\0\x84\5\0\1x\1\5\0\x84\6\0\1x\0",
    "an item in a text": b"\1\2\5\0\x04\1\5notes\1x\x04\0\5\0\1y\0",
    "an item in itself": b"\1\1\5\0\x07\0\5\0\0\0",
    "an attribute that is not JSON": b"\1\1\5\0\x06\1\5notes\1b\1{\0",
    "an attribute nested deeper than the stack": b"\1\1\5\0\x06\1\5notes\1b\x80\x10" + b"[" * 2048 + b"\0",
    "an empty text": b"\1\1\5\0\x04\1\5notes\0\0",
    "a text that is not UTF-8": b"\1\1\5\0\x04\1\5notes\1\xff\0",
    "between two roots": b"\1\3\5\0\x04\1\1a\1x\x04\1\1b\1x\xc4\5\0\5\1\1x\0",
    "between what is collected and a root without a name": (
        b"\1\3\5\0\x08\1\0\1\x7e\0\1\xc4\5\1\5\0\4\xf0\x9f\x98\x80\0"
    ),
    "within a character": b"\2\1\6\0\x84\5\0\1x\1\5\0\x04\1\1a\4\xf0\x9f\x98\x80\0",
    "deletes half a character": b"\1\1\5\0\x04\1\1a\4\xf0\x9f\x98\x80\1\5\1\0\1",
}


@pytest.mark.parametrize("name", MISUSED)
def test_what_is_where_it_cannot_be_is_refused(name: str) -> None:
    for held in (ABSENT, arrived(rich().update()).state):
        with pytest.raises(InvalidDocument):
            arrive(held, offered(MISUSED[name], clock=b"k" * 8))


def test_owned_documents_have_no_roots() -> None:
    with pytest.raises(InvalidDocument, match="root map"):
        document.check_update(rich().update())


def read_everything(update: bytes) -> None:
    """Read a state as a Yjs client would, whatever its roots are used as."""
    doc: pycrdt.Doc[Any] = pycrdt.Doc()
    doc.get(ROOT, type=pycrdt.Map)
    doc.apply_update(update)
    str(doc.get("notes", type=pycrdt.Text))
    doc.get("list", type=pycrdt.Array).to_py()
    assert doc.get_update()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_damaged_updates_with_roots_are_refused_or_harmless(data: st.DataObject) -> None:
    client = rich()
    held = arrived(client.update())
    since = client.doc.get_state()
    if data.draw(st.booleans()):
        client.notes += "more 😀"
        client.list.append(pycrdt.Text("x"))
        del client.notes[0:2]
        client.fields["/title"] = "changed"
        damaged = bytearray(client.doc.get_update(since))
    else:
        damaged = bytearray(client.update())
    for _ in range(data.draw(st.integers(1, 4))):
        match data.draw(st.integers(0, 3)):
            case 0 if damaged:
                damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
            case 1:
                at = data.draw(st.integers(0, len(damaged)))
                damaged[at:at] = data.draw(st.binary(max_size=5))
            case 2 if damaged:
                at = data.draw(st.integers(0, len(damaged) - 1))
                damaged[at] = damaged[data.draw(st.integers(0, len(damaged) - 1))]
            case _:
                del damaged[data.draw(st.integers(0, len(damaged))) :]
    started = time.perf_counter()
    for state in (ABSENT, held.state):
        try:
            outcome = arrive(state, offered(bytes(damaged), clock=b"k" * 8))
        except InvalidDocument:
            continue
        assert isinstance(outcome, Merged)
        try:
            read_everything(outcome.state.update)
        except BaseException as error:
            raise AssertionError(f"{bytes(damaged).hex()} harms: {error!r}") from error
        again = arrive(ABSENT, offered(outcome.state.update))
        assert isinstance(again, Merged), "what was taken in can be passed on"
    assert time.perf_counter() - started < 5
