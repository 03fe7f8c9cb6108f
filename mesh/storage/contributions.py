"""Jobs for Yjs clients: a document as they read it, and what they write to it."""

from __future__ import annotations

import msgspec

from mesh.core import browsers
from mesh.core.browsers import Standing
from mesh.core.library import difference, state_vector
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.updates import clocks_of
from mesh.core.yjs_messages import encode_state_vector
from mesh.errors import PermissionDenied
from mesh.storage.rows import Row, Rows


class View(msgspec.Struct, frozen=True, gc=False):
    """What a client is to be told of a document.

    Attributes:
        standing: see :func:`~mesh.core.browsers.standing`; only one that is current reads the rest.
        incarnation: what the client holds from now on; ``None``: there is nothing yet.
        mark: an update that it has to take first.
        lacking: what it lacks.
        state_vector: what it may leave out of what it tells in turn; ``None``: it cannot write here.
        seq: the place in the log up to which all that happened to the document is in it.
    """

    standing: Standing
    incarnation: int | None = None
    mark: bytes | None = None
    lacking: bytes = b"\0\0"
    state_vector: bytes | None = None
    seq: int = 0


def view(rows: Rows, collection: str, document_id: str, their_state_vector: bytes) -> View:
    """The document for a client with this state vector.

    Raises:
        InvalidDocument: the state vector is malformed.
    """
    name = (collection, document_id)
    theirs = browsers.marked(name, their_state_vector)
    row = rows.get(collection, document_id)
    if collection in OWNED_COLLECTIONS:
        return _owned_view(name, row, theirs, their_state_vector)
    held, seq = rows.state_of(row), 0 if row is None else row.seq
    standing = browsers.standing(held, theirs)
    if standing != "current":
        return View(standing)
    # Who is asked tells of every deletion that it knows of, even if it has changed nothing.
    asked = rows.membership is None or rows.membership.may_write(collection)
    if row is None or held.dead:
        clocks = {} if theirs is None else {browsers.mark_of(name, theirs): 1}
        return View(standing, theirs, state_vector=encode_state_vector(clocks) if asked else None, seq=seq)
    mark = browsers.mark_of(name, held.rank[0])
    return View(
        standing,
        held.rank[0] % browsers.MARKS,
        None if theirs is not None else browsers.marking(mark),
        difference(held.update, their_state_vector),
        encode_state_vector({**clocks_of(state_vector(held.update)), mark: 1}) if asked else None,
        seq,
    )


def _owned_view(name: tuple[str, str], row: Row | None, theirs: int | None, state_vector: bytes) -> View:
    document = None if row is None else row.document
    if row is None or document is None:
        return View("current" if theirs is None else "gone")
    incarnation, state = browsers.owned_view(name, document)
    if theirs not in (None, incarnation):
        return View("gone")
    return View("current", incarnation, lacking=difference(state, state_vector), seq=row.seq)


def contribute(
    rows: Rows, collection: str, document_id: str, incarnation: int | None, update: bytes
) -> Standing:
    """Write what a client that holds ``incarnation`` has changed; nothing unless its standing is current.

    Raises:
        PermissionDenied: the document belongs to a node, or this one may not write the collection.
        Incomplete, InvalidDocument: see :func:`~mesh.core.browsers.contribute`.
    """
    if collection in OWNED_COLLECTIONS:
        raise PermissionDenied(f"{collection} belongs to the mesh: its documents can only be read")
    if rows.membership is not None:
        rows.membership.require_write(collection)
    name = (collection, document_id)
    row = rows.get(collection, document_id)
    held = rows.state_of(row)
    brought, update = browsers.unmarked(name, update)
    for each in (incarnation, brought):
        standing = browsers.standing(held, each)
        if standing != "current":
            return standing
    incarnation = incarnation if brought is None else brought
    outcome = browsers.contribute(
        held, update, incarnation=incarnation, tick=lambda: rows.tick(row), name=name
    )
    if outcome is not None:
        change, merged = outcome
        alive = row is not None and row.json is not None
        client_id = (row.client_id if row is not None and alive else None) or rows.new_client_id()
        rows.put(collection, document_id, row, change, merged, client_id=client_id)
    return standing
