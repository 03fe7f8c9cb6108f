"""Lets uploads go one after another, as :class:`~mesh.core.turns.Turns` decides."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from mesh.core.turns import Turns


class Uplink:
    """The turns of this node's uploads, on the event loop."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._waiting: dict[Hashable, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set_limits(self, node: float | None, link: float | None) -> None:
        """Cap all uploads together, and those to each peer; bytes a second, ``None``: no cap."""
        self._turns.set_limits(node, link, self._now())
        self._let_go()

    @property
    def part_bytes(self) -> int:
        """How much may be sent at once."""
        return self._turns.part_bytes()

    async def turn(self, flow: Hashable, peer: str, priority: int, size: int) -> None:
        """Wait until ``flow`` may send ``size`` bytes."""
        future = self._waiting[flow] = asyncio.get_running_loop().create_future()
        self._turns.wait(flow, peer, priority, size, self._now())
        try:
            self._let_go()
            await future
        finally:
            self._waiting.pop(flow, None)

    def raised(self, flow: Hashable, priority: int) -> None:
        """What ``flow`` is to send next has become more urgent."""
        self._turns.raised(flow, priority)
        if flow in self._waiting:
            self._let_go()

    def adjust(self, flow: Hashable, size: int) -> None:
        """``flow`` sends more than it waited for, or less."""
        self._turns.adjust(flow, size, self._now())

    def sent(self, flow: Hashable, *, ended: bool) -> None:
        """What ``flow`` waited for is sent; ``ended``: and the chunk with it."""
        self._turns.sent(flow, self._now(), ended=ended)

    def idle(self, flow: Hashable) -> None:
        """``flow`` has nothing to send for now."""
        self._turns.idle(flow)
        self._let_go()

    def leave(self, flow: Hashable) -> None:
        """``flow`` has ended."""
        self._turns.leave(flow)
        self._let_go()

    def close(self) -> None:
        """Leave no timer behind; every flow has left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _let_go(self) -> None:
        self.close()
        if not self._waiting:
            return
        flows, wake_at = self._turns.let_go(self._now())
        for flow in flows:
            if (future := self._waiting.get(flow)) is not None and not future.done():
                future.set_result(None)
        if wake_at is not None:
            self._timer = asyncio.get_running_loop().call_at(wake_at, self._let_go)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
