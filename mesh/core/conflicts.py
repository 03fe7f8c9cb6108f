"""What concurrent writing costs the CRDT library, and the order in which it costs little.

The library looks for the place of an item step by step: it begins behind the left neighbour that the item
names, and goes on over what stands on that same neighbour, directly or by way of others, up to the right
neighbour. How far that is depends on what is there already. If all that was written at once comes in the
order of its clients, the highest first, an item nearly always stops before the first of the others; the
library has that order only where no item waits for another client's.

So a state in which it might search for long is taken in parts: first what waits for nobody else, then what
waits for that, and so on. Where it searches too long even so, somebody has made it up.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from mesh.core.pieces import cuts_of, inside
from mesh.core.places import Places
from mesh.core.update_reader import GC, STRING, Id, Item
from mesh.core.updates import Incomplete
from mesh.errors import InvalidDocument

PIECES = 3
"""An item is a piece, and cuts one on either side of it."""

CUT_AT_ONCE = 1 << 30
"""Elements of texts behind all the places at which one part cuts them: to move them takes some 100 ms."""

MOVE = 4
"""Elements that it moves in the time in which it moves an item in the row of those of its client."""

_COMPARED = 128
"""Clients that wait for one another, of which the library looks through the list in the time of a step."""


def waits(items: int, clients: int) -> int:
    """The steps that it takes to look through those, where each of so many items may wait for all clients."""
    return items * clients // _COMPARED


class Cost(NamedTuple):
    """What a document costs the library at most.

    Attributes:
        pieces: how many there are.
        steps: to the places of all of them, in whatever order they come.
        passing: items that may pass by one piece.
    """

    pieces: int
    steps: int
    passing: int


def longest_text(items: Iterable[Item]) -> int:
    """The elements of the longest one that a text has in one item."""
    return max((item.length for item in items if item.kind == STRING), default=0)


class Conflicts:
    """The items of a whole document.

    Raises:
        Incomplete: one builds on what is not in it.
    """

    def __init__(self, items: list[Item]) -> None:
        self._items = items = sorted(items)
        self._first: dict[int, int] = {}  # of a client -> its index
        self._clocks: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))
        for index, item in enumerate(items):
            self._first.setdefault(item.client, index)
            self._clocks[item.client].append(item.clock)
        self._left = [self._find(item.left) for item in items]
        self._right = [self._find(item.right) for item in items]
        self._cuts = cuts_of(items)
        self._homes: list[Hashable] = [None] * len(items)  # where it is: in no place, if it was collected
        self._rounds = [0] * len(items)
        self._order = list(self._sorted())

    def _find(self, element: object) -> int:
        """The index of the item that an element is in; -1: there is none to be found."""
        if not isinstance(element, tuple):
            return -1
        client, clock = element
        within = bisect_right(self._clocks.get(client, ()), clock) - 1
        if within < 0 or clock >= self._items[self._first[client] + within].end:
            raise Incomplete("an update that builds on what is not in it")
        return self._first[client] + within

    def _sorted(self) -> Iterator[int]:
        """Every item after those that it waits for; that tells in which round it comes, and where it is."""
        items, rounds = self._items, self._rounds
        reached = bytearray(len(items))
        for begin in range(len(items)):
            waiting = [begin]
            while waiting:
                index = waiting[-1]
                if reached[index] == 2:
                    waiting.pop()
                    continue
                item = items[index]
                left, right = self._left[index], self._right[index]
                near = [other for other in (left, right, self._find(item.parent)) if other >= 0]
                if index and items[index - 1].client == item.client:
                    near.append(index - 1)
                needed = [other for other in near if reached[other] != 2]
                if needed:
                    if reached[index]:
                        raise Incomplete("an item that waits for itself")
                    reached[index] = 1
                    waiting += needed
                    continue
                reached[index] = 2
                waiting.pop()
                for other in near:
                    rounds[index] = max(rounds[index], rounds[other] + (items[other].client != item.client))
                if item.kind != GC:
                    beside = left if left >= 0 else right
                    self._homes[index] = self._homes[beside] if beside >= 0 else (item.parent, item.key)
                yield index

    # --- in whatever order ------------------------------------------------------------------------

    def cost(self) -> Cost:
        """What they cost at most, whatever the order in which they come.

        Whoever writes alone never makes the library go far: each item goes before the last one that was put
        after that neighbour, and those form a chain. Where there are several chains on one neighbour, an item
        of one may pass by all that stands on the others.
        """
        first: defaultdict[Hashable, list[int]] = defaultdict(list)
        behind: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index in self._order:
            item = self._items[index]
            if item.left is not None:
                behind[self._left[index]][item.left[1]].append(index)
            elif self._homes[index] is not None:
                first[self._homes[index]].append(index)
        steps = pieces = 0
        weights = [0] * len(self._items)  # of what stands on an item, with it
        passing = [0] * len(self._items)
        for index in reversed(self._order):
            item = self._items[index]
            cuts = inside(item, self._cuts)
            pieces += 1 + len(cuts)
            weight, end = 0, item.end
            on: dict[int, list[int]] = behind.get(index, {})
            for clock in sorted(on, reverse=True):
                weight += bisect_left(cuts, end) - bisect_left(cuts, clock + 1)
                end = clock + 1
                steps += self._steps(on[clock], weights, passing, weight if end < item.end else 0)
                weight += sum(weights[other] for other in on[clock])
            weights[index] = weight + 1 + bisect_left(cuts, end)
        steps += sum(self._steps(those, weights, passing, 0) for those in first.values())
        most = 0
        for index in self._order:  # what passes by an item passes by all that stands on it
            if (left := self._left[index]) >= 0:
                passing[index] += passing[left]
            most = max(most, passing[index])
        steps += waits(len(self._items), min(len(self._first), max(self._rounds, default=0)))
        return Cost(pieces, steps, most)

    def _steps(self, those: list[int], weights: list[int], passing: list[int], rest: int) -> int:
        """The steps to the places of those that stand on one element; ``rest`` is the weight of what goes on
        after it, if the element is within an item."""
        if len(those) + bool(rest) < 2:
            return 0
        items = self._items
        beyond: dict[Id | None, tuple[int, int]] = {}  # up to where an item is put: their weight, how many
        later: defaultdict[Id | None, tuple[int, int]] = defaultdict(lambda: (0, 0))  # put before it, later
        if rest and (left := items[those[0]].left) is not None:
            beyond[left[0], left[1] + 1] = (rest, 1)
        for index in those:
            item = items[index]
            weight, many = beyond.get(item.right, (0, 0))
            beyond[item.client, item.clock] = (weight + weights[index], many + 1)
        for index in reversed(those):
            item = items[index]
            weight, many = later[item.right]
            own, more = later[item.client, item.clock]
            later[item.right] = (weight + own + weights[index], many + more + 1)
        total, steps = rest + sum(weights[index] for index in those), 0
        for index in those:
            name = (items[index].client, items[index].clock)
            steps += total - beyond[name][0] - later[name][0]
            passing[index] = len(those) + bool(rest) - beyond[name][1] - later[name][1]
        return steps

    # --- in rounds --------------------------------------------------------------------------------

    def places(self) -> Places:
        """Where their pieces are, once all have come."""
        places = Places(self._items, self._cuts)
        for index in self._in_rounds():
            places.take(index, self._homes[index])
        return places

    def parts(self, steps: int, limit: int | None) -> Iterator[list[Item]]:
        """The items, so that the library searches little if it takes one part after the other.

        Args:
            steps: that a part may take before it ends; a round ends it, but for the few items that may come
                in any order, and so do too many cuts.
            limit: those that all may take.

        Raises:
            InvalidDocument: they take more.
        """
        places = Places(self._items, self._cuts)
        before, cut, part, last = 0, 0, list[Item](), 0
        for index in self._in_rounds():
            apart = self._rounds[index] != last and len(part) * len(self._items) > steps
            cut += self._behind(index)
            if part and (apart or places.steps - before > steps or cut > CUT_AT_ONCE):
                yield part
                part, before, cut = [], places.steps, self._behind(index)
            part.append(self._items[index])
            last = self._rounds[index]
            places.take(index, self._homes[index])
            if limit is not None and places.steps > limit:
                raise InvalidDocument(
                    f"too much that was written at once in one place: more than {limit} steps to its order"
                )
        yield part

    def _behind(self, index: int) -> int:
        """The elements of texts that are behind the places at which an item cuts others, and what the library
        moves besides to cut them."""
        item, behind = self._items[index], 0
        left, right = (self._left[index], item.left, 1), (self._right[index], item.right, 0)
        for other, element, after in (left, right):
            if element is None or other < 0:
                continue
            whole, cut = self._items[other], element[1] + after
            if whole.clock < cut < whole.end:
                behind += MOVE * len(self._items) + (whole.end - cut if whole.kind == STRING else 0)
        return behind

    def _in_rounds(self) -> list[int]:
        rounds, items = self._rounds, self._items
        return sorted(range(len(items)), key=lambda index: (rounds[index], -items[index].client, index))
