"""What a store does when it finds out that it is a backup that was put back, and has written since.

A peer tells it, by a version with a number that it never gave, by a position of its log that was never there,
or by a log that it never had. None of that can be proven, so it counts once in a while only (see
:data:`~mesh.storage.lineage.RENEW_SECONDS`): an identity that is new has had no other life.

Not found out: a backup from before the store has begun to keep a record of its logs, or of one that has begun
anew, where peers know it from after another one was found out only.

What it has written since it was put back is kept, but for this. A field that was unset comes back if peers
have it. What it has counted before its latest start may be taken for what its other life has counted. And if
it meets a peer first that does not know what its other life wrote, that peer takes what is new under numbers
that others take for the old ones: of a counter that both lives have raised, nodes may read different values
for ever. So a backup is best put back as a new file, which is noticed at once (see
:func:`~mesh.storage.lineage.host_of`).

The other life may also be one that goes on, in a copy of the whole machine. Each then finds out about the
other, as above or by what it says in its node's name (:mod:`mesh.core.clones`), and both write anew.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.core import document
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.wire import Change
from mesh.storage import shares
from mesh.storage.rows import Rows


def meet(rows: Rows, vector: Mapping[bytes, int]) -> bool:
    """A version arrives. One that knows of writes of this store which it never made gives it away, or is a
    lie: whether it is."""
    number = rows.lineage.unknown(vector)
    if number is None or not rows.lineage.may_renew():
        return number is not None
    renew(rows, number)
    return False


def renew(rows: Rows, number: int | None, log_id: bytes = b"") -> None:
    """Start a log of its own: a peer knows the ``number`` of this store, which it never gave, or its log
    ``log_id``, which it never had; or another process has gone on from where this one was.

    What it has written stands under counters and Yjs client ids that its other life may have used as well. It
    is written anew, as if by another: the fields as they are now, over nothing. Where a peer holds the
    document, both merge. A field that this store has written since the two parted wins over what the peer
    has; any other gives way, for the peer has it from the same source or knows better. So does its share of a
    counter, but for what it has added since, which is a share of its own.
    """
    parted = rows.lineage.numbering.parted(number)
    grown = shares.grown_since(rows, rows.lineage.numbering.parted_at_the_latest(number))
    written = rows.connection.execute(
        "SELECT collection, id FROM documents WHERE json IS NOT NULL AND client_id IS NOT NULL ORDER BY seq"
    ).fetchall()
    client_ids = {}
    for collection, document_id in written:
        row = rows.get(collection, document_id)
        assert row is not None
        since = rows.lineage.last_tick(row.state.vector) > parted
        client_ids[collection, document_id] = row.client_id if since else None
    rows.lineage.renew(log_id)
    for (collection, document_id), former in client_ids.items():
        if collection in OWNED_COLLECTIONS:
            continue  # its next record is in the next epoch, above what the other life has signed
        row = rows.get(collection, document_id)
        assert row is not None
        client_id = rows.new_client_id()
        if former is not None:
            client_id = document.winning_id(former, client_id)
        change, merged = document.anew(
            row.state,
            *rows.lineage.tick(),
            former=former,
            grown=grown.get((collection, document_id, row.state.rank[0]), {}),
            client_id=client_id,
            yielding_id=rows.new_client_id() % document.MAX_YIELDING_ID + 2,
        )
        change = Change(collection, document_id, change.rank, {}, change.until, change.update)
        rows.put(collection, document_id, row, change, merged, client_id=client_id)
