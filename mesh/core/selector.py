"""Mango selectors: which documents a query, an observer or a subscription is about.

The convention of CouchDB, PouchDB and RxDB: ``{"color": "red", "year": {"$gt": 2010}}``. A field is named as
:func:`~mesh.core.values.split_path` reads it. Selectors also come from peers, so their size and depth are
bounded and no operator runs code or an unbounded search.

Decided where dialects differ: a comparison holds only between values of one kind (number or string), and
``True`` is not ``1``; a missing field equals nothing, so ``$ne``, ``$nin`` and ``$not`` hold for it;
``{"a": null}`` needs a field that is null; lists are compared whole (``$elemMatch`` looks inside).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec

from mesh.core.patterns import compile_pattern
from mesh.core.values import MAX_SAFE_INTEGER, identical, normalized, split_path
from mesh.errors import InvalidDocument, InvalidSelector

MAX_SELECTOR_BYTES = 8 * 1024
MAX_SELECTOR_DEPTH = 16
MAX_SELECTOR_TERMS = 256
MAX_PATTERNS = 32
MAX_SORT_FIELDS = 16

Selector = Mapping[str, Any]
Sort = Sequence[str | Mapping[str, str]]
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
    plain = plain_selector(selector)
    return _Compiler().fields(plain, "", 0) if plain else lambda document: True


def plain_selector(selector: Selector | None) -> dict[str, Any]:
    """A copy of ``selector`` as JSON types only; ``{}`` for ``None``.

    Raises:
        InvalidSelector: it is no object, cannot be JSON, or is too large.
    """
    if selector is None:
        return {}
    if not isinstance(selector, Mapping):
        raise InvalidSelector(f"a selector is an object, not {_shown(selector)}")
    try:
        plain: dict[str, Any] = normalized(selector)
    except InvalidDocument as error:
        raise InvalidSelector(error.reason, error.path) from error
    size = len(msgspec.json.encode(plain))
    if size > MAX_SELECTOR_BYTES:
        raise InvalidSelector(f"{size} bytes as JSON, over the limit of {MAX_SELECTOR_BYTES}")
    return plain


class Required(NamedTuple):
    """A field, and the values of which a document must have one there to be selected. No field, and
    ``MISSING``, where a selector requires no such thing."""

    segments: tuple[str, ...]
    values: tuple[Any, ...]


def required(selector: Selector | None) -> Required:
    """What a valid selector requires of one field: of the ``_id``, if it names some."""
    named = [
        Required(split_path(field), tuple(values))
        for field, condition in plain_selector(selector).items()
        if not field.startswith("$") and (values := _scalars(condition)) is not None
    ]
    return min(named, key=lambda one: one.segments != ("_id",), default=Required((), (MISSING,)))


def _scalars(condition: Any) -> list[Any] | None:
    """The values that a condition takes, if it names them and none has parts."""
    values = [condition]
    if isinstance(condition, dict):
        values = [condition["$eq"]] if "$eq" in condition else condition.get("$in", values)
    return None if any(isinstance(value, list | dict) for value in values) else values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


class _Compiler:
    """Compiles one selector, counting its terms."""

    def __init__(self) -> None:
        self._terms = 0
        self._patterns = 0

    def _count(self, path: str, depth: int) -> None:
        self._terms += 1
        if self._terms > MAX_SELECTOR_TERMS:
            raise InvalidSelector(f"more than {MAX_SELECTOR_TERMS} terms", path)
        if depth > MAX_SELECTOR_DEPTH:
            raise InvalidSelector(f"nested more than {MAX_SELECTOR_DEPTH} levels deep", path)

    def fields(self, selector: Any, path: str, depth: int) -> _Test:
        """A test of a whole object: every entry must hold."""
        if not isinstance(selector, dict):
            raise InvalidSelector(f"an object of fields is needed, not {_shown(selector)}", path)
        return _all([self._entry(key, value, f"{path}/{key}", depth) for key, value in selector.items()])

    def _entry(self, key: str, value: Any, path: str, depth: int) -> _Test:
        self._count(path, depth)
        if key in ("$and", "$or", "$nor"):
            if not isinstance(value, list) or not value:
                raise InvalidSelector(f"{key} takes a list of selectors, not {_shown(value)}", path)
            tests = [self.fields(item, f"{path}/{i}", depth + 1) for i, item in enumerate(value)]
            if key == "$and":
                return _all(tests)
            any_of = _any(tests)
            return any_of if key == "$or" else lambda document: not any_of(document)
        if key == "$not":
            test = self.fields(value, path, depth + 1)
            return lambda document: not test(document)
        if key.startswith("$"):
            raise InvalidSelector(
                f"unknown operator {_shown(key)}: a field cannot start with $, and here are {_COMBINING}",
                path,
            )
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
                    raise InvalidSelector(f"{operator} takes a list, not {_shown(operand)}", path)
                wanted = operator == "$in"
                return lambda value: any(identical(value, item) for item in operand) is wanted
            case "$exists":
                if not isinstance(operand, bool):
                    raise InvalidSelector(f"$exists takes true or false, not {_shown(operand)}", path)
                return lambda value: (value is not MISSING) is operand
            case "$not":
                test = self.condition(operand, path, depth + 1)
                return lambda value: not test(value)
            case "$elemMatch":
                test = self.condition(operand, path, depth + 1)
                return lambda value: isinstance(value, list) and any(map(test, value))
            case "$regex":
                self._patterns += 1
                if self._patterns > MAX_PATTERNS:
                    raise InvalidSelector(f"more than {MAX_PATTERNS} of $regex: put | into one", path)
                found_in = _pattern(operand, path)
                return lambda value: isinstance(value, str) and found_in(value)
        raise InvalidSelector(f"unknown operator {_shown(operator)}: those of a field are {_OPERATORS}", path)


_COMBINING = "$and, $or, $nor and $not"
_OPERATORS = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $not, $elemMatch and $regex"

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


LIST_RANK: Final = 4
"""Kinds of this rank and above have parts."""


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
    return LIST_RANK if isinstance(value, list) else LIST_RANK + 1


def _pattern(pattern: Any, path: str) -> Callable[[str], bool]:
    if not isinstance(pattern, str):
        raise InvalidSelector(f"$regex takes a string, not {_shown(pattern)}", path)
    try:
        return compile_pattern(pattern)
    except ValueError as error:
        raise InvalidSelector(
            f"$regex: {error}. It takes characters, classes and groups with * + ? {{m,n}}, ^, $ and |, "
            "and no more, so that no pattern can stall a node",
            path,
        ) from error


def lookup(document: Any, segments: Sequence[str]) -> Any:
    """The value at ``segments``, or ``MISSING``."""
    for segment in segments:
        if not isinstance(document, Mapping) or segment not in document:
            return MISSING
        document = document[segment]
    return document


# --- sort, skip, limit, fields ----------------------------------------------------------------


def parse_sort(sort: Sort | None) -> list[tuple[tuple[str, ...], bool]]:
    """The segments of every field of ``sort`` (``["year", {"name": "desc"}]``), and whether it descends.

    Raises:
        InvalidSelector: ``sort`` is malformed, or has more than ``MAX_SORT_FIELDS`` fields.
    """
    if isinstance(sort, str | Mapping) or (sort is not None and not isinstance(sort, Sequence)):
        raise InvalidSelector(f"sort takes a list of fields, not {_shown(sort)}", "/sort")
    if sort is not None and len(sort) > MAX_SORT_FIELDS:
        raise InvalidSelector(f"sort takes at most {MAX_SORT_FIELDS} fields, not {len(sort)}", "/sort")
    return [_parse_sort_field(entry, f"/sort/{index}") for index, entry in enumerate(sort or ())]


def _parse_sort_field(entry: Any, path: str) -> tuple[tuple[str, ...], bool]:
    if isinstance(entry, str):
        return split_path(entry), False
    if isinstance(entry, Mapping) and len(entry) == 1:
        [(field, direction)] = entry.items()
        if isinstance(field, str) and direction in ("asc", "desc"):
            return split_path(field), direction == "desc"
    raise InvalidSelector(f'sort takes "field" or {{"field": "asc" | "desc"}}, not {_shown(entry)}', path)


def sort_key(sort: Sort | None) -> Callable[[Mapping[str, Any]], Any]:
    """A key that sorts documents by ``sort``, then by ``_id``; no two documents have the same.

    Raises:
        InvalidSelector: ``sort`` is malformed.
    """
    fields = parse_sort(sort)
    if not fields:
        return itemgetter("_id")

    def key(document: Mapping[str, Any]) -> tuple[Any, ...]:
        values = [
            _Descending(collated(lookup(document, segments)))
            if descending
            else collated(lookup(document, segments))
            for segments, descending in fields
        ]
        return (*values, document["_id"])

    return key


class _Descending:
    """A key that sorts the other way round."""

    __slots__ = ("key",)

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key

    def __lt__(self, other: _Descending) -> bool:
        return other.key < self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and self.key == other.key

    __hash__ = None  # type: ignore[assignment]  # a key is only compared


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


def check_window(skip: int, limit: int | None, fields: Sequence[str] | None = None) -> None:
    """Refuse what cannot say which part of a result is wanted.

    Raises:
        InvalidSelector: a number is none or negative, or ``fields`` are no names.
    """
    for name, number in (("skip", skip), ("limit", 0 if limit is None else limit)):
        if type(number) is not int or not 0 <= number <= MAX_SAFE_INTEGER:
            raise InvalidSelector(f"{name} is a number of documents, 0 or more, not {_shown(number)}")
    if fields is not None and (isinstance(fields, str) or not all(isinstance(f, str) for f in fields)):
        raise InvalidSelector(f"fields is a list of paths, not {fields!r}")


def projected(document: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Only ``fields`` of ``document``, and its ``_id``."""
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
