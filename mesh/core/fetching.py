"""One fetch, decided: which chunk to ask of whom, what to take back, when to look again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from mesh.core.chunks import ChunkMap, chunk_length
from mesh.core.picking import LIST, Picker, Shuffles, Source
from mesh.core.rates import WINDOW_SECONDS
from mesh.core.tokens import CHUNK_BYTES

SILENCE = 15.0
"""Seconds without a chunk after which others are asked for what a source was asked for."""

ENDGAME_AFTER = 1.0
"""Seconds after which an idle source is asked for what another one was asked for."""

LIE_PAUSE = 10.0
MAX_LIE_PAUSE = 3600.0
"""Seconds for which a source that sent wrong bytes is not asked; every further lie doubles them."""


class Gate(Protocol):
    """Says whether more may be asked for now, whoever it is asked of having room; who was refused is woken by
    :meth:`FetchPlan.tick` when there is a point in asking again."""

    def __call__(self, peer: str, size: int) -> bool: ...


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


class FetchPlan:
    """The state machine of one fetch. Every event returns what to do about it, in order.

    Invariants, true after every event:

    1. A chunk is asked of a peer only if it is missing here, and the peer says it holds it and is not
       dropped.
    2. No chunk is asked twice of one peer at once.
    3. What is asked of a peer and outstanding fits its window at the time of asking.
    4. A chunk is asked of a second peer only if the first is silent, or if it was asked for
       ``ENDGAME_AFTER`` ago, did not begin to come, and the second peer has nothing else to do: then it is
       taken from the first, which has others to send. In the endgame, when every missing chunk is asked
       for, the last one of a peer is asked of both.
    5. Once a chunk is here, every other outstanding request for it has been cancelled.
    6. A peer that sent bytes that do not verify is dropped: not asked for ``LIE_PAUSE``, doubled with every
       further lie, or until its link was lost. It may have healed, and a liar costs a chunk each time.
    7. While a peer that is not silent holds a missing chunk that nobody was asked for, some such peer is not
       hungry (its window is nearly full), the chunk list is missing, or the gate is closed.
    8. Before the chunk list is known nothing but the list is asked for.
    """

    def __init__(
        self,
        size_bytes: int,
        held: ChunkMap,
        *,
        list_known: bool,
        random: Shuffles,
        now: float,
        gate: Gate = lambda peer, size: True,
    ) -> None:
        """``held`` is copied: the plan learns of chunks through :meth:`arrived` only."""
        self.held = held.copy()
        self.list_known = list_known
        self.now = now
        self._size = size_bytes
        self._gate = gate
        self._picker = Picker(size_bytes, self.held, random)
        self._sources = self._picker.sources
        self._asked = self._picker.asked
        self._dropped: dict[str, _Dropped] = {}
        self._lies: dict[str, int] = {}

    # --- events ---------------------------------------------------------------------------------

    def holder(self, peer: str, have: ChunkMap | None, now: float) -> list[Action]:
        """``peer`` says that it holds everything (``None``) or the chunks in ``have``."""
        have = have.copy() if have is not None else None
        dropped = self._dropped.get(peer)
        if dropped is not None:
            dropped.have = have
        else:
            self._picker.set_holder(peer, have, now)
        return self._evaluate(now)

    def gone(self, peer: str, now: float) -> list[Action]:
        """``peer`` can no longer be reached; what it was asked for will not come."""
        self._dropped.pop(peer, None)
        self._picker.remove(peer)
        return self._evaluate(now)

    def lost(self, peer: str, now: float) -> list[Action]:
        """The connection that carried ``peer``'s chunks broke: what it was asked for will not come."""
        source = self._sources.get(peer)
        if source is not None:
            for index in list(source.requested):
                self._picker.withdraw(source, index)
                self._picker.reopen(index)
            source.silent, source.probe_at = True, now + min(SILENCE, 0.5 * 2**source.losses)
            source.losses += 1
        return self._evaluate(now)

    def arrived(self, peer: str, index: int, now: float) -> list[Action]:
        """Chunk ``index`` (or the list) came from ``peer``, was verified and is kept."""
        source = self._sources.get(peer)
        if source is not None:
            source.delivered(self._picker.bytes_of(index), now)
            self._picker.withdraw(source, index)
        if index == LIST:
            self.list_known = True
        elif not self.held.add(index):
            return self._evaluate(now)
        actions: list[Action] = []
        for other in list(self._asked.get(index, ())):
            self._picker.withdraw(other, index)
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
            self._picker.remove(peer)
        return actions + self._evaluate(now)

    def refused(self, peer: str, index: int, now: float) -> list[Action]:
        """``peer`` cannot serve chunk ``index`` (or the list) after all."""
        source = self._sources.get(peer)
        if source is not None:
            self._picker.withdraw(source, index)
            source.heard, source.refused = now, True
            if index == LIST:
                source.has_list = False
            else:
                self._picker.holds_not(source, index)
        return self._evaluate(now)

    def alive(self, peer: str, index: int, now: float) -> list[Action]:
        """A part of chunk ``index`` (or of the list) came from ``peer``: slow, but not silent."""
        source = self._sources.get(peer)
        if source is not None:
            source.heard, source.silent, source.begun = now, False, index
            if index != LIST:
                source.came = now
        return self._evaluate(now)

    def give_way(self, now: float) -> list[Action]:
        """Something more urgent is under way: take back what has not come, as the gate is closed."""
        actions: list[Action] = []
        for source in self._sources.values():
            for index in [index for index in source.requested if index != LIST]:
                self._picker.withdraw(source, index)
                self._picker.reopen(index)
                actions.append(Cancel(source.peer, index))
        return actions + self._evaluate(now)

    def missing_again(self, index: int, now: float) -> list[Action]:
        """Chunk ``index``, held until now, turned out not to be what it should."""
        if self.held.remove(index):
            self._picker.reopen(index)
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
        wait = ENDGAME_AFTER if self.list_known else SILENCE
        if any(not source.silent and not source.requested for source in self._sources.values()):
            since = (when for asked in self._sources.values() for when in asked.requested.values())
            times.extend(when + wait for when in since if when + wait > self.now)
        if not any(source.requested for source in self._sources.values()):  # then it stalls
            ends = (source.came + WINDOW_SECONDS for source in self._sources.values())
            times.extend(end for end in ends if end > self.now)
        return min(times, default=None)

    def state(
        self, now: float, held_back: str
    ) -> tuple[Literal["waiting", "stalled", "transferring"], list[str], str | None]:
        """(state, peers that are asked for chunks or sent some lately, why it does not move).

        Args:
            now: the time.
            held_back: why the gate is closed, in case it is. For a moment it often is, or no holder has what
                is missing: that is no stall while bytes came within ``WINDOW_SECONDS``.
        """
        sources = self._sources.values()
        asked = [source for source in sources if source.requested]
        moving = [
            source.peer
            for source in sources
            if (source.requested and not source.silent)
            or (now < source.came + WINDOW_SECONDS and source.holds_any)
        ]
        if moving:
            return "transferring", moving, None
        if asked:
            peers = [source.peer for source in asked]
            seconds = now - max(source.heard for source in asked)
            return "stalled", peers, f"nothing came for {seconds:.0f} s from {', '.join(peers)}"
        if self.list_known and any(
            not source.silent and self._picker.pick(source) is not None for source in sources
        ):
            return "stalled", [], held_back
        holders = [source for source in sources if source.holds_any]
        refused = sorted(source.peer for source in holders if source.refused)
        if refused and len(refused) == len(holders):
            return (
                "waiting",
                [],
                "the length or the chunk list of what they hold is not as the token says, or it is there "
                f"no more: {', '.join(refused)}",
            )
        if any(source.holds(LIST) for source in sources):
            return "stalled", [], "the holders known now hold none of the missing chunks, or do not answer"
        if self._dropped:
            dropped = ", ".join(sorted(self._dropped))
            return "waiting", [], f"dropped for sending wrong bytes, if the token is right: {dropped}"
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
                self._picker.set_holder(peer, dropped.have, now)
                self._sources[peer].window = CHUNK_BYTES  # to see whether it lies again
        for source in self._sources.values():
            if not source.silent and source.requested and now >= source.heard + SILENCE:
                source.silent, source.probe_at = True, now + SILENCE
                for unanswered in source.requested:
                    self._picker.reopen(unanswered)
        lively = [source for source in self._sources.values() if not source.silent]
        if not self.list_known:
            self._ask_for_list(lively, actions)
            return actions
        asking = [source for source in lively if source.is_hungry]
        while asking:
            asking = [source for source in asking if self._ask_next(source, actions)]
        for source in self._probes():
            index = self._picker.pick(source)
            if index is not None and self._gate(source.peer, self._picker.bytes_of(index)):
                source.probe_at = now + SILENCE
                self._ask(source, index, actions)
        for source in lively:
            if not source.requested:
                self._take_over(source, actions)
        return actions

    def _probes(self) -> list[Source]:
        """Silent sources that are not asked for anything: now and then they get another chance, in turn."""
        idle = [
            source
            for source in self._sources.values()
            if source.silent and not source.requested and self.now >= source.probe_at
        ]
        return sorted(idle, key=lambda source: source.probe_at)

    def _ask_for_list(self, lively: list[Source], actions: list[Action]) -> None:
        asked = self._asked.get(LIST, [])
        if any(not source.silent and self.now < source.requested[LIST] + SILENCE for source in asked):
            return
        for source in lively + self._probes():
            if source.holds(LIST) and LIST not in source.requested:
                for silent in [other for other in asked if other.silent]:
                    self._picker.withdraw(silent, LIST)
                    actions.append(Cancel(silent.peer, LIST))
                source.probe_at = self.now + SILENCE
                self._ask(source, LIST, actions)
                return

    def _ask_next(self, source: Source, actions: list[Action]) -> bool:
        if source.in_flight + CHUNK_BYTES > source.window:
            return False
        index = self._picker.pick(source)
        if index is None or not self._gate(source.peer, self._picker.bytes_of(index)):
            return False
        for silent in list(self._asked.get(index, ())):
            self._picker.withdraw(silent, index)
            actions.append(Cancel(silent.peer, index))
        self._ask(source, index, actions)
        return True

    def _take_over(self, source: Source, actions: list[Action]) -> None:
        """``source`` has nothing to do: it gets what another one has not come to yet."""
        endgame = self._all_asked_for()
        late = [
            (len(other.requested) > 1, other.requested[index], index)
            for index, askers in self._asked.items()
            for other in askers
            if len(askers) == 1
            and source.holds(index)
            and other.requested[index] + ENDGAME_AFTER <= self.now
            and (endgame or (len(other.requested) > 1 and other.begun != index))
        ]
        if not late:
            return
        # The last in its queue is the one that the slow source would reach last.
        _, _, index = max(late)
        if not self._gate(source.peer, self._picker.bytes_of(index)):
            return
        (other,) = self._asked[index]
        if len(other.requested) > 1 and other.begun != index:
            self._picker.withdraw(other, index)
            actions.append(Cancel(other.peer, index))
        self._ask(source, index, actions)

    def _ask(self, source: Source, index: int, actions: list[Action]) -> None:
        self._picker.ask(source, index, self.now)
        actions.append(Ask(source.peer, index))

    def _all_asked_for(self) -> bool:
        return self.list_known and len(self.held) + len(self._asked) == self.held.count
