"""The faults of the network in memory, on the virtual clock."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import LinkClosed, PeerUnreachable
from mesh.network.memory import DIAL_SECONDS, MemoryNetwork, Path
from mesh.network.memory_connection import MemoryConnection
from tests.simulation.virtual_clock import run_virtual, virtual


async def connected(
    network: MemoryNetwork, a: str = "a", b: str = "b"
) -> tuple[MemoryConnection, MemoryConnection]:
    """A connection that ``a`` dialled to ``b``: both ends."""
    accepted: asyncio.Queue[Any] = asyncio.Queue()

    async def accept(connection: Any) -> None:
        accepted.put_nowait(connection)
        await asyncio.Event().wait()

    listener = await network.transport(b).listen("127.0.0.1:0", accept)
    return await network.transport(a).dial(listener.address), await accepted.get()


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_a_message_takes_the_delay_of_its_path() -> None:
    network = MemoryNetwork(random.Random(1))
    network.set_path("a", "b", Path(delay=0.25))
    a, b = await connected(network)
    assert now() == 0.5  # there and back
    await a.send(b"x")
    await b.receive()
    assert now() == 0.75


@given(st.integers(0, 1000), st.lists(st.integers(1, 2000), min_size=1, max_size=50))
def test_order_holds_within_a_connection_whatever_the_jitter(seed: int, sizes: list[int]) -> None:
    async def main() -> list[bytes]:
        network = MemoryNetwork(random.Random(seed), path=Path(0.01, jitter=0.5), bytes_per_second=50_000)
        a, b = await connected(network)
        for n, size in enumerate(sizes):
            await a.send(bytes([n]) * size)
        return [await b.receive() for _ in sizes]

    assert run_virtual(main()) == [bytes([n]) * size for n, size in enumerate(sizes)]


@virtual
async def test_jitter_reorders_between_connections() -> None:
    network = MemoryNetwork(random.Random(3), path=Path(jitter=1.0))
    ends = [await connected(network) for _ in range(8)]
    order: list[int] = []

    async def watch(n: int) -> None:
        await ends[n][1].receive()
        order.append(n)

    watchers = [asyncio.create_task(watch(n)) for n in range(8)]
    for a, _ in ends:
        await a.send(b"x")
    await asyncio.wait(watchers)
    assert sorted(order) == list(range(8)) != order


@virtual
async def test_bandwidth_is_shared_by_all_connections_of_a_host() -> None:
    network = MemoryNetwork(random.Random(1))
    network.set_bandwidth("hub", 1000.0)
    a, b = await connected(network, "hub", "b")
    c, d = await connected(network, "hub", "c")
    started = now()
    for connection in (a, c) * 5:
        await connection.send(bytes(500))
    for other in (b, d) * 5:
        await other.receive()
    assert now() - started == pytest.approx(5.0)


@virtual
async def test_a_silent_partition_stalls_and_heals() -> None:
    network = MemoryNetwork(random.Random(1))
    a, b = await connected(network)
    network.partition([["a"], ["b"]])
    await a.send(b"held")
    await a.close("gone")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1000):
            await b.receive()
    network.heal()
    assert await b.receive() == b"held"
    with pytest.raises(LinkClosed, match="gone"):
        await b.receive()


@virtual
async def test_dials_through_a_silent_partition_time_out() -> None:
    network = MemoryNetwork(random.Random(1))
    listener = await network.transport("b").listen("127.0.0.1:7000", _stay)
    network.partition([["a", "c"]])
    started = now()
    with pytest.raises(PeerUnreachable, match="no answer"):
        await network.transport("a").dial(listener.address)
    assert now() - started == DIAL_SECONDS
    await network.transport("x").dial(listener.address)  # the unnamed are together


@virtual
async def test_a_partition_that_is_not_silent_breaks_connections() -> None:
    network = MemoryNetwork(random.Random(1))
    a, b = await connected(network)
    network.partition([["a"]], silent=False)
    for end in (a, b):
        with pytest.raises(LinkClosed, match="broke"):
            await end.receive()
    listener = await network.transport("b").listen("127.0.0.1:0", _stay)
    with pytest.raises(PeerUnreachable):
        await network.transport("a").dial(listener.address)
    network.heal()
    await network.transport("a").dial(listener.address)


@virtual
async def test_a_cut_concerns_two_hosts_only() -> None:
    network = MemoryNetwork(random.Random(1))
    a, _ = await connected(network, "a", "b")
    c, d = await connected(network, "c", "b")
    network.cut("b", "a")
    with pytest.raises(LinkClosed):
        await a.receive()
    await c.send(b"untouched")
    assert await d.receive() == b"untouched"


@virtual
async def test_a_crash_takes_listeners_and_connections_without_a_goodbye() -> None:
    network = MemoryNetwork(random.Random(1), path=Path(0.1))
    a, b = await connected(network)
    listener = await network.transport("b").listen("127.0.0.1:7000", _stay)
    await b.send(b"under way, and lost")
    network.crash("b")
    with pytest.raises(LinkClosed, match="broke"):
        await a.receive()
    with pytest.raises(LinkClosed):
        await b.send(b"x")
    with pytest.raises(PeerUnreachable, match="nothing listens"):
        await network.transport("a").dial(listener.address)
    await network.transport("b").listen("127.0.0.1:7000", _stay)
    await network.transport("a").dial(listener.address)


@virtual
async def test_loss_breaks_the_connection() -> None:
    network = MemoryNetwork(random.Random(1), path=Path(loss=0.1))
    a, b = await connected(network)
    received = 0

    async def talk() -> None:
        nonlocal received
        while received < 1000:
            await a.send(b"%d" % received)
            assert await b.receive() == b"%d" % received
            received += 1

    with pytest.raises(LinkClosed):
        await talk()
    assert 0 < received < 100


@virtual
async def test_a_dial_that_is_cancelled_leaves_no_connection() -> None:
    network = MemoryNetwork(random.Random(1), path=Path(1.0))
    listener = await network.transport("b").listen("127.0.0.1:0", _stay)
    dialling = asyncio.create_task(network.transport("a").dial(listener.address))
    await asyncio.sleep(1.5)
    dialling.cancel()
    await asyncio.wait([dialling])
    await listener.close()
    assert not network.host("a").connections
    assert not network.host("b").connections


async def _stay(connection: Any) -> None:
    try:
        await connection.receive()
    except LinkClosed:
        pass
