"""Links: order, fairness, back-pressure, the heartbeat and how they end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mesh.core.frames import FrameReader, frames_of
from mesh.core.handshake import PeerInfo
from mesh.core.wire import Ack, BlobHave, Goodbye, Hello, Message, Ping, Pong, Proof
from mesh.errors import LinkClosed, ProtocolViolation
from mesh.network.link import FRAME_BYTES, HIGH_WATER_BYTES, MAX_PENDING_BYTES, Link, plain
from mesh.network.memory import MemoryNetwork, Path
from mesh.network.memory_connection import MemoryConnection
from tests.simulation.virtual_clock import virtual

SEED = random.Random(5)


def large(size: int = 1_000_000) -> BlobHave:
    """A message of about ``size`` bytes that does not compress."""
    return BlobHave(bytes(32), SEED.randbytes(size))


def now() -> float:
    return asyncio.get_running_loop().time()


class Ends:
    """A link (of ``a``) and whatever is at the other end (``b``)."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.received: list[Message] = []
        self.deliver: Callable[[Link, Message], Awaitable[None] | None] = self._collect
        self.changed = asyncio.Event()

    def _collect(self, link: Link, message: Message) -> None:
        self.received.append(message)
        self.changed.set()

    async def open(self) -> tuple[Link, MemoryConnection]:
        accepted: asyncio.Queue[Any] = asyncio.Queue()

        async def accept(connection: Any) -> None:
            accepted.put_nowait(connection)
            await asyncio.Event().wait()

        listener = await self.network.transport("b").listen("127.0.0.1:0", accept)
        mine = await self.network.transport("a").dial(listener.address)
        theirs: MemoryConnection = await accepted.get()
        theirs.trust()
        return self.link(mine, "b"), theirs

    def link(self, connection: MemoryConnection, peer: str) -> Link:
        info = PeerInfo(peer * 52, peer.encode() * 32, peer, None, "link", frozenset(), 1)
        link = Link(connection, info, url=None, since=0.0, deliver=lambda x, m: self.deliver(x, m))
        link.start()
        return link

    async def both(self) -> tuple[Link, Link]:
        """Links at both ends. What arrives at ``b``'s end is collected."""
        a, connection = await self.open()
        return a, self.link(connection, "a")

    async def until(self, count: int) -> list[Message]:
        while len(self.received) < count:
            self.changed.clear()
            await self.changed.wait()
        return self.received


def ends(path: Path = Path(), **kwargs: Any) -> Ends:  # noqa: B008
    return Ends(MemoryNetwork(random.Random(1), path=path, **kwargs))


async def frames_until(connection: MemoryConnection, wanted: type) -> list[Message]:
    """All messages up to the first of a type."""
    reader, messages = FrameReader(), []
    while True:
        message = reader.feed(await connection.receive())
        if message is not None:
            messages.append(message)
            if isinstance(message, wanted):
                return messages


async def say(connection: MemoryConnection, *messages: Message) -> None:
    for message in messages:
        for frame in frames_of(message, 0):
            await connection.send(frame)


# --- order and fairness ---------------------------------------------------------------------------


@virtual
async def test_messages_arrive_in_the_order_in_which_they_were_sent() -> None:
    e = ends()
    a, _ = await e.both()
    sent: list[Message] = [Ack(n) if n % 3 else large(200_000) for n in range(30)]
    for message in sent:
        a.send(message)
    assert await e.until(30) == sent
    assert a.pending_bytes == 0


@virtual
async def test_a_large_bulk_message_is_overtaken_by_small_ones() -> None:
    e = ends(bytes_per_second=1_000_000)
    a, _ = await e.both()
    a.send(large(4_000_000), bulk=True)
    await asyncio.sleep(0.5)
    started = now()
    for n in range(5):
        a.send(Ack(n))
    assert await e.until(5) == [Ack(n) for n in range(5)]
    waited = now() - started
    await e.until(6)
    # What the network has already (256 KiB) and one more fragment; not what is left of the 4 s.
    assert waited < 2 * (256 * 1024 + 2 * FRAME_BYTES) / 1_000_000
    assert now() - started > 3


