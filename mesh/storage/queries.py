"""Mango selectors as SQL over the JSON column, so that SQLite reads only what can match.

:mod:`mesh.core.selector` says what a selector means; the SQL selects at least that. Where it selects exactly
that (``Filter.exact``), nothing is looked at twice; otherwise the evaluator has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mesh.core.selector import Matcher, Selector, compile_selector, split_path

_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class Filter(NamedTuple):
    """A condition on ``documents.json`` and its parameters. ``exact``: it holds for what is selected, and for
    nothing else."""

    sql: str
    parameters: tuple[Any, ...]
    exact: bool


_ANY = Filter("1", (), True)
_MAYBE = Filter("1", (), False)


class Query(NamedTuple):
    """A selector, ready to be run."""

    filter: Filter
    matches: Matcher


def compile_query(selector: Selector | None) -> Query:
    """The query for ``selector``; ``None`` and ``{}`` select everything.

    Raises:
        InvalidSelector: it is malformed.
    """
    matches = compile_selector(selector)
    return Query(_fields(selector) if selector else _ANY, matches)


def _json_path(segments: Sequence[str]) -> str | None:
    if any(c in segment for segment in segments for c in "\"'\\\0"):
        return None
    return "'$" + "".join(f'."{segment}"' for segment in segments) + "'"


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
    if isinstance(condition, dict) and any(key.startswith("$") for key in condition):
        return _and([_operator(op, value, segments) for op, value in condition.items()])
    if isinstance(condition, dict) and condition:
        return _fields(condition, segments)
    return _operator("$eq", condition, segments)


def _operator(operator: str, operand: Any, segments: tuple[str, ...]) -> Filter:
    path = _json_path(segments)
    if path is None:
        return _MAYBE
    kind, value = f"json_type(json, {path})", f"json_extract(json, {path})"
    if operator in _COMPARISONS:
        return _compare(kind, value, _COMPARISONS[operator], operand)
    match operator:
        case "$eq":
            return _equals(kind, value, operand)
        case "$ne":
            return _not(_equals(kind, value, operand))
        case "$in":
            return _or([_equals(kind, value, item) for item in operand])
        case "$nin":
            return _not(_or([_equals(kind, value, item) for item in operand]))
        case "$exists":
            return Filter(f"{kind} IS {'NOT ' if operand else ''}NULL", (), True)
        case "$not":
            return _not(_condition(operand, segments))
        case "$elemMatch":
            return Filter(f"{kind} IS 'array'", (), False)
        case "$regex":
            return Filter(f"{kind} IS 'text'", (), False)
    raise AssertionError(f"compile_selector let {operator} pass")


def _equals(kind: str, value: str, operand: Any) -> Filter:
    if operand is None or isinstance(operand, bool):
        name = {None: "null", True: "true", False: "false"}[operand]
        return Filter(f"{kind} IS '{name}'", (), True)
    if isinstance(operand, list | dict):
        return Filter(f"{kind} IS '{'array' if isinstance(operand, list) else 'object'}'", (), False)
    return _compare(kind, value, "=", operand)


def _compare(kind: str, value: str, operator: str, operand: Any) -> Filter:
    if isinstance(operand, str):
        if "\0" in operand:
            return Filter(f"{kind} IS 'text'", (), False)
        return Filter(f"({value} {operator} ? AND {kind} IS 'text')", (operand,), True)
    if isinstance(operand, bool) or not isinstance(operand, int | float):
        return Filter("0", (), True)  # nothing compares with it
    return Filter(f"({value} {operator} ? AND {kind} IN ('integer', 'real'))", (operand,), True)


def _and(parts: list[Filter]) -> Filter:
    return _joined(" AND ", parts) if parts else _ANY


def _or(parts: list[Filter]) -> Filter:
    return _joined(" OR ", parts) if parts else Filter("0", (), True)


def _joined(word: str, parts: list[Filter]) -> Filter:
    if len(parts) == 1:
        return parts[0]
    sql = "(" + word.join(part.sql for part in parts) + ")"
    return Filter(sql, tuple(p for part in parts for p in part.parameters), all(p.exact for p in parts))


def _not(part: Filter) -> Filter:
    if not part.exact:
        return _MAYBE
    # NULL, for a value that is not there, is not true.
    return Filter(f"NOT coalesce({part.sql}, 0)", part.parameters, True)


ALL = compile_query(None)
