"""What a publisher is told of files that it distributes and does not hold; on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import DistributionHandle, MissingBlob, Node, Nodes
from mesh.node.doctor import examine_running
from tests.simulation.virtual_clock import virtual
from tests.simulation.world import World

FILM = b"film" * 1000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(FILM)
    return path


async def found(node: Node) -> dict[str, list[str]]:
    """By hash, the distributions that wait."""
    return {blob.token.hash: blob.distribution_ids for blob in await node.missing_blobs()}


async def until_it_waits(publisher: Node, handle: DistributionHandle, target: Node) -> None:
    async for status in publisher.distributions.subscribe_progress(handle):
        known = status.node_statuses.get(target.node_id)
        if known is not None and known.error is not None and "no source" in known.error:
            return


def rewrite(file: Path) -> None:
    file.write_bytes(b"another film")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("change", [rewrite, Path.unlink])
@virtual
async def test_a_linked_file_that_changed_is_named_until_it_is_put_back(
    tmp_path: Path, file: Path, change: Callable[[Path], None], seed: int
) -> None:
    world = World(seed, tmp_path, delay=0.005)
    hq = await world.start("hq")
    token = await hq.attachments.add(file, link=True)
    handle = await hq.distributions.distribute(token)
    await asyncio.sleep(1)
    again = await hq.distributions.distribute(token)
    assert await hq.missing_blobs() == []
    change(file)
    van = await world.start("van", ["hq"])
    await until_it_waits(hq, handle, van)
    expected = [MissingBlob(token, [handle.distribution_id, again.distribution_id])]
    assert await hq.missing_blobs() == expected
    assert await van.missing_blobs() == []  # it has promised nothing

    await world.stop("hq")
    hq = await world.restart("hq")
    assert await hq.missing_blobs() == expected
    *_, finding = examine_running(hq.presence(), await hq.missing_blobs())
    assert finding.subject == "blob"
    for named in ("film.mp4", token.hash, handle.distribution_id, again.distribution_id):
        assert named in finding.problem

    file.write_bytes(FILM)
    assert await hq.attachments.add(file, link=True) == token
    assert await hq.missing_blobs() == []
    assert (await hq.distributions.wait_for_completion(handle, 60)).is_success
    await world.close()


@virtual
async def test_what_a_linked_node_has_received_is_not_missed_and_nor_is_what_nobody_waits_for(
    tmp_path: Path, file: Path
) -> None:
    world = World(0, tmp_path, delay=0.005)
    hq = await world.start("hq")
    van = await world.start("van", ["hq"])
    token = await hq.attachments.add(file, link=True)
    all_have_it = await hq.distributions.distribute(token, Nodes([van.node_id]))
    await hq.distributions.wait_for_completion(all_have_it, 10)
    file.unlink()
    assert await hq.missing_blobs() == []
    waits = await hq.distributions.distribute(token, Nodes(["z" * 52]))
    assert await hq.missing_blobs() == []  # van has it
    await world.stop("van")
    async with hq.observe_presence() as stream:
        async for presence in stream:
            if not presence.peers:
                break
    assert await found(hq) == {token.hash: [waits.distribution_id]}
    await hq.distributions.cancel(waits)
    assert await hq.missing_blobs() == []
    await world.close()


@virtual
async def test_what_is_over_is_not_missed(tmp_path: Path) -> None:
    world = World(0, tmp_path)
    hq = await world.start("hq")
    token = await hq.attachments.add(b"first")
    first = await hq.distributions.distribute(token)
    await asyncio.sleep(1)
    ends = await hq.distributions.distribute(token, expires_in=60)
    await hq.attachments.delete(token.hash)
    assert await found(hq) == {token.hash: [first.distribution_id, ends.distribution_id]}
    newer = await hq.distributions.distribute(await hq.attachments.add(b"second"), supersedes=first)
    assert await found(hq) == {token.hash: [ends.distribution_id]}
    await asyncio.sleep(61)
    assert await hq.missing_blobs() == []
    await hq.distributions.cancel(newer)
    await world.close()


@virtual
async def test_a_file_that_another_node_holds_is_missed_until_that_one_is_known_to(tmp_path: Path) -> None:
    world = World(1, tmp_path, delay=0.005)
    hq = await world.start("hq")
    holder = await world.start("holder")
    token = await holder.attachments.add(b"held elsewhere")
    handle = await hq.distributions.distribute(token, Nodes([holder.node_id, "z" * 52]))
    assert await found(hq) == {token.hash: [handle.distribution_id]}
    await hq.connect(holder.address or "")
    async for status in hq.distributions.subscribe_progress(handle):
        if status.completed:
            break
    assert await hq.missing_blobs() == []
    await world.close()


@virtual
async def test_the_direct_service_promises_too(tmp_path: Path, file: Path) -> None:
    world = World(0, tmp_path)
    hq = await world.start("hq")
    token = await hq.attachments.add(file, link=True)
    handle = await hq.direct.distribute(token)
    file.unlink()
    assert await found(hq) == {token.hash: [handle.distribution_id]}
    await hq.direct.cancel(handle)
    assert await hq.missing_blobs() == []
    await world.close()
