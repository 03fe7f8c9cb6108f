"""Mango selectors and sort orders as SQL over the JSON column, so that SQLite reads only what can match.

:mod:`mesh.core.selector` says what a selector means; the SQL selects at least that. Where it selects exactly
that (``Filter.exact``), nothing is looked at twice; otherwise the evaluator has the last word.

A field is two expressions: the rank of its kind and its value, which together sort as ``collated`` does.
Every condition compares the rank first and the value then, which is how declared indexes hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mesh.core.selector import (
    LIST_RANK,
    Matcher,
    Selector,
    Sort,
    compile_selector,
    kind_rank,
    parse_sort,
    plain_selector,
    sort_key,
)
from mesh.core.values import split_path

_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_KINDS: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "integer": 0,
    "real": 0,
    "text": "",
    "array": [],
    "object": {},
}

UNSEEN = "instr(json, '\\u0000') > 0"
"""Holds for documents with a text that SQLite would cut short: only the evaluator can judge them."""


BY_ID = "idx_documents_collection_id"
"""The index by collection and id that every store has."""


class Filter(NamedTuple):
    """A condition on a row of ``documents`` and its parameters. ``exact``: it holds for what is selected, and
    for nothing else, but for :data:`UNSEEN`. ``kinds``: the only one that a rank is for what is selected."""

    sql: str
    parameters: tuple[Any, ...]
    exact: bool
    kinds: Mapping[str, int] = {}


_HERE = "\x01"
"""Stands for the condition on the collection: in an OR, SQLite takes an index only where every arm has it. No
path has this character in it."""

_ANY = Filter("1", (), True)
_NONE = Filter("0", (), True)
_MAYBE = Filter("1", (), False)


def in_collection(collection: str) -> str:
    """Holds for the documents of a collection; literally what a declared index is limited to."""
    name = collection.replace("'", "''")
    return f"collection = '{name}' AND json IS NOT NULL"


class Query(NamedTuple):
    """A selector and a sort order, ready to be run.

    ``order`` is what to sort by in SQL, ``None`` where only ``key`` can sort. ``doubt`` is the highest rank
    of what is sorted by: lists and objects sort otherwise in SQL.
    """

    filter: Filter
    matches: Matcher
    order: str | None
    doubt: str
    key: Callable[[Mapping[str, Any]], Any]

    def selecting(self, what: str, collection: str, source: str = "documents") -> str:
        """A statement that selects ``what`` of at least what matches; its parameters are the filter's."""
        here = in_collection(collection)
        condition = self.filter.sql.replace(_HERE, f"{here} AND ")
        return f"SELECT {what} FROM {source} WHERE {here} AND {condition}"


def compile_query(selector: Selector | None, sort: Sort | None = None) -> Query:
    """The query for ``selector``; ``None`` and ``{}`` select everything.

    Raises:
        InvalidSelector: it or the sort order is malformed.
    """
    plain = plain_selector(selector)
    matches = compile_selector(plain)
    condition = _fields(plain)
    return Query(condition, matches, *_order(sort, condition.kinds), sort_key(sort))


def field_columns(segments: Sequence[str]) -> tuple[str, ...] | None:
    """What a field is indexed and sorted by; ``None`` where SQL cannot name it."""
    if tuple(segments) == ("_id",):
        return ("id",)
    path = _json_path(segments)
    return None if path is None else (_rank(path), f"json_extract(json, {path})")


def _rank(path: str) -> str:
    ranks = " ".join(f"WHEN '{name}' THEN {kind_rank(example)}" for name, example in _KINDS.items())
    return f"CASE json_type(json, {path}) {ranks} ELSE -1 END"


def _json_path(segments: Sequence[str]) -> str | None:
    # A key that is escaped in the JSON text is not found by SQLite; one with half a character nobody has.
    if any(c in "\"'\\\x7f" or c < " " or "\ud800" <= c <= "\udfff" for key in segments for c in key):
        return None
    return "'$" + "".join(f'."{segment}"' for segment in segments) + "'"


def _order(sort: Sort | None, kinds: Mapping[str, int]) -> tuple[str | None, str]:
    terms: list[str] = []
    ranks: list[str] = []
    for segments, descending in parse_sort(sort):
        columns = field_columns(segments)
        if columns is None:
            return None, "0"
        # SQLite does not see that a rank which is always the same decides nothing.
        columns = tuple(column for column in columns if kinds.get(column, LIST_RANK) >= LIST_RANK)
        ranks += columns[:-1]
        terms += [f"{column} DESC" if descending else column for column in columns]
    return ", ".join([*terms, "id"]), f"max({', '.join(ranks)}, 0)" if ranks else "0"


