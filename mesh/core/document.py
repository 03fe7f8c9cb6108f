"""A document as a CRDT: Yjs state, rank and version vector, and how two of them become one.

The only module that knows pycrdt. State travels as bytes; a ``Doc`` lives for the length of one call, because
an empty one costs 8 µs, a live one 5 kB, and none may cross threads.

Of two states the one with the higher rank wins whole; equal ranks merge; version vectors always join. A
removed document has rank (incarnation, 1) and empty state, so that a removal wins over concurrent updates
of its incarnation; writing to it starts the next incarnation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

import msgspec
import pycrdt

from mesh.core.updates import MAX_STRUCTS, clocks_of, read_update
from mesh.core.values import MAX_SAFE_INTEGER, Registers, Writes, unflatten
from mesh.core.versions import Rank, VersionVector, covers, join
from mesh.core.wire import Change
from mesh.errors import DocumentTooLarge, InvalidDocument

P = ParamSpec("P")
R = TypeVar("R")

MAX_DOCUMENT_BYTES = 1 << 20
"""Largest encoded state of one document; a larger one stalls the process that opens it."""

ROOT = "doc"
"""The root map that holds the fields; Yjs clients find it under this name."""

_ROOT_NAME = ROOT.encode()

EMPTY_UPDATE = b"\x00\x00"
"""A Yjs update that says nothing."""

NEVER: Rank = (-1, 0)
"""Below the rank of every document that exists."""


@dataclass(frozen=True, slots=True)
class DocumentState:
    """Everything a replica holds of one document."""

    rank: Rank
    update: bytes
    vector: VersionVector

    @property
    def dead(self) -> bool:
        """Whether the document has been removed (meaningful for merged documents only)."""
        return bool(self.rank[1])


ABSENT = DocumentState(NEVER, EMPTY_UPDATE, {})


@dataclass(frozen=True, slots=True)
class Merged:
    """What a replica holds after a change has arrived, and the fields it now reads as (None: removed)."""

    state: DocumentState
    fields: dict[str, Any] | None


def _refusing_panics(function: Callable[P, R]) -> Callable[P, R]:
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


@_refusing_panics
def registers_of(update: bytes) -> Registers:
    """The root map of the state ``update``.

    Raises:
        InvalidDocument: it is not a Yjs update, or holds what JSON cannot.
    """
    return _registers(_load(update)[1])


@_refusing_panics
def edit(
    held: DocumentState,
    plan: Callable[[Registers], Writes],
    *,
    tick: Callable[[], tuple[bytes, int]],
    client_id: int,
) -> tuple[Change, Merged] | None:
    """Carry out a local write on a merged document.

    Args:
        held: what is held; :data:`ABSENT` or a removed one starts an incarnation with no fields.
        plan: given the present registers, the writes to make.
        tick: gives this store's clock identity and its next counter; called only if there is a change.
        client_id: the Yjs client id for this copy of the document.

    Returns:
        The change to send (its collection and id are empty) and the new state; ``None`` if nothing changes.

    Raises:
        DocumentTooLarge: the new state would be over ``MAX_DOCUMENT_BYTES``. Nothing has changed.
    """
    fresh = held.dead or held.rank == NEVER
    doc, root = _load(EMPTY_UPDATE if fresh else held.update, client_id)
    registers = {} if fresh else _registers(root)
    writes = plan(registers)
    if not writes and not fresh:
        return None
    before = doc.get_state()
    with doc.transaction():
        for key in writes.removes:
            if key in registers:
                del root[key]
        for key, value in writes.sets.items():
            root[key] = value
    update = doc.get_update()
    _check_size(update)
    clock, counter = tick()
    rank = (held.rank[0] + 1, 0) if fresh else held.rank
    vector = join(held.vector, {clock: counter})
    for key in writes.removes:
        registers.pop(key, None)
    registers.update(writes.sets)
    whole = fresh or not held.vector
    change = Change(
        "", "", rank, {} if whole else held.vector, vector, update if whole else doc.get_update(before)
    )
    return change, Merged(DocumentState(rank, update, vector), unflatten(registers))


def remove(held: DocumentState, clock: bytes, counter: int) -> tuple[Change, Merged]:
    """Remove a merged document: its tombstone, and the change that says so."""
    rank = (held.rank[0], 1)
    vector = join(held.vector, {clock: counter})
    state = DocumentState(rank, EMPTY_UPDATE, vector)
    return Change("", "", rank, {}, vector, EMPTY_UPDATE), Merged(state, None)


@_refusing_panics
def arrive(held: DocumentState, change: Change) -> Merged | Literal["held", "lacking"]:
    """What becomes of a merged document when ``change`` arrives.

    Returns:
        ``"held"`` if it says nothing new, ``"lacking"`` if it builds on what is not held here (ask for the
        difference), else the new state.

    Raises:
        InvalidDocument: the update is malformed or over a limit. Nothing has changed.
    """
    if change.rank < held.rank or (change.rank == held.rank and covers(held.vector, change.until)):
        if covers(held.vector, change.until):
            return "held"
        return Merged(
            DocumentState(held.rank, held.update, join(held.vector, change.until)),
            None if held.dead else unflatten(registers_of(held.update)),
        )
    if not covers(held.vector, change.since):
        return "lacking"
    vector = join(held.vector, change.until)
    if change.rank[1] > 1:
        raise InvalidDocument(f"the rank {change.rank} cannot be")
    if change.rank[1]:
        return Merged(DocumentState(change.rank, EMPTY_UPDATE, vector), None)
    if change.rank > held.rank and change.since:
        return "lacking"
    brought = read_update(change.update, _ROOT_NAME)
    if change.rank > held.rank and brought.registers is not None:
        update, registers = change.update, brought.registers
    else:
        doc, root = _load(held.update if change.rank == held.rank else EMPTY_UPDATE)
        _apply(doc, change.update)
        reached = clocks_of(doc.get_state())
        if any(reached.get(client, 0) < end for client, (_, end) in brought.ranges.items()):
            # The library would keep it apart until the rest comes, and all that the client writes later.
            raise InvalidDocument("an update that builds on what is not in it")
        update, registers = doc.get_update(), _registers(root)
    _check_size(update)
    return Merged(DocumentState(change.rank, update, vector), unflatten(registers))


def check_update(update: bytes) -> None:
    """Refuse an update that would harm the CRDT library.

    Raises:
        InvalidDocument: it is malformed, or holds what no document does.
    """
    read_update(update, _ROOT_NAME)


def state_vector(update: bytes) -> bytes:
    """The Yjs state vector of the state ``update``: what to send when asking for a difference."""
    return pycrdt.get_state(update)


@_refusing_panics
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


def single_value_state(key: str, value: str, client_id: int) -> bytes:
    """The state of a document with one root key, the same bytes for the same arguments everywhere."""
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client_id)
    doc.get(ROOT, type=pycrdt.Map)[key] = value
    return doc.get_update()


def _check_size(update: bytes) -> None:
    if len(update) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLarge(
            f"{len(update)} bytes encoded are over the limit of {MAX_DOCUMENT_BYTES}: "
            "split it, or move large parts into attachments",
            MAX_DOCUMENT_BYTES,
        )
    if len(update) > 2 * MAX_STRUCTS:  # no item takes less than two bytes
        try:
            read_update(update, _ROOT_NAME)
        except InvalidDocument as error:
            raise DocumentTooLarge(
                f"its history is over the limit of {MAX_STRUCTS} items: copy it under a new _id", MAX_STRUCTS
            ) from error


def _load(update: bytes, client_id: int | None = None) -> tuple[pycrdt.Doc[Any], pycrdt.Map[Any]]:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client_id)
    root = doc.get(ROOT, type=pycrdt.Map)
    if update != EMPTY_UPDATE:
        _apply(doc, update)
    return doc, root


def _apply(doc: pycrdt.Doc[Any], update: bytes) -> None:
    try:
        doc.apply_update(update)
    except ValueError as error:
        raise InvalidDocument(f"a malformed update: {error}") from error


def _registers(root: pycrdt.Map[Any]) -> Registers:
    try:
        registers: Registers = msgspec.json.decode(str(root), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidDocument(f"holds what JSON cannot: {error}") from error
    return {key: _number(value) for key, value in registers.items()}


def _number(value: Any) -> Any:
    """Whole floats beyond the safe integers print without a point; they are floats all the same."""
    if type(value) is int and abs(value) > MAX_SAFE_INTEGER:
        return float(value)
    if type(value) is list:
        return [_number(item) for item in value]
    if type(value) is dict:
        return {key: _number(value[key]) for key in sorted(value)}  # the library has no order
    return value
