"""What others say: forged, foreign, replayed, doubled, out of order, or lost on the way."""

from __future__ import annotations

import re

import pytest

from mesh import AllNodes, Formation, Nodes, TransferState
from mesh.network.memory import Path as NetworkPath
from tests.behaviour.stage import (
    BIG,
    DONE,
    MAP,
    PENDING,
    Mesh,
    both,
    later,
    only_documents,
)


@both
async def test_given_a_forged_receipt_when_it_arrives_then_no_status_changes(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("evil", "hq", hub=True)
    await later(1)
    await mesh.node("van").pause()
    handle = await mesh.distribute(scope=Formation("north"))
    before = await mesh.files().status(handle)
    await mesh.claim(handle, "evil", DONE, len(MAP), of="van")
    assert re.search("does not own it|only a node itself says", caplog.text)
    assert await mesh.files().status(handle) == before
    assert mesh.states_of(before) == {"van": PENDING}
    await mesh.node("van").resume()
    assert (await mesh.files().wait_for_completion(handle, 120)).is_success
    assert mesh.inbox("van") == {"map.bin": MAP}


@both
async def test_given_a_receipt_of_a_node_that_is_no_target_then_it_is_not_counted(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("evil", "hq", hub=True)
    named = await mesh.distribute(scope=Nodes([mesh.id("van")]))
    north = await mesh.distribute(scope=Formation("north"))
    for handle in (named, north):
        await mesh.claim(handle, "evil", DONE, len(MAP))
        status = await mesh.files().wait_for_completion(handle, 60)
        assert mesh.states_of(status) == {"van": DONE}


@both
async def test_given_a_receipt_about_another_blob_then_it_is_not_counted(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("evil", "hq", receive="manual", hub=True)
    handle = await mesh.distribute(scope=AllNodes())
    await later()
    await mesh.claim(handle, "evil", DONE, len(MAP) + 1)
    states = await mesh.states(handle)
    assert states["van"] is DONE
    assert states["evil"] is PENDING


@only_documents("an acknowledgement travels on the one link between both, and nobody else can say it")
async def test_given_an_old_receipt_when_it_is_replayed_then_it_changes_nothing(mesh: Mesh) -> None:
    await mesh.start("hq")
    await mesh.start("hoarder", "hq", hub=True)
    await mesh.start("van", "hq", "hoarder", formations=["north"], slow=True)
    handle = await mesh.distribute(BIG, Formation("north"))
    await later(4)
    receipts = mesh.node("hoarder").collection("receipts")
    (old,) = await receipts.find({"distribution_id": handle.distribution_id})
    assert old["status"] == TransferState.TRANSFERRING
    await mesh.node("hoarder").pause()
    assert (await mesh.files().wait_for_completion(handle, 300)).is_success
    await mesh.node("van").pause()
    await mesh.node("hoarder").resume()
    await later()
    assert await mesh.states(handle) == {"van": DONE}
    (new,) = await receipts.find({"distribution_id": handle.distribution_id})
    assert new["status"] == DONE


@only_documents("the status of a direct distribution is known to its publisher alone")
async def test_given_the_same_documents_when_asked_anywhere_then_the_status_is_the_same(mesh: Mesh) -> None:
    await mesh.start("hub", hub=True)
    await mesh.start("hq", "hub")
    for name in ("a", "b", "c"):
        await mesh.start(name, "hub", receive="off" if name == "c" else "auto")
    handle = await mesh.distribute()
    status = await mesh.files().wait_for_completion(handle, 60, min_targets=4)
    watched = await mesh.files("b").wait_for_completion(handle.distribution_id, 60, min_targets=4)
    await later()
    assert await mesh.files("hub").status(handle) == status
    assert watched.node_statuses == status.node_statuses
    assert (status.completed, status.failed) == (3, 1)


@only_documents("documents travel on several paths; an acknowledgement on one link, in order")
async def test_given_documents_that_come_twice_late_or_in_another_order_then_the_status_ends_the_same(
    mesh: Mesh,
) -> None:
    for name in ("r1", "r2", "r3"):
        await mesh.start(name, "r1", hub=True)
    await mesh.start("hq", "r1", "r2", "r3")
    for name in ("a", "b"):
        await mesh.start(name, "r1", "r2", "r3", formations=["north"])
    for number, relay in enumerate(("r1", "r2", "r3")):
        for other in ("hq", "a", "b"):
            mesh.world.network.set_path(relay, other, NetworkPath(0.3 * number, jitter=0.5))
    handles = [await mesh.distribute(f"{n}".encode(), Formation("north"), name=f"{n}") for n in range(5)]
    for handle in handles:
        status = await mesh.files().wait_for_completion(handle, 120, min_targets=2)
        assert status.is_success
    await later()
    for handle in handles:
        seen = [await mesh.files(name).status(handle) for name in ("hq", "r1", "r2", "r3")]
        assert all(status == seen[0] for status in seen)
    assert len(mesh.inbox("a")) == len(mesh.inbox("b")) == 5


@both
async def test_given_connections_that_keep_breaking_when_distributed_then_everybody_completes(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    for name in ("a", "b", "c"):
        mesh.world.network.set_path("hq", name, NetworkPath(0.05, jitter=0.2, loss=0.02))
        await mesh.start(name, "hq")
    handles = [await mesh.distribute(bytes([n]) * 50_000, name=f"{n}") for n in range(10)]
    for handle in handles:
        assert (await mesh.files().wait_for_completion(handle, 3600, min_targets=3)).is_success
    assert [len(mesh.inbox(name)) for name in ("a", "b", "c")] == [10, 10, 10]


@both
async def test_given_a_transfer_then_its_receipt_is_written_at_most_twice_a_second(mesh: Mesh) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    frames, last = 0, -1
    async for status in mesh.files().subscribe_progress(handle):
        node = status.node_statuses.get(mesh.id("van"))
        if node is not None:
            assert node.progress_bytes >= last
            last = node.progress_bytes
            frames += 1
    assert last == len(BIG)
    assert 4 <= frames <= 2 * 12 + 3


@only_documents("a direct distribution writes nothing")
async def test_given_a_transfer_of_many_steps_then_its_receipt_stays_one_small_document(mesh: Mesh) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    await mesh.files().wait_for_completion(handle, 300)
    store = mesh.node("hq")._parts
    assert store is not None
    size, count = await store.store.read(
        lambda rows: rows.connection.execute(
            "SELECT max(length(state)), count(*) FROM documents WHERE collection = 'receipts'"
        ).fetchone()
    )
    assert count == 1
    assert size < 1500
