"""Who made the last change of a document, and what of this node's changes nobody else is known to hold.

A version says under which clock identities was written, and a change which of them have moved. Whose they
are is known from the documents that nodes write of themselves: the version of such a document is made of
its node's clock identities. Versions carry no signature, so this is for people to read and proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.core.interest import EVERYTHING, InterestSet
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.structs import Struct
from mesh.core.versions import CLOCK_BYTES, decode_vector
from mesh.storage import finding
from mesh.storage.lineage import ERA_BYTES
from mesh.storage.rows import Rows

_STORE_BYTES = CLOCK_BYTES - ERA_BYTES

_CONFIRMED = (
    "coalesce((SELECT max(upto) FROM confirmed "
    f"WHERE confirmed.collection IN (documents.collection, '{EVERYTHING.collection}')), 0)"
)

_UNCONFIRMED = f"seq > {_CONFIRMED}"


class LastChange(Struct, frozen=True):
    """The last change of a document that this node has seen.

    Attributes:
        at: when it came here, in seconds since the epoch by this node's clock.
        by: the nodes that wrote what was new; more than one, in no order, where their changes came together.
        unknown: whether some of it is by a node of which nothing is known here, or too old to say.
        removed: it removed the document.
    """

    at: float
    by: list[str]
    unknown: bool
    removed: bool


def last_change(rows: Rows, collection: str, document_id: str) -> LastChange | None:
    """The last change of a document; ``None``: nothing is known of it."""
    found = rows.connection.execute(
        "SELECT changed_at, changed_by, json IS NULL FROM documents WHERE collection = ? AND id = ?",
        (collection, document_id),
    ).fetchone()
    if found is None:
        return None
    at, moved, removed = found
    stores = _stores(moved)
    owners = _owners(rows) if stores else {}
    by = {owners[store] for store in stores if store in owners}
    return LastChange(at, sorted(by), not stores <= owners.keys() or not stores, bool(removed))


Confirmed = tuple[InterestSet, int]
"""What a peer wants, and the position of this node's log up to which it holds that."""


def unsynced(rows: Rows, node_id: str, linked: Sequence[Confirmed]) -> dict[str, int]:
    """By collection: how many documents this node has changed in a way that no peer that asks for the
    collection is known to hold. Of what belongs to the mesh nothing is said.

    A version tells the position at which each clock identity last changed the document, so what others have
    changed since does not hide what this node has.

    ``linked``: what is known of the peers of this moment, which is not written down at once.
    """
    own = {store for store, owner in _owners(rows).items() if owner == node_id}
    own |= {clock[:_STORE_BYTES] for (clock,) in rows.connection.execute("SELECT clock FROM store")}
    counts: dict[str, int] = {}
    for collection, document_id, vector, confirmed in rows.connection.execute(
        f"SELECT collection, id, vector, {_CONFIRMED} FROM documents "
        f"WHERE {_from_confirmed(rows)} AND {_UNCONFIRMED}"
    ).fetchall():
        changes = [at for clock, at in decode_vector(vector).items() if clock[:_STORE_BYTES] in own]
        last = max(changes, default=0)
        if collection in OWNED_COLLECTIONS or last <= confirmed:
            continue
        held = (wanted for wanted, upto in linked if last <= upto and collection in wanted)
        if not any(_wants(rows, wanted, collection, document_id) for wanted in held):
            counts[collection] = counts.get(collection, 0) + 1
    return counts


def confirm(rows: Rows, wanted: InterestSet, upto: int) -> None:
    """A peer holds all that it wants of this node's log up to a position.

    Where it wants a part of a collection only, that holds up to the first document that it did not want.
    """
    if wanted.everything and not wanted.only:
        reached = {EVERYTHING.collection: upto}
    else:
        named = wanted.collections
        if wanted.everything:
            named = {name for (name,) in rows.connection.execute("SELECT DISTINCT collection FROM documents")}
        reached = {name: upto for name in named if name in wanted}
    for name in reached:
        if wanted.partial(name):
            reached[name] = _first_unwanted(rows, wanted, name, upto)
    rows.connection.executemany(
        "INSERT INTO confirmed(collection, upto) VALUES (?, ?) "
        "ON CONFLICT(collection) DO UPDATE SET upto = max(upto, excluded.upto)",
        reached.items(),
    )


def _first_unwanted(rows: Rows, wanted: InterestSet, collection: str, upto: int) -> int:
    """The last position before a change that is neither confirmed nor wanted."""
    for seq, document_id in rows.connection.execute(
        f"SELECT seq, id FROM documents WHERE {_from_confirmed(rows)} AND seq <= ? AND collection = ? "
        f"AND {_UNCONFIRMED} ORDER BY seq",
        (upto, collection),
    ):
        if not _wants(rows, wanted, collection, document_id):
            return int(seq) - 1
    return upto


def _wants(rows: Rows, wanted: InterestSet, collection: str, document_id: str) -> bool:
    return not wanted.partial(collection) or wanted.matches(
        collection, finding.get(rows, collection, document_id)
    )


def _from_confirmed(rows: Rows) -> str:
    """Passes over what is confirmed for every collection without looking at it."""
    [(upto,)] = rows.connection.execute(
        "SELECT coalesce(max(upto), 0) FROM confirmed WHERE collection = ?", (EVERYTHING.collection,)
    ).fetchall()
    return f"seq > {upto:d}"


def _stores(moved: bytes | None) -> set[bytes]:
    """The stores that have written what has moved."""
    clocks = moved or b""
    return {clocks[start : start + _STORE_BYTES] for start in range(0, len(clocks), CLOCK_BYTES)}


def _owners(rows: Rows) -> dict[bytes, str]:
    """The nodes of which something is known here, by the stores that they have had."""
    written = rows.connection.execute("SELECT id, vector FROM documents WHERE collection = 'nodes'")
    return {clock[:_STORE_BYTES]: node_id for node_id, vector in written for clock in decode_vector(vector)}
