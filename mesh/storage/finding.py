"""Jobs that read documents: by their id, or by a query.

SQLite selects, sorts and cuts where it does so as the evaluator would. What it cannot judge is looked at
here: documents with :data:`~mesh.storage.queries.UNSEEN` texts, and results that are sorted by lists or
objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from heapq import nsmallest
from itertools import islice
from typing import Any, ClassVar

import msgspec

from mesh.core.selector import LIST_RANK, projected
from mesh.core.values import split_path
from mesh.storage import indexes
from mesh.storage.queries import ALL, BY_ID, UNSEEN, Query, in_collection
from mesh.storage.rows import Rows

Document = dict[str, Any]

FIRST_LOOK = 300
"""Documents that are looked at in the order of their ids before an index is."""

LOOK_COST = 4
"""To look at a document costs as much as so many that an index finds."""

_BUT_UNSEEN = f" AND NOT {UNSEEN}"

_decode_json = msgspec.json.Decoder(Document).decode
_decode_parts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Get(msgspec.Struct, frozen=True, gc=False):
    """:func:`get` as a job."""

    collection: str
    document_id: str

    brief: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> dict[str, Any] | None:
        return get(rows, self.collection, self.document_id)


def get(rows: Rows, collection: str, document_id: str) -> Document | None:
    """A document, or ``None``."""
    found = rows.connection.execute(
        "SELECT json FROM documents WHERE collection = ? AND id = ? AND json IS NOT NULL",
        (collection, document_id),
    ).fetchone()
    return None if found is None else _decode_json(found[0])


def arrivals(rows: Rows, collection: str, prefix: str) -> dict[str, float]:
    """When the documents whose ids begin with ``prefix`` last changed here, by id (epoch seconds)."""
    return dict(
        rows.connection.execute(
            "SELECT id, changed_at FROM documents WHERE collection = ? AND id >= ? AND id < ? "
            "AND json IS NOT NULL",
            (collection, prefix, prefix + "\U0010ffff"),
        )
    )


def find(
    rows: Rows,
    collection: str,
    query: Query = ALL,
    *,
    skip: int = 0,
    limit: int | None = None,
    fields: Sequence[str] | None = None,
) -> list[Document]:
    """The documents of a collection that are selected, in the order of the query, then of their ids.

    ``skip`` leaves out so many first, ``limit`` brings at most so many, ``fields`` only these and the
    ``_id``.
    """
    if limit == 0:
        return []
    decode = _decode_json if fields is None else _decoder(fields)
    until = None if limit is None else skip + limit
    unseen = _unseen(rows, collection)
    if not unseen:
        cut = _cut_by_sql(rows, collection, query, skip, until, decode)
        if cut is not None:
            return cut if fields is None else [projected(document, fields) for document in cut]
    every = _matching(rows, collection, query, unseen)
    ordered = sorted(every, key=query.key) if until is None else nsmallest(until, every, key=query.key)
    return ordered[skip:] if fields is None else [projected(document, fields) for document in ordered[skip:]]


def ids(rows: Rows, collection: str, query: Query = ALL) -> list[str]:
    """The ids of the documents of a collection that are selected."""
    return [document["_id"] for document in find(rows, collection, query, fields=())]


def count(rows: Rows, collection: str, query: Query = ALL) -> int:
    """How many documents of a collection are selected."""
    unseen = _unseen(rows, collection)
    if not query.filter.exact:
        return sum(1 for _ in _matching(rows, collection, query, unseen))
    sql = query.selecting("count(*)", collection) + (_BUT_UNSEEN if unseen else "")
    [(seen,)] = rows.connection.execute(sql, query.filter.parameters).fetchall()
    return int(seen) + sum(map(query.matches, unseen))


def collections(rows: Rows) -> dict[str, int]:
    """How many documents each collection has."""
    return dict(
        rows.connection.execute(
            "SELECT collection, count(*) FROM documents WHERE json IS NOT NULL "
            "GROUP BY collection ORDER BY collection"
        ).fetchall()
    )


def position(rows: Rows) -> int:
    """The position of the log that a read sees; what is committed later comes after it."""
    [(last, floor)] = rows.connection.execute(
        "SELECT (SELECT max(seq) FROM documents), (SELECT seq FROM store)"
    ).fetchall()
    return max(last or 0, floor or 0)


def _cut_by_sql(
    rows: Rows,
    collection: str,
    query: Query,
    skip: int,
    until: int | None,
    decode: Callable[[str], Document],
) -> list[Document] | None:
    """The documents from ``skip`` until ``until``; ``None`` where SQL cannot sort them."""
    if query.order is None:
        return None
    if until is not None and query.order == "id":
        return [decode(json) for json in _first_by_id(rows, collection, query, until)[skip:]]
    sql = f"{query.selecting(f'json, {query.doubt}', collection)} ORDER BY {query.order}"
    if query.filter.exact and until is not None:
        sql += f" LIMIT {until}"
    found: list[Document] = []
    for place, (json, doubt) in enumerate(islice(_selected(rows, sql, query), until)):
        if doubt >= LIST_RANK:
            return None
        if place >= skip:
            found.append(decode(json))
    return found


def _first_by_id(rows: Rows, collection: str, query: Query, until: int) -> list[str]:
    """The first so many documents that match, in the order of their ids, as JSON.

    An index may find many more, all of which would be sorted; where many match, the first of them are among
    the first documents of the collection.
    """
    sql = f"{query.selecting('json, id', collection)} ORDER BY id"
    if _sorts(rows, sql, query):
        look = FIRST_LOOK
        found = _among_first(rows, collection, query, until, look)
        if 0 < len(found) < until:
            look = 2 * look * until // len(found)
            enough = f"SELECT count(*) FROM ({query.selecting('1', collection)} LIMIT {look * LOOK_COST})"
            [(matching,)] = rows.connection.execute(enough, query.filter.parameters).fetchall()
            if matching == look * LOOK_COST:
                found = _among_first(rows, collection, query, until, look)
        if len(found) == until:
            return found
    if query.filter.exact:
        sql += f" LIMIT {until}"
    return [json for json, _ in islice(_selected(rows, sql, query), until)]


def _among_first(rows: Rows, collection: str, query: Query, until: int, look: int) -> list[str]:
    """Those that match among the first ``look`` documents of a collection, but no more than ``until``."""
    first = (
        f"(SELECT collection, id, json FROM documents INDEXED BY {BY_ID} "
        f"WHERE {in_collection(collection)} ORDER BY id LIMIT {look})"
    )
    sql = f"{query.selecting('json, id', collection, first)} ORDER BY id"
    return [json for json, _ in islice(_selected(rows, sql, query), until)]


def _sorts(rows: Rows, sql: str, query: Query) -> bool:
    """Whether SQLite looks at all that a statement selects before it gives the first."""
    return any("TEMP B-TREE" in step for step in indexes.plan(rows, sql, query.filter.parameters))


def _selected(rows: Rows, sql: str, query: Query) -> Iterator[tuple[str, Any]]:
    """What a statement selects and the query matches: JSON and another column."""
    with closing(rows.connection.execute(sql, query.filter.parameters)) as selected:
        for json, other in selected:
            if query.filter.exact or query.matches(_decode_json(json)):
                yield json, other


def _matching(rows: Rows, collection: str, query: Query, unseen: list[Document]) -> Iterator[Document]:
    """Every document that matches, in no order."""
    yield from filter(query.matches, unseen)
    sql = query.selecting("json", collection) + (_BUT_UNSEEN if unseen else "")
    with closing(rows.connection.execute(sql, query.filter.parameters)) as selected:
        for (json,) in selected:
            document = _decode_json(json)
            if query.filter.exact or query.matches(document):
                yield document


def _unseen(rows: Rows, collection: str) -> list[Document]:
    found = rows.connection.execute(
        f"SELECT json FROM documents INDEXED BY documents_unseen "
        f"WHERE {in_collection(collection)} AND {UNSEEN}"
    )
    return [_decode_json(json) for (json,) in found]


def _decoder(fields: Sequence[str]) -> Callable[[str], Document]:
    """Decodes no more of a document than ``fields`` are in."""
    names = {"_id", *(split_path(field)[0] for field in fields)}

    def decode(json: str) -> Document:
        parts = _decode_parts(json)
        return {name: msgspec.json.decode(parts[name]) for name in names if name in parts}

    return decode
