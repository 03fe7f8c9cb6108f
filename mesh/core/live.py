"""Documents that are loaded: read, and open in the CRDT library, so that a change of one costs no reading.

What a change does is told here without the library where that is certain: where each register that it writes
is new, or stands on the item that holds the register now. Such an item is the last one in its key, so it
wins. Everything else takes the library.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pycrdt

from mesh.core.items import Delta, client_for, unspent
from mesh.core.library import ROOT_NAME, apply_update
from mesh.core.plans import Writes
from mesh.core.registers import Registers, each_shows, set_field, unflatten
from mesh.core.update_reader import Id
from mesh.core.updates import Brought, Fields, fields_of

MAX_DOCUMENTS = 1024
"""Documents that are kept loaded: about 10 kB each."""

MAX_BYTES = 2 << 20
"""The states of all that are kept loaded."""

MAX_KEPT_BYTES = 1 << 14
"""The largest state of one."""

ONE_IN = 4
"""Where there is no room, one in so many of those that were not kept before takes the place of another: more
documents in turn than there is room for would drive each other out for nothing."""

_SMALL_BYTES = 1 << 16
"""Larger states are left to the library, which reads them faster."""

_FEW_OVERWRITTEN = 64
"""A state with more items than that beside those that stand is written under a client id per key."""

_FEW_DELETED = 64
"""Deletions of more in a row are left to the library."""


class Live:
    """One document that is loaded.

    Args:
        update: its state.
        fields: what that reads as.

    Attributes:
        update: its state, with all changes so far.
        kept: whether it has been in use before.
        registers: its root map; not to be changed.
    """

    __slots__ = (
        "_apart",
        "_changes",
        "_clocks",
        "_doc",
        "_elements",
        "_holders",
        "_removed",
        "_shown",
        "_structs",
        "kept",
        "registers",
        "update",
    )

    def __init__(self, update: bytes, fields: Fields) -> None:
        self.update = update
        self.kept = False
        self.registers: Registers = fields.registers
        self._elements = fields.elements
        self._holders = {element: key for key, element in fields.elements.items()}
        self._removed = fields.removed
        self._clocks = fields.clocks
        self._structs = fields.structs  # at most: runs of overwritten values become one
        self._apart = False
        self._changes = 0  # so far: one alone is not worth preparing for others
        self._shown: dict[str, Any] | None = None  # the fields, if each register is one
        self._doc: pycrdt.Doc[Any] | None = None

    def fields(self) -> dict[str, Any]:
        """What the document reads as, to be kept."""
        if self._shown is None:
            fields = unflatten(self.registers)
            if self._changes > 1 and each_shows(self.registers):
                self._shown = _copied(fields)
        else:
            fields = self._shown
        return {key: value if type(value) in _SCALARS else _copied(value) for key, value in fields.items()}

    def write(self, writes: Writes, client_id: int) -> bytes | None:
        """Carry out local writes under ``client_id``; what is new in the state.

        ``None``: it takes the library; nothing has changed.
        """
        if not self._removed.isdisjoint(writes.sets):
            return None
        apart = self._is_apart()
        delta = Delta(ROOT_NAME, self._clocks)
        written: list[tuple[str, int, Any]] = []
        for key in writes.removes & self._elements.keys():
            delta.delete(self._elements[key])
        for key, value in writes.sets.items():
            client = unspent(client_for(client_id, key) if apart else client_id, self._clocks)
            delta.set(client, key, value, self._elements.get(key))
            written.append((key, client, value))
        update = delta.encode()
        for key in writes.removes & self._elements.keys():
            self._remove(key)
        for key, client, value in written:
            clock = self._clocks.get(client, 0)
            self._set(key, (client, clock), value)
            self._clocks[client] = clock + 1
        self._apply(update)
        return update

    def take(self, update: bytes, brought: Brought) -> bool:
        """Apply ``update``, which has been read, from somebody else.

        Returns:
            ``False`` if it takes the library to tell what becomes of it: this is of no use any more.
        """
        clocks = self._clocks
        if not brought.simple or any(
            start != clocks.get(client, 0) for client, (start, _) in brought.ranges.items()
        ):
            return False
        for element, value in brought.values.items():
            above = brought.above[element]
            key = above if isinstance(above, str) else self._holders.get(above)
            if not key:
                return False
            if key is above and (key in self._elements or key in self._removed):
                return False
            self._set(key, element, value)
        for client, (_, end) in brought.ranges.items():
            clocks[client] = end
        for client, start, end in brought.deletions:
            if end > clocks.get(client, 0) or end - start > _FEW_DELETED:
                return False
            for clock in range(start, end):
                held = self._holders.get((client, clock))
                if held is not None:
                    self._remove(held)
        self._apply(update)
        return True

    def _set(self, key: str, element: Id, value: Any) -> None:
        before = self._elements.get(key)
        if before is not None:
            del self._holders[before]
        else:
            self._shown = None
        self._elements[key] = element
        self._holders[element] = key
        self.registers[key] = value
        self._structs += 1
        if self._shown is not None:
            set_field(self._shown, key, value)

    def _remove(self, key: str) -> None:
        del self._holders[self._elements.pop(key)]
        del self.registers[key]
        self._removed.add(key)
        self._shown = None

    def _apply(self, update: bytes) -> None:
        self._changes += 1
        doc = self._doc
        if doc is None:
            doc = self._doc = pycrdt.Doc()
            with doc.transaction():
                apply_update(doc, self.update)
                apply_update(doc, update)
        else:
            apply_update(doc, update)
        self.update = doc.get_update()

    def _is_apart(self) -> bool:
        """Whether the keys are written under client ids of their own, from now on."""
        if not self._apart and self._structs - len(self._elements) > _FEW_OVERWRITTEN:
            counted = fields_of(self.update, ROOT_NAME)
            if counted is not None:
                self._structs = counted.structs
            self._apart = counted is None or counted.structs - len(self._elements) > _FEW_OVERWRITTEN
        return self._apart


class LiveDocuments:
    """The documents that were changed last, by their exact states: a state that was changed in any other way
    is not found.

    One that is in use is taken out, so that a failure leaves nothing half done.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Live] = OrderedDict()
        self._bytes = 0
        self._missed = 0

    def take(self, update: bytes) -> Live | None:
        """The document whose state is ``update``; ``None`` if it takes the library to read it.

        Raises:
            InvalidDocument: it is malformed.
        """
        live = self._kept.pop(update, None)
        if live is not None:
            self._bytes -= len(update)
            return live
        self._missed += 1
        return live_of(update)

    def keep(self, live: Live) -> None:
        """``live`` is not in use any more."""
        size = len(live.update)
        if size > MAX_KEPT_BYTES or live.update in self._kept:
            return
        full = len(self._kept) >= MAX_DOCUMENTS or self._bytes + size > MAX_BYTES
        if full and not live.kept and self._missed % ONE_IN:
            return
        live.kept = True
        self._kept[live.update] = live
        self._bytes += size
        while len(self._kept) > MAX_DOCUMENTS or self._bytes > MAX_BYTES:
            oldest, _ = self._kept.popitem(last=False)
            self._bytes -= len(oldest)

    def clear(self) -> None:
        """Keep none of them."""
        self._kept.clear()
        self._bytes = 0


def live_of(update: bytes) -> Live | None:
    """The document whose state is ``update``; ``None`` if it takes the library to read it.

    Raises:
        InvalidDocument: it is malformed.
    """
    fields = fields_of(update, ROOT_NAME) if len(update) <= _SMALL_BYTES else None
    return None if fields is None else Live(update, fields)


_SCALARS = (str, int, bool, type(None), float)


def _copied(value: Any) -> Any:
    """Whoever is given a document may change it."""
    if type(value) is list:
        return [_copied(item) for item in value]
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value
