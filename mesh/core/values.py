"""JSON documents as flat registers, and the smallest set of writes that changes one into another.

A document's fields live in one root map under JSON Pointers (RFC 6901), so that concurrent writes to
different fields merge at every depth:

    {"blob": {"hash": "ab"}, "tags": ["x"]}   <->   {"/blob/hash": "ab", "/tags": ["x"]}

Scalars and lists are registers. ``{}`` marks an empty object. On reading, descendants beat a register
at their ancestor (both can exist after concurrent writes). Keys without a leading ``/`` are reserved.

Counters are kept beside the registers, one key per (pointer, counter incarnation, clock identity), as
``+<incarnation>.<clock>/pointer``; the value of the field is the number in the register, if any, plus the
sum of its highest incarnation. A write or an unset of the field starts the next incarnation, marked by a
key with an empty clock, so that increments which have not seen it do not come back.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mesh.errors import InvalidCollectionName, InvalidDocument

MAX_SAFE_INTEGER = 2**53 - 1
"""Beyond this, integers lose digits in every JavaScript client (and in pycrdt)."""

MAX_DEPTH = 32
"""How deeply objects and lists may nest."""

MAX_POINTER_DEPTH = 64
"""How deep a field may be in a document that arrives: its reader recurses."""

MAX_ID_BYTES = 512
"""Length of an ``_id`` in UTF-8."""

Registers = dict[str, Any]

_COLLECTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(slots=True)
class Writes:
    """What to set and what to remove in the root map; falsy when nothing changes."""

    sets: Registers = field(default_factory=dict)
    removes: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.sets or self.removes)

    def set(self, key: str, value: Any) -> None:
        self.removes.discard(key)
        self.sets[key] = value

    def remove(self, key: str) -> None:
        self.sets.pop(key, None)
        self.removes.add(key)


# --- what may be stored -----------------------------------------------------------------------


def check_collection(name: object) -> str:
    """``name``, if a collection can be called that.

    Raises:
        InvalidCollectionName: it is not 1 to 128 letters, digits, ``_``, ``-`` or ``.``.
    """
    if not isinstance(name, str) or not _COLLECTION.fullmatch(name):
        raise InvalidCollectionName(name, "use 1 to 128 letters, digits, _, - or ., not starting with - or .")
    return name


def check_id(document_id: object) -> str:
    """``document_id``, if it can be one.

    Raises:
        InvalidDocument: it is not a non-empty string of at most ``MAX_ID_BYTES`` bytes.
    """
    if not isinstance(document_id, str):
        raise InvalidDocument(f"an _id must be a string, not {type(document_id).__name__}", "/_id")
    size = len(_encoded(document_id, "/_id"))
    if not 0 < size <= MAX_ID_BYTES:
        raise InvalidDocument(f"an _id must have 1 to {MAX_ID_BYTES} bytes, not {size}", "/_id")
    return str(document_id)


def normalized(value: Any, path: str = "", depth: int = 0) -> Any:
    """A copy of ``value`` as JSON types only; whole floats become integers, as JavaScript has them.

    Raises:
        InvalidDocument: JSON or the CRDT cannot hold it; ``path`` points at the offender.
    """
    if _is_plain(value):
        return value
    if isinstance(value, str):
        _encoded(value, path)
        return str(value)
    if isinstance(value, int):
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise InvalidDocument(f"{value} is beyond ±(2^53 - 1); store it as a string", path)
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidDocument(f"{value} is not a JSON number; use null or a string", path)
        if value.is_integer() and abs(value) <= MAX_SAFE_INTEGER:
            return int(value)
        return float(value)
    if depth >= MAX_DEPTH:
        raise InvalidDocument(f"nested more than {MAX_DEPTH} levels deep", path)
    if isinstance(value, Mapping):
        plain = {}
        for key, item in value.items():
            name = _checked_key(key, path)
            plain[name] = item if _is_plain(item) else normalized(item, f"{path}/{escape(name)}", depth + 1)
        return dict(sorted(plain.items())) if depth else plain  # the CRDT keeps no order of keys
    if isinstance(value, list | tuple):
        return [
            item if _is_plain(item) else normalized(item, f"{path}/{index}", depth + 1)
            for index, item in enumerate(value)
        ]
    raise InvalidDocument(
        f"a {type(value).__name__} is not a JSON value"
        + ("; add it as an attachment and store its token" if isinstance(value, bytes | bytearray) else ""),
        path,
    )


def _is_plain(value: object) -> bool:
    """Whether ``value`` is one of the scalars that most fields hold, and can be stored as it is."""
    kind = type(value)
    if kind is str:
        return value.isascii()  # type: ignore[attr-defined, no-any-return]
    if kind is int:
        return -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER  # type: ignore[operator]
    return kind is bool or value is None


def _checked_key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidDocument(f"the key {key!r} is not a string", path)
    if not key.isascii():
        _encoded(key, path)
    return str(key)


def _encoded(text: str, path: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidDocument("has a lone surrogate, which no UTF-8 text can hold", path) from None


def identical(a: Any, b: Any) -> bool:
    """Equality that tells ``True`` from ``1`` and ``1.5`` from ``"1.5"``, at every depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


