"""What takes the CRDT library: states are loaded, written and merged by it. Only this module and
:mod:`mesh.core.live` know pycrdt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import msgspec
import pycrdt

from mesh.core.items import client_for, unspent
from mesh.core.plans import Writes
from mesh.core.registers import Registers
from mesh.core.roots import check_roots
from mesh.core.searching import MAX_CONFLICTS, known_after, known_of, parts_of, remember
from mesh.core.typing_texts import Typed
from mesh.core.typing_texts import remember as remember_typed
from mesh.core.updates import Brought, Incomplete, clocks_of, read_update
from mesh.core.values import MAX_SAFE_INTEGER
from mesh.errors import InvalidDocument

P = ParamSpec("P")
R = TypeVar("R")

ROOT = "doc"
"""The root map that holds the fields; Yjs clients find it under this name."""

ROOT_NAME = ROOT.encode()

EMPTY_UPDATE = b"\x00\x00"
"""A Yjs update that says nothing."""

_KEYS_APART = 8
"""More keys than that, written at once into a state that is left to the library, share a client id."""


def refusing_panics(function: Callable[P, R]) -> Callable[P, R]:
    """A Rust panic surfaces as a BaseException of its own; the Doc it happened in is thrown away."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise InvalidDocument(f"the CRDT library cannot take it: {error}") from None

    return guarded


@refusing_panics
def registers_of(update: bytes) -> Registers:
    """The root map of the state ``update``.

    Raises:
        InvalidDocument: it is not a Yjs update, or holds what JSON cannot.
    """
    return registers_in(load(update)[1])


def load(update: bytes, client_id: int | None = None) -> tuple[pycrdt.Doc[Any], pycrdt.Map[Any]]:
    """The document whose state is ``update``, to be written as ``client_id``, and its root map.

    Raises:
        InvalidDocument: it is malformed.
    """
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client_id)
    root = doc.get(ROOT, type=pycrdt.Map)
    if update != EMPTY_UPDATE:
        _take(doc, parts_of(update, ROOT_NAME))
    return doc, root


def _take(doc: pycrdt.Doc[Any], parts: Iterable[bytes]) -> None:
    with doc.transaction():
        for part in parts:
            apply_update(doc, part)


