"""Whose turn it is to upload, decided: priorities, shares among equals, and caps."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from mesh.core.rates import BURST_SECONDS, MIN_BURST_BYTES, PeerBuckets, TokenBucket
from mesh.core.tokens import CHUNK_BYTES

HOLD_SECONDS = 0.25
"""What has something more urgent to send, and for so long did not get on, holds nobody back any more."""

TURN_SECONDS = 1.0
"""Under a cap a chunk is sent to its end before another one is begun, unless that takes longer than this."""


@dataclass(slots=True)
class _Flow:
    peer: str
    priority: int = 0
    size: int = 0  # bytes that it waits to send
    waits: bool = False
    active: bool = False  # it has something to send, or is sending
    since: float = 0.0  # when it last got on
    arrival: int = 0


class Turns:
    """The state machine of one node's uploads. A flow is a connection; several may lead to one peer.

    Invariants:

    1. A flow is let go only when no flow with something more urgent waits or gets on.
    2. Under a cap for the node, of flows with equal priority the one goes first whose peer was sent least;
       who comes anew starts level with the others. A chunk that was begun goes on for ``TURN_SECONDS``.
    3. What passes keeps to the caps (see :class:`~mesh.core.rates.TokenBucket`), whatever its priority.
    4. A flow that waits is let go at the latest when every other has left.
    """

    def __init__(self) -> None:
        self._flows: dict[Hashable, _Flow] = {}
        self._served: dict[str, float] = {}  # bytes by peer, as far as they matter for shares
        self._level = 0.0  # what the peer had been sent that was let go last
        self._node: TokenBucket | None = None
        self._links = PeerBuckets()
        self._arrivals = 0
        self._turn: tuple[Hashable, float] | None = None  # who has a chunk under way, and since when

    def set_limits(self, node: float | None, link: float | None, now: float) -> None:
        """Cap what all flows together send, and what is sent to each peer; bytes a second."""
        self._node = TokenBucket(node, now) if node is not None else None
        self._links = PeerBuckets(link)

    def part_bytes(self) -> int:
        """How much may be sent at once: under a cap, what passes in a moment."""
        rates = [rate for rate in (self._node and self._node.rate, self._links.rate) if rate]
        if not rates:
            return CHUNK_BYTES
        return min(CHUNK_BYTES, max(MIN_BURST_BYTES, int(min(rates) * BURST_SECONDS)))

    def wait(self, name: Hashable, peer: str, priority: int, size: int, now: float) -> None:
        """A flow has ``size`` bytes to send next."""
        flow = self._flows.get(name)
        if flow is None:
            flow = self._flows[name] = _Flow(peer)
            self._served.setdefault(peer, self._level)
        if not flow.active:
            self._served[peer] = max(self._served[peer], self._level)
        self._arrivals += 1
        flow.arrival, flow.size, flow.since = self._arrivals, size, now
        flow.priority, flow.waits, flow.active = priority, True, True

    def raised(self, name: Hashable, priority: int) -> None:
        """What a flow is to send next has become more urgent."""
        flow = self._flows.get(name)
        if flow is not None and flow.active:
            flow.priority = max(flow.priority, priority)

    def sent(self, name: Hashable, now: float, *, ended: bool) -> None:
        """What a flow was let go with is on its way; ``ended``: and its chunk with it."""
        flow = self._flows.get(name)
        if flow is not None:
            flow.since = now
        if ended and self._turn is not None and self._turn[0] == name:
            self._turn = None

    def adjust(self, name: Hashable, size: int, now: float) -> None:
        """A flow sends ``size`` bytes more than it was let go with (or fewer)."""
        self._take(self._flows[name].peer, size, now)

    def idle(self, name: Hashable) -> None:
        """A flow has nothing to send for now."""
        flow = self._flows.get(name)
        if flow is not None:
            flow.active = flow.waits = False

    def leave(self, name: Hashable) -> None:
        """A flow has ended."""
        flow = self._flows.pop(name, None)
        if flow is not None and all(other.peer != flow.peer for other in self._flows.values()):
            del self._served[flow.peer]
            self._links.forget(flow.peer)
        if self._turn is not None and self._turn[0] == name:
            self._turn = None

    def let_go(self, now: float) -> tuple[list[Hashable], float | None]:
        """(the flows that may send now, when to ask again if nothing happens before)."""
        if self._turn is not None and now >= self._turn[1] + TURN_SECONDS:
            self._turn = None
        waiting = [(name, flow) for name, flow in self._flows.items() if flow.waits]
        goes_on = self._turn[0] if self._turn is not None else None
        waiting.sort(
            key=lambda one: (
                -one[1].priority,
                one[0] != goes_on,
                self._served[one[1].peer] if self._node is not None else 0.0,
                one[1].arrival,
            )
        )
        found: list[Hashable] = []
        wakes: list[float] = []
        for name, flow in waiting:
            held_until = self._held_until(flow, now)
            if held_until is not None:
                wakes.append(held_until)
                break
            link = self._links.of(flow.peer, now)
            if link is not None and (ready := link.ready_at(flow.size, now)) > now:
                wakes.append(ready)  # its own cap: others need not wait for it
                continue
            if self._node is not None and (ready := self._node.ready_at(flow.size, now)) > now:
                wakes.append(ready)
                break
            self._take(flow.peer, flow.size, now)
            self._level = self._served[flow.peer]
            flow.waits, flow.since = False, now
            if self._node is not None and goes_on != name:
                self._turn, goes_on = (name, now), name
            found.append(name)
        return found, min(wakes, default=None)

    def _held_until(self, flow: _Flow, now: float) -> float | None:
        """Until when something more urgent that is being sent holds a flow back."""
        urgent = [
            other.since + HOLD_SECONDS
            for other in self._flows.values()
            if other.active and not other.waits and other.priority > flow.priority
        ]
        latest = max(urgent, default=now)
        return latest if latest > now else None

    def _take(self, peer: str, size: int, now: float) -> None:
        self._served[peer] += size
        if self._node is not None:
            self._node.take(size, now)
        if (link := self._links.of(peer, now)) is not None:
            link.take(size, now)
