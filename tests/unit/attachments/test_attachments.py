"""Attachments between nodes, on a network in memory and a virtual clock."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import PurePath
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from mesh.attachments.dialling import DIAL_BACK_SECONDS
from mesh.attachments.lanes import IDLE_SECONDS
from mesh.attachments.service import Attachments
from mesh.attachments.transfers import STUCK_SECONDS
from mesh.core.fetching import SILENCE
from mesh.core.identity import Identity
from mesh.core.tokens import CHUNK_BYTES, BlobMetadata, BlobProgress, BlobToken
from mesh.errors import (
    BlobNotFound,
    BlobTooLarge,
    DataDirUnusable,
    FetchFailed,
    FetchTimeout,
    InvalidFetch,
    InvalidMetadata,
    InvalidToken,
    NotStarted,
    PeerUnreachable,
    StorageFull,
)
from mesh.network.link import Link
from mesh.network.memory import MemoryNetwork, Path
from mesh.network.peers import Peers
from mesh.network.transport import Connection
from mesh.storage.blob_memory import MemoryBlobs
from mesh.storage.blobs import PartialBlob, Source
from tests.simulation.virtual_clock import run_virtual

MIB = CHUNK_BYTES


class Blobs(MemoryBlobs):
    """A store whose reads can lie or hang, and are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.lies = False
        self.silent = False
        self.reads = 0

    async def read_chunk(
        self, hash: str, index: int, headroom: int = 0, *, verified: bool = False
    ) -> bytearray:
        self.reads += 1
        data = await super().read_chunk(hash, index, headroom, verified=verified)
        if self.lies:
            data[-1] ^= 1
        if self.silent:
            await asyncio.Event().wait()
        return data


class Node:
    def __init__(self, world: World, name: str, **options: Any) -> None:
        self.name = name
        self.peers = Peers(
            Identity(name.encode().ljust(32, b".")), world.network.transport(name), name=name, rng=world.rng
        )
        self.node_id = Identity(name.encode().ljust(32, b".")).node_id
        self.store = Blobs()
        self.attachments = Attachments(
            self.store,
            self.peers,
            node_id=self.node_id,
            random=world.rng,
            clock=lambda: 1e9 + asyncio.get_running_loop().time(),
            **options,
        )