def registers_in(root: pycrdt.Map[Any]) -> Registers:
    """What a root map holds.

    Raises:
        InvalidDocument: it is what JSON cannot hold.
    """
    try:
        registers: Registers = msgspec.json.decode(str(root), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidDocument(f"holds what JSON cannot: {error}") from error
    return {key: value if type(value) in _EXACT else _number(value) for key, value in registers.items()}


_EXACT = (str, bool, type(None), float)


def _number(value: Any) -> Any:
    """Whole floats beyond the safe integers print without a point; they are floats all the same."""
    if type(value) is int and abs(value) > MAX_SAFE_INTEGER:
        return float(value)
    if type(value) is list:
        return [_number(item) for item in value]
    if type(value) is dict:
        return {key: _number(value[key]) for key in sorted(value)}  # the library has no order
    return value


def apply_update(doc: pycrdt.Doc[Any], update: bytes) -> None:
    """Apply ``update`` to ``doc``.

    Raises:
        InvalidDocument: it is malformed.
    """
    try:
        doc.apply_update(update)
    except (ValueError, RuntimeError) as error:
        raise InvalidDocument(f"a malformed update: {error}") from error


def written_by_library(held: bytes, writes: Writes, client_id: int) -> tuple[bytes, bytes]:
    """The state ``held`` after a local write, and what is new in it: for one with a long history, with
    collaborative roots, or with a past that matters."""
    parts = [(client_id, writes)]
    if len(writes.sets) <= _KEYS_APART:
        parts = [(client_id, Writes({}, writes.removes))]
        parts += [(client_for(client_id, key), Writes({key: value})) for key, value in writes.sets.items()]
    doc, before, update = None, None, held
    clocks = clocks_of(state_vector(held))
    for client, part in parts:
        if part:
            doc, root = load(update, unspent(client, clocks))
            before = doc.get_state() if before is None else before
            news: list[bytes] = []
            subscription = doc.observe(lambda event, news=news: news.append(event.update))
            with doc.transaction():
                for key in part.removes:
                    root.pop(key, None)
                for key, value in part.sets.items():
                    root[key] = value
            doc.unobserve(subscription)
            former, update = update, doc.get_update()
            for delta in news:
                remember(update, known_after(former, delta, read_update(delta, ROOT_NAME), ROOT_NAME))
    assert doc is not None
    return update, doc.get_update(before)


def joined(held: bytes, update: bytes, brought: Brought) -> tuple[bytes, Registers]:
    """The state after ``update`` has arrived, which has been read, and its registers.

    Raises:
        Incomplete, InvalidDocument: it cannot be applied.
    """
    return _merged(held, update, brought)


def contributed(held: bytes, update: bytes, brought: Brought) -> tuple[bytes, bytes, Registers] | None:
    """The state after ``update`` has arrived, which has been read, what was new in it, and the registers;
    ``None``: nothing was.

    Raises:
        Incomplete, InvalidDocument: it cannot be applied.
    """
    news: list[bytes] = []
    state, registers = _merged(held, update, brought, news)
    return (state, news[0], registers) if news else None


def _merged(
    held: bytes, update: bytes, brought: Brought, news: list[bytes] | None = None
) -> tuple[bytes, Registers]:
    doc, root = load(held)
    typed, continues = _check(doc, held, update, brought)
    known = known_after(held, update, brought, ROOT_NAME)
    if known is not None:
        subscription = doc.observe(lambda event: news.append(event.update)) if news is not None else None
        apply_update(doc, update)
        if subscription is not None:
            doc.unobserve(subscription)
        state = doc.get_update()
    else:
        former, before = doc.get_update(), doc.get_state()
        whole = pycrdt.merge_updates(former, difference(update, before))  # what is held stays as it is
        parts = parts_of(whole, ROOT_NAME, limit=MAX_CONFLICTS)
        known = known_of(whole, ROOT_NAME)
        doc, root = load(EMPTY_UPDATE)
        _take(doc, parts)
        state = doc.get_update()
        if news is not None and not _same(former, state):
            news.append(difference(state, before))
    reached = clocks_of(doc.get_state())
    if any(reached.get(client, 0) < end for client, (_, end) in brought.ranges.items()):
        # The library would keep it apart until the rest comes, and all that the client writes later.
        raise Incomplete("an update that builds on what is not in it")
    remember(state, known)
    registers = registers_in(root)
    if continues and registers_of(state) != registers:
        raise InvalidDocument("an update that would read differently elsewhere")
    remember_typed(state, typed)
    return state, registers


def _same(a: bytes, b: bytes) -> bool:
    """Whether two states, which the library has encoded, hold the same."""
    if clocks_of(state_vector(a)) != clocks_of(state_vector(b)):
        return False
    gone = [sorted(read_update(state, ROOT_NAME).deletions) for state in (a, b)]
    return gone[0] == gone[1]


def _check(doc: pycrdt.Doc[Any], held: bytes, update: bytes, brought: Brought) -> tuple[Typed | None, bool]:
    """Refuse what cannot be applied; what is known then of a text, and whether an item may be held in part,
    and go on elsewhere than it began."""
    before = clocks_of(doc.get_state())
    clocks = dict(before)
    continues = False
    for client, (start, end) in brought.ranges.items():
        clock = clocks.get(client, 0)
        if start > clock:
            raise Incomplete("an update that builds on what is not in it")
        begins = (client, clock) in brought.values and not brought.listed
        continues = continues or (start < clock < end and not begins)
        clocks[client] = max(clock, end)
    if any(end > clocks.get(client, 0) for client, _, end in brought.deletions):
        raise Incomplete("an update that deletes what is not in it")
    if brought.rich or len(list(doc.keys())) > 1:
        return check_roots(held, update, ROOT_NAME, before), continues
    if brought.listed:
        raise InvalidDocument("a field that is written as if it were a list")
    return None, continues


def state_vector(update: bytes) -> bytes:
    """The Yjs state vector of the state ``update``: what to send when asking for a difference."""
    return pycrdt.get_state(update)


@refusing_panics
def difference(update: bytes, their_state_vector: bytes) -> bytes:
    """The part of the state ``update`` that a holder of ``their_state_vector`` may lack.

    Raises:
        InvalidDocument: ``their_state_vector`` is malformed.
    """
    clocks_of(their_state_vector)
    try:
        return pycrdt.get_update(update, their_state_vector)
    except ValueError as error:
        raise InvalidDocument(f"a malformed state vector: {error}") from error
