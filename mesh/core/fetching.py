"""One fetch, decided: which chunk to ask of whom, what to take back, when to look again."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mesh.core.chunks import ChunkMap, chunk_length
from mesh.core.tokens import CHUNK_BYTES

LIST = -1
"""Stands for the chunk list where otherwise the index of a chunk stands."""

SILENCE = 15.0
"""Seconds without a chunk after which others are asked for what a source was asked for."""

START_WINDOW = 8 * CHUNK_BYTES
MIN_WINDOW = 2 * CHUNK_BYTES
MAX_WINDOW = 32 * CHUNK_BYTES
"""Bytes asked of one source and not yet arrived: starts at 8 MiB, then what it delivers in a second."""

ENDGAME_AFTER = 1.0
"""Seconds after which an idle source is asked for one of the last chunks as well."""

LIE_PAUSE = 10.0
MAX_LIE_PAUSE = 3600.0
"""Seconds for which a source that sent wrong bytes is not asked; every further lie doubles them."""

MAX_SEGMENT_CHUNKS = 16
"""Ties are broken by a random order of segments, runs of up to so many chunks (a 64th of the blob):
neighbours on disk stay neighbours."""

_RATE_INTERVAL = 0.5
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class Shuffles(Protocol):
    """What is used of a ``random.Random``."""

    def shuffle(self, x: list[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask ``peer`` for chunk ``index`` (or for the chunk list, ``LIST``)."""

    peer: str
    index: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Chunk ``index`` is no longer wanted from ``peer``."""

    peer: str
    index: int


Action = Ask | Cancel


@dataclass(slots=True)
class _Dropped:
    """A peer that sent wrong bytes, and what it says it holds."""

    until: float
    have: ChunkMap | None


@dataclass(slots=True)
class _Source:
    peer: str
    have: ChunkMap | None  # None: everything
    heard: float
    heap: list[int] = field(default_factory=list)  # open chunks it may hold, where it holds not all
    requested: dict[int, float] = field(default_factory=dict)  # index -> when
    in_flight: int = 0  # bytes
    window: int = START_WINDOW
    silent: bool = False
    probe_at: float = 0.0
    losses: int = 0
    has_list: bool = True
    measured_from: float = 0.0
    measured_bytes: int = 0

    def holds(self, index: int) -> bool:
        if index == LIST:
            return self.has_list and (self.have is None or bool(self.have))
        return self.have is None or index in self.have


class FetchPlan:
    """The state machine of one fetch. Every event returns what to do about it, in order.

    Invariants, true after every event:

    1. A chunk is asked of a peer only if it is missing here, and the peer says it holds it and is not
       dropped.
    2. No chunk is asked twice of one peer at once.
    3. What is asked of a peer and outstanding fits its window at the time of asking.
    4. A chunk is asked of a second peer only if the first is silent, or in the endgame: every missing chunk
       is asked for, this one for ``ENDGAME_AFTER``, and the second peer has nothing else to do.
    5. Once a chunk is here, every other outstanding request for it has been cancelled.
    6. A peer that sent bytes that do not verify is dropped: not asked for ``LIE_PAUSE``, doubled with every
       further lie, or until its link was lost. It may have healed, and a liar costs a chunk each time.
    7. While a peer that is not silent holds a missing chunk that nobody was asked for, some such peer's
       window is full or the chunk list is missing.
    8. Before the chunk list is known nothing but the list is asked for.

    Rarest first; what is equally rare in order while there is a single source (nobody else could use a
    different order, and the whole-file hash can follow), in a random order of segments otherwise.
    """

    def __init__(
        self, size_bytes: int, held: ChunkMap, *, list_known: bool, random: Shuffles, now: float
    ) -> None:
        """``held`` is copied: the plan learns of chunks through :meth:`arrived` only."""
        self.held = held.copy()
        self.list_known = list_known
        self.now = now
        self._size = size_bytes
        self._random = random
        self._segment = min(MAX_SEGMENT_CHUNKS, 1 + held.count // 64)  # chunks
        self._segments: list[int] = []  # shuffled when the second source appears
        self._sources: dict[str, _Source] = {}
        self._dropped: dict[str, _Dropped] = {}
        self._lies: dict[str, int] = {}
        self._rarity = [0] * held.count  # partial holders of each chunk
        self._common: list[int] = []  # heap of open chunks, for sources that hold everything
        self._asked: dict[int, list[_Source]] = {}  # chunk -> whom it is asked of
        self._rebuild()

    # --- events ---------------------------------------------------------------------------------

    def holder(self, peer: str, have: ChunkMap | None, now: float) -> list[Action]:
        """``peer`` says that it holds everything (``None``) or the chunks in ``have``."""
        have = have.copy() if have is not None else None
        dropped = self._dropped.get(peer)
        if dropped is not None:
            dropped.have = have
        else:
            self._set_holder(peer, have, now)
        return self._evaluate(now)

    def _set_holder(self, peer: str, have: ChunkMap | None, now: float) -> None:
        source = self._sources.get(peer)
        if source is None:
            source = self._sources[peer] = _Source(peer, have, now)
            if len(self._sources) == 2 and not self._segments:
                self._segments = list(range(-(-self.held.count // self._segment)))
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
                if self._is_open(index):
                    heapq.heappush(source.heap, self._key(index))
        source.has_list = True

    def gone(self, peer: str, now: float) -> list[Action]:
        """``peer`` can no longer be reached; what it was asked for will not come."""
        self._dropped.pop(peer, None)
        if self._remove(peer):
            self._rebuild()
        return self._evaluate(now)

    def lost(self, peer: str, now: float) -> list[Action]:
        """The connection that carried ``peer``'s chunks broke: what it was asked for will not come."""
        source = self._sources.get(peer)
        if source is not None:
            for index in list(source.requested):
                self._withdraw(source, index)
                self._reopen(index)
            source.silent, source.probe_at = True, now + min(SILENCE, 0.5 * 2**source.losses)
            source.losses += 1
        return self._evaluate(now)

    def arrived(self, peer: str, index: int, now: float) -> list[Action]:
        """Chunk ``index`` (or the list) came from ``peer``, was verified and is kept."""
        source = self._sources.get(peer)
        if source is not None:
            self._heard(source, index, now)
        if index == LIST:
            self.list_known = True
        elif not self.held.add(index):
            return self._evaluate(now)
        actions: list[Action] = []
        for other in list(self._asked.get(index, ())):
            self._withdraw(other, index)
            actions.append(Cancel(other.peer, index))
        return actions + self._evaluate(now)

    def corrupt(self, peer: str, index: int, now: float) -> list[Action]:
        """What ``peer`` sent as chunk ``index`` (or as the list) does not verify: it is dropped."""
        source = self._sources.get(peer)
        actions: list[Action] = []
        if source is not None:
            lies = self._lies[peer] = self._lies.get(peer, 0) + 1
            pause = min(MAX_LIE_PAUSE, LIE_PAUSE * 2 ** min(lies - 1, 16))
            self._dropped[peer] = _Dropped(now + pause, source.have)
            actions = [Cancel(peer, other) for other in source.requested if other != index]
            self._remove(peer)
            self._rebuild()
        return actions + self._evaluate(now)

    def refused(self, peer: str, index: int, now: float) -> list[Action]:
        """``peer`` cannot serve chunk ``index`` (or the list) after all."""
        source = self._sources.get(peer)
        if source is not None:
            self._withdraw(source, index)
            source.heard = now
            if index == LIST:
                source.has_list = False
            elif source.holds(index):
                if source.have is None:
                    source.have = ChunkMap(self.held.count)
                    for other in range(self.held.count):
                        source.have.add(other)
                source.have.remove(index)
                self._rebuild()
        return self._evaluate(now)

    def alive(self, peer: str, now: float) -> list[Action]:
        """A part of what ``peer`` is asked for came: slow, but not silent."""
        source = self._sources.get(peer)
        if source is not None:
            source.heard, source.silent = now, False
        return self._evaluate(now)

    def missing_again(self, index: int, now: float) -> list[Action]:
        """Chunk ``index``, held until now, turned out not to be what it should."""
        if self.held.remove(index):
            self._reopen(index)
        return self._evaluate(now)

    def tick(self, now: float) -> list[Action]:
        """Time passed."""
        return self._evaluate(now)

    # --- what can be asked of the plan ------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether the list and every chunk is here."""
        return self.list_known and self.held.complete

    @property
    def held_bytes(self) -> int:
        """Bytes of the chunks that are here."""
        last = self.held.count - 1
        short = CHUNK_BYTES - chunk_length(self._size, last) if last in self.held else 0
        return len(self.held) * CHUNK_BYTES - short

    def wants(self, index: int) -> bool:
        """Whether chunk ``index`` (or the list) is still missing."""
        if index == LIST:
            return not self.list_known
        return 0 <= index < self.held.count and index not in self.held

    def requested(self, peer: str) -> frozenset[int]:
        """What ``peer`` is asked for and has not sent."""
        source = self._sources.get(peer)
        return frozenset(source.requested) if source is not None else frozenset()

    def wake_at(self) -> float | None:
        """When :meth:`tick` is due if nothing happens before; ``None``: not at all."""
        times = [dropped.until for dropped in self._dropped.values()]
        for source in self._sources.values():
            if source.silent:
                if source.probe_at > self.now:
                    times.append(source.probe_at)
            elif source.requested:
                times.append(source.heard + SILENCE)
        if self._all_asked_for():
            since = (when for asked in self._sources.values() for when in asked.requested.values())
            times.extend(when + ENDGAME_AFTER for when in since if when + ENDGAME_AFTER > self.now)
        return min(times, default=None)

    def state(self) -> tuple[Literal["waiting", "stalled", "transferring"], list[str], str | None]:
        """(state, peers that are asked for chunks, why it does not move)."""
        asked = [source for source in self._sources.values() if source.requested]
        lively = [source.peer for source in asked if not source.silent]
        if lively:
            return "transferring", lively, None
        if asked:
            peers = [source.peer for source in asked]
            return "stalled", peers, f"nothing came for {SILENCE:g} s from {', '.join(peers)}"
        if any(source.holds(LIST) for source in self._sources.values()):
            return "stalled", [], "the holders known now hold none of the missing chunks, or do not answer"
        if self._dropped:
            return "waiting", [], f"dropped for sending wrong bytes: {', '.join(sorted(self._dropped))}"
        return "waiting", [], None

    # --- the one evaluate step --------------------------------------------------------------------

    def _evaluate(self, now: float) -> list[Action]:
        self.now = now
        actions: list[Action] = []
        if self.complete:
            return actions
        for peer, dropped in list(self._dropped.items()):
            if dropped.until <= now:
                del self._dropped[peer]
                self._set_holder(peer, dropped.have, now)
                self._sources[peer].window = CHUNK_BYTES  # to see whether it lies again
        for source in self._sources.values():
            if not source.silent and source.requested and now >= source.heard + SILENCE:
                source.silent, source.probe_at = True, now + SILENCE
                for unanswered in source.requested:
                    self._reopen(unanswered)
        lively = [source for source in self._sources.values() if not source.silent]
        if not self.list_known:
            self._ask_for_list(lively, actions)
            return actions
        asking = lively
        while asking:
            asking = [source for source in asking if self._ask_next(source, actions)]
        for source in self._probes():
            index = self._pick(source)
            if index is not None:
                source.probe_at = now + SILENCE
                self._ask(source, index, actions)
                self._reopen(index)
        if self._all_asked_for():
            for source in lively:
                if not source.requested:
                    self._ask_in_endgame(source, actions)
        return actions

    def _probes(self) -> list[_Source]:
        """Silent sources that are not asked for anything: now and then they get another chance, in turn."""
        idle = [
            source
            for source in self._sources.values()
            if source.silent and not source.requested and self.now >= source.probe_at
        ]
        return sorted(idle, key=lambda source: source.probe_at)

    def _ask_for_list(self, lively: list[_Source], actions: list[Action]) -> None:
        asked = self._asked.get(LIST, [])
        if any(not source.silent for source in asked):
            return
        for source in lively + self._probes():
            if source.holds(LIST):
                for silent in list(asked):
                    self._withdraw(silent, LIST)
                    actions.append(Cancel(silent.peer, LIST))
                source.probe_at = self.now + SILENCE
                self._ask(source, LIST, actions)
                return

    def _ask_next(self, source: _Source, actions: list[Action]) -> bool:
        if source.in_flight + CHUNK_BYTES > source.window:
            return False
        index = self._pick(source)
        if index is None:
            return False
        for silent in list(self._asked.get(index, ())):
            self._withdraw(silent, index)
            actions.append(Cancel(silent.peer, index))
        self._ask(source, index, actions)
        return True

    def _ask_in_endgame(self, source: _Source, actions: list[Action]) -> None:
        late = [
            (other.requested[index], index)
            for index, askers in self._asked.items()
            for other in askers
            if len(askers) == 1 and source.holds(index) and other.requested[index] + ENDGAME_AFTER <= self.now
        ]
        if late:
            # The last in its queue is the one that the slow source would reach last.
            self._ask(source, max(late)[1], actions)

    def _ask(self, source: _Source, index: int, actions: list[Action]) -> None:
        if not source.requested:
            source.heard = source.measured_from = self.now
            source.measured_bytes = 0
        source.requested[index] = self.now
        source.in_flight += self._bytes(index)
        self._asked.setdefault(index, []).append(source)
        actions.append(Ask(source.peer, index))

    # --- bookkeeping ------------------------------------------------------------------------------

    def _bytes(self, index: int) -> int:
        return 0 if index == LIST else chunk_length(self._size, index)

    def _all_asked_for(self) -> bool:
        return self.list_known and len(self.held) + len(self._asked) == self.held.count

    def _is_open(self, index: int) -> bool:
        """Missing, and not asked of anybody who answers."""
        return index not in self.held and all(source.silent for source in self._asked.get(index, ()))

    def _key(self, index: int) -> int:
        rank = index
        if self._segments:
            segment, offset = divmod(index, self._segment)
            rank = self._segments[segment] * self._segment + offset
        return ((self._rarity[index] << _INDEX_BITS | rank) << _INDEX_BITS) | index

    def _pick(self, source: _Source) -> int | None:
        heap = self._common if source.have is None else source.heap
        while heap:
            key = heap[0]
            index = key & _INDEX_MASK
            if not self._is_open(index) or not source.holds(index):
                heapq.heappop(heap)
            elif key >> 2 * _INDEX_BITS < self._rarity[index]:
                heapq.heapreplace(heap, self._key(index))
            else:
                heapq.heappop(heap)
                return index
        return None

    def _reopen(self, index: int) -> None:
        """``index`` may be asked for again: back into the heaps of those who hold it."""
        if index == LIST or index in self.held:
            return
        key = self._key(index)
        heapq.heappush(self._common, key)
        for source in self._sources.values():
            if source.have is not None and index in source.have:
                heapq.heappush(source.heap, key)

    def _rebuild(self) -> None:
        """Rarities and heaps from scratch, when a source appears or goes, or what it holds shrinks."""
        partial = [source for source in self._sources.values() if source.have is not None]
        self._rarity = [0] * self.held.count
        for source in partial:
            for index in source.have or ():
                self._rarity[index] += 1
        keys = [self._key(index) for index in self.held.missing() if self._is_open(index)]
        keys.sort()
        for source in partial:
            source.heap = [key for key in keys if source.holds(key & _INDEX_MASK)]
        self._common = keys

    def _withdraw(self, source: _Source, index: int) -> None:
        if source.requested.pop(index, None) is None:
            return
        source.in_flight -= self._bytes(index)
        self._asked[index].remove(source)
        if not self._asked[index]:
            del self._asked[index]

    def _remove(self, peer: str) -> bool:
        source = self._sources.pop(peer, None)
        if source is None:
            return False
        for index in list(source.requested):
            self._withdraw(source, index)
        return True

    def _heard(self, source: _Source, index: int, now: float) -> None:
        """``source`` delivered: it is alive, and its window follows what it delivers in a second."""
        source.heard, source.silent, source.losses = now, False, 0
        source.measured_bytes += self._bytes(index)
        elapsed = now - source.measured_from
        if elapsed >= _RATE_INTERVAL:
            rate = source.measured_bytes / elapsed
            source.window = int(min(MAX_WINDOW, max(MIN_WINDOW, (source.window + rate) / 2)))
            source.measured_from, source.measured_bytes = now, 0
        self._withdraw(source, index)
