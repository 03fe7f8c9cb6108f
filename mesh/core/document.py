"""A document as a CRDT: Yjs state, rank and version vector, and how two of them become one.

State travels as bytes. But for the documents that are kept loaded, a ``Doc`` of the CRDT library lives for
the length of one call: an empty one costs 4 µs, a live one 5 kB.

Of two states the one with the higher rank wins whole; equal ranks merge; version vectors always join. A
removed document has rank (incarnation, 1) and empty state, so that a removal wins over concurrent updates
of its incarnation; writing to it starts the next incarnation.

The state keeps an item for every value that was overwritten; runs of them, by one client in one key, take no
more space than one. A document that is written again and again is therefore written under a Yjs client id per
key: then only values that two stores overwrite in turn take space, 13 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from mesh.core.items import client_for, written_once
from mesh.core.library import (
    EMPTY_UPDATE,
    ROOT_NAME,
    apply_update,
    joined,
    load,
    refusing_panics,
    registers_of,
    state_vector,
    written_by_library,
)
from mesh.core.live import Live, LiveDocuments, live_of
from mesh.core.plans import Writes
from mesh.core.registers import Registers, divided_share, is_number, unflatten
from mesh.core.update_reader import MAX_CLIENT
from mesh.core.updates import Brought, clocks_of, fields_of, read_update, settled
from mesh.core.versions import Rank, VersionVector, covers, join
from mesh.core.wire import Change
from mesh.errors import DocumentTooLarge, InvalidDocument

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

MIN_WINNING_ID = MAX_CLIENT - (1 << 40)
"""Above those of nearly all."""

Name = tuple[str, str]
"""The collection of a document, and its id."""

NAMELESS: Name = ("", "")

NEVER: Rank = (-1, 0)
"""Below the rank of every document that exists."""


class DocumentState(msgspec.Struct, frozen=True, gc=False):
    """Everything a replica holds of one document."""

    rank: Rank
    update: bytes
    vector: VersionVector

    @property
    def dead(self) -> bool:
        """Whether the document has been removed (meaningful for merged documents only)."""
        return bool(self.rank[1])


ABSENT = DocumentState(NEVER, EMPTY_UPDATE, {})


class Merged(msgspec.Struct, frozen=True, gc=False):
    """What a replica holds after a change has arrived, and the fields it now reads as (None: removed)."""

    state: DocumentState
    fields: dict[str, Any] | None


def buried(incarnation: int) -> DocumentState:
    """What is still known of a removed document once its version is forgotten."""
    return DocumentState((incarnation, 1), EMPTY_UPDATE, {})


def edit(
    held: DocumentState,
    plan: Callable[[Registers], Writes],
    *,
    tick: Callable[[], tuple[bytes, int]],
    client_id: int,
    kept: LiveDocuments | None = None,
    name: Name = NAMELESS,
) -> tuple[Change, Merged] | None:
    """Carry out a local write on a merged document.

    Args:
        held: what is held; :data:`ABSENT` or a removed one starts an incarnation with no fields.
        plan: given the present registers, the writes to make.
        tick: gives this store's clock identity and its next counter; called only if there is a change.
        client_id: the Yjs client id for this copy of the document.
        kept: documents that are loaded.
        name: the collection and the id that the change is to name.

    Returns:
        The change to send and the new state; ``None`` if nothing changes.

    Raises:
        DocumentTooLarge: the document or its history would be over a limit. Nothing has changed.
    """
    if held.dead or held.rank == NEVER:
        return _begun(held, plan({}).sets, tick, client_id, name)
    return _changed(held, plan, tick, client_id, kept, name)


def _begun(
    held: DocumentState,
    registers: Registers,
    tick: Callable[[], tuple[bytes, int]],
    client_id: int,
    name: Name,
) -> tuple[Change, Merged]:
    update = written_once(ROOT_NAME, registers, client_id)
    check_limits(update, registers)
    clock, counter = tick()
    rank = (held.rank[0] + 1, 0)
    vector = join(held.vector, {clock: counter}) if held.vector else {clock: counter}
    change = Change(*name, rank, {}, vector, update)
    return change, Merged(DocumentState(rank, update, vector), unflatten(registers))


@refusing_panics
def _changed(
    held: DocumentState,
    plan: Callable[[Registers], Writes],
    tick: Callable[[], tuple[bytes, int]],
    client_id: int,
    kept: LiveDocuments | None,
    name: Name,
) -> tuple[Change, Merged] | None:
    live = _taken(kept, held.update)
    registers = registers_of(held.update) if live is None else live.registers
    writes = plan(registers)
    if not writes:
        _keep(kept, live)
        return None
    delta = None
    if live is not None and (delta := live.write(writes, client_id)) is not None:
        update = live.update
    else:
        live = None
        update, delta = written_by_library(held.update, writes, client_id)
    if live is None:
        for key in writes.removes:
            registers.pop(key, None)
        registers.update(writes.sets)
    if len(update) > len(held.update):
        check_limits(update, registers)
    fields = unflatten(registers) if live is None else live.fields()
    _keep(kept, live)
    clock, counter = tick()
    vector = join(held.vector, {clock: counter})
    whole = not held.vector
    change = Change(*name, held.rank, {} if whole else held.vector, vector, update if whole else delta)
    return change, Merged(DocumentState(held.rank, update, vector), fields)


def _taken(kept: LiveDocuments | None, update: bytes) -> Live | None:
    return live_of(update) if kept is None else kept.take(update)


def _keep(kept: LiveDocuments | None, live: Live | None) -> None:
    if kept is not None and live is not None:
        kept.keep(live)


def remove(held: DocumentState, clock: bytes, counter: int, name: Name = NAMELESS) -> tuple[Change, Merged]:
    """Remove a merged document: its tombstone, and the change that says so."""
    rank = (held.rank[0], 1)
    vector = join(held.vector, {clock: counter})
    state = DocumentState(rank, EMPTY_UPDATE, vector)
    return Change(*name, rank, {}, vector, EMPTY_UPDATE), Merged(state, None)


@refusing_panics
def anew(
    held: DocumentState,
    clock: bytes,
    counter: int,
    *,
    former: int | None,
    grown: Mapping[str, float],
    client_id: int,
    yielding_id: int,
) -> tuple[Change, Merged]:
    """A merged document written anew: its registers as they are, and nothing of what they were made of.

    Whoever holds that merges the two. One with collaborative roots keeps its items: a text cannot be written
    twice.

    Args:
        held: what is held.
        clock, counter: the tick.
        former: the Yjs client id under which this store has written the registers that are to compete with
            those of others; ``None``: there are none.
        grown: this store's shares of counters that have grown, and what they were before.
        client_id: the id for those: a :func:`winning_id`, as another life of this store may have written
            something else under ``former`` and the same clocks, which other nodes hold.
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
            if key in grown and is_number(value):
                yielding.update(divided_share(key, value, grown[key], clock.hex()))
                continue
            # A counter yields: what others hold of this store's share includes what they have confirmed.
            (competing if mine and key.startswith("/") else yielding)[key] = value
        doc, _ = load(written_once(ROOT_NAME, competing, client_id))
        apply_update(doc, written_once(ROOT_NAME, yielding, yielding_id))
        state = DocumentState(held.rank, doc.get_update(), {clock: counter})
    change = Change("", "", state.rank, {}, state.vector, state.update)
    return change, Merged(state, unflatten(registers))