def _fields(selector: Any, above: tuple[str, ...] = ()) -> Filter:
    return _and([_entry(key, value, above) for key, value in selector.items()])


def _entry(key: str, value: Any, above: tuple[str, ...]) -> Filter:
    match key:
        case "$and":
            return _and([_fields(item, above) for item in value])
        case "$or":
            return _or([_fields(item, above) for item in value])
        case "$nor":
            return _not(_or([_fields(item, above) for item in value]))
        case "$not":
            return _not(_fields(value, above))
    return _condition(value, above + split_path(key))


def _condition(condition: Any, segments: tuple[str, ...]) -> Filter:
    if isinstance(condition, Mapping) and any(key.startswith("$") for key in condition):
        return _and([_operator(op, value, segments) for op, value in condition.items()])
    if isinstance(condition, Mapping) and condition:
        return _fields(condition, segments)
    return _operator("$eq", condition, segments)


def _operator(operator: str, operand: Any, segments: tuple[str, ...]) -> Filter:
    columns = field_columns(segments)
    if columns is None:
        return _MAYBE
    rank, value = columns if len(columns) == 2 else (str(kind_rank("")), *columns)
    if operator in _COMPARISONS:
        if kind_rank(operand) not in (kind_rank(0), kind_rank("")):
            return _NONE  # nothing compares with it
        return _compare(rank, value, _COMPARISONS[operator], operand)
    match operator:
        case "$eq":
            return _one_of(rank, value, [operand])
        case "$ne":
            return _not(_one_of(rank, value, [operand]))
        case "$in":
            return _one_of(rank, value, operand)
        case "$nin":
            return _not(_one_of(rank, value, operand))
        case "$exists":
            return Filter(f"{rank} >= 0" if operand else f"{rank} = -1", (), True)
        case "$not":
            return _not(_condition(operand, segments))
        case "$elemMatch":
            return Filter(f"{rank} = {LIST_RANK}", (), False)
        case "$regex":
            return Filter(f"{rank} = {kind_rank('')}", (), False)
    raise AssertionError(f"compile_selector let {operator} pass")


def _one_of(rank: str, value: str, operands: Sequence[Any]) -> Filter:
    by_rank: dict[int, list[Any]] = {}
    for operand in operands:
        by_rank.setdefault(kind_rank(operand), []).append(operand)
    return _or([_same(rank, value, kind, wanted) for kind, wanted in sorted(by_rank.items())])


def _same(rank: str, value: str, kind: int, wanted: list[Any]) -> Filter:
    if kind == kind_rank(None):
        return Filter(f"{rank} = {kind}", (), True, {rank: kind})
    if kind >= LIST_RANK:
        return Filter(f"{rank} = {kind}", (), False)
    if any(isinstance(item, str) and "\0" in item for item in wanted):
        return Filter(f"{rank} = {kind}", (), False)
    if len(wanted) == 1:
        return _compare(rank, value, "=", wanted[0])
    places = ", ".join("?" * len(wanted))
    return Filter(f"({rank} = {kind} AND {value} IN ({places}))", tuple(wanted), True, {rank: kind})


def _compare(rank: str, value: str, operator: str, operand: Any) -> Filter:
    kind = kind_rank(operand)
    return Filter(f"({rank} = {kind} AND {value} {operator} ?)", (operand,), True, {rank: kind})


def _and(parts: list[Filter]) -> Filter:
    kinds = {rank: kind for part in parts for rank, kind in part.kinds.items()}
    return _joined(" AND ", parts, kinds) if parts else _ANY


def _or(parts: list[Filter]) -> Filter:
    if len(parts) < 2:
        return parts[0] if parts else _NONE
    kinds = dict(set.intersection(*(set(part.kinds.items()) for part in parts)))
    return _joined(" OR ", [part._replace(sql=f"({_HERE}{part.sql})") for part in parts], kinds)


def _joined(word: str, parts: list[Filter], kinds: Mapping[str, int]) -> Filter:
    sql = "(" + word.join(part.sql for part in parts) + ")" if len(parts) > 1 else parts[0].sql
    parameters = tuple(parameter for part in parts for parameter in part.parameters)
    return Filter(sql, parameters, all(part.exact for part in parts), kinds)


def _not(part: Filter) -> Filter:
    return Filter(f"NOT {part.sql}", part.parameters, True) if part.exact else _MAYBE


ALL = compile_query(None)
