"""Caps, priorities, shares and bounds of transfers, on a network in memory and a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from mesh import Node
from mesh.attachments.slots import MAX_UNDER_WAY, Slots
from mesh.attachments.transfers import STUCK_SECONDS
from mesh.core.rates import Limits
from mesh.core.tokens import BlobProgress, BlobToken
from mesh.errors import InvalidNode
from tests.unit.attachments.test_attachments import MIB, World, content, simulated

NORMAL, CRITICAL = 2, 4


def now() -> float:
    return asyncio.get_running_loop().time()


async def fetch_for(world: World, name: str, token: BlobToken, priority: int = NORMAL) -> float:
    """Seconds that a fetch takes."""
    start = now()
    await world[name].fetch(token, priority=priority)
    return now() - start


@simulated()
async def test_a_capped_upload_keeps_to_its_rate_and_nobody_takes_it_for_silent(world: World) -> None:
    await world.node("a", limits=Limits(upload=100_000))
    await world.link("ba", "ca")
    token = await world["a"].add(content(2 * MIB))
    other = await world["a"].add(content(MIB, 1))
    states: list[BlobProgress] = []
    start = now()
    await asyncio.gather(world["b"].fetch(token, on_progress=states.append), world["c"].fetch(other))
    assert now() - start == pytest.approx(3 * MIB / 100_000, rel=0.05)
    assert all(one.state != "stalled" for one in states)
    assert world["a"].served_bytes == 3 * MIB
    rates = [one.rate for one in states if one.state == "transferring" and one.rate]
    assert rates
    assert max(rates) <= 110_000
    assert any(one.eta is not None and one.eta < 25 for one in states)


@simulated()
async def test_a_capped_download_asks_no_faster_of_all_together(world: World) -> None:
    await world.node("c", limits=Limits(download=MIB))
    await world.link("ca", "cb")
    one, two = await world["a"].add(content(6 * MIB, 1)), await world["b"].add(content(6 * MIB, 2))
    took = await asyncio.gather(fetch_for(world, "c", one), fetch_for(world, "c", two))
    assert max(took) == pytest.approx(11, abs=1.5)


@simulated()
async def test_under_a_cap_equal_downloads_get_on_alike(world: World) -> None:
    await world.node("c", limits=Limits(download=MIB))
    await world.link("ca")
    tokens = [await world["a"].add(content(8 * MIB, seed)) for seed in range(3)]
    took = await asyncio.gather(*(fetch_for(world, "c", token) for token in tokens))
    assert min(took) > 0.8 * max(took)


@simulated()
async def test_the_cap_of_a_link_is_for_each_peer(world: World) -> None:
    await world.node("a", limits=Limits(link=MIB))
    await world.link("ba", "ca")
    one, two = await world["a"].add(content(6 * MIB, 1)), await world["a"].add(content(6 * MIB, 2))
    took = await asyncio.gather(fetch_for(world, "b", one), fetch_for(world, "c", two))
    assert max(took) == pytest.approx(6, abs=0.5)


@simulated()
async def test_caps_change_while_a_transfer_runs(world: World) -> None:
    await world.node("a", limits=Limits(upload=100_000))
    await world.link("ba")
    token = await world["a"].add(content(8 * MIB))
    fetching = asyncio.create_task(fetch_for(world, "b", token))
    await asyncio.sleep(5)
    assert world["a"].served_bytes < MIB
    world["a"].set_limits(Limits(upload=4 * MIB))
    assert await fetching == pytest.approx(7, abs=0.5)


@simulated()
async def test_what_is_critical_has_the_uplink_for_itself_at_once(world: World) -> None:
    await world.node("a", limits=Limits(upload=MIB))
    await world.link("ba", "ca", "da")
    normal = [await world["a"].add(content(16 * MIB, seed)) for seed in (1, 2)]
    critical = await world["a"].add(content(4 * MIB, 3))
    running = [
        asyncio.create_task(fetch_for(world, name, token)) for name, token in zip("bc", normal, strict=True)
    ]
    await asyncio.sleep(3.3)
    assert await fetch_for(world, "d", critical, CRITICAL) <= 5.0
    await asyncio.gather(*running)


@simulated(bytes_per_second=4 * MIB)
async def test_what_is_critical_has_the_downlink_for_itself_too(world: World) -> None:
    await world.link("ca", "cb")
    normal = await world["a"].add(content(48 * MIB, 1))
    await world["b"].add(content(48 * MIB, 1))
    critical = await world["a"].add(content(8 * MIB, 2))
    running = asyncio.create_task(fetch_for(world, "c", normal))
    await asyncio.sleep(3)
    took = await fetch_for(world, "c", critical, CRITICAL)
    assert not running.done()
    await running
    alone = await world["a"].add(content(8 * MIB, 3))
    assert took <= await fetch_for(world, "c", alone) + 0.75  # a chunk of each source was under way


@simulated()
async def test_a_downloader_with_many_requests_does_not_starve_another(world: World) -> None:
    await world.node("a", limits=Limits(upload=4 * MIB))
    await world.link("ba", "ca")
    many = [await world["a"].add(content(MIB, seed)) for seed in range(40)]
    one = await world["a"].add(content(8 * MIB, 99))
    greedy = [asyncio.create_task(world["b"].fetch(token)) for token in many]
    await asyncio.sleep(0.5)
    assert await fetch_for(world, "c", one) <= 2 * 2 + 1  # half of the uplink, not a 41st
    await asyncio.gather(*greedy)


@simulated(bytes_per_second=4 * MIB)
async def test_a_source_that_only_trickles_is_replaced(world: World) -> None:
    await world.node("a", limits=Limits(upload=4096))
    await world.link("ca", "cb")
    token = await world["a"].add(content(12 * MIB))
    await world["b"].add(content(12 * MIB))
    assert await fetch_for(world, "c", token) < 15


@simulated()
async def test_fetches_that_do_not_get_on_make_room_for_others(world: World) -> None:
    await world.node("c")
    world["c"]._exchange.slots = Slots(2)
    await world.link("ca", "cb")
    vain = [await world["a"].add(content(2 * MIB, seed)) for seed in range(4)]
    token = await world["b"].add(content(2 * MIB, 9))
    world.nodes["a"].store.silent = True
    waiting = [asyncio.create_task(world["c"].fetch(one)) for one in vain]
    await asyncio.sleep(1)
    assert await fetch_for(world, "c", token) < 2.5 * STUCK_SECONDS
    world.nodes["a"].store.silent = False
    for task in waiting:
        task.cancel()


@simulated(bytes_per_second=2 * MIB)
async def test_what_is_left_of_an_earlier_fetch_is_served_without_one(world: World) -> None:
    """b has half of a blob whose holder is gone; it does not fetch it any more, and has been restarted."""
    await world.link("ba")
    data = content(8 * MIB)
    token = await world["a"].add(data)
    fetching = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(2.5)
    fetching.cancel()
    await asyncio.sleep(1)
    await world.nodes["a"].peers.close()
    assert world.nodes["b"].store.partials() == [token.hash]
    progress: list[BlobProgress] = []
    await world.link("cb")
    fetching_half = asyncio.create_task(world["c"].fetch(token, on_progress=progress.append))
    await asyncio.sleep(10)
    assert progress[-1].downloaded_bytes >= 2 * MIB
    fetching_half.cancel()


@simulated()
async def test_of_many_fetches_a_bounded_number_is_under_way_and_all_come_to_their_end(world: World) -> None:
    await world.node("a")
    await world.node("b")
    world["b"]._exchange.slots = Slots(8)
    await world.link("ba")
    tokens = [await world["a"].add(content(100_000, seed)) for seed in range(60)]
    nowhere = [BlobToken(f"{number:064x}", 5 * MIB, "2" * 64) for number in range(20)]
    vain = [asyncio.create_task(world["b"].fetch(token)) for token in nowhere]
    await asyncio.sleep(0.1)
    most = 0
    fetching = [asyncio.create_task(world["b"].fetch(token)) for token in tokens]
    for one in asyncio.as_completed(fetching):
        await one
        most = max(most, world["b"]._exchange.slots.taken)
    assert 1 <= most <= 8
    assert not world["b"]._exchange.slots.taken
    for task in vain:
        task.cancel()


async def test_slots_go_to_the_most_urgent_and_are_never_lost() -> None:
    class Fetch:
        def __init__(self, priority: int) -> None:
            self.priority = priority

    slots, normal = Slots(2), [Fetch(NORMAL) for _ in range(4)]
    await slots.take(normal[0])
    await slots.take(normal[1])
    waiting = [asyncio.create_task(slots.take(fetch)) for fetch in normal[2:]]
    await asyncio.sleep(0)
    critical = Fetch(CRITICAL)
    await asyncio.wait_for(slots.take(critical), 1)  # what is less urgent does not keep it out
    waiting[0].cancel()
    await asyncio.sleep(0)
    slots.give_back(critical)
    slots.give_back(normal[0])
    await asyncio.wait_for(waiting[1], 1)
    for fetch in (normal[1], normal[3], normal[3]):
        slots.give_back(fetch)
    assert slots.taken == 0
    assert MAX_UNDER_WAY >= 64


async def test_the_caps_of_a_node() -> None:
    with pytest.raises(InvalidNode, match="upload_limit"):
        Node(upload_limit=10)
    async with Node(listen=None, download_limit=1e6) as node:
        assert node.limits == Limits(download=1e6)
        node.set_limits(upload=5e5, link=1e5)
        assert node.limits == Limits(upload=5e5, link=1e5)
        with pytest.raises(InvalidNode):
            node.set_limits(link=-1)
