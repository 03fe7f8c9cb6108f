"""Slow links and caps: a fetch gets on, says so, and moves what it fetches about once."""

from __future__ import annotations

import asyncio

import pytest

from mesh.attachments.downlink import NODE_CAPPED, URGENT
from mesh.attachments.slots import Slots
from mesh.core.rates import WINDOW_SECONDS, Limits
from mesh.core.tokens import BlobProgress
from tests.simulation.virtual_clock import run_virtual
from tests.unit.attachments.test_attachments import MIB, World, content, simulated
from tests.unit.attachments.test_rates_and_turns import fetch_for

SIZE = 10 * MIB


@pytest.mark.parametrize("bytes_per_second", [4096, 10_000, 60_000, 150_000, 400_000])
@pytest.mark.parametrize("slow", ["a", "b", "ab"])
def test_a_fetch_over_a_slow_link_takes_as_long_as_the_link_needs(slow: str, bytes_per_second: int) -> None:
    async def main() -> None:
        world = World()
        await world.link("ba")
        for name in slow:
            world.network.set_bandwidth(name, bytes_per_second)
        data = content(SIZE)
        token = await world["a"].add(data)
        progress: list[BlobProgress] = []
        start = asyncio.get_running_loop().time()
        handle = await world["b"].fetch(token, on_progress=progress.append)
        assert await handle.read() == data
        # A whole chunk is received before it is passed on, where both ends are slow.
        most = 2.1 if bytes_per_second > 150_000 else 1.1
        assert asyncio.get_running_loop().time() - start < most * SIZE / bytes_per_second
        assert world["a"].served_bytes <= 1.1 * SIZE
        assert all(one.state != "stalled" for one in progress)
        await world.close()

    run_virtual(main())


@simulated(bytes_per_second=10_000)
async def test_a_slow_fetch_keeps_its_place_while_others_wait_for_one(world: World) -> None:
    await world.node("b")
    world["b"]._exchange.slots = Slots(1)
    await world.link("ba")
    first, second = await world["a"].add(content(2 * MIB, 1)), await world["a"].add(content(MIB, 2))
    async with asyncio.timeout(1.1 * 3 * MIB / 10_000):
        await asyncio.gather(world["b"].fetch(first), world["b"].fetch(second))
    assert world["a"].served_bytes <= 1.1 * 3 * MIB


@simulated(bytes_per_second=10_000)
async def test_many_small_blobs_over_a_slow_link(world: World) -> None:
    await world.link("ba")
    tokens = [await world["a"].add(content(16_000, seed)) for seed in range(60)]
    async with asyncio.timeout(1.2 * 60 * 16_000 / 10_000):
        await asyncio.gather(*(world["b"].fetch(token) for token in tokens))
    assert world["a"].served_bytes <= 1.1 * 60 * 16_000


@simulated()
async def test_a_download_capped_far_below_a_chunk_gets_on_and_says_what_it_waits_for(world: World) -> None:
    await world.node("b", limits=Limits(download=10_000))
    await world.link("ba", "bc")
    data = content(SIZE)
    token = await world["a"].add(data)
    await world["c"].add(data)
    progress: list[BlobProgress] = []
    fetching = asyncio.create_task(world["b"].fetch(token, on_progress=progress.append))
    assert await fetch_for(world, "b", token) == pytest.approx(SIZE / 10_000, rel=0.12)
    assert await (await fetching).read() == data
    assert sum(world[name].served_bytes for name in "ac") == SIZE
    assert {one.reason for one in progress if one.state == "stalled"} == {NODE_CAPPED}


@pytest.mark.parametrize("limits", [Limits(download=MIB), Limits(link=MIB // 2), Limits(download=700_000)])
def test_at_a_cap_a_fetch_is_transferring_all_the_time(limits: Limits) -> None:
    @simulated()
    async def run(world: World) -> None:
        await world.node("b", limits=limits)
        await world.link("ba", "bc")
        token = await world["a"].add(content(SIZE))
        await world["c"].add(content(SIZE))
        progress: list[BlobProgress] = []
        await world["b"].fetch(token, on_progress=progress.append)
        begun = next(at for at, one in enumerate(progress) if one.downloaded_bytes)
        assert all(one.state == "transferring" and one.sources for one in progress[begun:-1])

    run()


@simulated(bytes_per_second=MIB)
async def test_when_nothing_comes_any_more_the_rate_is_told_to_be_0_within_seconds(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(SIZE))
    loop = asyncio.get_running_loop()
    progress: list[tuple[float, BlobProgress]] = []
    fetching = asyncio.create_task(
        world["b"].fetch(token, on_progress=lambda one: progress.append((loop.time(), one)))
    )
    await asyncio.sleep(4)
    await world.nodes["a"].peers.close()
    await asyncio.sleep(4)
    joined: list[BlobProgress] = []
    joining = asyncio.create_task(world["b"].fetch(token, on_progress=joined.append))
    await asyncio.sleep(WINDOW_SECONDS)
    assert joined[0].rate > 0
    assert joined[-1].rate == 0.0
    (ended_at, last), (_, before) = progress[-1], progress[-2]
    came_at = next(at for at, one in progress if one.downloaded_bytes == last.downloaded_bytes)
    assert before.rate > 0
    assert (last.rate, last.eta, last.reason) == (0.0, None, "no peers are connected")
    assert ended_at == pytest.approx(came_at + WINDOW_SECONDS)
    fetching.cancel()
    joining.cancel()


@simulated()
async def test_what_is_paused_for_something_more_urgent_has_no_rate(world: World) -> None:
    await world.node("b", limits=Limits(download=4 * MIB))
    await world.link("ba")
    low, urgent = await world["a"].add(content(2 * SIZE)), await world["a"].add(content(4 * SIZE, 1))
    paused: list[BlobProgress] = []
    fetching = asyncio.create_task(world["b"].fetch(low, priority=1, on_progress=paused.append))
    await asyncio.sleep(3)
    assert paused[-1].rate > 0
    first = asyncio.create_task(world["b"].fetch(urgent, priority=4))
    await asyncio.sleep(WINDOW_SECONDS + 1)
    assert not first.done()
    assert (paused[-1].state, paused[-1].reason) == ("stalled", URGENT)
    assert (paused[-1].rate, paused[-1].eta) == (0.0, None)
    await asyncio.gather(first, fetching)


@simulated()
async def test_a_line_that_becomes_slow_carries_pieces_and_progress_never_goes_back(world: World) -> None:
    await world.link("ba")
    data = content(40 * MIB)
    token = await world["a"].add(data)
    world.network.set_bandwidth("a", 2_000_000)
    progress: list[BlobProgress] = []
    fetching = asyncio.create_task(world["b"].fetch(token, on_progress=progress.append))
    await asyncio.sleep(5)
    world.network.set_bandwidth("a", 20_000)
    await asyncio.sleep(4 * MIB / 20_000)  # what was under way, and queued
    before = len(progress)
    await asyncio.sleep(MIB / 20_000)
    assert len(progress) > before + 20
    assert all(one.state == "transferring" for one in progress[before:])
    world.network.set_bandwidth("a", 2_000_000)
    assert await (await fetching).read() == data
    assert world["a"].served_bytes <= len(data) + 3 * MIB
    told = [one.downloaded_bytes for one in progress]
    assert told == sorted(told)
    assert progress[-1].downloaded_bytes == len(data)
