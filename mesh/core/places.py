"""The places of items, found as the CRDT library finds them."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from mesh.core.pieces import inside
from mesh.core.update_reader import Id, Item

_WALK = 16
"""Items of a field that the library passes by on its way to the first one, in the time of a step."""


class Places:
    """Finds the places of the items of a document, each cut where it will ever be cut.

    Attributes:
        steps: those so far.
    """

    def __init__(self, items: Sequence[Item], cuts: Mapping[int, Sequence[int]]) -> None:
        self.steps = 0
        self._items = items
        self._pieces: list[range] = []  # of each item
        self._clocks: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))  # where each begins
        self._first: dict[int, int] = {}  # of a client
        self._clients: list[int] = []
        for item in items:
            within = inside(item, cuts)
            count = len(self._clients)
            self._first.setdefault(item.client, count)
            self._clocks[item.client].extend((item.clock, *within))
            self._pieces.append(range(count, count + 1 + len(within)))
            self._clients += [item.client] * (1 + len(within))
        count = len(self._clients)
        self._left = list(range(-1, count - 1))
        self._right = [-1] * count
        self._next = [-1] * count
        for item, own in zip(items, self._pieces, strict=True):
            self._left[own[0]] = self._at(item.left)
            right = self._at(item.right)
            for piece in own:
                self._right[piece] = right
        self._heads: dict[Hashable, int] = {}
        self._counts: Counter[Hashable] = Counter()

    def _at(self, element: Id | None) -> int:
        if element is None:
            return -1
        client, clock = element
        return self._first[client] + bisect_right(self._clocks[client], clock) - 1

    def take(self, index: int, home: Hashable) -> None:
        """Put an item, whose neighbours have theirs, in its place, within ``home``; ``None``: it has none."""
        if home is None:
            return
        own = self._pieces[index]
        before = self._find(own[0], home)
        if self._items[index].key is not None and self._left[own[0]] < 0:
            self.steps += self._counts[home] // _WALK
        self._counts[home] += len(own)
        for piece in own:
            if before < 0:
                self._next[piece], self._heads[home] = self._heads.get(home, -1), piece
            else:
                self._next[piece], self._next[before] = self._next[before], piece
            before = piece

    def _find(self, piece: int, home: Hashable) -> int:
        """The piece that this one comes after; -1: it is the first."""
        lefts, rights, clients, following = self._left, self._right, self._clients, self._next
        left, right, client = lefts[piece], rights[piece], clients[piece]
        other = following[left] if left >= 0 else self._heads.get(home, -1)
        after = left
        passed: set[int] = set()
        since: set[int] = set()  # the last one that it surely comes after
        while other >= 0 and other != right:
            passed.add(other)
            since.add(other)
            if lefts[other] == left:
                if clients[other] < client:
                    after = other
                    since.clear()
                elif rights[other] == right:
                    break
            elif lefts[other] not in passed:
                break
            elif lefts[other] not in since:
                after = other
                since.clear()
            other = following[other]
        self.steps += len(passed)
        return after

    def order(self) -> Order:
        """Where each piece is."""
        at = array("I", bytes(4 * len(self._next)))
        homes: dict[Hashable, tuple[int, int]] = {}
        count = 1
        for home, piece in self._heads.items():
            start = count
            while piece >= 0:
                at[piece] = count
                count += 1
                piece = self._next[piece]
            homes[home] = (start, count)
            count += 1
        ends = array("I", (end for _, end in homes.values()))
        return Order(self._clocks, self._first, at, homes, ends)


class Order(NamedTuple):
    """The order of all pieces of a document.

    Attributes:
        clocks: where the pieces of each client begin.
        first: the index of the first of them.
        at: the place of each; 0: none.
        homes: from and up to where the pieces of each sequence are.
        ends: up to where, in order.
    """

    clocks: Mapping[int, Sequence[int]]
    first: Mapping[int, int]
    at: Sequence[int]
    homes: Mapping[Hashable, tuple[int, int]]
    ends: Sequence[int]

    def place(self, element: Id) -> int:
        """The place of an element; 0: none is known."""
        client, clock = element
        within = bisect_right(self.clocks.get(client, ()), clock) - 1
        return self.at[self.first[client] + within] if within >= 0 else 0

    def start(self, place: int) -> int:
        """Where the sequence begins that a place is in."""
        before = bisect_right(self.ends, place)
        return self.ends[before - 1] + 1 if before else 1

    def end(self, place: int) -> int:
        """Up to where it goes."""
        return self.ends[bisect_right(self.ends, place)]
