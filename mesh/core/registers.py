"""JSON documents as flat registers.

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

import functools
import math
import re
import sys
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from mesh.core.values import (
    MAX_SAFE_INTEGER,
    ancestors,
    checked_key,
    escape,
    is_plain,
    normalized,
    unescape,
)
from mesh.errors import InvalidDocument

MAX_POINTER_DEPTH = 64
"""How deep a field may be in a document that arrives: its reader recurses."""

Registers = dict[str, Any]


def flatten(fields: Mapping[str, Any]) -> Registers:
    """The registers of ``fields`` (a whole document or some of its fields; ``_id`` is left out).

    Raises:
        InvalidDocument: a value or key cannot be stored.
    """
    if not isinstance(fields, Mapping):
        raise InvalidDocument(f"a document is a mapping of fields, not a {type(fields).__name__}")
    registers: Registers = {}
    for key, value in fields.items():
        if key == "_id":
            continue
        pointer = _pointer_to(key)
        if is_plain(value):
            registers[pointer] = value
        else:
            _flatten_into(registers, pointer, normalized(value, pointer, 1))
    return registers


@functools.lru_cache(1024)
def _pointer_to(key: object) -> str:
    """The pointer of a field of the document itself. Documents of a kind have the same fields."""
    return "/" + escape(checked_key(key, ""))


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
        if pointer.rfind("/"):  # not a field of the document itself
            return _unflatten_nested(registers)
        fields[unescape(pointer[1:]) if "~" in pointer else pointer[1:]] = registers[pointer]
    return fields


def each_shows(registers: Mapping[str, Any]) -> bool:
    """Whether every one of ``registers`` is a field of its own, whatever value it has."""
    return all(
        key[:1] == "/" and (not key.rfind("/") or registers.keys().isdisjoint(ancestors(key)))
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
        add_counters(visible, registers)
    nested = [pointer for pointer in visible if pointer.count("/") > 1]
    if any(pointer.count("/") > MAX_POINTER_DEPTH for pointer in nested):
        raise InvalidDocument(f"fields nested more than {MAX_POINTER_DEPTH} levels deep")
    hidden = {above for pointer in nested for above in ancestors(pointer)}
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


def counter_key(pointer: str, incarnation: int, clock: str) -> str:
    return f"+{incarnation}.{clock}{pointer}"


_COUNTER_KEY = re.compile(r"\+(0|[1-9][0-9]{0,14})\.([^/]*)(/.*)", re.DOTALL)
"""One spelling per number, and of bounded length: two keys never stand for the same counter."""


def counters_of(registers: Mapping[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """pointer -> incarnation -> clock -> amount. What is not a well-formed counter key is skipped."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for key, amount in registers.items():
        if key[:1] == "+" and (parts := _COUNTER_KEY.fullmatch(key)) is not None:
            incarnation, clock, pointer = parts.groups()
            found.setdefault(pointer, {}).setdefault(int(incarnation), {})[clock] = amount
    return found


def divided_share(key: str, amount: float, before: float, clock: str) -> Registers:
    """A share that was ``before`` once, as it was, and what was added since as one of another clock."""
    [(pointer, incarnations)] = counters_of({key: amount}).items()
    [incarnation] = incarnations
    added = _sum([amount, -before])
    return {key: _sum([before]), counter_key(pointer, incarnation, clock): added}


def _sum(amounts: list[Any]) -> int | float:
    """The exact sum, rounded once, in whatever order; what is beyond all floats is the largest of them."""
    try:
        total = math.fsum(amounts)
    except OverflowError:
        limit = Fraction(sys.float_info.max)
        total = float(max(-limit, min(limit, sum(map(Fraction, amounts), Fraction(0)))))
    return int(total) if total.is_integer() and abs(total) <= MAX_SAFE_INTEGER else total


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def add_counters(visible: Registers, registers: Mapping[str, Any]) -> None:
    for pointer, incarnations in counters_of(registers).items():
        amounts = [a for clock, a in incarnations[max(incarnations)].items() if clock and is_number(a)]
        base = visible.get(pointer)
        if amounts and (pointer not in visible or is_number(base)):
            visible[pointer] = _sum([base or 0, *amounts])