# --- pointers ---------------------------------------------------------------------------------


def escape(segment: str) -> str:
    """One segment of a JSON Pointer."""
    return segment.replace("~", "~0").replace("/", "~1") if "~" in segment or "/" in segment else segment


def unescape(segment: str) -> str:
    """The key that ``segment`` stands for."""
    return segment.replace("~1", "/").replace("~0", "~") if "~" in segment else segment


def split_path(path: str) -> tuple[str, ...]:
    """The keys that a user names by ``path``: a JSON Pointer if it begins with ``/``, else dotted (``a.b``),
    where ``\\.`` is a dot in a key."""
    if path.startswith("/"):
        return tuple(map(unescape, path[1:].split("/")))
    if "\\" not in path:
        return tuple(path.split("."))
    return tuple(key.replace("\\.", ".") for key in _DOT.split(path))


_DOT = re.compile(r"(?<!\\)\.")


def path_of(keys: Sequence[str]) -> str:
    """What :func:`split_path` splits into ``keys``: dotted, or a pointer where that would say another."""
    path = ".".join(key.replace(".", "\\.") for key in keys)
    return path if path and split_path(path) == tuple(keys) else _pointer(keys)


def pointer_of(path: str) -> str:
    """The JSON Pointer of the field that a user names by ``path``: see :func:`split_path`.

    Raises:
        InvalidDocument: no field can be there.
    """
    if not isinstance(path, str):
        raise InvalidDocument(f"a field is named by a dotted path or a JSON Pointer, not by {path!r}")
    _encoded(path, ascii(path))
    pointer = _pointer(split_path(path))
    if pointer == "/_id" or pointer.startswith("/_id/"):
        raise InvalidDocument("the _id of a document never changes", pointer)
    if pointer.count("/") > MAX_DEPTH:
        raise InvalidDocument(f"nested more than {MAX_DEPTH} levels deep", pointer)
    return pointer


def _pointer(keys: Iterable[str]) -> str:
    return "".join("/" + escape(key) for key in keys)


def _ancestors(pointer: str) -> Iterable[str]:
    end = pointer.rfind("/")
    while end > 0:
        yield pointer[:end]
        end = pointer.rfind("/", 0, end)


# --- documents <-> registers ------------------------------------------------------------------


def flatten(fields: Mapping[str, Any]) -> Registers:
    """The registers of ``fields`` (a whole document or some of its fields; ``_id`` is left out).

    Raises:
        InvalidDocument: a value or key cannot be stored.
    """
    if not isinstance(fields, Mapping):
        raise InvalidDocument(f"a document is a mapping of fields, not a {type(fields).__name__}")
    registers: Registers = {}
    for key, value in fields.items():
        pointer = "/" + escape(_checked_key(key, ""))
        if key == "_id":
            continue
        if _is_plain(value):
            registers[pointer] = value
        else:
            _flatten_into(registers, pointer, normalized(value, pointer, 1))
    return registers


def _flatten_into(registers: Registers, pointer: str, value: Any) -> None:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _flatten_into(registers, f"{pointer}/{escape(key)}", item)
    else:
        registers[pointer] = value


