"""A document as a CRDT: Yjs state, rank and version vector, and how two of them become one.

Only this module and :mod:`mesh.core.live` know pycrdt. State travels as bytes. But for the documents that are
kept loaded, a ``Doc`` lives for the length of one call: an empty one costs 4 µs, a live one 5 kB.

Of two states the one with the higher rank wins whole; equal ranks merge; version vectors always join. A
removed document has rank (incarnation, 1) and empty state, so that a removal wins over concurrent updates
of its incarnation; writing to it starts the next incarnation.

The state keeps an item for every value that was overwritten; runs of them, by one client in one key, take no
more space than one. A document that is written again and again is therefore written under a Yjs client id per
key: then only values that two stores overwrite in turn take space, 13 bytes each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import msgspec
import pycrdt

from mesh.core.items import client_for, written_once
from mesh.core.live import EMPTY_UPDATE as EMPTY_UPDATE
from mesh.core.live import ROOT as ROOT
from mesh.core.live import ROOT_NAME, Live, LiveDocuments, apply_update, live_of
from mesh.core.roots import check_roots
from mesh.core.updates import Brought, clocks_of, fields_of, read_update
from mesh.core.values import MAX_SAFE_INTEGER, Registers, Writes, unflatten
from mesh.core.versions import Rank, VersionVector, covers, join
from mesh.core.wire import Change
from mesh.errors import DocumentTooLarge, InvalidDocument

P = ParamSpec("P")
R = TypeVar("R")

MAX_DOCUMENT_BYTES = 1 << 20
"""Largest content of one document, encoded; a larger one stalls the process that opens it."""

MAX_FIELDS = 20_000
"""Registers that one document may have."""

MAX_STATE_BYTES = 4 << 20
"""Largest encoded state of one document, overwritten values included, that is taken from a peer."""

MAX_WRITTEN_BYTES = MAX_STATE_BYTES // 2
"""Largest state that a local write may make: what two stores have written apart can always be merged."""

MAX_YIELDING_ID = 1 << 32
"""Below the Yjs client ids of nearly all writers, which are random below 2^53."""

NEVER: Rank = (-1, 0)
"""Below the rank of every document that exists."""

_KEYS_APART = 8
"""More keys than that, written at once into a state that is left to the library, share a client id."""


class DocumentState(msgspec.Struct, frozen=True):
    """Everything a replica holds of one document."""

    rank: Rank
    update: bytes
    vector: VersionVector

    @property
    def dead(self) -> bool:
        """Whether the document has been removed (meaningful for merged documents only)."""
        return bool(self.rank[1])


ABSENT = DocumentState(NEVER, EMPTY_UPDATE, {})


class Merged(msgspec.Struct, frozen=True):
    """What a replica holds after a change has arrived, and the fields it now reads as (None: removed)."""

    state: DocumentState
    fields: dict[str, Any] | None


def buried(incarnation: int) -> DocumentState:
    """What is still known of a removed document whose tombstone has lived its time."""
    return DocumentState((incarnation, 1), EMPTY_UPDATE, {})


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
    kept: LiveDocuments | None = None,
) -> tuple[Change, Merged] | None:
    """Carry out a local write on a merged document.

    Args:
        held: what is held; :data:`ABSENT` or a removed one starts an incarnation with no fields.
        plan: given the present registers, the writes to make.
        tick: gives this store's clock identity and its next counter; called only if there is a change.
        client_id: the Yjs client id for this copy of the document.
        kept: documents that are loaded.

    Returns:
        The change to send (its collection and id are empty) and the new state; ``None`` if nothing changes.

    Raises:
        DocumentTooLarge: the document or its history would be over a limit. Nothing has changed.
    """
    fresh = held.dead or held.rank == NEVER
    live = None if fresh else _taken(kept, held.update)
    if fresh:
        registers: Registers = {}
    else:
        registers = registers_of(held.update) if live is None else live.registers
    writes = plan(registers)
    if not writes and not fresh:
        _keep(kept, live)
        return None
    delta = None
    if fresh:
        update = delta = written_once(ROOT_NAME, writes.sets, client_id)
    elif live is not None and (delta := live.write(writes, client_id)) is not None:
        update = live.update
    else:
        live = None
        update, delta = _written_by_library(held.update, writes, client_id)
    if live is None:
        for key in writes.removes:
            registers.pop(key, None)
        registers.update(writes.sets)
    if len(update) > len(held.update):
        _check_limits(update, registers)
    fields = unflatten(registers) if live is None else live.fields()
    _keep(kept, live)
    clock, counter = tick()
    rank = (held.rank[0] + 1, 0) if fresh else held.rank
    vector = join(held.vector, {clock: counter})
    whole = fresh or not held.vector
    change = Change("", "", rank, {} if whole else held.vector, vector, update if whole else delta)
    return change, Merged(DocumentState(rank, update, vector), fields)


def _taken(kept: LiveDocuments | None, update: bytes) -> Live | None:
    return live_of(update) if kept is None else kept.take(update)


def _keep(kept: LiveDocuments | None, live: Live | None) -> None:
    if kept is not None and live is not None:
        kept.keep(live)


def _written_by_library(held: bytes, writes: Writes, client_id: int) -> tuple[bytes, bytes]:
    """The same for a state with a long history, with collaborative roots, or with a past that matters."""
    parts = [(client_id, writes)]
    if len(writes.sets) <= _KEYS_APART:
        parts = [(client_id, Writes({}, writes.removes))]
        parts += [(client_for(client_id, key), Writes({key: value})) for key, value in writes.sets.items()]
    doc, before, update = None, None, held
    for client, part in parts:
        if part:
            doc, root = _load(update, client)
            before = doc.get_state() if before is None else before
            with doc.transaction():
                for key in part.removes:
                    root.pop(key, None)
                for key, value in part.sets.items():
                    root[key] = value
            update = doc.get_update()
    assert doc is not None
    return update, doc.get_update(before)


def remove(held: DocumentState, clock: bytes, counter: int) -> tuple[Change, Merged]:
    """Remove a merged document: its tombstone, and the change that says so."""
    rank = (held.rank[0], 1)
    vector = join(held.vector, {clock: counter})
    state = DocumentState(rank, EMPTY_UPDATE, vector)
    return Change("", "", rank, {}, vector, EMPTY_UPDATE), Merged(state, None)


@_refusing_panics
def anew(
    held: DocumentState, clock: bytes, counter: int, *, former: int | None, client_id: int, yielding_id: int
) -> tuple[Change, Merged]:
    """A merged document written anew: its registers as they are, and nothing of what they were made of.

    Whoever holds that merges the two. One with collaborative roots keeps its items: a text cannot be written
    twice.

    Args:
        held: what is held.
        clock, counter: the tick.
        former: the Yjs client id under which this store has written the registers that are to compete with
            those of others; ``None``: there are none.
        client_id: the id for those.
        yielding_id: the id for the other registers, below ``MAX_YIELDING_ID``: of concurrent values, that
            with the higher id wins.
    """
    if read_update(held.update, ROOT_NAME).rich:
        state = DocumentState(held.rank, held.update, join(held.vector, {clock: counter}))
        registers = registers_of(held.update)
    else:
        fields = fields_of(held.update, ROOT_NAME)
        registers = registers_of(held.update) if fields is None else fields.registers
        competing: Registers = {}
        yielding: Registers = {}
        for key, value in registers.items():
            writer = former if fields is None else fields.elements[key][0]
            mine = former is not None and writer in (former, client_for(former, key))
            # A counter yields: what others hold of this store's share includes what they have confirmed.
            (competing if mine and key.startswith("/") else yielding)[key] = value
        doc, _ = _load(written_once(ROOT_NAME, competing, client_id))
        apply_update(doc, written_once(ROOT_NAME, yielding, yielding_id))
        state = DocumentState(held.rank, doc.get_update(), {clock: counter})
    change = Change("", "", state.rank, {}, state.vector, state.update)
    return change, Merged(state, unflatten(registers))


@_refusing_panics
def arrive(
    held: DocumentState, change: Change, kept: LiveDocuments | None = None
) -> Merged | Literal["held", "lacking"]:
    """What becomes of a merged document when ``change`` arrives; ``kept`` are documents that are loaded.

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
    brought = read_update(change.update, ROOT_NAME)
    if change.rank > held.rank and brought.registers is not None:
        update, fields = change.update, unflatten(brought.registers)
    else:
        base = held.update if change.rank == held.rank else EMPTY_UPDATE
        live = _taken(kept, base) if brought.simple else None
        if live is not None and live.take(change.update, brought):
            update, fields = live.update, live.fields()
            _keep(kept, live)
        else:
            update, registers = _joined(base, change.update, brought)
            fields = unflatten(registers)
    if len(update) > MAX_STATE_BYTES:
        raise DocumentTooLarge(
            f"{len(update)} bytes encoded are over the limit of {MAX_STATE_BYTES}", MAX_STATE_BYTES
        )
    return Merged(DocumentState(change.rank, update, vector), fields)


