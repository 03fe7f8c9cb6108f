"""Small blobs come the short way; where something goes wrong, the ordinary one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.attachments.transfers import Transfer
from mesh.core.rates import MIN_LIMIT, NO_LIMITS, Limits
from mesh.core.tokens import BlobToken
from mesh.errors import StorageFull
from mesh.storage.blobs import SMALL_BYTES
from tests.unit.attachments.test_attachments import World, content, simulated

COUNT = 20


async def many(world: World, *holders: str, count: int = COUNT) -> list[BlobToken]:
    contents = [content(1000 + number, number) for number in range(count)]
    for holder in holders:
        tokens = [await world[holder].add(data) for data in contents]
    return tokens


async def fetch(world: World, tokens: list[BlobToken], node: str = "a") -> None:
    handles = await asyncio.gather(*(world[node].fetch(token) for token in tokens))
    for number, handle in enumerate(handles):
        assert await handle.read() == content(1000 + number, number)
    exchange = world[node]._exchange
    assert not exchange.slots.taken
    assert not list(exchange._transfers)


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> list[Transfer]:
    """The ordinary transfers that begin."""
    found: list[Transfer] = []
    start = Transfer.start

    def begin(self: Transfer, after: Any) -> None:
        found.append(self)
        start(self, after)

    monkeypatch.setattr(Transfer, "start", begin)
    return found


@simulated()
async def small_ones(world: World, ordinary: list[Transfer]) -> None:
    await world.link("ab", "ac")
    await fetch(world, await many(world, "b", "c", count=600))
    largest = await world["b"].add(bytes(SMALL_BYTES))
    assert await (await world["a"].fetch(largest)).read() == bytes(SMALL_BYTES)
    assert not ordinary
    over = await world["b"].add(bytes(SMALL_BYTES + 1))
    await world["a"].fetch(over)
    assert len(ordinary) == 1


def test_small_ones_need_no_transfer_of_their_own(ordinary: list[Transfer]) -> None:
    small_ones(ordinary)


@simulated()
async def liars(world: World, ordinary: list[Transfer]) -> None:
    await world.link("ab", "ac")
    tokens = await many(world, "b", "c")
    world.nodes["b"].store.lies = True
    await fetch(world, tokens)
    assert ordinary


def test_what_does_not_verify_is_had_from_another(ordinary: list[Transfer]) -> None:
    liars(ordinary)


@simulated()
async def test_a_silent_holder_is_replaced(world: World) -> None:
    await world.link("ab", "ac")
    tokens = await many(world, "b", "c")
    world.nodes["b"].store.silent = True
    async with asyncio.timeout(15):
        await fetch(world, tokens)


@simulated()
async def test_a_holder_that_lost_it_is_replaced(world: World) -> None:
    await world.link("ab", "ac")
    tokens = await many(world, "b", "c")
    for token in tokens:
        await world.nodes["b"].store.delete(token.hash)  # and says nothing
    await fetch(world, tokens)


@simulated()
async def test_they_wait_for_room(world: World) -> None:
    await world.link("ab")
    store, tokens = world.nodes["a"].store, await many(world, "b", count=3)
    store._max_bytes = 1500
    fetching = asyncio.gather(*(world["a"].fetch(token) for token in tokens))
    with pytest.raises(StorageFull):
        await world["a"].fetch(await world["b"].add(bytes(1600)), wait_for_room=False)
    assert len(store.hashes()) == 1
    store._max_bytes = 1 << 20
    await fetching


@simulated()
async def test_who_gives_up_leaves_nothing(world: World) -> None:
    await world.link("ab")
    world.nodes["b"].store.silent = True
    tokens = await many(world, "b")
    fetching = [asyncio.ensure_future(world["a"].fetch(token)) for token in tokens]
    await asyncio.sleep(1)
    for one in fetching:
        one.cancel()
    await asyncio.wait(fetching)
    exchange = world["a"]._exchange
    assert not exchange.slots.taken
    assert not list(exchange._transfers)
    lane = exchange.bulk.lane(world.nodes["b"].node_id)
    assert lane is not None
    assert not lane._pending


@simulated()
async def test_what_waits_for_its_turn_while_its_holder_leaves_is_had_from_the_next(world: World) -> None:
    await world.link("ab")
    tokens = await many(world, "b")
    world["a"].set_limits(Limits(download=MIN_LIMIT))
    fetching = asyncio.create_task(fetch(world, tokens))
    await asyncio.sleep(0.5)
    assert not fetching.done()
    await world.nodes["b"].peers.close()
    await world.link("ac")
    await many(world, "c")
    world["a"].set_limits(NO_LIMITS)
    async with asyncio.timeout(10):
        await fetching
