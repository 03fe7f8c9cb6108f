"""Which blobs stay, which go, and what happens while there is no room; on a virtual clock."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mesh.attachments.service import Attachments
from mesh.attachments.transfers import ROOM_SECONDS
from mesh.core.demand import FORGET
from mesh.core.retention import GRACE_SECONDS, Grace
from mesh.core.tokens import BlobMetadata, BlobProgress, BlobToken
from mesh.errors import BlobNotFound, FetchTimeout, NotStarted, StorageFull
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.worker import ThreadWorker
from tests.simulation.virtual_clock import run_virtual
from tests.unit.attachments.test_attachments import MIB, World, content, simulated


class References:
    """What documents refer to, as the node would tell it."""

    def __init__(self) -> None:
        self.hashes: set[str] = set()
        self.asked = 0
        self.broken = False

    async def __call__(self, hashes: Collection[str]) -> set[str]:
        self.asked += 1
        if self.broken:
            raise OSError("the store cannot be read")
        await asyncio.sleep(0)
        return self.hashes.intersection(hashes)


async def open_and_close(blobs: Attachments, hash: str) -> None:
    blobs.open_file(hash).close()


async def until_gone() -> None:
    await asyncio.sleep(GRACE_SECONDS + 1)


# --- what nothing needs -------------------------------------------------------------------------------


@simulated()
async def test_a_blob_that_nothing_refers_to_goes_after_ten_minutes(world: World) -> None:
    references = References()
    blobs = (await world.node("a", referred=references)).attachments
    kept = await blobs.add(b"kept")
    references.hashes.add(kept.hash)
    gone = await blobs.add(b"gone")
    await asyncio.sleep(GRACE_SECONDS - 1)
    assert await blobs.exists(gone.hash)
    await asyncio.sleep(2)
    assert not await blobs.exists(gone.hash)
    assert await blobs.info(gone.hash) is None
    assert await blobs.tokens() == [kept]
    assert await blobs.storage_bytes() == 4
    asked = references.asked
    await asyncio.sleep(10 * GRACE_SECONDS)
    assert await blobs.exists(kept.hash)
    assert references.asked == asked  # nothing is polled
    references.hashes.clear()
    blobs.reconsider(kept.hash)
    await asyncio.sleep(GRACE_SECONDS - 1)
    assert await blobs.exists(kept.hash)
    await asyncio.sleep(2)
    assert not await blobs.exists(kept.hash)


Add = Callable[[FolderBlobs, Path, BlobMetadata], Coroutine[Any, Any, BlobToken]]


@simulated()
async def test_whatever_uses_a_blob_gives_it_its_time_again(world: World) -> None:
    blobs = (await world.node("a")).attachments
    token = await blobs.add(b"used")
    uses: list[Any] = [
        lambda: blobs.read(token.hash),
        lambda: open_and_close(blobs, token.hash),
        lambda: blobs.add(b"used"),
        lambda: blobs.fetch(token),
    ]
    for use in uses:
        await asyncio.sleep(GRACE_SECONDS - 10)
        await use()
        gc.collect()
    await asyncio.sleep(GRACE_SECONDS - 10)
    assert await blobs.exists(token.hash)
    await until_gone()
    assert not await blobs.exists(token.hash)


@pytest.mark.parametrize("how", [FolderBlobs.add, FolderBlobs.link])
async def test_what_is_added_again_as_its_time_ends_stays(tmp_path: Path, how: Add) -> None:
    store = FolderBlobs(tmp_path / "blobs", ThreadWorker("blobs"))
    await store.open()
    source = tmp_path / "source"
    source.write_bytes(b"again")
    token = await how(store, source, BlobMetadata())
    assert not store.adding(token.hash)
    adding = asyncio.ensure_future(how(store, source, BlobMetadata()))
    seen = False
    while not adding.done():
        adds = store.adding(token.hash)
        assert adds or not seen, "it is over before whoever adds it knows"
        seen = adds
        await asyncio.sleep(0)
    assert seen
    assert not store.adding(token.hash)
    await store.close()


@simulated()
async def test_a_blob_that_is_being_added_is_not_collected(world: World) -> None:
    blobs = (await world.node("a")).attachments
    token = await blobs.add(b"again")
    store = world.nodes["a"].store
    store.adding = lambda hash: hash == token.hash  # type: ignore[method-assign]
    await until_gone()
    assert await blobs.exists(token.hash)
    store.adding = lambda hash: False  # type: ignore[method-assign]
    await until_gone()
    assert not await blobs.exists(token.hash)


@simulated()
async def test_what_is_fetched_while_others_make_room_stays(world: World) -> None:
    await world.link("ab", "bc")
    tokens = [await world["c"].add(content(1000, seed)) for seed in range(3)]
    for token in tokens:
        await world["a"].fetch(token)  # through b
    await asyncio.sleep(FORGET)  # until a's demand is no reason to keep them
    relay = world.nodes["b"]
    delete = relay.store.delete

    async def slowly(hash: str) -> None:
        await asyncio.sleep(1)
        await delete(hash)

    relay.store.delete = slowly  # type: ignore[method-assign]
    making = asyncio.ensure_future(relay.attachments._keeping.make_room(3000))
    await asyncio.sleep(0.5)
    handle = await relay.attachments.fetch(tokens[2])
    await making
    assert [await relay.attachments.exists(token.hash) for token in tokens] == [False, False, True]
    assert await handle.read() == content(1000, 2)


@simulated()
async def test_a_blob_stays_while_a_handle_of_it_is_alive(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(b"held")
    handle = await world["b"].fetch(token)
    await asyncio.sleep(5 * GRACE_SECONDS)
    assert not await world["a"].exists(token.hash)
    assert await handle.read() == b"held"
    del handle
    gc.collect()
    await until_gone()
    assert not await world["b"].exists(token.hash)


@simulated(bytes_per_second=MIB)
async def test_a_blob_stays_while_somebody_fetches_it_from_here(world: World) -> None:
    await world.link("ba")
    world["a"]._keeping._grace = Grace(3.0)
    token = await world["a"].add(content(10 * MIB))
    await asyncio.wait_for(world["b"].fetch(token), 60)
    assert await world["a"].exists(token.hash)
    await asyncio.sleep(10)
    assert not await world["a"].exists(token.hash)


@simulated()
async def test_a_pinned_blob_stays_until_it_is_unpinned(world: World) -> None:
    blobs = (await world.node("a")).attachments
    token = await blobs.add(b"pinned")
    await blobs.pin(token.hash)
    await blobs.pin(token.hash)
    assert await blobs.pinned(token.hash)
    await asyncio.sleep(5 * GRACE_SECONDS)
    assert await blobs.exists(token.hash)
    await blobs.unpin(token.hash)
    await blobs.unpin(token.hash)
    assert await blobs.exists(token.hash)
    await until_gone()
    assert not await blobs.exists(token.hash)
    with pytest.raises(BlobNotFound):
        await blobs.pin(token.hash)
    token = await blobs.add(b"pinned")
    await blobs.pin(token.hash)
    await blobs.delete(token.hash)
    await blobs.add(b"pinned")
    assert not await blobs.pinned(token.hash)
    await until_gone()
    assert not await blobs.exists(token.hash)


@simulated()
async def test_a_reference_that_comes_at_the_last_moment_counts(world: World) -> None:
    references = References()
    node = await world.node("a", referred=references)
    blobs = node.attachments
    token = await blobs.add(b"just in time")

    async def referred(hashes: Collection[str]) -> set[str]:
        blobs.reconsider(token.hash)  # committed while the documents were being asked
        return set()

    blobs._keeping._referred = referred
    await until_gone()
    assert await blobs.exists(token.hash)
    blobs._keeping._referred = references
    await until_gone()
    assert not await blobs.exists(token.hash)


@simulated()
async def test_while_documents_cannot_be_asked_everything_stays(world: World) -> None:
    references = References()
    references.broken = True
    blobs = (await world.node("a", referred=references)).attachments
    token = await blobs.add(b"x")
    await asyncio.sleep(5 * GRACE_SECONDS)
    assert await blobs.exists(token.hash)
    assert references.asked == 4  # again whenever it is due
    references.broken = False
    await until_gone()
    assert not await blobs.exists(token.hash)


@simulated(bytes_per_second=MIB)
async def test_what_arrived_of_a_blob_goes_when_nobody_fetches_it_any_more(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(10 * MIB))
    await world["a"].pin(token.hash)
    store = world.nodes["b"].store
    fetching = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(3)
    fetching.cancel()
    await asyncio.sleep(GRACE_SECONDS - 10)
    assert store.partials() == [token.hash]
    fetching = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(3)
    assert world["b"].received_bytes <= 8 * MIB
    world.nodes["b"].peers.links[world.nodes["a"].node_id].close("a test")
    await world.nodes["a"].peers.close()
    await asyncio.sleep(3 * GRACE_SECONDS)
    assert store.partials() == [token.hash]  # it is still wanted
    fetching.cancel()
    await until_gone()
    assert store.partials() == []


@simulated()
async def test_what_is_here_at_the_start_gets_its_time(world: World) -> None:
    node = await world.node("a")
    token = await node.store.add(b"from before", (await node.attachments.add(b"x")).metadata)
    node.attachments._keeping.start()
    await asyncio.sleep(GRACE_SECONDS - 1)
    assert await node.attachments.exists(token.hash)
    await asyncio.sleep(2)
    assert await node.attachments.tokens() == []


# --- what is here for others --------------------------------------------------------------------------


async def relayed(world: World, *sizes: int) -> list[BlobToken]:
    """Blobs of c that a has fetched through b."""
    tokens = []
    for seed, size in enumerate(sizes):
        token = await world["c"].add(content(size, seed))
        await world["c"].pin(token.hash)
        await world["a"].fetch(token)
        await asyncio.sleep(1)
        tokens.append(token)
    return tokens


async def held(world: World, name: str, tokens: list[BlobToken]) -> list[bool]:
    return [await world[name].exists(token.hash) for token in tokens]


@simulated()
async def test_of_what_is_kept_for_others_the_least_recently_served_goes_first(world: World) -> None:
    await world.node("b", cache_bytes=5 * MIB)
    await world.link("ab", "bc")
    tokens = await relayed(world, 2 * MIB, 2 * MIB)
    await asyncio.sleep(3 * GRACE_SECONDS)
    assert await held(world, "b", tokens) == [True, True]  # ten minutes are for what is this node's own
    await world.node("d")
    await world.link("db")
    await world["d"].fetch(tokens[0])
    tokens += await _one_more(world)
    assert await held(world, "b", tokens) == [True, False, True]
    assert sum(size for _, size in world.nodes["b"].store.cache()) <= 5 * MIB


async def _one_more(world: World) -> list[BlobToken]:
    token = await world["c"].add(content(2 * MIB, 99))
    await world["a"].fetch(token)
    await asyncio.sleep(1)
    return [token]


@simulated()
async def test_what_documents_refer_to_is_given_up_last_and_what_is_pinned_never(world: World) -> None:
    references = References()
    await world.node("b", cache_bytes=6 * MIB, referred=references)
    await world.link("ab", "bc")
    tokens = await relayed(world, 2 * MIB, 2 * MIB, 2 * MIB)
    references.hashes.add(tokens[0].hash)
    tokens += await _one_more(world)
    assert await held(world, "b", tokens) == [True, False, True, True]
    await world["b"].pin(tokens[2].hash)
    assert not await world.nodes["b"].store.cached(tokens[2].hash)
    await asyncio.sleep(3 * GRACE_SECONDS)
    assert await held(world, "b", tokens) == [True, False, True, True]


@simulated()
async def test_a_relay_relays_nothing_that_its_quota_has_no_room_for(world: World) -> None:
    await world.node("b", cache_bytes=3 * MIB)
    await world.link("ab", "bc")
    (small,) = await relayed(world, 3 * MIB)
    large = await world["c"].add(content(3 * MIB + 1, 1))
    with pytest.raises(FetchTimeout, match=r"asking b .*\[does not pass it on: .*for others \(3\.1 MB\)"):
        await world["a"].fetch(large, timeout=100)
    assert world["b"].received_bytes // MIB == 3
    assert await world["b"].exists(small.hash)
    await world["b"].fetch(large)  # for itself it may
    assert await (await world["a"].fetch(large)).read() == content(3 * MIB + 1, 1)


def test_what_is_too_large_to_be_relayed_is_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        await world.node("b", cache_bytes=MIB)
        await world.link("ab")
        large = await world["a"].add(content(MIB + 1))
        await world["a"].delete(large.hash)
        for linked in (False, True):
            if linked:
                await world.link("cb")
            for _ in range(2):
                with pytest.raises(FetchTimeout) as timed_out:
                    await world["a"].fetch(large, timeout=100)
            assert ("does not pass it on" in str(timed_out.value)) == linked, "b could ask nobody else"
            warnings = [record for record in caplog.records if "not passed on" in record.getMessage()]
            assert len(warnings) == linked
        (warning,) = warnings
        assert warning.levelname == "WARNING"
        assert large.hash in warning.getMessage()
        assert f"{MIB + 1} bytes" in warning.getMessage()
        assert "cache_bytes" in warning.getMessage()
        assert "--cache" in warning.getMessage()
        await world.close()

    run_virtual(main())


@simulated(bytes_per_second=MIB)
async def test_relays_under_way_count_and_what_is_being_served_stays(world: World) -> None:
    await world.node("b", cache_bytes=12 * MIB)
    await world.link("ab", "bc")
    first, second = [await world["c"].add(content(8 * MIB, seed)) for seed in range(2)]
    fetching = asyncio.create_task(world["a"].fetch(first))
    await asyncio.sleep(3)
    other = asyncio.create_task(world["a"].fetch(second))
    await asyncio.sleep(3)
    assert world.nodes["b"].store.partials() == [first.hash]
    await fetching
    await other  # asked for again when there was room
    assert await held(world, "b", [first, second]) == [False, True]


@simulated()
async def test_the_room_of_a_relayed_blob_is_free_as_soon_as_it_has_been_fetched(world: World) -> None:
    await world.node("b", cache_bytes=3 * MIB)
    await world.link("ab", "bc")
    for seed in range(4):
        token = await world["c"].add(content(2 * MIB, seed))
        await world["a"].fetch(token, timeout=2)


@simulated()
async def test_what_a_relay_had_no_room_for_is_relayed_as_soon_as_there_is_some(world: World) -> None:
    await world.node("b", cache_bytes=3 * MIB)
    await world.link("ab", "bc")
    large = await world["c"].add(content(3 * MIB + 1))
    tokens = [await world["c"].add(content(2 * MIB, seed)) for seed in range(1, 5)]
    in_vain = asyncio.create_task(world["a"].fetch(large, timeout=10))  # stands in nobody's way
    await asyncio.gather(*(world["a"].fetch(token, timeout=5) for token in tokens))
    with pytest.raises(FetchTimeout):
        await in_vain


# --- no room ------------------------------------------------------------------------------------------


@simulated()
async def test_a_fetch_without_room_waits_says_so_and_goes_on_by_itself(world: World) -> None:
    await world.link("ba")
    data = content(4 * MIB)
    token = await world["a"].add(data)
    await world["a"].pin(token.hash)
    store = world.nodes["b"].store
    store._max_bytes = 5 * MIB
    other = await world["b"].add(content(2 * MIB, 1))
    progress: list[BlobProgress] = []
    fetching = asyncio.create_task(world["b"].fetch(token, on_progress=progress.append))
    await asyncio.sleep(3 * ROOM_SECONDS)
    assert progress[-1].state == "stalled"
    assert progress[-1].reason is not None
    assert f"no room: needs {4 * MIB} bytes in memory, where {3 * MIB} are free" in progress[-1].reason
    with pytest.raises(StorageFull):
        await world["b"].fetch(token, wait_for_room=False)
    assert not fetching.done()
    await world["b"].delete(other.hash)
    handle = await asyncio.wait_for(fetching, 5)  # at once: it was this node that made room
    assert await handle.read() == data


@simulated()
async def test_room_that_somebody_else_made_is_noticed(world: World) -> None:
    await world.link("ba")
    data = content(4 * MIB)
    token = await world["a"].add(data)
    store = world.nodes["b"].store
    fetching = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(0.02)
    other = store._max_bytes - 2 * MIB
    store._taken += other
    await asyncio.sleep(5)
    assert not fetching.done()
    received = world["b"].received_bytes
    store._taken -= other
    handle = await asyncio.wait_for(fetching, ROOM_SECONDS + 1)
    assert await handle.read() == data
    assert world["b"].received_bytes <= 4 * MIB + received  # what had arrived was not dropped


@pytest.mark.parametrize("impatient", [False, True])
def test_a_relay_that_had_no_room_goes_on_as_soon_as_there_is_some(impatient: bool) -> None:
    @simulated()
    async def relay(world: World) -> None:
        await world.link("ab", "bc")
        store = world.nodes["b"].store
        store._max_bytes = 5 * MIB
        other = await world["b"].add(content(4 * MIB, 1))
        data = content(3 * MIB)
        token = await world["c"].add(data)
        fetching = asyncio.create_task(world["a"].fetch(token))
        await asyncio.sleep(1)
        if impatient:  # who does not wait for room here keeps nobody from it
            with pytest.raises(StorageFull):
                await world["b"].fetch(token, wait_for_room=False)
        await asyncio.sleep(1)
        assert world["b"]._exchange.slots.taken == 0  # it stands in nobody's way
        await world["b"].delete(other.hash)
        handle = await asyncio.wait_for(fetching, 1)
        assert await handle.read() == data
        assert await store.cached(token.hash)

    relay()


@simulated()
async def test_what_is_kept_for_others_makes_room_for_what_others_want_now(world: World) -> None:
    await world.link("ab", "bc")
    world.nodes["b"].store._max_bytes = 5 * MIB
    tokens = await relayed(world, 2 * MIB, 2 * MIB, 2 * MIB)
    assert await held(world, "b", tokens) == [False, True, True]


@pytest.mark.parametrize("seed", range(20))
def test_a_disk_that_fills_up_at_any_point_costs_time_and_no_more(seed: int) -> None:
    @simulated(bytes_per_second=4 * MIB)
    async def fill(world: World) -> None:
        rng = random.Random(seed)
        await world.link("ba")
        data = content(8 * MIB + 1)
        token = await world["a"].add(data)
        await world["a"].pin(token.hash)
        store = world.nodes["b"].store
        progress: list[BlobProgress] = []
        fetching = asyncio.create_task(world["b"].fetch(token, on_progress=progress.append))
        await asyncio.sleep(rng.uniform(0, 3))
        other = store._max_bytes - store._taken
        store._taken += other
        await asyncio.sleep(rng.uniform(0, 100))
        store._taken -= other
        handle = await asyncio.wait_for(fetching, 100)
        assert await handle.read() == data
        assert world["b"].received_bytes <= len(data) + 8 * MIB
        assert store._taken == len(data)

    fill()


@simulated()
async def test_what_is_kept_for_others_makes_room_for_what_is_wanted_here(world: World) -> None:
    await world.link("ab", "bc")
    tokens = await relayed(world, 2 * MIB, 2 * MIB)
    store = world.nodes["b"].store
    store._max_bytes = 5 * MIB
    await world["b"].add(content(3 * MIB, 10))
    assert await held(world, "b", tokens) == [False, True]
    token = await world["c"].add(content(2 * MIB, 11))
    await world["b"].fetch(token)
    assert await held(world, "b", tokens) == [False, False]
    with pytest.raises(StorageFull):
        await world["b"].add(content(3 * MIB, 12))


# --- damage -------------------------------------------------------------------------------------------


BLOBS = 13


def rot(world: World, name: str, hash: str, position: int) -> None:
    blob = world.nodes[name].store._blobs[hash]
    blob.content = bytearray(blob.content)
    blob.content[position] ^= 1


@simulated()
async def test_verify_finds_every_flipped_bit_and_repairs_it_from_others(world: World) -> None:
    await world.link("ba")
    rng = random.Random(7)
    tokens = []
    contents = [content(8 * MIB + seed, seed) for seed in range(BLOBS)]
    for data in contents:
        token = await world["a"].add(data)
        await world["b"].fetch(token)
        tokens.append(token)
    damaged = rng.sample([(number, index) for number in range(BLOBS) for index in range(8)], 100)
    for number, index in damaged:
        rot(world, "b", tokens[number].hash, index * MIB + rng.randrange(MIB))
    received = world["b"].received_bytes
    report = await world["b"].verify()
    assert report.checked == BLOBS
    assert report.checked_bytes == sum(token.size_bytes for token in tokens)
    assert report.damaged_chunks == 100
    assert report.repaired == sorted({tokens[number].hash for number, _ in damaged})
    assert report.lost == []
    assert (world["b"].received_bytes - received) // MIB == 100  # and nothing else was fetched
    for token, data in zip(tokens, contents, strict=True):
        assert await world["b"].read(token.hash) == data
    again = await world["b"].verify()
    assert (again.checked, again.damaged_chunks, again.repaired) == (BLOBS, 0, [])


@simulated()
async def test_what_nobody_can_repair_is_lost_and_its_pin_and_its_good_chunks_are_not(world: World) -> None:
    await world.link("ba")
    data = content(4 * MIB)
    token = await world["b"].add(data)
    await world["b"].pin(token.hash)
    rot(world, "b", token.hash, 5)
    report = await world["b"].verify()
    assert (report.damaged_chunks, report.repaired, report.lost) == (1, [], [token.hash])
    assert not await world["b"].exists(token.hash)
    assert await world["b"].pinned(token.hash)
    await world["a"].add(data)
    await asyncio.sleep(2 * GRACE_SECONDS)
    await world["a"].add(data)
    assert await (await world["b"].fetch(token)).read() == data
    assert world["b"].received_bytes // MIB == 1


@simulated()
async def test_what_is_good_of_a_damaged_blob_stays_for_as_long_as_something_refers_to_it(
    world: World,
) -> None:
    references = References()
    blobs = (await world.node("b", referred=references)).attachments
    token = await blobs.add(content(4 * MIB))
    references.hashes.add(token.hash)
    rot(world, "b", token.hash, 5)
    why = (await blobs.verify()).unrepaired[token.hash]
    assert (why.here_bytes, why.size_bytes, why.nobody) == (3 * MIB, 4 * MIB, True)
    await asyncio.sleep(3 * GRACE_SECONDS)
    assert (await blobs.verify()).unrepaired[token.hash].here_bytes == 3 * MIB
    references.hashes.clear()
    blobs.reconsider(token.hash)
    await until_gone()
    assert (await blobs.verify()).lost == []
    assert world.nodes["b"].store.partials() == []


@simulated()
async def test_others_are_told_that_a_blob_was_damaged(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(2 * MIB))
    rot(world, "a", token.hash, 5)
    with pytest.raises(BlobNotFound):
        await world["a"].read(token.hash)
    fetching = asyncio.create_task(world["b"].fetch(token))
    await asyncio.sleep(5)
    assert not fetching.done()
    await world["a"].add(content(2 * MIB))
    assert await (await fetching).read() == content(2 * MIB)


@simulated()
async def test_closing_ends_verify_and_everything_that_waits(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(MIB))
    rot(world, "a", token.hash, 5)
    verifying = asyncio.create_task(world["a"].verify())
    await asyncio.sleep(1)
    assert not verifying.done()
    await world["a"].close()
    with pytest.raises(NotStarted):
        await verifying