def unflatten(registers: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that ``registers`` stand for, without the ``_id``; keys are in sorted order.

    Raises:
        InvalidDocument: they nest too deeply.
    """
    fields: dict[str, Any] = {}
    for pointer in sorted(registers):
        if pointer[:1] != "/" or pointer.rfind("/"):
            return _unflatten_nested(registers)
        name = pointer[1:]
        fields[unescape(name) if "~" in name else name] = registers[pointer]
    return fields


def each_shows(registers: Mapping[str, Any]) -> bool:
    """Whether every one of ``registers`` is a field of its own, whatever value it has."""
    return all(
        key[:1] == "/" and (not key.rfind("/") or registers.keys().isdisjoint(_ancestors(key)))
        for key in registers
    )


def set_field(fields: dict[str, Any], pointer: str, value: Any) -> None:
    """Give the field at ``pointer`` another value."""
    *parents, last = pointer[1:].split("/")
    for parent in parents:
        fields = fields[unescape(parent)]
    fields[unescape(last)] = value


def _unflatten_nested(registers: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    visible = {key: value for key, value in registers.items() if key.startswith("/")}
    if len(visible) < len(registers):
        _add_counters(visible, registers)
    nested = [pointer for pointer in visible if pointer.count("/") > 1]
    if any(pointer.count("/") > MAX_POINTER_DEPTH for pointer in nested):
        raise InvalidDocument(f"fields nested more than {MAX_POINTER_DEPTH} levels deep")
    hidden = {above for pointer in nested for above in _ancestors(pointer)}
    for pointer in sorted(visible.keys() - hidden if hidden else visible):
        if pointer.count("/") == 1:
            fields[unescape(pointer[1:])] = visible[pointer]
    for pointer in sorted(set(nested) - hidden, key=lambda p: (p.count("/"), p)):
        *parents, last = pointer[1:].split("/")
        at = fields
        for parent in parents:
            at = at.setdefault(unescape(parent), {})
        at[unescape(last)] = visible[pointer]
    return fields


# --- counters ---------------------------------------------------------------------------------


def _counter_key(pointer: str, incarnation: int, clock: str) -> str:
    return f"+{incarnation}.{clock}{pointer}"


_COUNTER_KEY = re.compile(r"\+(0|[1-9][0-9]{0,14})\.([^/]*)(/.*)", re.DOTALL)
"""One spelling per number, and of bounded length: two keys never stand for the same counter."""


def _counters(registers: Mapping[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """pointer -> incarnation -> clock -> amount. What is not a well-formed counter key is skipped."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for key, amount in registers.items():
        if key[:1] == "+" and (parts := _COUNTER_KEY.fullmatch(key)) is not None:
            incarnation, clock, pointer = parts.groups()
            found.setdefault(pointer, {}).setdefault(int(incarnation), {})[clock] = amount
    return found


def _sum(amounts: list[Any]) -> int | float:
    """The exact sum, rounded once, in whatever order; what is beyond all floats is the largest of them."""
    try:
        total = math.fsum(amounts)
    except OverflowError:
        limit = Fraction(sys.float_info.max)
        total = float(max(-limit, min(limit, sum(map(Fraction, amounts), Fraction(0)))))
    return int(total) if total.is_integer() and abs(total) <= MAX_SAFE_INTEGER else total


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _add_counters(visible: Registers, registers: Mapping[str, Any]) -> None:
    for pointer, incarnations in _counters(registers).items():
        amounts = [a for clock, a in incarnations[max(incarnations)].items() if clock and _is_number(a)]
        base = visible.get(pointer)
        if amounts and (pointer not in visible or _is_number(base)):
            visible[pointer] = _sum([base or 0, *amounts])


def _end_counters(held: Mapping[str, Any], pointer: str, writes: Writes) -> bool:
    """Start the next incarnation of the counters at and below ``pointer``; whether there were any."""
    ended = False
    for at, incarnations in _counters(held).items():
        if at != pointer and not at.startswith(pointer + "/"):
            continue
        newest = max(incarnations)
        if not any(incarnations[newest].keys() - {""}):
            continue
        ended = True
        for incarnation, clocks in incarnations.items():
            for clock in clocks:
                writes.remove(_counter_key(at, incarnation, clock))
        writes.set(_counter_key(at, newest + 1, ""), None)
    return ended


# --- planning writes --------------------------------------------------------------------------


def plan_merge(held: Mapping[str, Any], fields: Mapping[str, Any]) -> Writes:
    """The writes that merge ``fields`` into ``held``, deeply; what is equal already is not written."""
    return merge_registers(held, flatten(fields))


def merge_registers(held: Mapping[str, Any], wanted: Registers) -> Writes:
    """:func:`plan_merge` of fields that are flattened already."""
    return _plan_registers(held, wanted, keep_objects=True) if held else Writes(dict(wanted))


def plan_replace(held: Mapping[str, Any], fields: Mapping[str, Any]) -> Writes:
    """The writes after which ``held`` reads as exactly ``fields``."""
    return replace_registers(held, flatten(fields))


def replace_registers(held: Mapping[str, Any], wanted: Registers) -> Writes:
    """:func:`plan_replace` of fields that are flattened already."""
    writes = Writes()
    for key in held:
        if key.startswith("/") and key not in wanted:
            writes.remove(key)
    for pointer in _counters(held):
        if pointer not in wanted:
            _end_counters(held, pointer, writes)
    planned = _plan_registers(held, wanted, keep_objects=False)
    for key in planned.removes:
        writes.remove(key)
    for key, value in planned.sets.items():
        writes.set(key, value)
    return writes


def _plan_registers(held: Mapping[str, Any], wanted: Registers, *, keep_objects: bool) -> Writes:
    writes = Writes()
    counters = _counters(held)
    parents = {above for key in _shown(held, counters) if key.rfind("/") > 0 for above in _ancestors(key)}
    for pointer, value in wanted.items():
        if keep_objects and pointer in parents and isinstance(value, dict):
            continue  # merging an empty object into an object changes nothing
        if pointer in parents:
            for key in held:
                if key.startswith(pointer + "/"):
                    writes.remove(key)
        for above in _ancestors(pointer):
            if above in held:
                writes.remove(above)
        if counters and pointer not in parents and _current_value(held, pointer, value):
            continue
        ended = bool(counters) and _end_counters(held, pointer, writes)
        if ended or pointer not in held or not identical(held[pointer], value):
            writes.set(pointer, value)
    return writes


def _shown(held: Mapping[str, Any], counters: Mapping[str, dict[int, dict[str, Any]]]) -> list[str]:
    """The pointers at which there is a register, or a counter that has not ended."""
    pointers = [key for key in held if key.startswith("/")]
    return pointers + [at for at, incarnations in counters.items() if any(incarnations[max(incarnations)])]


def _current_value(held: Mapping[str, Any], pointer: str, value: Any) -> bool:
    """Whether a counter at ``pointer`` already shows ``value``: then there is nothing to write."""
    shown = {pointer: held[pointer]} if pointer in held else {}
    _add_counters(shown, {key: amount for key, amount in held.items() if key.endswith(pointer)})
    return pointer in shown and identical(shown[pointer], value)


def plan_unset(held: Mapping[str, Any], pointers: Iterable[str]) -> Writes:
    """The writes that remove the fields at ``pointers`` and everything below them.

    An object that loses its last field stays, empty.
    """
    writes = Writes()
    named = set(pointers)
    for pointer in sorted(named):
        if not named.isdisjoint(_ancestors(pointer)):
            continue  # it goes with what is above it
        gone = {key for key in held if key == pointer or key.startswith(pointer + "/")}
        for key in gone:
            writes.remove(key)
        ended = _end_counters(held, pointer, writes)
        if not gone and not ended:
            continue
        for above in _ancestors(pointer):
            if above in held:
                writes.remove(above)
        parent = next(iter(_ancestors(pointer)), None)
        if parent is not None and not any(
            key.startswith(parent + "/") and key not in writes.removes for key in held
        ):
            writes.set(parent, {})
    return writes


def plan_increment(held: Mapping[str, Any], pointer: str, by: float, clock: str) -> Writes:
    """The writes that add ``by`` to the counter at ``pointer``, on behalf of ``clock``.

    Raises:
        InvalidDocument: ``by`` is not a finite number, or the field holds something else.
    """
    amount = normalized(by, pointer)
    if not _is_number(amount):
        raise InvalidDocument(f"can be incremented by a number only, not {by!r}", pointer)
    shown = held.get(pointer, 0)
    counters = _counters(held)
    if not _is_number(shown) or any(key.startswith(pointer + "/") for key in _shown(held, counters)):
        raise InvalidDocument("holds something other than a number, so it cannot be incremented", pointer)
    writes = Writes()
    incarnations = counters.get(pointer, {})
    newest = max(incarnations, default=0)
    mine: Any = incarnations.get(newest, {}).get(clock)
    if amount == 0 and (pointer in held or _is_number(mine)):
        return writes
    for above in _ancestors(pointer):
        if above in held:
            writes.remove(above)
    total = float(mine) + float(amount) if _is_number(mine) else float(amount)
    writes.set(_counter_key(pointer, newest, clock), normalized(total, pointer))
    return writes
