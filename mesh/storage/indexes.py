"""Declared indexes: which fields of a collection are found and sorted without reading all of it.

An index is SQLite's own, on the expressions that queries compare, limited to the documents of one collection;
its name, such as ``cars["year","address.city"]``, says what it is. SQLite keeps it, and picks it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from blake3 import blake3

from mesh.core.values import path_of, split_path
from mesh.errors import InvalidIndex
from mesh.storage.queries import BY_ID, Query, field_columns, in_collection
from mesh.storage.rows import Rows

MAX_INDEXES = 16
"""Per collection: each is written with every document."""

MAX_INDEX_FIELDS = 8

_ASSUMED_ROWS = 100_000
"""Documents in a collection with an index, and those of them with a field of one kind, and of one value, as
SQLite is told."""
_ASSUMED_KIND = 4_000
_ASSUMED_MATCHES = 10


def check_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """``fields`` as an index is named by, however they were spelled, if an index can be of them.

    Raises:
        InvalidIndex: it cannot.
    """
    if not 0 < len(fields) <= MAX_INDEX_FIELDS:
        raise InvalidIndex(fields, f"name 1 to {MAX_INDEX_FIELDS} fields")
    for field in fields:
        if not isinstance(field, str) or not field:
            raise InvalidIndex(fields, f"{field!r} is not the name of a field")
        try:
            field.encode()
        except UnicodeEncodeError:
            raise InvalidIndex(fields, f"{field!r} is not text that a document can hold") from None
        if field_columns(split_path(field)) is None:
            raise InvalidIndex(fields, f"{field!r} has a quote, a backslash or a control character in it")
    named = tuple(path_of(split_path(field)) for field in fields)
    if len(set(named)) < len(named):
        raise InvalidIndex(fields, "name each field once")
    return named


def create(rows: Rows, collection: str, fields: Sequence[str]) -> None:
    """Index ``fields`` of a collection, now and for good; once is enough.

    Raises:
        InvalidIndex: the collection has :data:`MAX_INDEXES` already.
    """
    fields = check_fields(fields)
    if fields == ("_id",):
        return  # every document is indexed by its id
    name = _name(collection, fields)
    present = declared(rows, collection)
    if name in present:
        return
    if len(present) >= MAX_INDEXES:
        raise InvalidIndex(fields, f"{collection} has {MAX_INDEXES} indexes already, which is the limit")
    columns = [column for field in fields for column in field_columns(split_path(field)) or ()]
    if "id" not in columns:
        columns.append("id")
    rows.connection.execute(
        f"CREATE INDEX {_quoted(name)} ON documents({', '.join(columns)}) WHERE {in_collection(collection)}"
    )
    _assume(rows, name, columns)


def drop(rows: Rows, collection: str, fields: Sequence[str]) -> bool:
    """Do without an index from now on; whether it was there."""
    name = _name(collection, check_fields(fields))
    if name not in declared(rows, collection):
        return False
    rows.connection.execute(f"DROP INDEX {_quoted(name)}")
    return True


def declared(rows: Rows, collection: str) -> dict[str, tuple[str, ...]]:
    """The fields of every declared index of a collection, by its name."""
    start = f"{collection}["
    found = rows.connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'documents' "
        "AND substr(name, 1, ?) = ? ORDER BY name",
        (len(start), start),
    )
    fields = {name: _fields_in(name, collection) for (name,) in found}
    return {name: named for name, named in fields.items() if named}


def _fields_in(name: str, collection: str) -> tuple[str, ...]:
    """What an index is of, as its name says; nothing if somebody else has named it."""
    try:
        fields = tuple(msgspec.json.decode(name[len(collection) : name.rfind("]") + 1], type=list[str]))
    except msgspec.DecodeError:
        return ()
    return fields if name == _name(collection, fields) else ()


def plan(rows: Rows, sql: str, parameters: Sequence[Any]) -> list[str]:
    """SQLite's account of how it runs a statement."""
    [(schema,)] = rows.connection.execute("PRAGMA schema_version").fetchall()
    # An EXPLAIN that is kept compiled, SQLite does not compile again when the indexes are others.
    steps = rows.connection.execute(f"EXPLAIN QUERY PLAN /* {schema} */ {sql}", parameters).fetchall()
    return [str(step[3]) for step in steps]


def explain(rows: Rows, collection: str, query: Query) -> dict[str, Any]:
    """How SQLite runs a query: see :meth:`mesh.collections.documents.Documents.explain`."""
    sql = query.selecting("json", collection)
    if query.order is not None:
        sql += f" ORDER BY {query.order}"
    steps = plan(rows, sql, query.filter.parameters)
    known = {**declared(rows, collection), BY_ID: ("_id",)}
    used: dict[str, list[str]] = {}
    scan = False
    for step in steps:
        if not step.startswith(("SEARCH documents", "SCAN documents")):
            continue
        name = next((name for name in known if f" INDEX {name} (" in f"{step} ("), None)
        fields = [] if name is None else _constrained(known[name], step)
        scan = scan or not fields
        if name is not None and (fields or name != BY_ID):
            used[name] = fields or list(known[name])  # without conditions, it is read for its order
    return {
        "index": next(iter(used), None),
        "fields": next(iter(used.values()), []),
        "indexes": used,
        "scan": scan,
        "exact": query.filter.exact,
        "sql": sql,
        "plan": steps,
    }


def _constrained(fields: tuple[str, ...], step: str) -> list[str]:
    """The fields of an index that a step of a plan, such as ``... (<expr>=? AND <expr>>?)``, looks up."""
    conditions = step.rpartition(" (")[2]
    if fields == ("_id",):
        return ["_id"] if "id" in re.split(r"\W+", conditions) else []
    columns = conditions.count("=?") + (">?" in conditions or "<?" in conditions)
    constrained = []
    for field in fields:
        if columns > 0:
            constrained.append(field)
        columns -= 1 if field == "_id" else 2
    return constrained


def _name(collection: str, fields: Sequence[str]) -> str:
    name = collection + msgspec.json.encode(fields).decode()
    # To SQLite, names that differ in case only are one.
    return name if name == name.lower() else f"{name}#{blake3(name.encode()).hexdigest(length=4)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _assume(rows: Rows, name: str, columns: Sequence[str]) -> None:
    """Tell SQLite's planner that a declared index is worth using: it would otherwise take a collection for
    small, or read all of it to be spared sorting what is found."""
    run = rows.connection.execute
    run("ANALYZE sqlite_master")  # makes the table, if need be
    matches = [_ASSUMED_KIND, *[_ASSUMED_MATCHES] * (len(columns) - 2), 1]
    run("DELETE FROM sqlite_stat1 WHERE idx IN (?, ?)", (BY_ID, name))
    run(
        "INSERT INTO sqlite_stat1(tbl, idx, stat) VALUES ('documents', ?, ?), ('documents', ?, ?)",
        (
            BY_ID,
            f"{_ASSUMED_ROWS} {_ASSUMED_ROWS} 1",
            name,
            " ".join(map(str, [_ASSUMED_ROWS, *matches])),
        ),
    )
    run("ANALYZE sqlite_master")  # reads it