@virtual
async def test_small_messages_do_not_starve_bulk_ones() -> None:
    e = ends(bytes_per_second=1_000_000)
    a, _ = await e.both()
    a.send(large(500_000), bulk=True)
    done = asyncio.Event()

    async def chatter() -> None:
        n = 0
        while not done.is_set():
            n += 1
            a.send(BlobHave(bytes(32), SEED.randbytes(900)))
            await asyncio.sleep(0.0005)

    chatting = asyncio.create_task(chatter())
    while not any(len(m.chunks or b"") > 1000 for m in e.received if isinstance(m, BlobHave)):
        e.changed.clear()
        await e.changed.wait()
    done.set()
    await chatting
    assert now() < 5


@virtual
async def test_frames_are_small_enough_for_a_stranger() -> None:
    a, other = await ends().open()
    a.send(large(300_000))
    while True:
        frame = await other.receive()
        assert len(frame) <= FRAME_BYTES
        if len(frame) < FRAME_BYTES and frame[0] == 2:
            break


# --- back-pressure --------------------------------------------------------------------------------


@virtual
async def test_drain_waits_for_a_slow_peer() -> None:
    a, other = await ends().open()
    await a.drain()
    for _ in range(3):
        a.send(large())
    draining = asyncio.create_task(a.drain())
    await asyncio.sleep(1)
    assert not draining.done()
    assert a.pending_bytes > HIGH_WATER_BYTES
    while not draining.done():
        await other.receive()
    assert a.pending_bytes <= HIGH_WATER_BYTES


@virtual
async def test_drain_ends_with_the_link() -> None:
    a, _ = await ends().open()
    for _ in range(3):
        a.send(large())
    draining = asyncio.create_task(a.drain())
    await asyncio.sleep(1)
    a.close("enough")
    await draining


@pytest.mark.limit("network.link.MAX_PENDING_BYTES")
@virtual
async def test_a_peer_that_takes_nothing_costs_itself() -> None:
    a, _ = await ends().open()
    for _ in range(40):
        a.send(large())
        assert a.pending_bytes <= MAX_PENDING_BYTES
    assert "16 MiB are waiting" in await a.ended()
    await a.finish()


@virtual
async def test_a_slow_handler_holds_the_sender_back() -> None:
    e = ends()
    gate = asyncio.Event()

    async def slow(link: Link, message: Message) -> None:
        await gate.wait()
        e.received.append(message)
        e.changed.set()

    e.deliver = slow
    a, _ = await e.both()
    for _ in range(3):
        a.send(large(400_000))
    await asyncio.sleep(1)
    assert a.pending_bytes > 400_000
    gate.set()
    await e.until(3)
    assert a.pending_bytes == 0


@virtual
async def test_handlers_run_one_after_another() -> None:
    e = ends()
    running = 0

    async def handler(link: Link, message: Message) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(1)
        running -= 1
        e.received.append(message)
        e.changed.set()

    e.deliver = handler
    a, _ = await e.both()
    for n in range(3):
        a.send(Ack(n))
    await e.until(3)
    assert now() == 3


# --- the heartbeat --------------------------------------------------------------------------------


@virtual
async def test_idle_links_stay_up_and_cost_next_to_nothing() -> None:
    e = ends(Path(0.05))
    a, b = await e.both()
    await asyncio.sleep(3600)
    assert not a.closed
    assert not b.closed
    # 10 bytes or so every 10 seconds.
    assert a.bytes_out + b.bytes_out < 3600 / 10 * 20
    assert a.rtt == pytest.approx(0.1)
    assert a.bytes_out == b.bytes_in


@virtual
async def test_a_silent_peer_is_found_dead() -> None:
    e = ends()
    a, b = await e.both()
    await asyncio.sleep(100)
    e.network.partition([["a"], ["b"]])
    started = now()
    assert "does not answer" in await a.ended()
    assert "does not answer" in await b.ended()
    assert 15 <= now() - started <= 25
    await asyncio.gather(a.finish(), b.finish())


@virtual
async def test_a_handler_that_takes_minutes_does_not_kill_the_link() -> None:
    e = ends()

    async def slow(link: Link, message: Message) -> None:
        await asyncio.sleep(300)
        e.received.append(message)
        e.changed.set()

    e.deliver = slow
    a, b = await e.both()
    a.send(Ack(1))
    await e.until(1)
    assert now() == 300
    assert not a.closed
    assert not b.closed


@virtual
async def test_pings_are_answered_before_what_is_pending() -> None:
    a, other = await ends().open()
    for _ in range(3):
        a.send(large())
    await say(other, Ping(77))
    messages = await frames_until(other, Pong)
    assert messages[-1] == Pong(77)
    assert len([m for m in messages if isinstance(m, BlobHave)]) < 3


# --- how it ends ----------------------------------------------------------------------------------


