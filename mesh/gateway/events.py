"""Server-sent events: several sources as one stream. It ends with them, with its reader, or the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from mesh.gateway.answers import HEADERS, Part, Streamed, TooMany

KEEPALIVE_SECONDS = 15.0
"""Silence after which a comment is sent, so that whoever vanished is noticed."""

RETRY_MS = 1000
"""After which an ``EventSource`` comes back that was cut off."""

MAX_STREAMS = 512
"""Of one gateway."""


class Encoded(NamedTuple):
    """Data that is JSON already: what is this reader's, then what others are sent as well."""

    own: bytes
    shared: memoryview


Event = tuple[str, Any]
"""Its name, and its data."""


class EventStreams:
    """The event streams of one gateway."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()
        self.open = 0
        """How many there are."""

    def close(self) -> None:
        """End all of them."""
        self._closing.set()

    def response(self, sources: Sequence[AsyncGenerator[Event]]) -> Streamed:
        """Answers with the events of ``sources``.

        The next event of a source is asked for when the last one has been sent: sources merge what a slow
        reader has not taken.

        Raises:
            TooMany: there are so many already.
        """
        if self.open >= MAX_STREAMS:
            raise TooMany(
                f"this gateway has {MAX_STREAMS} event streams, and no room for more: come back later"
            )
        return Streamed(self._sent(sources), 200, {**HEADERS, "content-type": "text/event-stream"})

    async def _sent(self, sources: Sequence[AsyncGenerator[Event]]) -> AsyncGenerator[Part]:
        closing = asyncio.create_task(self._closing.wait())
        waiting: dict[asyncio.Task[Any], AsyncGenerator[Event] | None] = {closing: None}
        for source in sources:
            waiting[_next(source)] = source
        self.open += 1
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            while len(waiting) > 1:
                done, _ = await asyncio.wait(
                    waiting, timeout=KEEPALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if closing in done:
                    for part in _encoded("bye", {}):
                        yield part
                    return
                if not done:
                    yield b": still here\n\n"
                for task in done:
                    ready = waiting.pop(task)
                    assert ready is not None
                    event = task.result()
                    if event is not None:
                        for part in _encoded(*event):
                            yield part
                            del part
                        waiting[_next(ready)] = ready
                    del task, event
                del done  # while nothing happens, nothing is kept of what did
        finally:
            self.open -= 1
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            for source in sources:
                await source.aclose()


def _next(source: AsyncGenerator[Event]) -> asyncio.Task[Event | None]:
    async def following() -> Event | None:
        return await anext(source, None)

    return asyncio.create_task(following())


def _encoded(name: str, data: Any) -> Iterable[Part]:
    own = data.own if isinstance(data, Encoded) else msgspec.json.encode(data)
    yield b"event: " + name.encode() + b"\ndata: " + own
    if isinstance(data, Encoded):
        yield data.shared
    yield b"\n\n"
