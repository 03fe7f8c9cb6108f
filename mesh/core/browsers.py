"""Documents as Yjs clients see and write them: web browsers, which know nothing of ranks and versions.

A client has to be told when it holds an incarnation of a document that has died, or the merge would bring the
dead back. The protocol of Yjs has no word for that. So each incarnation has a mark: an item under a client id
of its own, in a root that nobody looks at. Whoever gets the document from a gateway gets the mark with it,
and tells it in the state vector that it comes back with; the mesh itself never holds it.

Owned documents are replaced and never merged: each of their records is an incarnation of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from blake3 import blake3

from mesh.core.document import NEVER, DocumentState, Merged, Name, check_limits
from mesh.core.items import written_once
from mesh.core.library import (
    EMPTY_UPDATE,
    ROOT_NAME,
    contributed,
    difference,
    refusing_panics,
    registers_of,
)
from mesh.core.registers import Registers, counters_of, flatten, unflatten
from mesh.core.updates import clocks_of, read_update
from mesh.core.versions import join
from mesh.core.wire import Change
from mesh.core.yjs_messages import encode_state_vector
from mesh.errors import InvalidDocument

MARK_ROOT = b"mesh:mark"
"""The root map in which clients hold marks. It is no collected item, which they would tell of as deleted."""

MARKS = 1 << 20
"""Incarnations that are told apart; their marks have neighbouring client ids."""

_FIRST_MARK = 1 << 52
"""Above all client ids of browsers, which have 32 bits."""


def mark_of(name: Name, incarnation: int) -> int:
    """The client id that marks an incarnation of a document."""
    return _first_mark(name) + incarnation % MARKS


def marking(mark: int) -> bytes:
    """The update that carries a mark."""
    return written_once(MARK_ROOT, {"incarnation": None}, mark)


def marked(name: Name, state_vector: bytes) -> int | None:
    """The incarnation that a client with this state vector holds; ``None``: none, it has never seen one.

    Raises:
        InvalidDocument: it is malformed.
    """
    return min(_marks(name, clocks_of(state_vector)), default=None)


def unmarked(name: Name, update: bytes) -> tuple[int | None, bytes]:
    """The incarnation that an update is of, if it brings a mark along, and the update without: a client that
    keeps its documents tells all that it has kept.

    Raises:
        InvalidDocument: it is malformed.
    """
    marks = _marks(name, read_update(update, ROOT_NAME).ranges)
    if not marks:
        return None, update
    theirs = encode_state_vector({mark_of(name, incarnation): 1 for incarnation in marks})
    return min(marks), difference(update, theirs)


def _marks(name: Name, clients: Iterable[int]) -> list[int]:
    first = _first_mark(name)
    return [client - first for client in clients if 0 <= client - first < MARKS]


def _first_mark(name: Name) -> int:
    digest = blake3("\0".join(name).encode()).digest(length=4)
    return _FIRST_MARK + int.from_bytes(digest, "big") * MARKS


Standing = Literal["current", "gone", "ahead"]


def standing(held: DocumentState, incarnation: int | None) -> Standing:
    """What a client that holds ``incarnation`` is to a merged document: it may go on, it has to start afresh,
    or it knows of an incarnation that has not come here yet."""
    if incarnation is None or held.rank == NEVER:
        return "current"
    here = held.rank[0] % MARKS
    if incarnation == here:
        return "gone" if held.dead else "current"
    return "gone" if incarnation < here else "ahead"


@refusing_panics
def contribute(
    held: DocumentState,
    update: bytes,
    *,
    incarnation: int | None,
    tick: Callable[[], tuple[bytes, int]],
    name: Name,
) -> tuple[Change, Merged] | None:
    """What a client's update makes of a merged document: a change of this store, and the new state.

    Args:
        held: what is held; a document that does not exist, or was removed, starts an incarnation.
        update: from a client whose :func:`standing` is current.
        incarnation: what the client holds; of a document that is unknown here, that goes on.
        tick: gives this store's clock identity and its next counter; called only if there is a change.

    Returns:
        ``None`` if nothing is new in it.

    Raises:
        Incomplete: it builds on what is not held here.
        InvalidDocument: it is malformed, over a limit, or no document of the mesh can hold it.
    """
    brought = read_update(update, ROOT_NAME)
    if not brought.finite:
        raise InvalidDocument("NaN or an infinity: JSON has no such number, so nobody else could read it")
    begins = held.dead or held.rank == NEVER
    base = EMPTY_UPDATE if begins else held.update
    outcome = contributed(base, update, brought)
    if outcome is None:
        return None
    state, news, registers = outcome
    _check_names(base, registers)
    if len(state) > len(base):
        check_limits(state, registers)
    fields = unflatten(registers)
    rank = (max(held.rank[0] + 1, incarnation or 0), 0) if begins else held.rank
    clock, counter = tick()
    vector = join(held.vector, {clock: counter})
    whole = begins or not held.vector
    change = Change(*name, rank, {} if whole else held.vector, vector, state if whole else news)
    return change, Merged(DocumentState(rank, state, vector), fields)


def owned_view(name: Name, document: dict[str, Any]) -> tuple[int, bytes]:
    """An owned document as a client reads it: which incarnation that is, and its state, which is its own
    mark."""
    registers = flatten(document)
    digest = blake3(written_once(ROOT_NAME, registers, 1)).digest(length=4)
    incarnation = int.from_bytes(digest, "big") % MARKS
    return incarnation, written_once(ROOT_NAME, registers, mark_of(name, incarnation))


def _check_names(held: bytes, registers: Registers) -> None:
    """A client that writes ``title`` where ``/title`` is meant would wait for its field for ever."""
    unknown = {key for key in registers if not key.startswith("/") and not counters_of({key: 0})}
    if unknown and (new := sorted(unknown - registers_of(held).keys())):
        raise InvalidDocument(f"a field named {new[0]!r}: the keys of the root map are JSON Pointers: '/a/b'")
