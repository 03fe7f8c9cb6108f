"""A link need not be fast: whatever it carries gets there, and nothing waits behind what is large."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.simulation.test_slow_peers import holds
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

HOUR = 3600.0


async def pair() -> World:
    """A reader that syncs cars from a writer."""
    world = World(1)
    await world.start("writer")
    await world.start("reader", ["writer"])
    await world.nodes["reader"].collection("cars").subscribe()
    await world.nodes["reader"].settled(HOUR)
    return world


@pytest.mark.parametrize("bytes_per_second", [1_000, 2_000, 4_000, 8_000, 12_000, 20_000])
def test_large_and_many_documents_arrive_over_a_slow_link(bytes_per_second: int) -> None:
    async def main() -> None:
        world = await pair()
        world.network.set_bandwidth("reader", bytes_per_second)
        rng = random.Random(1)
        cars = world.nodes["writer"].collection("cars")
        await cars.insert({"_id": "large", "text": rng.randbytes(450_000).hex()})
        await asyncio.gather(*[cars.insert({"text": rng.randbytes(250).hex()}) for _ in range(1000)])
        async with asyncio.timeout(2 * 900_000 / bytes_per_second):
            await holds(world, "reader", 1001)
        await world.close()

    run_virtual(main())


def test_a_large_document_does_not_hold_up_small_ones() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        world = await pair()
        world.network.set_bandwidth("writer", 50_000)
        cars = world.nodes["writer"].collection("cars")
        arrived: dict[str, float] = {}

        async def watch() -> None:
            async with world.nodes["reader"].collection("cars").observe() as changes:
                async for change in changes:
                    arrived.update({document["_id"]: loop.time() for document in change.inserted})
                    if len(arrived) == 6:
                        return

        watching = asyncio.create_task(watch())
        await cars.insert({"_id": "large", "text": random.Random(1).randbytes(450_000).hex()})
        written: dict[str, float] = {}
        for number in range(5):
            await asyncio.sleep(1)
            written[f"small{number}"] = loop.time()
            await cars.insert({"_id": f"small{number}"})
        await watching
        for name, time in written.items():
            assert arrived[name] < arrived["large"]
            # What the transport has already taken is before it, and a few frames; not the whole.
            assert arrived[name] - time < 7
        await world.close()

    run_virtual(main())


def test_edits_of_a_large_document_that_is_on_its_way_do_not_send_it_again() -> None:
    async def main() -> None:
        world = await pair()
        writer, reader = world.nodes["writer"], world.nodes["reader"]
        world.network.set_bandwidth("writer", 50_000)
        cars = writer.collection("cars")
        await cars.insert({"_id": "large", "text": random.Random(1).randbytes(450_000).hex(), "edits": 0})
        for number in range(5):
            await asyncio.sleep(1)
            await cars.update("large", {"edits": number + 1})
        await reader.settled(HOUR)
        assert (await reader.collection("cars").get("large") or {})["edits"] == 5
        assert reader.stats().document_bytes_in < 600_000
        await world.close()

    run_virtual(main())


@pytest.mark.parametrize(("sender", "compared"), [("writer", False), ("reader", True)])
def test_what_is_asked_for_while_a_large_document_is_on_its_way_does_not_send_it_again(
    sender: str, compared: bool
) -> None:
    async def main() -> None:
        world = await pair()
        await world.nodes["writer"].collection("cars").subscribe()
        asking, sending = (world.nodes[name] for name in ("reader", "writer"))
        if sender == "reader":
            asking, sending = sending, asking
        cars = asking.collection("cars")
        await asyncio.gather(*[cars.insert({"_id": f"small{n}", "n": n}) for n in range(100)])
        await asking.settled(HOUR)
        await sending.settled(HOUR)
        world.network.set_bandwidth(sender, 50_000)
        before = asking.stats().document_bytes_in
        await sending.collection("cars").insert(
            {"_id": "large", "text": random.Random(1).randbytes(450_000).hex()}
        )
        await asyncio.sleep(2)
        [subscription] = await cars.subscriptions()
        await subscription.cancel()
        if compared:  # nothing is known of the other's log from now on
            await cars.evict("small1")
        await asyncio.sleep(1)
        await cars.subscribe()
        await asyncio.sleep(1)
        assert await cars.get("large") is None
        await asking.settled(HOUR)
        assert await cars.count() == 101
        assert 500_000 < asking.stats().document_bytes_in - before < 600_000
        await world.close()

    run_virtual(main())
