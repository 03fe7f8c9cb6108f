"""Interest: sets of entries, which say what documents somebody wants to be kept up to date with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from blake3 import blake3

from mesh.core.access import ALL, Only, permits
from mesh.core.selector import MAX_SELECTOR_BYTES, Matcher, compile_selector
from mesh.core.wire import InterestEntry
from mesh.errors import InvalidSelector

EVERYTHING = InterestEntry("*")
"""Every collection, whole: what a hub wants."""

MAX_ENTRIES = 64
"""Selectors per collection and link; beyond them the whole collection is synced."""

MAX_BYTES = 96 * 1024
"""All selectors of a set, as JSON; while they are more, the collection with most of them is synced whole."""

MAX_INTEREST_ENTRIES = 16_384
"""Entries that one node wants; beyond them it wants everything. More in one message are a violation."""

MAX_INTEREST_BYTES = 64 << 20
"""Memory for the entries of all origins that one peer speaks for, and apart from that for those of the
catch-ups that it has open."""

_ENTRY_BYTES = 200

_DECODED = 12
"""How much more memory a selector takes than JSON: at worst, of many short fields."""

MAX_COMPILED_BYTES = 512 << 10
"""Selectors that are kept compiled, which takes up to fifty times as much: interest changes little by little,
and is put together anew each time."""

_CACHED = 8192
"""Digests that are kept, those of short selectors."""

_SHORT_BYTES = 256

_encode = msgspec.json.Encoder(order="sorted").encode


def entry_digest(entry: InterestEntry) -> bytes:
    """16 bytes that name an entry."""
    return _named(entry.collection, _selector(entry))


def _selector(entry: InterestEntry) -> bytes:
    """As JSON; empty where all of the collection is wanted."""
    return _encode(entry.selector) if entry.selector else b""


def _named(collection: str, selector: bytes) -> bytes:
    digest = _short_digest if len(selector) <= _SHORT_BYTES else _digest
    return digest(collection, selector or b"{}")


def _digest(collection: str, selector: bytes) -> bytes:
    return blake3(_encode([collection, msgspec.Raw(selector)])).digest(length=16)


_short_digest = lru_cache(_CACHED)(_digest)


class _Compiled:
    """Selectors that were needed of late, compiled, in two generations.

    Safe on any thread: should two count at once, a generation lasts a little longer.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, Matcher] = {}
        self._old: dict[bytes, Matcher] = {}
        self._bytes = 0

    def __call__(self, selector: bytes) -> Matcher:
        """
        Raises:
            InvalidSelector: it cannot be.
        """
        found = self._young.get(selector)
        if found is not None:
            return found
        found = self._old.get(selector) or compile_selector(msgspec.json.decode(selector))
        if self._bytes + len(selector) > MAX_COMPILED_BYTES // 2:
            self._old, self._young, self._bytes = self._young, {}, 0
        self._young[selector] = found
        self._bytes += len(selector)
        return found


_compiled = _Compiled()


def entry_bytes(entry: InterestEntry) -> int:
    """What an entry takes in memory, about."""
    return _taken(entry.collection, _selector(entry))


def _taken(collection: str, selector: bytes) -> int:
    return _ENTRY_BYTES + len(collection) + _DECODED * len(selector)


class InterestSet:
    """Entries, ready for matching. Immutable.

    Attributes:
        size_bytes: what they take in memory, about.
        only: no other collections are wanted, whatever the entries say.
    """

    def __init__(self, entries: Iterable[InterestEntry] = (), only: Only = ALL) -> None:
        """
        Raises:
            InvalidSelector: one is too large, or cannot be.
        """
        self.only = only
        by_digest: dict[bytes, InterestEntry] = {}
        selectors: dict[bytes, bytes] = {}  # those that are not empty
        whole: set[str] = set()
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for entry in entries:
            selector = _selector(entry)
            size = len(selector)
            if size > MAX_SELECTOR_BYTES:
                raise InvalidSelector(f"{size} bytes as JSON, over the limit of {MAX_SELECTOR_BYTES}")
            digest = _named(entry.collection, selector)
            if digest in by_digest or (only and not permits(only, entry.collection)):
                continue
            by_digest[digest] = entry
            counts[entry.collection] = counts.get(entry.collection, 0) + 1
            sizes[entry.collection] = sizes.get(entry.collection, 0) + size
            if selector:
                selectors[digest] = selector
            else:
                whole.add(entry.collection)
        whole |= {collection for collection, count in counts.items() if count > MAX_ENTRIES}
        selected = [(size, collection) for collection, size in sizes.items() if collection not in whole]
        total = sum(size for size, _ in selected)
        for size, collection in sorted(selected, reverse=True):
            if total <= MAX_BYTES:
                break
            whole.add(collection)
            total -= size
        if whole:
            by_digest = {d: e for d, e in by_digest.items() if e.collection not in whole}
            by_digest.update((entry_digest(e), e) for e in map(InterestEntry, sorted(whole)))
        self.everything = EVERYTHING.collection in whole or len(by_digest) > MAX_INTEREST_ENTRIES
        if self.everything:
            by_digest = {entry_digest(EVERYTHING): EVERYTHING}
            whole = set()
        self._by_digest = by_digest
        self._whole = whole
        self.size_bytes = 0
        self._selectors: dict[str, list[bytes]] = {}
        for digest, entry in by_digest.items():
            selector = selectors.get(digest, b"")
            self.size_bytes += _taken(entry.collection, selector)
            if selector:
                _compiled(selector)  # or it cannot be
                self._selectors.setdefault(entry.collection, []).append(selector)
        self._matchers: dict[str, list[Matcher]] = {}  # of collections that something was matched in

    @property
    def entries(self) -> dict[bytes, InterestEntry]:
        """The entries by their digests."""
        return self._by_digest

    @property
    def collections(self) -> set[str]:
        """The collections that any entry is about; none are named where it is about everything."""
        return self._whole | self._selectors.keys()

    def __contains__(self, collection: str) -> bool:
        if self.everything:
            return not self.only or permits(self.only, collection)
        return collection in self._whole or collection in self._selectors

    @property
    def selective(self) -> bool:
        """Whether only part of any collection is wanted."""
        return bool(self._selectors)

    def partial(self, collection: str) -> bool:
        """Whether only part of a collection is wanted."""
        return collection in self._selectors

    def matches(self, collection: str, fields: Mapping[str, Any] | None) -> bool:
        """Whether a document is wanted; a removed one (``None``) matches every selector."""
        if self.everything:
            return not self.only or permits(self.only, collection)
        if collection in self._whole:
            return True
        selectors = self._selectors.get(collection)
        if selectors is None or fields is None:
            return selectors is not None
        matchers = self._matchers.get(collection)
        if matchers is None:
            matchers = self._matchers[collection] = [_compiled(selector) for selector in selectors]
        return any(match(fields) for match in matchers)

    def narrowed(self, only: Only) -> InterestSet:
        """The same of fewer collections."""
        return InterestSet(self._by_digest.values(), only) if only else self

    def covers(self, entry: InterestEntry) -> bool:
        """Whether an entry asks for nothing that this set does not."""
        return self.everything or entry.collection in self._whole or entry_digest(entry) in self._by_digest