def winning_id(former: int, drawn: int) -> int:
    """A Yjs client id above ``former``, made of one that was ``drawn`` at random."""
    below = min(max(former, MIN_WINNING_ID), MAX_CLIENT - 2)
    return below + 1 + drawn % (MAX_CLIENT - 1 - below)


@refusing_panics
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
    brought = read_update(change.update, ROOT_NAME, chains=not change.since)
    replaces = not change.since and (change.rank > held.rank or _includes(change, brought, held))
    registers = settled(brought) if replaces else None
    if registers is not None:
        update, fields = change.update, unflatten(registers)
    else:
        base = held.update if change.rank == held.rank else EMPTY_UPDATE
        live = _taken(kept, base) if brought.simple else None
        if live is not None and live.take(change.update, brought):
            update, fields = live.update, live.fields()
            _keep(kept, live)
        else:
            update, registers = joined(base, change.update, brought)
            fields = unflatten(registers)
    if len(update) > MAX_STATE_BYTES:
        raise DocumentTooLarge(
            f"{len(update)} bytes encoded are over the limit of {MAX_STATE_BYTES}", MAX_STATE_BYTES
        )
    return Merged(DocumentState(change.rank, update, vector), fields)


def _includes(change: Change, brought: Brought, held: DocumentState) -> bool:
    """Whether a whole state has all that is held: by its version, and as far as it shows."""
    if not covers(change.until, held.vector):
        return False
    clocks = clocks_of(state_vector(held.update))
    return all(brought.ranges.get(client, (0, 0))[1] >= clock for client, clock in clocks.items())


def check_update(update: bytes) -> None:
    """Refuse an update that would harm the CRDT library.

    Raises:
        InvalidDocument: it is malformed, or holds more than fields.
    """
    if read_update(update, ROOT_NAME).rich:
        raise InvalidDocument("an item outside of the document's root map")


def single_value_state(key: str, value: str, client_id: int) -> bytes:
    """The state of a document with one root key, the same bytes for the same arguments everywhere."""
    return written_once(ROOT_NAME, {key: value}, client_id)


def check_limits(update: bytes, registers: Registers) -> None:
    """Refuse what is too large to be written here.

    Raises:
        DocumentTooLarge: it is.
    """
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