def _joined(held: bytes, update: bytes, brought: Brought) -> tuple[bytes, Registers]:
    """The state after ``update`` has arrived, which has been read, and its registers."""
    doc, root = _load(held)
    clocks = clocks_of(doc.get_state())
    for client, (start, end) in brought.ranges.items():
        if start > clocks.get(client, 0):
            raise InvalidDocument("an update that builds on what is not in it")
        clocks[client] = max(clocks.get(client, 0), end)
    if any(end > clocks.get(client, 0) for client, _, end in brought.deletions):
        raise InvalidDocument("an update that deletes what is not in it")
    if brought.rich or len(list(doc.keys())) > 1:
        check_roots(held, update, ROOT_NAME)
    apply_update(doc, update)
    reached = clocks_of(doc.get_state())
    if any(reached.get(client, 0) < end for client, (_, end) in brought.ranges.items()):
        # The library would keep it apart until the rest comes, and all that the client writes later.
        raise InvalidDocument("an update that builds on what is not in it")
    return doc.get_update(), _registers(root)


def check_update(update: bytes) -> None:
    """Refuse an update that would harm the CRDT library.

    Raises:
        InvalidDocument: it is malformed, or holds more than fields.
    """
    if read_update(update, ROOT_NAME).rich:
        raise InvalidDocument("an item outside of the document's root map")


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
    return written_once(ROOT_NAME, {key: value}, client_id)


