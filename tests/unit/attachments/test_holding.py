"""What a node has of every blob, and what keeps it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mesh.attachments.holding import Holding, holdings
from mesh.core.rates import Limits
from mesh.core.tokens import BlobMetadata
from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.worker import InlineWorker
from tests.unit.attachments.test_attachments import MIB, World, simulated
from tests.unit.storage.test_blob_store_contract import content, describe


async def test_a_folder_tells_what_is_pinned_linked_cached_and_partial(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"film")
    store = FolderBlobs(tmp_path / "data", InlineWorker())
    await store.open()
    film = await store.link(tmp_path / "film", BlobMetadata("film"))
    await store.pin(film.hash, pinned=True)
    others = describe(b"for others")[0]
    await store.take(others, b"for others", cached=True)
    token, hashes, chunks = describe(content(2 * MIB))
    partial = await store.begin(token, cached=False)
    await partial.set_hashes(hashes)
    await partial.write(1, chunks[1])
    expected = [
        Holding(film.hash, 4, film.chunks_hash, BlobMetadata("film"), 4, pinned=True, linked=True),
        Holding(others.hash, 10, others.chunks_hash, BlobMetadata(), 10, cached=True),
        Holding(token.hash, 2 * MIB, None, BlobMetadata(), MIB, partial=True),
    ]
    assert await holdings(store, lambda hash: None, ()) == expected
    await partial.close()
    await store.close()
    await store.open()
    assert sorted(await holdings(store, lambda hash: None, ()), key=lambda one: one.hash) == sorted(
        expected, key=lambda one: one.hash
    )
    await store.close()


async def passing(world: World, *, relayed: bool) -> None:
    """b has part of a blob that it, or only c behind it, fetches from a; then the whole."""
    await world.link("ab", "bc")
    token = await world["a"].add(content(4 * MIB), name="map")
    world["a"].set_limits(Limits(upload=MIB))
    fetching = asyncio.create_task(world["c" if relayed else "b"].fetch(token))
    await asyncio.sleep(2.5)
    [here] = await world["b"].holdings()
    assert (here.hash, here.chunks_hash, here.size_bytes) == (token.hash, token.chunks_hash, 4 * MIB)
    assert here.metadata.name == (None if relayed else "map"), "nobody tells a relay names"
    assert (here.partial, here.cached) == (True, relayed)
    assert 0 < here.held_bytes < 4 * MIB
    await fetching
    [here] = await world["b"].holdings()
    assert (here.held_bytes, here.partial, here.cached) == (4 * MIB, False, relayed)


@simulated()
async def test_what_is_fetched_is_partial_and_has_its_name(world: World) -> None:
    await passing(world, relayed=False)


@simulated()
async def test_what_is_fetched_for_others_is_cached(world: World) -> None:
    await passing(world, relayed=True)
