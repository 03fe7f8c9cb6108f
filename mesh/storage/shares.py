"""What this store's share of a counter was before it grew by what no peer is known to hold.

A share is one number, which grows with every increment. A store that turns out to be a backup that was put
back has to tell apart what it has counted since, which nobody else knows, and what it had counted before, to
which its other life may have added: see :mod:`mesh.storage.restored`.
"""

from __future__ import annotations

from mesh.core.interest import EVERYTHING
from mesh.core.numbering import MAX_RUNS
from mesh.storage.rows import Row, Rows

Shares = dict[tuple[str, str, int], dict[str, float]]
"""(collection, id, incarnation) -> register -> what was in it."""


def note(rows: Rows, collection: str, document_id: str, row: Row, register: str, amount: float) -> None:
    """A share is about to grow; what it was is noted once in every run of the store."""
    rows.connection.execute(
        "INSERT OR IGNORE INTO shares(collection, id, incarnation, register, run, before) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (collection, document_id, row.state.rank[0], register, rows.lineage.numbering.start, amount),
    )


def grown_since(rows: Rows, position: int) -> Shares:
    """The shares that have grown in the runs after ``position``, and what they were at first."""
    grown: Shares = {}
    for *document, register, before in rows.connection.execute(
        "SELECT collection, id, incarnation, register, before FROM shares WHERE run >= ? ORDER BY run",
        (position,),
    ):
        grown.setdefault((document[0], document[1], document[2]), {}).setdefault(register, before)
    return grown


def forget(rows: Rows, collection: str, document_id: str) -> None:
    """The document is no longer here, nor are its shares."""
    rows.connection.execute("DELETE FROM shares WHERE collection = ? AND id = ?", (collection, document_id))


def forget_confirmed(rows: Rows) -> None:
    """Of documents that a peer holds as they are here, it would know if this store were a backup."""
    rows.connection.execute(
        "DELETE FROM shares WHERE EXISTS (SELECT 1 FROM documents JOIN confirmed "
        "ON confirmed.collection IN (documents.collection, ?) AND documents.seq <= confirmed.upto "
        "WHERE documents.collection = shares.collection AND documents.id = shares.id)",
        (EVERYTHING.collection,),
    )


def forget_old(rows: Rows) -> None:
    """Runs of so long ago are not told apart any more."""
    runs = rows.lineage.numbering.runs
    if len(runs) >= MAX_RUNS:
        rows.connection.execute("DELETE FROM shares WHERE run <= ?", (runs[0][1],))
