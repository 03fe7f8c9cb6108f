"""Mango selectors: which documents a query, an observer or a subscription is about.

The convention of CouchDB, PouchDB and RxDB: ``{"color": "red", "year": {"$gt": 2010}}``. Selectors also come
from peers, so their size and depth are bounded and no operator runs code or an unbounded search.

Decided where dialects differ: a comparison holds only between values of one kind (number or string), and
``True`` is not ``1``; a missing field equals nothing, so ``$ne``, ``$nin`` and ``$not`` hold for it;
``{"a": null}`` needs a field that is null; lists are compared whole (``$elemMatch`` looks inside).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from mesh.core.patterns import compile_pattern
from mesh.core.values import identical, normalized
from mesh.errors import InvalidDocument, InvalidSelector

MAX_SELECTOR_BYTES = 8 * 1024
MAX_SELECTOR_DEPTH = 16
MAX_SELECTOR_TERMS = 256
MAX_PATTERN_CHARS = 128

Selector = Mapping[str, Any]
Matcher = Callable[[Mapping[str, Any]], bool]
"""Whether a document (its fields and ``_id``) is selected."""

_Test = Callable[[Any], bool]


class _Missing:
    """Stands for a field that is not there."""


MISSING: Final = _Missing()


def compile_selector(selector: Selector | None) -> Matcher:
    """The matcher for ``selector``; ``None`` and ``{}`` select everything.

    Raises:
        InvalidSelector: it is malformed, uses an unknown operator, or is over a bound.
    """
    if not selector:
        if selector is None or isinstance(selector, Mapping):
            return lambda document: True
        raise InvalidSelector(f"a selector is an object, not {selector!r}")
    if not isinstance(selector, Mapping):
        raise InvalidSelector(f"a selector is an object, not a {type(selector).__name__}")
    try:
        plain = normalized(selector)
    except InvalidDocument as error:
        raise InvalidSelector(error.reason, error.path) from error
    size = len(msgspec.json.encode(plain))
    if size > MAX_SELECTOR_BYTES:
        raise InvalidSelector(f"{size} bytes as JSON, over the limit of {MAX_SELECTOR_BYTES}")
    return _Compiler().fields(plain, "", 0)


class _Compiler:
    """Compiles one selector, counting its terms."""

    def __init__(self) -> None:
        self._terms = 0

    def _count(self, path: str, depth: int) -> None:
        self._terms += 1
        if self._terms > MAX_SELECTOR_TERMS:
            raise InvalidSelector(f"more than {MAX_SELECTOR_TERMS} terms", path)
        if depth > MAX_SELECTOR_DEPTH:
            raise InvalidSelector(f"nested more than {MAX_SELECTOR_DEPTH} levels deep", path)

    def fields(self, selector: Any, path: str, depth: int) -> _Test:
        """A test of a whole object: every entry must hold."""
        if not isinstance(selector, dict):
            raise InvalidSelector(f"an object of fields is needed, not {selector!r}", path)
        return _all([self._entry(key, value, f"{path}/{key}", depth) for key, value in selector.items()])

    def _entry(self, key: str, value: Any, path: str, depth: int) -> _Test:
        self._count(path, depth)
        if key in ("$and", "$or", "$nor"):
            if not isinstance(value, list) or not value:
                raise InvalidSelector(f"{key} takes a list of selectors", path)
            tests = [self.fields(item, f"{path}/{i}", depth + 1) for i, item in enumerate(value)]
            if key == "$and":
                return _all(tests)
            any_of = _any(tests)
            return any_of if key == "$or" else lambda document: not any_of(document)
        if key == "$not":
            test = self.fields(value, path, depth + 1)
            return lambda document: not test(document)
        if key.startswith("$"):
            raise InvalidSelector(f"unknown operator {key}; a field cannot start with $", path)
        segments = split_path(key)
        condition = self.condition(value, path, depth + 1)
        return lambda document: condition(lookup(document, segments))

    def condition(self, condition: Any, path: str, depth: int) -> _Test:
        """A test of one value: operators, or equality with whatever stands there."""
        if isinstance(condition, dict) and any(key.startswith("$") for key in condition):
            return _all([self._operator(op, value, f"{path}/{op}", depth) for op, value in condition.items()])
        if isinstance(condition, dict) and condition:
            # {"a": {"b": 1}} reads as {"a.b": 1}, as CouchDB has it.
            return self.fields(condition, path, depth)
        return lambda value: identical(value, condition)

    def _operator(self, operator: str, operand: Any, path: str, depth: int) -> _Test:
        self._count(path, depth)
        compare = _ORDER.get(operator)
        if compare is not None:
            return lambda value: _comparable(value, operand) and compare(value, operand)
        match operator:
            case "$eq":
                return lambda value: identical(value, operand)
            case "$ne":
                return lambda value: not identical(value, operand)
            case "$in" | "$nin":
                if not isinstance(operand, list):
                    raise InvalidSelector(f"{operator} takes a list", path)
                wanted = operator == "$in"
                return lambda value: any(identical(value, item) for item in operand) is wanted
            case "$exists":
                if not isinstance(operand, bool):
                    raise InvalidSelector("$exists takes true or false", path)
                return lambda value: (value is not MISSING) is operand
            case "$not":
                test = self.condition(operand, path, depth + 1)
                return lambda value: not test(value)
            case "$elemMatch":
                test = self.condition(operand, path, depth + 1)
                return lambda value: isinstance(value, list) and any(map(test, value))
            case "$regex":
                found_in = _pattern(operand, path)
                return lambda value: isinstance(value, str) and found_in(value)
        raise InvalidSelector(f"unknown operator {operator}", path)


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


def _all(tests: Sequence[_Test]) -> _Test:
    if len(tests) == 1:
        return tests[0]
    return lambda value: all(test(value) for test in tests)


def _any(tests: Sequence[_Test]) -> _Test:
    return lambda value: any(test(value) for test in tests)


def _comparable(a: Any, b: Any) -> bool:
    return kind_rank(a) == kind_rank(b) and kind_rank(a) in (2, 3)


def kind_rank(value: Any) -> int:
    """The order of kinds when sorting: missing, null, booleans... as CouchDB collates them."""
    if value is MISSING:
        return -1
    if value is None:
        return 0
    if isinstance(value, bool):
        return 1
    if isinstance(value, int | float):
        return 2
    if isinstance(value, str):
        return 3
    return 4 if isinstance(value, list) else 5


def _pattern(pattern: Any, path: str) -> Callable[[str], bool]:
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidSelector(f"$regex takes a string of at most {MAX_PATTERN_CHARS} characters", path)
    try:
        return compile_pattern(pattern)
    except ValueError as error:
        raise InvalidSelector(
            f"$regex: {error}. It takes characters and classes with * + ? {{m,n}}, ^, $ and |, "
            "but no groups, so that no pattern can stall a node",
            path,
        ) from error


def split_path(path: str) -> tuple[str, ...]:
    """The segments of a dotted path; ``\\.`` is a literal dot."""
    if "\\" not in path:
        return tuple(path.split("."))
    return tuple(part.replace("\0", ".") for part in path.replace("\\.", "\0").split("."))


def lookup(document: Any, segments: Sequence[str]) -> Any:
    """The value at ``segments``, or ``MISSING``."""
    for segment in segments:
        if not isinstance(document, Mapping) or segment not in document:
            return MISSING
        document = document[segment]
    return document


# --- sort, skip, limit, fields ----------------------------------------------------------------


def sort_key(sort: Sequence[str | Mapping[str, str]] | None) -> Callable[[list[dict[str, Any]]], None]:
    """Sorts documents in place by ``sort`` (``["year", {"name": "desc"}]``), then by ``_id``.

    Raises:
        InvalidSelector: ``sort`` is malformed.
    """
    keys: list[tuple[tuple[str, ...], bool]] = []
    for entry in sort or ():
        if isinstance(entry, str):
            keys.append((split_path(entry), False))
            continue
        if not isinstance(entry, Mapping) or len(entry) != 1 or set(entry.values()) - {"asc", "desc"}:
            raise InvalidSelector(
                f'sort takes "field" or {{"field": "asc" | "desc"}}, not {entry!r}', "/sort"
            )
        [(field, direction)] = entry.items()
        keys.append((split_path(field), direction == "desc"))

    def apply(documents: list[dict[str, Any]]) -> None:
        documents.sort(key=lambda document: str(document["_id"]))
        for segments, descending in reversed(keys):
            documents.sort(key=partial(_collated_at, segments), reverse=descending)

    return apply


def _collated_at(segments: tuple[str, ...], document: dict[str, Any]) -> tuple[Any, ...]:
    return collated(lookup(document, segments))


def collated(value: Any) -> tuple[Any, ...]:
    """A key that sorts any JSON values: by kind first, then by value."""
    rank = kind_rank(value)
    if rank in (-1, 0):
        return (rank,)
    if rank == 4:
        return (rank, [collated(item) for item in value])
    if rank == 5:
        return (rank, sorted((key, collated(item)) for key, item in value.items()))
    return (rank, value)


def projected(document: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Only ``fields`` (dotted paths) of ``document``, and its ``_id``."""
    result: dict[str, Any] = {"_id": document["_id"]}
    for field in fields:
        segments = split_path(field)
        value = lookup(document, segments)
        if value is MISSING:
            continue
        at = result
        for segment in segments[:-1]:
            at = at.setdefault(segment, {})
        at[segments[-1]] = value
    return result