@virtual
async def test_close_sends_what_is_pending_and_says_goodbye() -> None:
    a, other = await ends().open()
    a.send(Ack(1))
    a.close("good night")
    a.send(Ack(2))
    assert await a.ended() == "good night"
    await a.finish()
    assert (await frames_until(other, Goodbye))[1:] == [Ack(1), Goodbye("good night")]
    with pytest.raises(LinkClosed):
        await other.receive()
    assert asyncio.all_tasks() == {asyncio.current_task(), *_acceptors()}


def _acceptors() -> set[asyncio.Task[Any]]:
    return {t for t in asyncio.all_tasks() if "_handle" in repr(t.get_coro())}


@virtual
async def test_the_other_side_learns_why() -> None:
    a, b = await ends().both()
    a.close("moving house")
    await a.finish()
    assert await b.ended() == "the peer said goodbye: moving house"
    await b.finish()


@virtual
async def test_finish_does_not_wait_for_ever_for_a_peer_that_takes_nothing() -> None:
    a, _ = await ends().open()
    for _ in range(10):
        a.send(large())
    a.close("enough")
    await a.ended()
    await a.finish()
    assert now() < 10


@virtual
async def test_finish_gives_a_running_handler_time_but_not_for_ever() -> None:
    e = ends()
    outcome: list[str] = []

    async def handler(link: Link, message: Message) -> None:
        try:
            await asyncio.sleep(1 if message == Ack(1) else 3600)
            outcome.append("finished")
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    e.deliver = handler
    for n in (1, 2):
        a, other = await e.open()
        await say(other, Ack(n))
        await asyncio.sleep(0.1)
        a.close("now")
        await a.finish()
    assert outcome == ["finished", "cancelled"]


@virtual
async def test_nothing_is_delivered_after_the_end() -> None:
    e = ends()

    def close_at_once(link: Link, message: Message) -> None:
        e.received.append(message)
        link.close("one is enough")

    e.deliver = close_at_once
    a, other = await e.open()
    await say(other, Ack(1), Ack(2), Ack(3))
    await a.ended()
    await a.finish()
    assert e.received == [Ack(1)]


@pytest.mark.parametrize(
    "frame",
    [
        *(b"", b"\x00", b"\x07rubbish", b"\x00\xff\xff", b"\x01nozlib"),
        next(frames_of(Proof(bytes(64)), 0)),
        next(frames_of(Hello(1, 1, [], b"", b"", "", "", None, ""), 0)),
    ],
)
def test_rubbish_closes_the_link_with_one_line_of_log(frame: bytes, caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def run() -> None:
        a, other = await ends().open()
        await other.send(frame)
        assert "protocol violation" in await a.ended()
        await a.finish()

    run()
    assert [(r.levelno, r.exc_info) for r in caplog.records] == [(logging.WARNING, None)]


def test_a_handler_may_object(caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def run() -> None:
        e = ends()

        async def object(link: Link, message: Message) -> None:
            raise ProtocolViolation("not here")

        e.deliver = object
        a, other = await e.open()
        await say(other, Ack(1))
        assert await a.ended() == "protocol violation: not here"
        await a.finish()

    run()
    assert [(r.levelno, r.exc_info) for r in caplog.records] == [(logging.WARNING, None)]


@pytest.mark.parametrize("error", [ZeroDivisionError, LinkClosed])
def test_a_handler_that_fails_is_our_bug(error: Any, caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def run() -> None:
        e = ends()

        async def fail(link: Link, message: Message) -> None:
            raise error("oops")

        e.deliver = fail
        a, other = await e.open()
        await say(other, Ack(1))
        assert await a.ended() == "internal error"
        await a.finish()

    run()
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert caplog.records[0].exc_info


@virtual
async def test_unknown_messages_are_skipped() -> None:
    e = ends()
    a, other = await e.open()
    await other.send(b"\x00\x92\xcd\x03\xe7\x01")  # [999, 1]
    await say(other, Ack(1))
    assert await e.until(1) == [Ack(1)]
    assert not a.closed


@virtual
async def test_a_message_over_the_limit_is_refused_at_once() -> None:
    a, _ = await ends().open()
    with pytest.raises(ProtocolViolation):
        a.send(large(9_000_000))
    assert not a.closed


def test_what_peers_say_is_fit_for_a_log() -> None:
    assert plain("a\nb\x1b[31m") == "a�b�[31m"
    assert len(plain("x" * 10_000)) == 200
