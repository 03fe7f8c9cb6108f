"""Jobs that read documents: by their id, or by a query."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.storage.queries import ALL, Query
from mesh.storage.rows import Rows

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode


def get(rows: Rows, collection: str, document_id: str) -> dict[str, Any] | None:
    """A document, or ``None``."""
    row = rows.get(collection, document_id)
    return None if row is None else row.document


def find(rows: Rows, collection: str, query: Query = ALL) -> list[dict[str, Any]]:
    """The documents of a collection that are selected, in the order of their ids."""
    found = rows.connection.execute(
        "SELECT json FROM documents WHERE collection = ? AND json IS NOT NULL "
        f"AND {query.filter.sql} ORDER BY id",
        (collection, *query.filter.parameters),
    )
    documents = [_decode_json(json) for (json,) in found]
    return documents if query.filter.exact else list(filter(query.matches, documents))


def count(rows: Rows, collection: str, query: Query = ALL) -> int:
    """How many documents of a collection are selected."""
    if not query.filter.exact:
        return len(find(rows, collection, query))
    row = rows.connection.execute(
        f"SELECT count(*) FROM documents WHERE collection = ? AND json IS NOT NULL AND {query.filter.sql}",
        (collection, *query.filter.parameters),
    ).fetchone()
    return int(row[0])


def collections(rows: Rows) -> dict[str, int]:
    """How many documents each collection has."""
    return dict(
        rows.connection.execute(
            "SELECT collection, count(*) FROM documents WHERE json IS NOT NULL "
            "GROUP BY collection ORDER BY collection"
        ).fetchall()
    )
