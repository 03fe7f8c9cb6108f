"""The smallest set of writes that changes one document into another: see :mod:`mesh.core.registers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.core.registers import Registers, add_counters, counter_key, counters_of, is_number
from mesh.core.values import ancestors, identical, normalized
from mesh.errors import InvalidDocument


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


def merge_registers(held: Mapping[str, Any], wanted: Registers) -> Writes:
    """The writes that merge flattened fields into ``held``, deeply; what is equal already is not written."""
    return _plan_registers(held, wanted, keep_objects=True) if held else Writes(dict(wanted))


def replace_registers(held: Mapping[str, Any], wanted: Registers) -> Writes:
    """The writes after which ``held`` reads as exactly the flattened fields ``wanted``."""
    writes = Writes()
    for key in held:
        if key.startswith("/") and key not in wanted:
            writes.remove(key)
    for pointer in counters_of(held):
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
    counters = counters_of(held)
    parents = {above for key in _shown(held, counters) if key.rfind("/") > 0 for above in ancestors(key)}
    for pointer, value in wanted.items():
        if keep_objects and pointer in parents and isinstance(value, dict):
            continue  # merging an empty object into an object changes nothing
        if pointer in parents:
            for key in held:
                if key.startswith(pointer + "/"):
                    writes.remove(key)
        for above in ancestors(pointer):
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
    add_counters(shown, {key: amount for key, amount in held.items() if key.endswith(pointer)})
    return pointer in shown and identical(shown[pointer], value)


def plan_unset(held: Mapping[str, Any], pointers: Iterable[str]) -> Writes:
    """The writes that remove the fields at ``pointers`` and everything below them.

    An object that loses its last field stays, empty.
    """
    writes = Writes()
    named = set(pointers)
    for pointer in sorted(named):
        if not named.isdisjoint(ancestors(pointer)):
            continue  # it goes with what is above it
        gone = {key for key in held if key == pointer or key.startswith(pointer + "/")}
        for key in gone:
            writes.remove(key)
        ended = _end_counters(held, pointer, writes)
        if not gone and not ended:
            continue
        for above in ancestors(pointer):
            if above in held:
                writes.remove(above)
        parent = next(iter(ancestors(pointer)), None)
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
    if not is_number(amount):
        raise InvalidDocument(f"can be incremented by a number only, not {by!r}", pointer)
    shown = held.get(pointer, 0)
    counters = counters_of(held)
    if not is_number(shown) or any(key.startswith(pointer + "/") for key in _shown(held, counters)):
        raise InvalidDocument("holds something other than a number, so it cannot be incremented", pointer)
    writes = Writes()
    incarnations = counters.get(pointer, {})
    newest = max(incarnations, default=0)
    mine: Any = incarnations.get(newest, {}).get(clock)
    if amount == 0 and (pointer in held or is_number(mine)):
        return writes
    for above in ancestors(pointer):
        if above in held:
            writes.remove(above)
    total = float(mine) + float(amount) if is_number(mine) else float(amount)
    writes.set(counter_key(pointer, newest, clock), normalized(total, pointer))
    return writes


def _end_counters(held: Mapping[str, Any], pointer: str, writes: Writes) -> bool:
    """Start the next incarnation of the counters at and below ``pointer``; whether there were any."""
    ended = False
    for at, incarnations in counters_of(held).items():
        if at != pointer and not at.startswith(pointer + "/"):
            continue
        newest = max(incarnations)
        if not any(incarnations[newest].keys() - {""}):
            continue
        ended = True
        for incarnation, clocks in incarnations.items():
            for clock in clocks:
                writes.remove(counter_key(at, incarnation, clock))
        writes.set(counter_key(at, newest + 1, ""), None)
    return ended