def _check_limits(update: bytes, registers: Registers) -> None:
    if len(registers) > MAX_FIELDS:
        raise DocumentTooLarge(
            f"{len(registers)} fields are over the limit of {MAX_FIELDS}: split it, or put lists in place of "
            "objects",
            MAX_FIELDS,
        )
    if len(update) <= MAX_DOCUMENT_BYTES:
        return
    size = len(written_once(ROOT_NAME, registers, 1))
    if size > MAX_DOCUMENT_BYTES:
        raise DocumentTooLarge(
            f"{size} bytes encoded are over the limit of {MAX_DOCUMENT_BYTES}: "
            "split it, or move large parts into attachments",
            MAX_DOCUMENT_BYTES,
        )
    if len(update) > MAX_WRITTEN_BYTES:
        raise DocumentTooLarge(
            f"{size} bytes, and {len(update) - size} of history of overwritten values, are over the limit of "
            f"{MAX_WRITTEN_BYTES}: remove it and insert it again, which starts without a history, or give "
            "each writer a document of its own",
            MAX_WRITTEN_BYTES,
        )


def _load(update: bytes, client_id: int | None = None) -> tuple[pycrdt.Doc[Any], pycrdt.Map[Any]]:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=client_id)
    root = doc.get(ROOT, type=pycrdt.Map)
    if update != EMPTY_UPDATE:
        apply_update(doc, update)
    return doc, root


def _registers(root: pycrdt.Map[Any]) -> Registers:
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
