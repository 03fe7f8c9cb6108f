"""Reads a Yjs update (version 1) without the CRDT library: to refuse what would harm it, and to save time.

The fields of a document are the items of one root map, with JSON values; beside them are deleted items,
collected ones and the set of deletions. A document may also hold collaborative roots, written by Yjs clients:
:mod:`mesh.core.roots` says what may be in those. Nothing else is let through.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from mesh.core.registers import Registers
from mesh.core.update_reader import EASILY_READ, Id, Item, Reader
from mesh.errors import InvalidDocument

R = TypeVar("R")

_EASILY_SETTLED = 64
"""Items up to which it is told here, and not by the library, which values of a state from anywhere stand."""


class Incomplete(InvalidDocument):
    """An update builds on what is not held: whoever sent it has to send more."""


class Brought(NamedTuple):
    """What an update brings.

    Attributes:
        ranges: the clocks, from and up to, of its items by client.
        deletions: (client, from, up to) of what it says is deleted.
        registers: the root map, if the update is all there is to a document that was written once: nothing in
            it was overwritten or deleted.
        rich: whether there is anything that belongs to a collaborative root.
        values: the value in each element, if ``simple`` or ``chained``.
        above: which element each of those stands on, or in which key it is the first one.
        simple: whether the update is made of such values, one per item, and of deletions.
        chained: whether it is made of such values and of overwritten ones, all of which ``above`` has, and of
            few of them.
        structs: how many items there are.
        listed: whether an item has several values or stands before another, as in a list.
        finite: whether no number is NaN or an infinity, which read as null.
    """

    ranges: dict[int, tuple[int, int]]
    deletions: list[tuple[int, int, int]]
    registers: Registers | None
    rich: bool
    values: dict[Id, Any]
    above: dict[Id, str | Id]
    simple: bool
    chained: bool
    structs: int
    listed: bool
    finite: bool


class Fields(NamedTuple):
    """The root map of a whole state.

    Attributes:
        registers: what it reads as.
        elements: which element holds each register.
        removed: keys that have no register any more.
        clocks: the clock up to which each client's items are there.
        structs: how many items there are.
    """

    registers: Registers
    elements: dict[str, Id]
    removed: set[str]
    clocks: dict[int, int]
    structs: int


def read_update(update: bytes, root: bytes, *, chains: bool = False) -> Brought:
    """What ``update`` brings.

    Args:
        update: from anywhere.
        root: the name of the root map that holds the fields.
        chains: whether it matters what was overwritten by what, as for :func:`settled`.

    Raises:
        InvalidDocument: the update is malformed, or holds what no document of the mesh does.
    """
    return _guarded(lambda: _brought(Reader(update, root, chains=chains)))


def settled(brought: Brought) -> Registers | None:
    """The root map of a whole state from anywhere, which was read with its chains; ``None`` if it takes the
    library to tell: several have written one field at once, or it is not whole."""
    if brought.registers is not None:
        return brought.registers
    ranges, values = brought.ranges, brought.values
    if not brought.chained or any(start for start, _ in ranges.values()):
        return None
    if any(end > ranges.get(client, (0, 0))[1] for client, _, end in brought.deletions):
        return None
    waiting = list(brought.above.items())
    # What can be stood on, once; an item comes after what it stands on, and after its writer's items before.
    tips: dict[str | Id, str] = {key: key for key in brought.above.values() if isinstance(key, str)}
    while waiting:
        held_up: list[tuple[Id, str | Id]] = []
        writers: set[int] = set()
        for element, above in waiting:
            key = None if element[0] in writers else tips.pop(above, None)
            if key is None:
                writers.add(element[0])
                held_up.append((element, above))
            else:
                tips[element] = key
        if len(held_up) == len(waiting):
            return None
        waiting = held_up
    registers = {key: values[last] for last, key in tips.items() if last in values}
    if len(registers) < len(values) or any(_is_deleted(brought, *last) for last in values):
        return None
    return registers


def fields_of(update: bytes, root: bytes) -> Fields | None:
    """The root map of a state that the library has encoded; ``None`` if it takes the library to read it.

    Raises:
        InvalidDocument: as :func:`read_update`.
    """
    return _guarded(lambda: _fields(Reader(update, root, chains=True)))


def items_of(update: bytes, root: bytes) -> tuple[list[Item], list[tuple[int, int, int]]]:
    """Every item of ``update``, and its deletions as (client, from, up to).

    Raises:
        InvalidDocument: as :func:`read_update`.
    """
    items: list[Item] = []
    return items, _guarded(lambda: _brought(Reader(update, root, items))).deletions


def _guarded(read: Callable[[], R]) -> R:
    try:
        return read()
    except (IndexError, struct.error):
        raise InvalidDocument("a malformed update: it is cut short") from None
    except UnicodeDecodeError:
        raise InvalidDocument("a malformed update: a text is not UTF-8") from None


def clocks_of(state_vector: bytes) -> dict[int, int]:
    """What a Yjs state vector says: the clock up to which each client's items are there.

    Raises:
        InvalidDocument: it is malformed.
    """
    try:
        return Reader(state_vector, b"").clocks()
    except (IndexError, InvalidDocument) as error:
        raise InvalidDocument(f"a malformed state vector: {error}") from None


def _brought(reader: Reader) -> Brought:
    reader.read()
    registers = None
    ordinary = reader.known and not reader.rich
    if reader.plain and ordinary:
        registers = {str(reader.above[last]): value for last, value in reader.values.items()}
        if len(registers) < reader.structs:  # a key twice: the library knows which one wins
            registers = None
    return Brought(
        reader.ranges,
        reader.deletions,
        registers,
        reader.rich,
        reader.values,
        reader.above,
        ordinary and reader.structs == len(reader.values),
        ordinary and reader.chains and reader.structs <= _EASILY_SETTLED,
        reader.structs,
        reader.listed,
        reader.finite,
    )


def _fields(reader: Reader) -> Fields | None:
    brought = _brought(reader)
    if not reader.known or reader.rich or (brought.registers is None and reader.structs > EASILY_READ):
        return None
    clocks = {client: end for client, (_, end) in brought.ranges.items()}
    above = brought.above
    if brought.registers is not None:
        elements = {str(above[last]): last for last in brought.values}
        return Fields(brought.registers, elements, set(), clocks, reader.structs)
    registers: Registers = {}
    elements = {}
    for last, value in brought.values.items():
        key = _key_above(brought, last)
        if not key or key in registers or _is_deleted(brought, *last):
            return None
        registers[key] = value
        elements[key] = last
    removed = {key for key in above.values() if isinstance(key, str)} - registers.keys()
    return Fields(registers, elements, removed, clocks, reader.structs)


def _key_above(brought: Brought, element: Id) -> str | None:
    """The key that ``element`` is in; empty or ``None`` if it takes the library to tell."""
    for _ in range(len(brought.above) + 1):
        key = brought.above.get(element, "")
        if isinstance(key, str):
            return key
        element = key
    return None


def _is_deleted(brought: Brought, client: int, clock: int) -> bool:
    return any(of == client and start <= clock < end for of, start, end in brought.deletions)
