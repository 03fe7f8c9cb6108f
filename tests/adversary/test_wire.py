"""What a linked peer says never stops a node, and never costs anybody but itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.document import ABSENT, edit
from mesh.core.limits import STRIKES
from mesh.core.wire import Interest, Resume
from mesh.errors import LinkClosed
from mesh.node.node import Node
from tests.adversary.adversary import Adversary, change, offer, some_frames
from tests.fuzz import updates
from tests.simulation.virtual_clock import run_virtual, virtual
from tests.simulation.world import World
from tests.unit.core.test_roots import KILLERS, array_with
from tests.unit.edits import plan_merge

URL = "ws://hub:7700"


def honest_update() -> bytes:
    edited = edit(ABSENT, lambda held: plan_merge(held, {"ok": 1}), tick=lambda: (b"h" * 8, 1), client_id=5)
    assert edited is not None
    return edited[0].update


async def adversary_of(world: World, rng: random.Random) -> Adversary:
    return await Adversary.dial(world.network.transport(f"evil{rng.randrange(1 << 30)}"), URL, rng)


@virtual
async def test_killers_are_refused_and_what_comes_with_them_is_not() -> None:
    world = World(2)
    hub = await world.start("hub")
    cars = hub.collection("cars")
    await cars.subscribe({})
    adversary = await adversary_of(world, random.Random(1))
    await adversary.until(Resume)
    killers = [bytes.fromhex(killer) for killer in KILLERS.values()]
    killers[0] = array_with(killers[0])  # which it is one for
    killers += updates.saved()
    changes = [change(f"killer {i}", killer) for i, killer in enumerate(killers)]
    await offer(adversary, *changes, change("fine", honest_update()))
    assert adversary.ended is None
    assert await cars.get("fine") == {"_id": "fine", "ok": 1}
    for i in range(len(KILLERS)):
        assert await cars.get(f"killer {i}") is None
    await adversary.close()
    # What was let through of the rest can be read, changed and sent on.
    van = await world.start("van", ["hub"])
    await van.collection("cars").subscribe({})
    await van.settled(30)
    for document in await cars.find({}):
        await cars.upsert({**document, "seen": True})
    await van.settled(30)
    await hub.settled(30)
    assert await van.collection("cars").find({}) == await cars.find({})
    await world.close()


async def honest_work(hub: Node, van: Node, number: int) -> None:
    """Something goes from one node to the other, and back."""
    await hub.collection("cars").upsert({"_id": f"hub {number}", "n": number})
    await van.collection("cars").upsert({"_id": f"van {number}", "n": number})
    await hub.settled(60)
    await van.settled(60)
    assert await van.collection("cars").get(f"hub {number}") is not None
    assert await hub.collection("cars").get(f"van {number}") is not None


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_whatever_a_peer_says_others_go_on(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        world = World(seed & ~1)
        hub = await world.start("hub")
        van = await world.start("van", ["hub"])
        for node in (hub, van):
            await node.collection("cars").subscribe({})
        recorded: list[bytes] = []
        adversary: Adversary | None = None
        for _ in range(40):
            if adversary is None or adversary.ended is not None:
                adversary = await adversary_of(world, rng)
            frames = rng.sample(recorded, min(3, len(recorded))) if rng.random() < 0.1 else some_frames(rng)
            recorded += frames[:1]
            try:
                for frame in frames:
                    await adversary.connection.send(frame)
                if rng.random() < 0.3:
                    await adversary.until(rng.choice((Interest, Resume)))
            except LinkClosed:
                pass
        await honest_work(hub, van, 1)
        assert hub.presence().peers, "the honest peer is still linked"
        if adversary is not None:
            await adversary.close()
        await world.close()

    run_virtual(main())


ENDED_FOR = {
    "pieces of too many messages": [b"\2" + stream.to_bytes(4) + b"\0x" for stream in range(17)],
    "pieces without end": [b"\2\0\0\0\1\0" + bytes(200 * 1024)] * 85,
    "an empty frame": [b""],
    "an unknown kind of frame": [b"\7x"],
    "a bomb": [b"\1" + bytes.fromhex("789ced")],
    "a message that is none": [b"\0\xff"],
}


async def end_of(world: World, frames: list[bytes]) -> str:
    """What the node says that was sent these frames by the same peer as always."""
    try:
        adversary = await Adversary.dial(world.network.transport("evil"), URL, random.Random(7))
    except LinkClosed as error:
        return error.reason
    try:
        for frame in frames:
            await adversary.connection.send(frame)
        return await adversary.until_ended()
    except LinkClosed as error:
        return error.reason
    finally:
        await adversary.close()


@pytest.mark.parametrize("name", ENDED_FOR)
def test_a_violation_ends_the_link_says_why_and_is_counted(name: str) -> None:
    async def main() -> None:
        world = World(2)
        hub = await world.start("hub")
        for _ in range(STRIKES):
            assert "protocol violation" in await end_of(world, ENDED_FOR[name])
            assert hub.presence().peers == []
        assert (await end_of(world, [])).startswith("banned: ")
        await world.close()

    run_virtual(main())
