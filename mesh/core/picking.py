"""The sources of one fetch, and which chunk to ask of one of them next: the rarest that it holds."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from mesh.core.chunks import ChunkMap, chunk_length
from mesh.core.tokens import CHUNK_BYTES

LIST = -1
"""Stands for the chunk list where otherwise the index of a chunk stands."""

START_WINDOW = 8 * CHUNK_BYTES
MIN_WINDOW = 2 * CHUNK_BYTES
MAX_WINDOW = 32 * CHUNK_BYTES
"""Bytes asked of one source and not yet arrived: starts at 8 MiB, then what it delivers in a second."""

ASK_BYTES = 4 * CHUNK_BYTES
"""A source is asked for more once there is room for so much, or for a quarter of its window: a message for
every chunk would cost more than what it carries."""

MAX_SEGMENT_CHUNKS = 16
"""Ties are broken by a random order of segments, runs of up to so many chunks (a 64th of the blob):
neighbours on disk stay neighbours."""

_RATE_INTERVAL = 0.5
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class Shuffles(Protocol):
    """What is used of a ``random.Random``."""

    def shuffle(self, x: list[int]) -> None: ...


@dataclass(slots=True)
class Source:
    """A peer that holds something of the blob, and what it was asked for."""

    peer: str
    have: ChunkMap | None  # None: everything
    heard: float
    came: float = -inf  # when bytes of chunks came last
    heap: list[int] = field(default_factory=list)  # open chunks it may hold, where it holds not all
    requested: dict[int, float] = field(default_factory=dict)  # index -> when
    in_flight: int = 0  # bytes
    window: int = START_WINDOW
    silent: bool = False
    probe_at: float = 0.0
    losses: int = 0
    has_list: bool = True
    refused: bool = False  # something that it said it holds
    begun: int = LIST  # the chunk of which a part came last
    measured_from: float = 0.0
    measured_bytes: int = 0

    def holds(self, index: int) -> bool:
        """Whether it says so."""
        if index == LIST:
            return self.has_list and self.holds_any
        return self.have is None or index in self.have

    @property
    def holds_any(self) -> bool:
        """Whether it says that it holds anything."""
        return self.have is None or bool(self.have)

    @property
    def is_hungry(self) -> bool:
        """Whether it is time to ask it for more."""
        room = min(ASK_BYTES, max(CHUNK_BYTES, self.window // 4))
        return self.in_flight + room <= self.window

    def delivered(self, size: int, now: float) -> None:
        """It is alive, and its window follows what it delivers in a second."""
        self.heard, self.silent, self.losses = now, False, 0
        if size:
            self.came = now
        self.measured_bytes += size
        elapsed = now - self.measured_from
        if elapsed >= _RATE_INTERVAL:
            rate = self.measured_bytes / elapsed
            self.window = int(min(MAX_WINDOW, max(MIN_WINDOW, (self.window + rate) / 2)))
            self.measured_from, self.measured_bytes = now, 0


class Picker:
    """See the module. A chunk is *open* while it is missing and not asked of anybody who answers.

    Rarest first; what is equally rare in order while there is a single source (nobody else could use a
    different order, and the whole-file hash can follow), in a random order of segments otherwise.

    Attributes:
        sources: by peer.
        asked: of whom each chunk is asked.
    """

    def __init__(self, size_bytes: int, held: ChunkMap, random: Shuffles) -> None:
        """``held``: the chunks that are here; whoever owns it tells of changes by :meth:`reopen` only."""
        self.sources: dict[str, Source] = {}
        self.asked: dict[int, list[Source]] = {}
        self._size = size_bytes
        self._held = held
        self._random = random
        self._segment = min(MAX_SEGMENT_CHUNKS, 1 + held.count // 64)  # chunks
        self._segments: list[int] = []  # shuffled when the second source appears
        self._rarity = [0] * held.count  # partial holders of each chunk
        self._common: list[int] = []  # heap of open chunks, for sources that hold everything

    # --- sources --------------------------------------------------------------------------------

    def set_holder(self, peer: str, have: ChunkMap | None, now: float) -> None:
        """``peer`` holds everything (``None``) or the chunks in ``have``."""
        source = self.sources.get(peer)
        if source is None:
            source = self.sources[peer] = Source(peer, have, now)
            if len(self.sources) == 2 and not self._segments:
                self._segments = list(range(-(-self._held.count // self._segment)))
                self._random.shuffle(self._segments)
            self._rebuild()
        elif have is None or source.have is None or have.new_in(source.have):
            source.have = have
            self._rebuild()
        else:
            fresh = source.have.new_in(have)
            source.have = have
            for index in fresh:
                self._rarity[index] += 1
                if self.is_open(index):
                    heapq.heappush(source.heap, self._key(index))
        source.has_list, source.refused = True, False

    def holds_not(self, source: Source, index: int) -> None:
        """``source`` does not hold a chunk that it said it holds."""
        if not source.holds(index):
            return
        if source.have is None:
            source.have = ChunkMap(self._held.count)
            for other in range(self._held.count):
                source.have.add(other)
        source.have.remove(index)
        self._rebuild()

    def remove(self, peer: str) -> None:
        """``peer`` is no source any more."""
        source = self.sources.pop(peer, None)
        if source is not None:
            for index in list(source.requested):
                self.withdraw(source, index)
            self._rebuild()

    # --- chunks ---------------------------------------------------------------------------------

    def is_open(self, index: int) -> bool:
        """Missing, and not asked of anybody who answers."""
        return index not in self._held and all(source.silent for source in self.asked.get(index, ()))

    def pick(self, source: Source) -> int | None:
        """The next open chunk to ask of ``source``."""
        heap = self._common if source.have is None else source.heap
        while heap:
            key = heap[0]
            index = key & _INDEX_MASK
            if not self.is_open(index) or not source.holds(index):
                heapq.heappop(heap)
            elif key >> 2 * _INDEX_BITS < self._rarity[index]:
                heapq.heapreplace(heap, self._key(index))
            else:
                return index  # it leaves the heap when it is no longer open
        return None

    def reopen(self, index: int) -> None:
        """``index`` may be asked for again: back into the heaps of those who hold it."""
        if index == LIST or index in self._held:
            return
        key = self._key(index)
        heapq.heappush(self._common, key)
        for source in self.sources.values():
            if source.have is not None and index in source.have:
                heapq.heappush(source.heap, key)

    def ask(self, source: Source, index: int, now: float) -> None:
        """``source`` is asked for a chunk (or the list)."""
        if not source.requested:
            source.heard = source.measured_from = now
            source.measured_bytes = 0
        source.requested[index] = now
        source.in_flight += self.bytes_of(index)
        self.asked.setdefault(index, []).append(source)

    def withdraw(self, source: Source, index: int) -> None:
        """``source`` is asked for a chunk no longer."""
        if source.requested.pop(index, None) is None:
            return
        source.in_flight -= self.bytes_of(index)
        self.asked[index].remove(source)
        if not self.asked[index]:
            del self.asked[index]

    def bytes_of(self, index: int) -> int:
        """The length of a chunk; the list counts as nothing."""
        return 0 if index == LIST else chunk_length(self._size, index)

    # --- bookkeeping ----------------------------------------------------------------------------

    def _key(self, index: int) -> int:
        rank = index
        if self._segments:
            segment, offset = divmod(index, self._segment)
            rank = self._segments[segment] * self._segment + offset
        return ((self._rarity[index] << _INDEX_BITS | rank) << _INDEX_BITS) | index

    def _rebuild(self) -> None:
        """Rarities and heaps from scratch, when a source appears or goes, or what it holds shrinks."""
        partial = [source for source in self.sources.values() if source.have is not None]
        self._rarity = [0] * self._held.count
        for source in partial:
            for index in source.have or ():
                self._rarity[index] += 1
        keys = [self._key(index) for index in self._held.missing() if self.is_open(index)]
        keys.sort()
        for source in partial:
            source.heap = [key for key in keys if source.holds(key & _INDEX_MASK)]
        self._common = keys
