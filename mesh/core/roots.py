"""Collaborative roots: texts and arrays beside the fields of a document, written by Yjs clients.

The mesh carries them as they are. They are checked against everything that is held of the document, since
an item says only next to which other one it stands; the CRDT library believes it, and never comes back from,
say, reading an array that holds a piece of text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mesh.core.pieces import MAX_JOINING, check_pieces, parts
from mesh.core.typing_texts import BASIC, MAX_APART, Typed, only_types, recall
from mesh.core.update_reader import ANY, DELETED, EMBED, FORMAT, GC, STRING, TYPE, Id, Item
from mesh.core.updates import items_of
from mesh.errors import InvalidDocument

MAX_DEPTH = 32
"""How deeply types may nest in a root."""

_ARRAY, _MAP, _TEXT = 0, 1, 2
_NEUTRAL = frozenset({GC, DELETED, TYPE})
_IN_TEXT = frozenset({STRING, EMBED, FORMAT})


class _Home(NamedTuple):
    """Where an item is: in a root, or in the type that an item holds."""

    parent: str | Id
    key: str | None
    depth: int


_GONE = _Home("", None, -1)
"""Where items are whose parent or neighbour has been collected: in no root, nor in one without a name."""


def check_roots(held: bytes, update: bytes, root: bytes, clocks: Mapping[int, int]) -> Typed | None:
    """Refuse an update to a document with collaborative roots that would harm the CRDT library.

    Args:
        held: the state of the document here.
        update: what has arrived for it, each by itself well formed.
        root: the name of the root map that holds the fields.
        clocks: up to where the items of each client are held.

    Returns:
        What is known then of the document with the update, for the next one.

    Raises:
        InvalidDocument: an item is where it cannot be.
    """
    items, deletions = items_of(update, root)
    typed = recall(held)
    # What stands between two others that follow each other keeps them apart; what does not may only cut.
    pieces = sum(not parts(item) for item in items)
    short = pieces * (len(held) + len(update)) <= MAX_JOINING
    if typed is not None and short and only_types(typed, clocks, items):
        return typed
    structure = _Structure(root.decode())
    structure.add(*items_of(held, root))
    structure.add(items, deletions)
    structure.check()
    return structure.typed()


class _Structure:
    def __init__(self, root: str) -> None:
        self._root = root
        self._items: dict[int, list[Item]] = {}
        self._starts: dict[int, list[int]] = {}
        self._deletions: list[tuple[int, int, int]] = []
        self._splits: set[Id] = set()  # before these elements, something may cut an item in two
        self._continued: list[tuple[Item, Item]] = []  # items that are held in part, and the rest of each
        self._homes: dict[Id, _Home] = {}

    def add(self, items: Iterable[Item], deletions: Sequence[tuple[int, int, int]]) -> None:
        for item in items:
            known = self._items.setdefault(item.client, [])
            starts = self._starts.setdefault(item.client, [])
            end = known[-1].end if known else 0
            if item.clock > end:
                raise InvalidDocument("an update that builds on what is not in it")
            if item.end <= end:
                continue
            if item.left is not None:
                self._splits.add((item.left[0], item.left[1] + 1))
            if item.right is not None:
                self._splits.add(item.right)
            if item.clock < end:
                rest = _rest(item, end)
                self._continued.append((item, rest))
                item = rest
            known.append(item)
            starts.append(item.clock)
        self._deletions += deletions
        for client, start, end in deletions:
            self._splits |= {(client, start), (client, end)}

    def check(self) -> None:
        kinds: dict[str | Id, set[bool]] = {}
        for items in self._items.values():
            for item in items:
                home = self._home(item)
                if home is not _GONE and item.kind not in _NEUTRAL:
                    kinds.setdefault(home.parent, set()).add(item.kind in _IN_TEXT)
                self._check_home(item, home)
        if any(len(found) > 1 for found in kinds.values()):
            raise InvalidDocument("a root that is used as a text and as an array")
        for item, rest in self._continued:
            homes = {self._home(rest), self._known_home(item)}
            if len(homes - {_GONE}) > 1:
                raise InvalidDocument("an item that goes on elsewhere than it began")
        self._check_splits()

    def typed(self) -> Typed | None:
        """What there is to know for :mod:`mesh.core.typing_texts`, if it is a document of that sort."""
        roots: set[str | Id] = set()
        apart: set[tuple[int, int, int]] = set()
        for item in (item for items in self._items.values() for item in items):
            home = self._home(item)
            if home is _GONE or home.parent == self._root:
                apart.add((item.client, item.clock, item.end))
                continue
            roots.add(home.parent)
            if item.kind not in _IN_TEXT and item.kind != DELETED:
                return None
            if item.kind == STRING and max(item.detail, default="") > BASIC:
                return None
        name = roots.pop() if len(roots) == 1 else None
        if not isinstance(name, str) or len(apart) > MAX_APART:
            return None
        return Typed(name, frozenset(apart))

    def _check_home(self, item: Item, home: _Home) -> None:
        if home is _GONE or item.kind == GC:
            return
        if home.parent == self._root:
            fits = home.key is not None and item.right is None
            fits = fits and (item.kind == DELETED or (item.kind == ANY and item.length == 1))
        elif isinstance(home.parent, str):
            fits = home.key is None
        else:
            holder = self._find(home.parent)
            fits = (home.key is not None) == (holder.detail == _MAP)
            if item.kind not in _NEUTRAL:
                fits = fits and (item.kind in _IN_TEXT) == (holder.detail == _TEXT)
        if not fits or home.depth > MAX_DEPTH:
            raise InvalidDocument(f"an item of kind {item.kind} where none can be")

    def _check_splits(self) -> None:
        """A character outside of the basic plane counts as two elements, and cannot be cut in two."""
        for client, clock in self._splits:
            item = self._at(client, clock)
            if item is not None and item.kind == STRING and clock > item.clock and not item.detail.isascii():
                before = item.detail.encode("utf-16-le")[: 2 * (clock - item.clock)]
                if 0xD8 <= before[-1] <= 0xDB:
                    raise InvalidDocument("an item inside of a character")
        check_pieces(self._items, self._splits, self._deletions)

    # --- where things are -------------------------------------------------------------------------

    def _at(self, client: int, clock: int) -> Item | None:
        index = bisect_right(self._starts.get(client, ()), clock) - 1
        item = self._items[client][index] if index >= 0 else None
        return item if item is not None and clock < item.end else None

    def _find(self, element: Id) -> Item:
        item = self._at(*element)
        if item is None:
            raise InvalidDocument("an update that builds on what is not in it")
        return item

    def _home(self, item: Item) -> _Home:
        """Where ``item`` is, found without recursion: chains of neighbours are as long as a text."""
        waiting = [item]
        entered: set[Id] = set()
        while waiting:
            at = waiting[-1]
            name = (at.client, at.clock)
            if name in self._homes:
                waiting.pop()
                continue
            needed = [
                found
                for element in (at.left, at.right, at.parent)
                if isinstance(element, tuple)
                and ((found := self._find(element)).client, found.clock) not in self._homes
            ]
            if needed:
                if name in entered:
                    raise InvalidDocument("an item that stands next to itself")
                entered.add(name)
                waiting += needed
                continue
            self._homes[name] = self._known_home(at)
            waiting.pop()
        return self._homes[item.client, item.clock]

    def _known_home(self, item: Item) -> _Home:
        if item.kind == GC:
            return _GONE
        neighbours = [self._find(element) for element in (item.left, item.right) if element is not None]
        if neighbours:
            homes = {self._homes[near.client, near.clock] for near in neighbours}
            if len(homes) > 1:
                raise InvalidDocument("an item between items of different parents")
            return homes.pop()
        if isinstance(item.parent, tuple):
            holder = self._find(item.parent)
            above = self._homes[holder.client, holder.clock]
            if holder.kind not in (GC, DELETED, TYPE):
                raise InvalidDocument("an item in what is not a type")
            if holder.kind != TYPE or above is _GONE:
                return _GONE
            return _Home(item.parent, item.key, above.depth + 1)
        return _Home(item.parent or "", item.key, 0)


def _rest(item: Item, clock: int) -> Item:
    """What is new of an item that is held up to ``clock``: it goes on after that."""
    detail = item.detail
    if item.kind == STRING:
        try:
            detail = detail.encode("utf-16-le")[2 * (clock - item.clock) :].decode("utf-16-le")
        except UnicodeDecodeError:
            raise InvalidDocument("an item inside of a character") from None
    left = (item.client, clock - 1)
    return item._replace(
        clock=clock, length=item.end - clock, left=left, parent=None, key=None, detail=detail
    )
