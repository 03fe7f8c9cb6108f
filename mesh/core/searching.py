"""How long the CRDT library may search in a document: known from one change to the next, and bounded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from blake3 import blake3

from mesh.core.conflicts import CUT_AT_ONCE, MOVE, PIECES, Conflicts, Cost, longest_text, waits
from mesh.core.items import encode_number
from mesh.core.pieces import check_moves
from mesh.core.places import Order
from mesh.core.update_reader import GC, Id, Item
from mesh.core.updates import Brought, items_of, read_update
from mesh.errors import InvalidDocument

MAX_CONFLICTS = 1 << 20
"""Steps that the library may take, part by part, to find the places of all that is in a document."""

MAX_AT_ONCE = 1 << 19
"""Steps that it may take in whatever order, for a state to be taken at once: some 100 ms."""

_PART = 1 << 16
"""Steps after which a part ends, some 100 ms: nothing else runs in this process while one is taken."""

_FEW = 400
"""Items among which no search is long."""

_MANY = 20_000
"""Items of which the library does not have to move many, whatever they are."""

_ITEM_BYTES = 4
"""An item takes no less."""

_SLOTS = 32


class Known(NamedTuple):
    """What is known of a document.

    Attributes:
        cost: what it costs at most.
        order: where everything was when that was found out, but for what is new.
        tips: the last elements of fields that were always written one over the other.
        new: (client, from, up to, after which place) of the elements that have come since.
        pieces: how many those are at most.
        apart: pieces between the neighbours of those, of which it is not known where they are.
    """

    cost: Cost
    order: Order | None = None
    tips: frozenset[Id] = frozenset()
    new: tuple[tuple[int, int, int, int], ...] = ()
    pieces: int = 0
    apart: int = 0

    def after(self, items: Iterable[Item], deletions: int) -> Known:
        """What is known once these have come, whatever they stand on."""
        known = self._replace(pieces=self.pieces + 2 * deletions)
        known = known._dearer(2 * deletions, 0)
        for item in items:
            known = known._after(item)
        return known

    def _after(self, item: Item) -> Known:
        if item.left in self.tips and item.right is None:
            tips = self.tips - {item.left} | {(item.client, item.end - 1)}
            return self._replace(tips=tips, pieces=self.pieces + PIECES)._dearer(PIECES, 0)
        before, until = self._between(item)
        between = max(0, until - before - 1) if before >= 0 else self.cost.pieces
        new = (*self.new, (item.client, item.clock, item.end, before))
        if self.new and before >= 0 and item.left == (item.client, item.clock - 1):
            client, start, end, place = self.new[-1]
            if (client, end, place) == (item.client, item.clock, before):
                new = (*self.new[:-1], (client, start, item.end, place))
        passed = between + self.apart + self.pieces
        known = self._replace(new=new, pieces=self.pieces + PIECES, apart=self.apart + between)
        return known._dearer(PIECES, passed)

    def _dearer(self, pieces: int, passed: int) -> Known:
        """With so many pieces more, which pass so many others."""
        cost, found = self.cost, min(passed, self.cost.pieces)
        steps = found + pieces * (cost.passing + self.pieces + found) + waits(2, cost.pieces)
        return self._replace(cost=Cost(cost.pieces + pieces, cost.steps + steps, cost.passing))

    def _between(self, item: Item) -> tuple[int, int]:
        """After which place an item comes, and before which; (-1, -1): it is not known."""
        order = self.order
        if order is None:
            return -1, -1
        left = self._place(item.left) if item.left is not None else None
        right = self._place(item.right) if item.right is not None else None
        if left == 0 or right == 0:
            return -1, -1
        if left is None and right is None:
            start, end = order.homes.get((item.parent, item.key), (-1, -1))
            return start - 1 if start > 0 else -1, end
        if left is None:
            assert right is not None
            return order.start(right) - 1, right
        return left, order.end(left) if right is None else right

    def _place(self, element: tuple[int, int]) -> int:
        client, clock = element
        for other, start, end, place in self.new:
            if other == client and start <= clock < end:
                return max(0, place)
        assert self.order is not None
        return self.order.place(element)


_states: list[tuple[bytes, Known] | None] = [None] * _SLOTS  # by the hash of each


def remember(state: bytes, known: Known | None) -> None:
    """Keep what is known of a state, in the place of another one."""
    if known is not None and len(state) > _ITEM_BYTES * _FEW:
        digest = blake3(state).digest()
        _states[digest[0] % _SLOTS] = (digest, known)


def known_of(state: bytes, root: bytes) -> Known:
    """What is known of a state, ``root`` being the name of its root map.

    Raises:
        InvalidDocument: it is malformed.
    """
    if len(state) <= _ITEM_BYTES * _FEW:
        return Known(_at_most(len(state) // _ITEM_BYTES))
    digest = blake3(state).digest()
    there = _states[digest[0] % _SLOTS]
    if there is not None and there[0] == digest:
        return there[1]
    try:
        brought = read_update(state, root)
    except InvalidDocument:  # updates together may be more than one may be
        brought = None
    if brought is not None and brought.registers is not None:
        known = Known(Cost(brought.structs, 0, 0))
    elif brought is not None and brought.structs <= _FEW:
        known = Known(_at_most(brought.structs))
    else:
        items = items_of(state, root)[0]
        fields_only = brought is not None and not brought.rich
        known = (_chains(items) if fields_only else None) or _found(Conflicts(items))
    remember(state, known)
    return known


def _chains(items: list[Item]) -> Known | None:
    """What is known of fields; ``None``: one was written by several at once."""
    ends = {(item.client, item.end - 1) for item in items}
    below: set[object] = {(item.parent, item.key) if item.left is None else item.left for item in items}
    if len(below) < len(items) or any(item.kind == GC or item.right is not None for item in items):
        return None
    over = {item.left for item in items if item.left is not None}
    if not over <= ends:
        return None
    steps = waits(len(items), len({item.client for item in items}))
    return Known(Cost(len(items), steps, 0), tips=frozenset(ends - over))


def _found(conflicts: Conflicts) -> Known:
    cost = conflicts.cost()
    return Known(cost, conflicts.places().order() if cost.steps <= MAX_AT_ONCE else None)


def known_after(held: bytes, update: bytes, brought: Brought, root: bytes) -> Known | None:
    """What is known of the state ``held`` with ``update``, if that can be taken as it is."""
    if (items := (len(held) + len(update)) // _ITEM_BYTES) <= _FEW:
        return Known(_at_most(items))
    known = known_of(held, root)
    if brought.structs + len(brought.deletions) > _FEW:
        return None
    known = known.after(items_of(update, root)[0], len(brought.deletions))
    return known if known.cost.steps <= MAX_AT_ONCE else None


def _at_most(items: int) -> Cost:
    return Cost(PIECES * items, PIECES * items * items // 2, items)


def parts_of(state: bytes, root: bytes, *, limit: int | None = None) -> list[bytes]:
    """The updates, one after the other, that make ``state`` without a long search.

    Args:
        state: a whole document.
        root: the name of its root map.
        limit: steps that the library may take.

    Raises:
        InvalidDocument: it is malformed, takes more, or is in too many pieces.
    """
    read, cuts_long = None, False
    if limit is not None and len(state) > _ITEM_BYTES * _MANY:
        items, deletions = read = items_of(state, root)
        moves = MOVE * check_moves(items, deletions)
        cuts_long = moves + longest_text(items) * 2 * (len(items) + len(deletions)) > CUT_AT_ONCE
    if not cuts_long and known_of(state, root).cost.steps <= MAX_AT_ONCE:
        return [state]
    items, deletions = read or items_of(state, root)
    parts = [_update(state, part) for part in Conflicts(items).parts(_PART, limit)]
    cut = 2 * (longest_text(items) + MOVE * len(items)) + 1  # by one deletion, at both of its ends
    return [*parts, *_removals(deletions, max(1, CUT_AT_ONCE // cut))]


def _removals(deletions: list[tuple[int, int, int]], count: int) -> Iterator[bytes]:
    """The updates that delete, so many ranges at once."""
    for first in range(0, len(deletions), count):
        by: defaultdict[int, list[bytes]] = defaultdict(list)
        for client, start, end in deletions[first : first + count]:
            by[client].append(encode_number(start) + encode_number(end - start))
        written = (
            encode_number(client) + encode_number(len(by[client])) + b"".join(by[client]) for client in by
        )
        yield b"\0" + encode_number(len(by)) + b"".join(written)


def _update(state: bytes, items: list[Item]) -> bytes:
    """The update that is these items of ``state``."""
    by: defaultdict[int, list[Item]] = defaultdict(list)
    for item in items:
        by[item.client].append(item)
    written = [encode_number(len(by))]
    for client in sorted(by, reverse=True):
        these = by[client]
        written += map(encode_number, (len(these), client, these[0].clock))
        written += (state[item.at : item.until] for item in these)
    return b"".join(written) + b"\0"
