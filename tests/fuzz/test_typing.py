"""What is typed into a text, by authors or by others, comes to what the CRDT library itself makes of it
whatever is known of the text from before."""

from __future__ import annotations

import random
from typing import Any

import pycrdt
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import searching, typing_texts
from mesh.core.library import EMPTY_UPDATE, ROOT, ROOT_NAME, joined, refusing_panics
from mesh.core.updates import clocks_of, read_update
from mesh.errors import InvalidDocument
from tests.fuzz.bytes_of import damaged, number, text

CLIENTS = (3, 4, 5)


def client_of(state: bytes, client: int) -> tuple[pycrdt.Doc[Any], pycrdt.Text, pycrdt.Map[Any]]:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client)
    notes, fields = doc.get("notes", type=pycrdt.Text), doc.get(ROOT, type=pycrdt.Map)
    doc.apply_update(state)
    return doc, notes, fields


def typed(rng: random.Random, state: bytes, client: int) -> bytes:
    """What somebody types who holds ``state``."""
    doc, notes, fields = client_of(state, client)
    before = doc.get_state()
    with doc.transaction():
        for _ in range(rng.randint(1, 4)):
            written = str(notes)
            at, until = (len(written[: rng.randint(0, len(written))].encode()) for _ in range(2))
            way = rng.random()
            if way < 0.6 or at >= until:
                notes.insert(at, rng.choice(("x", "abc", "é")) if rng.random() < 0.98 else "😀")
            elif way < 0.8:
                del notes[at:until]
            elif way < 0.9:
                notes.format(at, until, {"bold": rng.random() < 0.5})
            else:
                fields["/title"] = rng.random()
    return doc.get_update(before)


def invented(rng: random.Random, state: bytes) -> bytes:
    """Text between any two elements that there are, or are not."""
    clocks = clocks_of(pycrdt.get_state(state))
    client = rng.choice(CLIENTS)
    near = [
        (other, rng.randrange(clocks[other] + 1)) for other in rng.choices([*clocks] or [3], k=2) if clocks
    ]
    near = near[: rng.randint(0, 2)]
    info = 4 | (0x80, 0x40)[rng.random() < 0.5] if len(near) == 1 else 4 | 0xC0 * bool(near)
    where = b"".join(number(at) + number(clock) for at, clock in near) or number(1) + text("notes")
    item = bytes((info,)) + where + text("zz")
    return number(1) + number(1) + number(client) + number(clocks.get(client, 0)) + item + number(0)


@refusing_panics
def joined_or_refused(state: bytes, update: bytes) -> bytes:
    return joined(state, update, read_update(update, ROOT_NAME))[0]


def taken(state: bytes, update: bytes) -> bytes | None:
    try:
        return joined_or_refused(state, update)
    except InvalidDocument:
        return None


def forget() -> None:
    typing_texts._known[:] = [None] * len(typing_texts._known)
    searching._states[:] = [None] * len(searching._states)


def shown(state: bytes) -> tuple[str, Any]:
    _, notes, fields = client_of(state, 99)
    return str(notes), fields.to_py()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**64))
def test_what_is_typed_comes_to_what_the_library_makes_of_it(seed: int) -> None:
    rng = random.Random(seed)
    forget()
    states, honest = [EMPTY_UPDATE], rng.random() < 0.5
    for _ in range(12):
        state = states[-1]
        update = typed(rng, rng.choice(states), rng.choice(CLIENTS) + 10 * len(states))
        if not honest and rng.random() < 0.3:
            update = invented(rng, state)
        if not honest and rng.random() < 0.2:
            update = damaged(rng, update, [update])
        known = taken(state, update)
        assert known is not None or not honest
        forgotten = (list(typing_texts._known), list(searching._states))
        forget()
        assert taken(state, update) == known, "it does not matter what is known"
        typing_texts._known[:], searching._states[:] = forgotten
        if known is not None:
            doc, notes, fields = client_of(state, 99)
            doc.apply_update(update)
            there, registers = shown(known)
            assert registers == fields.to_py()
            # Who makes up neighbours leaves it to the order of arrival where his words stand.
            assert there == str(notes) if honest else sorted(there) == sorted(str(notes))
            states.append(known)