class World:
    """Nodes on hosts of their own names, and the links between them."""

    def __init__(self, path: Path = Path(0.005), **network: Any) -> None:  # noqa: B008
        self.rng = random.Random(5)
        self.network = MemoryNetwork(self.rng, path=path, **network)
        self.nodes: dict[str, Node] = {}

    async def node(self, name: str, *, listens: bool = True, **options: Any) -> Node:
        node = self.nodes[name] = Node(self, name, **options)
        await node.attachments.start()
        await node.peers.start("127.0.0.1:7700" if listens else None)
        return node

    async def link(self, *pairs: str) -> None:
        """``"ab"``: node a dials node b; nodes are made as needed."""
        for pair in pairs:
            for name in pair:
                if name not in self.nodes:
                    await self.node(name)
            await self.nodes[pair[0]].peers.connect(f"ws://{pair[1]}:7700")
        await asyncio.sleep(0.1)  # for the other ends

    async def close(self) -> None:
        for node in self.nodes.values():
            await node.attachments.close()
        for node in self.nodes.values():
            await node.peers.close()
        await asyncio.sleep(30)  # for what the other ends still have to notice
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def __getitem__(self, name: str) -> Attachments:
        return self.nodes[name].attachments


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def simulated(
    **options: Any,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Run a test with a world of its own on the virtual clock."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            async def main() -> None:
                world = World(**options)
                await test(world, *args, **kwargs)
                await world.close()

            run_virtual(main())

        run.__name__ = test.__name__
        run.__doc__ = test.__doc__
        return run

    return decorate


@pytest.mark.parametrize(
    "size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 3]
)
def test_a_blob_of_any_size_is_fetched_as_it_was_added(size: int) -> None:
    async def main() -> None:
        world = World()
        await world.link("ba")
        data = content(size)
        token = await world["a"].add(data, name="n", content_type="a/b", custom={"k": "v"})
        assert token.hash == blake3(data).hexdigest()
        progress: list[BlobProgress] = []
        handle = await world["b"].fetch(token, on_progress=progress.append)
        assert await handle.read() == data
        assert handle.path.read_bytes() == data
        with handle.open() as file:
            assert file.read() == data
        assert await world["b"].exists(token.hash)
        assert await world["b"].info(token.hash) == token
        assert await world["b"].tokens() == [token]
        assert await world["b"].storage_bytes() == size
        assert not await world.nodes["b"].store.cached(token.hash)
        assert progress[-1] == BlobProgress("completed", size, size)
        assert [one.downloaded_bytes for one in progress] == sorted(one.downloaded_bytes for one in progress)
        assert world["a"].served_bytes == size
        await world.close()

    run_virtual(main())


@simulated()
async def test_a_blob_that_can_be_neither_read_nor_replaced_keeps_no_other_from_being_verified(
    world: World,
) -> None:
    await world.node("a")
    store = world.nodes["a"].store
    bad, *_ = [await world["a"].add(content(1000, seed)) for seed in range(3)]
    verify = store.verify

    async def fail(hash: str) -> list[int]:
        if hash == bad.hash:
            raise OSError(errno.EIO, "Input/output error")
        return await verify(hash)

    store.verify = fail  # type: ignore[method-assign]
    report = await world["a"].verify()
    assert (report.checked, report.lost) == (3, [bad.hash])


@simulated()
async def test_what_turns_out_to_be_damaged_as_it_is_asked_for_is_fetched(world: World) -> None:
    await world.link("ab")
    token = await world["b"].add(content(1000))
    await world["a"].fetch(token)
    store = world.nodes["a"].store
    info = store.info

    async def lose(hash: str) -> BlobToken | None:
        found = await info(hash)
        if found is not None:
            await world["a"].delete(hash)
        return found

    store.info = lose  # type: ignore[method-assign]
    assert await (await world["a"].fetch(token, timeout=5)).read() == content(1000)


@simulated()
async def test_what_is_wanted_here_as_it_becomes_whole_for_others_is_kept(world: World) -> None:
    await world.link("ab", "bc")
    token = await world["c"].add(content(2 * MIB))
    store = world.nodes["b"].store
    begin, ends, go_on = store.begin, asyncio.Event(), asyncio.Event()

    async def slowly(token: BlobToken, *, cached: bool) -> PartialBlob:
        partial = await begin(token, cached=cached)
        finish = partial.finish

        async def finish_later() -> list[int]:
            ends.set()
            await go_on.wait()
            return await finish()

        partial.finish = finish_later  # type: ignore[method-assign]
        return partial

    store.begin = slowly  # type: ignore[method-assign]
    others = asyncio.ensure_future(world["a"].fetch(token))
    await ends.wait()
    mine = asyncio.ensure_future(world["b"].fetch(token))
    await asyncio.sleep(1)
    go_on.set()
    await asyncio.gather(others, mine)
    assert not await store.cached(token.hash)


@simulated()
async def test_what_is_deleted_as_it_becomes_whole_can_be_fetched_again(world: World) -> None:
    await world.link("ab")
    token = await world["b"].add(content(1000))
    store = world.nodes["a"].store
    add = store.add

    async def add_and_lose(source: Source, metadata: BlobMetadata) -> BlobToken:
        token = await add(source, metadata)
        await world["a"].delete(token.hash)
        return token

    store.add = add_and_lose  # type: ignore[method-assign]
    await world["a"].add(content(1000))
    assert not await world["a"].exists(token.hash)
    await world["a"].fetch(token, timeout=5)


@simulated()
async def test_a_holder_that_cannot_read_one_blob_serves_the_others(world: World) -> None:
    await world.link("ab")
    store = world.nodes["b"].store
    bad, good = [await world["b"].add(content(2 * MIB, seed)) for seed in range(2)]
    chunk_list = store.chunk_list

    async def read(hash: str) -> bytes:
        if hash == bad.hash:
            raise DataDirUnusable("somewhere", "it is read-only")
        return await chunk_list(hash)

    store.chunk_list = read  # type: ignore[method-assign]
    with pytest.raises(FetchTimeout):
        await world["a"].fetch(bad, timeout=5)
    await world["a"].fetch(good, timeout=5)


@simulated()
async def test_nothing_moves_until_somebody_asks(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(MIB))
    await asyncio.sleep(60)
    assert not await world["b"].exists(token.hash)
    assert world["a"].served_bytes == 0


@simulated()
async def test_a_fetch_waits_and_says_for_whom(world: World) -> None:
    await world.node("b")
    token = await (await world.node("a")).attachments.add(content(3 * MIB))
    progress: list[BlobProgress] = []
    fetching = asyncio.create_task(world["b"].fetch(token, on_progress=progress.append))
    await asyncio.sleep(10)
    assert progress[-1].state == "waiting"
    assert progress[-1].reason == "no peers are connected"
    await world.link("bc")
    await asyncio.sleep(10)
    assert progress[-1].state == "waiting"
    assert progress[-1].reason is not None
    assert "asking c (" in progress[-1].reason
    await world.link("ca")
    assert await (await fetching).read() == content(3 * MIB)


@simulated(bytes_per_second=MIB)
async def test_a_fetch_says_who_sends_as_sources_come_and_go(world: World) -> None:
    await world.link("ca", "cb")
    data = content(60 * MIB)
    token = await world["a"].add(data)
    progress: list[BlobProgress] = []
    fetching = asyncio.create_task(world["c"].fetch(token, on_progress=progress.append))
    a, b = (world.nodes[name].node_id for name in "ab")
    await asyncio.sleep(5)
    assert (progress[-1].state, progress[-1].sources) == ("transferring", [a])
    await world["b"].add(data)
    await asyncio.sleep(10)
    assert (progress[-1].state, sorted(progress[-1].sources)) == ("transferring", sorted([a, b]))
    world.nodes["a"].store.silent = True
    await asyncio.sleep(SILENCE + 10)
    assert (progress[-1].state, progress[-1].sources) == ("transferring", [b])
    await world.nodes["b"].attachments.close()
    await world.nodes["b"].peers.close()
    await asyncio.sleep(SILENCE + 10)
    assert (progress[-1].state, progress[-1].sources) == ("stalled", [a])
    world.nodes["a"].store.silent = False
    await world.nodes["a"].attachments.close()
    await world.nodes["a"].peers.close()
    await asyncio.sleep(10)
    assert (progress[-1].state, progress[-1].sources) == ("waiting", [])
    assert progress[-1].reason == "no peers are connected"
    fetching.cancel()


@simulated()
async def test_a_fetch_that_takes_too_long_says_how_far_it_is(world: World) -> None:
    await world.link("ba")
    nowhere = BlobToken("1" * 64, 5 * MIB, "2" * 64)
    with pytest.raises(FetchTimeout) as raised:
        await world["b"].fetch(nowhere, timeout=3)
    assert raised.value.downloaded_bytes == 0
    assert "asking a" in raised.value.state
    with pytest.raises(BlobNotFound):
        await world["b"].delete("3" * 64)


@simulated(bytes_per_second=MIB)
async def test_fetches_of_one_blob_share_a_transfer_and_the_last_to_leave_stops_it(world: World) -> None:
    await world.link("ba")
    data = content(10 * MIB)
    token = await world["a"].add(data)
    first = asyncio.create_task(world["b"].fetch(token))
    second = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(3)
    first.cancel()
    await asyncio.sleep(1)
    assert not second.done()
    second.cancel()
    await asyncio.sleep(1)
    sent = world["a"].served_bytes
    assert 0 < sent < 7 * MIB
    await asyncio.sleep(20)
    assert world["a"].served_bytes <= sent + 2 * MIB  # what was being sent, and nothing more
    assert not world.nodes["a"].attachments._exchange._said._demands.blobs
    both = await asyncio.gather(world["b"].fetch(token), world["b"].fetch(token))
    assert [await handle.read() for handle in both] == [data, data]
    assert world["a"].served_bytes <= 12 * MIB  # at most what was under way was sent twice


@simulated(bytes_per_second=4 * MIB)
async def test_several_holders_send_different_chunks(world: World) -> None:
    await world.link("ca", "cb")
    data = content(24 * MIB)
    token = await world["a"].add(data)
    await world["b"].add(data)
    start = asyncio.get_running_loop().time()
    handle = await world["c"].fetch(token)
    assert await handle.read() == data
    assert world["a"].served_bytes > 6 * MIB
    assert world["b"].served_bytes > 6 * MIB
    assert world["a"].served_bytes + world["b"].served_bytes <= 26 * MIB
    assert asyncio.get_running_loop().time() - start < 8


@simulated(bytes_per_second=2 * MIB)
async def test_partial_holders_serve_each_other(world: World) -> None:
    await world.link("ba", "ca", "bc")
    data = content(24 * MIB)
    token = await world["a"].add(data)
    await asyncio.gather(world["b"].fetch(token), world["c"].fetch(token))
    assert world["b"].served_bytes + world["c"].served_bytes > 6 * MIB
    assert world["a"].served_bytes < 42 * MIB


@simulated()
async def test_relays_pull_through_and_keep_what_they_relayed_as_cached(world: World) -> None:
    await world.link("ab", "bc", "cd")
    data = content(6 * MIB + 1)
    token = await world["d"].add(data)
    handle = await world["a"].fetch(token)
    assert await handle.read() == data
    await asyncio.sleep(1)
    for relay in "bc":
        assert await world[relay].exists(token.hash)
        assert await world.nodes[relay].store.cached(token.hash)
    assert world["d"].served_bytes == len(data)
    held = await world["b"].fetch(token)  # and from then on it is its own
    assert await held.read() == data
    assert not await world.nodes["b"].store.cached(token.hash)


@simulated(bytes_per_second=2 * MIB)
async def test_relays_pass_on_chunk_by_chunk(world: World) -> None:
    await world.link("ab", "bc", "cd")
    token = await world["d"].add(content(20 * MIB))
    start = asyncio.get_running_loop().time()
    await world["a"].fetch(token)
    assert asyncio.get_running_loop().time() - start < 35  # hop after hop it would be 60


@simulated()
async def test_a_relay_may_refuse(world: World) -> None:
    await world.node("b", may_relay=lambda token, origin: False)
    await world.link("ab", "bc")
    token = await world["c"].add(content(MIB))
    with pytest.raises(FetchTimeout):
        await world["a"].fetch(token, timeout=100)
    assert world["b"].received_bytes == 0


@simulated(bytes_per_second=4 * MIB)
async def test_loops_neither_multiply_downloads_nor_keep_a_demand(world: World) -> None:
    await world.link("oa", "ob", "ab", "az", "bz", "zx", "xa")
    data = content(12 * MIB)
    token = await world["z"].add(data)
    await world["o"].fetch(token)
    await asyncio.sleep(5)
    assert world["o"].received_bytes < 13 * MIB
    assert world["z"].served_bytes < 13 * MIB
    for node in world.nodes.values():
        assert not node.attachments._exchange._said._demands.blobs
    sent = sum(node.attachments.served_bytes for node in world.nodes.values())
    assert sent < 27 * MIB


@simulated(bytes_per_second=2 * MIB)
async def test_a_relay_stops_when_nobody_wants_the_blob_any_more(world: World) -> None:
    await world.link("ab", "bc")
    token = await world["c"].add(content(20 * MIB))
    fetching = asyncio.create_task(world["a"].fetch(token))
    await asyncio.sleep(3)
    fetching.cancel()
    await asyncio.sleep(2)
    sent = world["c"].served_bytes
    await asyncio.sleep(20)
    assert world["c"].served_bytes <= sent + 2 * MIB < 16 * MIB
    fetching = asyncio.create_task(world["a"].fetch(token))
    await asyncio.sleep(2)
    world.nodes["a"].peers.links[world.nodes["b"].node_id].close("gone")
    await world.nodes["a"].peers.close()
    await asyncio.sleep(2)
    assert not world.nodes["b"].attachments._exchange._said._demands.blobs
    assert not list(world.nodes["b"].attachments._exchange._transfers)
    fetching.cancel()


@simulated(bytes_per_second=4 * MIB)
async def test_a_holder_that_lies_costs_one_chunk(world: World) -> None:
    await world.link("ca", "cb")
    data = content(12 * MIB)
    token = await world["a"].add(data)
    await world["b"].add(data)
    world.nodes["a"].store.lies = True
    handle = await world["c"].fetch(token)
    assert await handle.read() == data
    assert world.nodes["a"].store.reads <= 8  # its window; it was not asked again


@simulated()
async def test_with_only_a_liar_the_fetch_waits_and_says_why(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(2 * MIB))
    world.nodes["a"].store.lies = True
    progress: list[BlobProgress] = []
    with pytest.raises(FetchTimeout):
        await world["b"].fetch(token, on_progress=progress.append, timeout=100)
    assert progress[-1].state == "waiting"
    assert progress[-1].reason is not None
    assert "wrong bytes" in progress[-1].reason
    assert world.nodes["a"].store.reads <= 8


@simulated(bytes_per_second=8 * MIB)
async def test_a_silent_holder_is_replaced(world: World) -> None:
    await world.link("ca", "cb")
    data = content(12 * MIB)
    token = await world["a"].add(data)
    await world["b"].add(data)
    world.nodes["a"].store.silent = True
    start = asyncio.get_running_loop().time()
    progress: list[BlobProgress] = []
    await world["c"].fetch(token, on_progress=progress.append)
    assert asyncio.get_running_loop().time() - start < SILENCE + 10


@simulated()
async def test_with_only_a_silent_holder_the_fetch_is_stalled(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(2 * MIB))
    world.nodes["a"].store.silent = True
    progress: list[BlobProgress] = []
    with pytest.raises(FetchTimeout):
        await world["b"].fetch(token, on_progress=progress.append, timeout=3 * SILENCE)
    assert progress[-1].state == "stalled"
    assert progress[-1].sources == [world.nodes["a"].node_id]
    since = re.fullmatch(r"nothing came for (\d+) s from (.*)", progress[-1].reason or "")
    assert since is not None
    assert since[2] == world.nodes["a"].node_id
    assert SILENCE <= int(since[1]) <= 3 * SILENCE


@simulated(bytes_per_second=2 * MIB)
async def test_a_fetch_goes_on_after_its_link_was_lost(world: World) -> None:
    await world.link("ba")
    data = content(12 * MIB)
    token = await world["a"].add(data)
    fetching = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(3)
    world.network.partition([["a"], ["b"]], silent=False)
    await asyncio.sleep(20)
    assert not fetching.done()
    world.network.heal()
    assert await (await fetching).read() == data
    assert world["a"].served_bytes <= 16 * MIB


@simulated(bytes_per_second=2 * MIB)
async def test_a_fetch_goes_on_after_its_bulk_connection_broke(world: World) -> None:
    await world.link("ba")
    data = content(8 * MIB)
    token = await world["a"].add(data)
    fetching = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(2)
    for connection in list(world.nodes["a"].attachments._exchange.bulk.server._connections):
        await connection.close("a fault")
    assert await (await fetching).read() == data


@simulated()
async def test_a_stuck_path_is_left_for_another(world: World) -> None:
    """b is on the shorter way and passes the demand on, but never serves."""
    await world.link("ab", "bz", "ac", "cd", "dz")
    data = content(2 * MIB)
    token = await world["z"].add(data)
    world.nodes["b"].store.silent = True
    start = asyncio.get_running_loop().time()
    handle = await world["a"].fetch(token)
    assert await handle.read() == data
    assert asyncio.get_running_loop().time() - start < 2 * STUCK_SECONDS + SILENCE


@simulated()
async def test_a_holder_that_cannot_be_dialled_dials_back(world: World) -> None:
    await world.node("a", listens=False)
    await world.link("ab")
    data = content(5 * MIB)
    token = await world["a"].add(data)
    start = asyncio.get_running_loop().time()
    handle = await world["b"].fetch(token)
    assert await handle.read() == data
    assert asyncio.get_running_loop().time() - start < DIAL_BACK_SECONDS
    await asyncio.sleep(IDLE_SECONDS + 1)
    assert not world.nodes["a"].peers._bulk or not any(
        world["a"]._exchange.bulk.server._connections
    )  # closed when idle


@pytest.mark.parametrize("size", [1, MIB + 1, 5 * MIB])
def test_where_nobody_can_dial_the_shared_link_carries_the_chunks(size: int) -> None:
    async def main() -> None:
        world = World()
        await world.link("ba")

        async def unreachable(link: Link) -> Connection:
            raise PeerUnreachable(str(link), "a firewall")

        for node in world.nodes.values():
            node.peers.dial_bulk = unreachable  # type: ignore[method-assign]
        data = content(size)
        token = await world["a"].add(data)
        most = 0
        link = next(iter(world.nodes["a"].peers.links.values()))
        send = link.send

        def sending(message: Any, *, bulk: bool = False) -> None:
            nonlocal most
            send(message, bulk=bulk)
            most = max(most, link.pending_bytes)

        link.send = sending  # type: ignore[method-assign]
        handle = await world["b"].fetch(token)
        assert await handle.read() == data
        assert most <= 300 * 1024
        assert world["a"].served_bytes == size
        await world.close()

    run_virtual(main())


@simulated()
async def test_a_hundred_small_blobs(world: World) -> None:
    await world.link("ba")
    tokens = [await world["a"].add(content(1000, seed)) for seed in range(100)]
    start = asyncio.get_running_loop().time()
    handles = await asyncio.gather(*(world["b"].fetch(token) for token in tokens))
    assert [await handle.read() for handle in handles] == [content(1000, seed) for seed in range(100)]
    assert asyncio.get_running_loop().time() - start < 0.2  # handfuls of round trips, not hundreds
    assert len(world["a"]._exchange.bulk.server._connections) == 1


@simulated(bytes_per_second=2 * MIB)
async def test_the_higher_priority_goes_first(world: World) -> None:
    await world.link("ba")
    normal = await world["a"].add(content(20 * MIB, 1))
    critical = await world["a"].add(content(2 * MIB, 2))
    first = asyncio.create_task(world["b"].fetch(normal))
    await asyncio.sleep(3)
    await world["b"].fetch(critical, priority=4)
    assert not first.done()
    assert asyncio.get_running_loop().time() < 3 + 5  # the blob that came first takes 10
    await first


@simulated()
async def test_tokens_that_cannot_be_true(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(b"small")
    large = await world["a"].add(content(2 * MIB))
    for wrong in (
        BlobToken(token.hash, 5, large.hash),
        BlobToken(token.hash, 0, token.chunks_hash),
        BlobToken("x", 5, token.chunks_hash),
    ):
        with pytest.raises(InvalidToken):
            await world["b"].fetch(wrong)
    with pytest.raises(FetchFailed, match="every chunk is as the token"):
        await world["b"].fetch(await lying_token(world))
    await world["b"].fetch(large)
    with pytest.raises(InvalidToken):
        await world["b"].fetch(BlobToken(large.hash, large.size_bytes - 1, large.chunks_hash))


async def lying_token(world: World) -> BlobToken:
    """The publisher says that the chunks of one blob are those of another."""
    data = content(2 * MIB, 9)
    true = await world["a"].add(data)
    lie = BlobToken("7" * 64, true.size_bytes, true.chunks_hash)
    blobs = world.nodes["a"].store._blobs
    blobs[lie.hash] = blobs[true.hash]
    return lie


@pytest.mark.parametrize("bad_first", [True, False])
@pytest.mark.parametrize("size", [9, 3 * MIB])
@pytest.mark.parametrize("wrong", [{"chunks_hash": "0" * 64}, {"size_bytes": 5 * MIB}])
def test_a_wrong_token_does_not_stop_the_right_one(bad_first: bool, size: int, wrong: dict[str, Any]) -> None:
    @simulated()
    async def contest(world: World) -> None:
        await world.link("ba", "be", "cb")  # c reaches the holder through b only
        token = await world["a"].add(content(size))
        bad = msgspec.structs.replace(token, **{"size_bytes": 4 * MIB, **wrong})
        order = [bad, token] if bad_first else [token, bad]
        fetching = []
        for wanted in order:
            for name in "cbe":
                fetching.append((wanted, asyncio.create_task(world[name].fetch(wanted, timeout=1500))))
            await asyncio.sleep(1)
        for wanted, task in fetching:
            if wanted is token:
                assert await (await task).read() == content(size)
            else:
                with pytest.raises((InvalidToken, FetchFailed)):
                    await task
        await asyncio.sleep(200)
        for node in world.nodes.values():
            assert not node.attachments._exchange._said._demands.blobs
            assert not node.attachments._exchange._contests._timers

    contest()


@simulated()
async def test_wrong_tokens_alone_are_left_like_any_other(world: World) -> None:
    await world.link("ba")
    fetching = [
        asyncio.create_task(world["b"].fetch(BlobToken("1" * 64, 5 * MIB, digit * 64))) for digit in "234"
    ]
    await asyncio.sleep(30)
    for task in fetching:
        task.cancel()
    await asyncio.wait(fetching)
    await asyncio.sleep(1)
    assert not world["b"]._exchange._said._demands.blobs
    assert not world["a"]._exchange._said._demands.blobs
    assert not world["b"]._exchange._contests._timers


@simulated()
async def test_an_add_is_ended_by_close(world: World) -> None:
    node = await world.node("a")
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"some"
        begun.set()
        await asyncio.Event().wait()

    adding = asyncio.create_task(node.attachments.add(endless()))
    await begun.wait()
    await node.attachments.close()
    with pytest.raises(NotStarted):
        await adding


@simulated()
async def test_handles_and_hashes_that_are_no_use(world: World) -> None:
    node = await world.node("a")
    handle = await node.attachments.fetch(await node.attachments.add(b"x"))
    for ask in (node.attachments.info, node.attachments.exists, node.attachments.delete):
        with pytest.raises(InvalidToken):
            await ask(None)  # type: ignore[arg-type]
    with pytest.raises(BlobNotFound):
        await node.attachments.delete("../../x")
    with pytest.raises(InvalidToken):
        await node.attachments.fetch(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidToken):
        await node.attachments.fetch(BlobToken(5, 1, "1" * 64))  # type: ignore[arg-type]
    for token in (handle.token, BlobToken("1" * 64, 2 * MIB, "1" * 64)):
        for timeout in ("x", float("nan"), -1, 10**400):
            with pytest.raises(InvalidFetch, match="timeout is a number of seconds"):
                await node.attachments.fetch(token, timeout=timeout)  # type: ignore[arg-type]
    await node.attachments.close()
    with pytest.raises(NotStarted):
        await handle.read()
    with pytest.raises(NotStarted):
        handle.open()


@simulated()
async def test_a_holder_that_healed_is_asked_again(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(2 * MIB))
    world.nodes["a"].store.lies = True
    fetching = asyncio.create_task(world["b"].fetch(token, timeout=60))
    await asyncio.sleep(1)
    world.nodes["a"].store.lies = False
    await fetching


@pytest.mark.limit("attachments.service.MAX_BLOB_BYTES")
@simulated()
async def test_a_blob_over_the_limit_is_neither_fetched_nor_relayed(world: World) -> None:
    await world.node("b", max_blob_bytes=MIB)
    await world.link("ab", "bc")
    token = await world["c"].add(content(2 * MIB))
    with pytest.raises(BlobTooLarge):
        await world["b"].fetch(token)
    with pytest.raises(FetchTimeout):
        await world["a"].fetch(token, timeout=10)


@simulated()
async def test_a_full_disk_ends_a_fetch_that_shall_not_wait_and_what_came_is_kept(world: World) -> None:
    await world.link("ba")
    data = content(4 * MIB)
    token = await world["a"].add(data)
    store = world.nodes["b"].store
    begin = store.begin
    room = [2]

    async def beginning(token: BlobToken, *, cached: bool) -> PartialBlob:
        partial = await begin(token, cached=cached)
        write = partial.write

        async def writing(index: int, data: bytes | bytearray | memoryview) -> None:
            if not room[0]:
                raise StorageFull("/blobs", len(data), 0)
            room[0] -= 1
            await write(index, data)

        partial.write = writing  # type: ignore[method-assign]
        return partial

    store.begin = beginning  # type: ignore[method-assign]
    progress: list[BlobProgress] = []
    with pytest.raises(StorageFull):
        await world["b"].fetch(token, on_progress=progress.append, wait_for_room=False)
    assert progress[-1].state == "failed"
    assert progress[-1].reason is not None
    room[0] = 100
    await world["b"].fetch(token)


@simulated()
async def test_an_error_of_the_disk_is_told(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(2 * MIB))

    async def broken(token: BlobToken, *, cached: bool) -> PartialBlob:
        raise OSError(errno.EIO, "Input/output error")

    world.nodes["b"].store.begin = broken  # type: ignore[method-assign]
    with pytest.raises(FetchFailed, match="Input/output"):
        await world["b"].fetch(token)


@simulated(bytes_per_second=MIB)
async def test_deleting_ends_fetches_and_tells_others(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(8 * MIB))
    fetching = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(2)
    await world["b"].delete(token.hash)
    with pytest.raises(FetchFailed, match="deleted"):
        await fetching
    progress: list[BlobProgress] = []
    fetching = asyncio.create_task(world["b"].fetch(token, on_progress=progress.append))
    await asyncio.sleep(2)
    await world["a"].delete(token.hash)
    await asyncio.sleep(5)
    assert progress[-1].state == "waiting"
    assert not await world["a"].exists(token.hash)
    await world["a"].add(content(8 * MIB))  # and back it is
    await fetching


@simulated()
async def test_adding_what_is_being_fetched_completes_the_fetch(world: World) -> None:
    await world.link("ba")
    nowhere = await (await world.node("x")).attachments.add(content(MIB))
    whole: list[str] = []
    world["b"].on_whole(lambda token: whole.append(token.hash))
    fetching = asyncio.create_task(world["b"].fetch(nowhere))
    await asyncio.sleep(1)
    await world["b"].add(content(MIB))
    await fetching
    assert whole == [nowhere.hash]
    await asyncio.sleep(1)
    assert not world["a"]._exchange._said._demands.blobs


@simulated()
async def test_nothing_works_before_start_or_after_close_and_closing_ends_fetches(world: World) -> None:
    node = Node(world, "early")
    with pytest.raises(NotStarted):
        await node.attachments.add(b"")
    await world.link("ba")
    fetching = asyncio.create_task(world["b"].fetch(BlobToken("1" * 64, 5 * MIB, "2" * 64)))
    await asyncio.sleep(1)
    await world["b"].close()
    with pytest.raises(NotStarted):
        await fetching
    with pytest.raises(NotStarted):
        await world["b"].exists("1" * 64)


@simulated()
async def test_a_callback_that_raises_does_not_end_the_fetch(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(2 * MIB))
    calls = 0

    def raising(progress: BlobProgress) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("a bug of the application")

    await world["b"].fetch(token, on_progress=raising)
    assert calls == 1


@simulated()
async def test_metadata_is_checked(world: World) -> None:
    node = await world.node("a")
    for wrong in (
        {"name": 3},
        {"name": "\udcff"},
        {"content_type": b"x"},
        {"custom": {1: 2}},
        {"custom": [1]},
    ):
        with pytest.raises(InvalidMetadata):
            await node.attachments.add(b"", **wrong)
    token = await node.attachments.add(b"x")
    assert token.metadata == BlobMetadata()


def test_a_file_name_that_is_not_text(tmp_path: PurePath) -> None:
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.bin")
    with open(source, "wb") as file:
        file.write(b"x")

    async def main() -> None:
        world = World()
        token = await (await world.node("a")).attachments.add(source)
        assert token.metadata.name == "\ufffd.bin"
        await world.close()

    run_virtual(main())


@pytest.mark.parametrize("size", [9, 2 * MIB])
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_whoever_watches_a_fetch_cannot_break_it(size: int, error: type[BaseException]) -> None:
    @simulated()
    async def fetch(world: World) -> None:
        await world.link("ba")
        token = await world["a"].add(content(size))
        told: list[BlobProgress] = []

        def watch(progress: BlobProgress) -> None:
            told.append(progress)
            raise error

        handle = await world["b"].fetch(token, on_progress=watch)
        assert await handle.read() == content(size)
        assert len(told) == 1

    fetch()
