"""What is known of a text from one keystroke to the next lets nothing pass that a whole check would not."""

from __future__ import annotations

import random
import time
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import typing_texts
from mesh.core.library import EMPTY_UPDATE, ROOT, ROOT_NAME, contributed
from mesh.core.roots import check_roots
from mesh.core.typing_texts import recall
from mesh.core.updates import clocks_of, read_update
from mesh.errors import InvalidDocument


def forget() -> None:
    typing_texts._known[:] = [None] * len(typing_texts._known)


class Author:
    """A Yjs client that types into a text, beside fields."""

    def __init__(self, client: int, state: bytes = EMPTY_UPDATE) -> None:
        self.doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client)
        self.fields = self.doc.get(ROOT, type=pycrdt.Map)
        self.text = self.doc.get("notes", type=pycrdt.Text)
        self.list = self.doc.get("list", type=pycrdt.Array)
        self.doc.apply_update(state)

    def edit(self, rng: random.Random) -> bytes:
        """Do one of what people do, and the update of it."""
        before = self.doc.get_state()
        length = len(str(self.text).encode())
        at = rng.randint(0, length)
        choice = rng.random()
        if choice < 0.6 or not length:
            self.text.insert(at, rng.choice(["a", "bc", "def"]))
        elif choice < 0.8:
            del self.text[min(at, length - 1) : min(at + 3, length)]
        elif choice < 0.9:
            self.text.format(min(at, length - 1), length, {"bold": True})
        else:
            self.fields[f"/{rng.randint(0, 3)}"] = rng.random()
        return self.doc.get_update(before)


def take(state: bytes, update: bytes) -> bytes:
    outcome = contributed(state, update, read_update(update, ROOT_NAME))
    return state if outcome is None else outcome[0]


def typed_text(pieces: int, seed: int = 1) -> tuple[Author, bytes]:
    """An author, and a state of which something is known."""
    rng, author = random.Random(seed), Author(5)
    author.fields["/title"] = "t"
    author.text += "start"
    for _ in range(pieces):
        author.text.insert(rng.randint(0, len(str(author.text))), "xy")
    return author, take(EMPTY_UPDATE, author.doc.get_update())


def refusal(state: bytes, update: bytes) -> str | None:
    """Why the update is refused, with what is known of the state."""
    try:
        check_roots(state, update, ROOT_NAME, clocks_of(pycrdt.get_state(state)))
    except InvalidDocument as error:
        return str(error)
    return None


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_it_comes_to_the_same_with_and_without(seed: int) -> None:
    rng = random.Random(seed)
    states = [EMPTY_UPDATE, EMPTY_UPDATE]
    authors = [Author(client) for client in (3, 4)]
    for _ in range(15):
        author = rng.choice(authors)
        author.doc.apply_update(states[0])
        update = author.edit(rng)
        known = take(states[0], update)
        forget()
        states = [known, take(states[1], update)]
        assert states[0] == states[1]


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_nothing_is_let_through_that_would_be_refused(seed: int) -> None:
    rng = random.Random(seed)
    author, state = typed_text(10)
    update = bytearray(author.edit(rng))
    for _ in range(rng.randint(1, 3)):
        update[rng.randrange(len(update))] = rng.choice([0, 1, 4, 5, 7, 0x44, 0x84, 0xC4, rng.randrange(256)])
    assert recall(state) is not None
    known = refusal(state, bytes(update))
    forget()
    whole = refusal(state, bytes(update))
    take(EMPTY_UPDATE, author.doc.get_update())
    assert known == whole


@pytest.mark.parametrize("kind", ["array", "nested", "emoji", "other text"])
def test_of_other_documents_nothing_is_known(kind: str) -> None:
    author, state = typed_text(3)
    before = author.doc.get_state()
    if kind == "array":
        author.list.append(1)
    elif kind == "nested":
        author.text.insert_embed(0, {"a": 1})
        author.list.append(pycrdt.Map({"t": pycrdt.Text("x")}))
    elif kind == "emoji":
        author.text += "😀"
    else:
        author.doc.get("more", type=pycrdt.Text).insert(0, "x")
    assert recall(state) is not None
    assert recall(take(state, author.doc.get_update(before))) is None


def test_a_keystroke_into_a_long_text_costs_little() -> None:
    author, state = typed_text(3000)
    whole, known = [], []
    for _ in range(3):
        before = author.doc.get_state()
        author.text.insert(1000, "k")
        update = author.doc.get_update(before)
        began = time.process_time()
        grown = take(state, update)
        known.append(time.process_time() - began)
        forget()
        began = time.process_time()
        state = take(state, update)
        whole.append(time.process_time() - began)
        assert grown == state
    assert min(known) < min(whole) / 4
