"""What appears in an inbox, under which name, and what the application there may decide."""

from __future__ import annotations

import asyncio

import pytest

from mesh import FetchFailed, Formation, TransferState
from tests.behaviour.stage import (
    BIG,
    CANCELLED,
    DONE,
    FAILED,
    MAP,
    PENDING,
    Mesh,
    both,
    later,
    only_documents,
)

HOSTILE = {
    "up": "../../../etc/passwd",
    "absolute": "/etc/passwd",
    "windows": "C:\\Windows\\system32\\evil.dll",
    "reserved": "CON.txt",
    "hidden": ".bashrc",
    "dots": "..",
    "blank": "   ",
    "invisible": "\u202egpj.exe\u200b",
    "newline": "a\nb.txt",
    "nul": "a\0b",
    "long": "x" * 4000 + ".txt",
    "wide": "ü" * 200,
}


@pytest.mark.parametrize("kind", HOSTILE)
@both
async def test_given_a_hostile_name_when_delivered_then_it_stays_in_the_inbox(mesh: Mesh, kind: str) -> None:
    await mesh.start_hq_and_van()
    before = sorted(mesh.inbox_path("van").parent.iterdir())
    handle = await mesh.distribute(name=HOSTILE[kind])
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    (path,) = mesh.inbox_path("van").iterdir()
    assert path.read_bytes() == MAP
    assert len(path.name.encode()) <= 255
    assert not path.name.startswith(".")
    assert path.name.isprintable()
    assert path.name.partition(".")[0].lower() not in ("con", "")
    assert sorted(mesh.inbox_path("van").parent.iterdir()) == before


@both
async def test_given_the_same_name_and_size_when_the_content_differs_then_both_are_delivered(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    for content in (b"old map", b"new map"):
        handle = await mesh.distribute(content)
        assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    files = mesh.inbox("van")
    assert files == {"map.bin": b"old map", f"map-{handle.distribution_id}.bin": b"new map"}


@both
async def test_given_the_same_file_twice_when_delivered_then_there_is_one_copy(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    handles = [await mesh.distribute(BIG) for _ in range(3)]
    for handle in handles:
        assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    assert mesh.inbox("van") == {"map.bin": BIG}
    assert mesh.node("van").stats().blob_bytes_in < 1.2 * len(BIG)


@both
async def test_given_two_publishers_of_one_blob_when_both_distribute_then_both_are_told(mesh: Mesh) -> None:
    await mesh.start("hq")
    await mesh.start("camp", "hq")
    await mesh.start("van", "hq", "camp", formations=["north"])
    first = await mesh.distribute(BIG, Formation("north"), by="hq", name="map.bin")
    second = await mesh.distribute(BIG, Formation("north"), by="camp", name="plan.bin")
    assert (await mesh.files("hq").wait_for_completion(first, 60)).is_success
    assert (await mesh.files("camp").wait_for_completion(second, 60)).is_success
    assert mesh.inbox("van") == {"map.bin": BIG, "plan.bin": BIG}
    assert mesh.node("van").stats().blob_bytes_in < 1.2 * len(BIG)


@both
async def test_given_a_symbolic_link_in_the_way_when_delivered_then_nothing_is_written_through(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    victim = mesh.inbox_path("van").parent.parent / "victim"
    victim.write_bytes(b"precious")
    (mesh.inbox_path("van") / "map.bin").symlink_to(victim)
    handle = await mesh.distribute()
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    assert victim.read_bytes() == b"precious"
    assert mesh.inbox("van")[f"map-{handle.distribution_id}.bin"] == MAP


@both
async def test_given_both_names_are_taken_when_delivered_then_it_fails_with_the_reason_and_retry_heals(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    await mesh.node("van").pause()
    handle = await mesh.distribute(scope=Formation("north"))
    for name in ("map.bin", f"map-{handle.distribution_id}.bin"):
        (mesh.inbox_path("van") / name).write_bytes(b"mine")
    await mesh.node("van").resume()
    await later()
    assert await mesh.states(handle) == {"van": FAILED}
    assert "move them away" in await mesh.reason(handle, "van")
    assert set(mesh.inbox("van").values()) == {b"mine"}
    (mesh.inbox_path("van") / "map.bin").unlink()
    await mesh.files().retry(handle)
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    assert mesh.inbox("van")["map.bin"] == MAP


@both
async def test_given_a_file_on_its_way_when_the_inbox_is_looked_at_then_nothing_is_seen_of_it(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    async for status in mesh.files().subscribe_progress(handle):
        files = mesh.inbox("van")
        assert files in ({}, {"map.bin": BIG})
        assert files or status.completed == 0
    assert [path.name for path in mesh.inbox_path("van").iterdir()] == ["map.bin"]


@both
async def test_given_receive_off_when_distributed_then_it_is_refused_with_a_reason(mesh: Mesh) -> None:
    await mesh.start("hq")
    await mesh.start("van", "hq", receive="off")
    handle = await mesh.distribute()
    status = await mesh.files().wait_for_completion(handle, 60)
    assert mesh.states_of(status) == {"van": FAILED}
    assert 'receive="off"' in await mesh.reason(handle, "van")
    assert mesh.node("van").stats().blobs == 0


@both
async def test_given_manual_when_offered_then_nothing_moves_until_the_application_accepts(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    await mesh.start("van", "hq", receive="manual")
    handle = await mesh.distribute()
    await later()
    assert await mesh.states(handle) == {"van": PENDING}
    assert "application" in await mesh.reason(handle, "van")
    assert mesh.node("van").stats().blob_bytes_in == 0
    delivery = await anext(mesh.node("van").deliveries())
    assert (delivery.distribution_id, delivery.publisher) == (handle.distribution_id, mesh.id("hq"))
    await delivery.fetch()
    assert await mesh.node("van").attachments.exists(delivery.token.hash)
    assert mesh.delivered() == []
    await delivery.accept()
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    assert mesh.inbox("van") == {"map.bin": MAP}


@both
async def test_given_manual_when_rejected_then_the_reason_is_told_and_retry_offers_it_again(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    await mesh.start("van", "hq", receive="manual")
    handle = await mesh.distribute()
    async with mesh.node("van").deliveries() as deliveries:
        await (await anext(deliveries)).reject("too large for today")
        status = await mesh.files().wait_for_completion(handle, 60)
        assert mesh.states_of(status) == {"van": FAILED}
        assert "too large for today" in await mesh.reason(handle, "van")
        await mesh.files().retry(handle)
        await (await anext(deliveries)).accept()
    assert await mesh.files().wait_for_completion(handle, 60)
    assert await mesh.states(handle) == {"van": DONE}


@both
async def test_given_a_manual_fetch_under_way_when_cancelled_then_the_application_is_told(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    await mesh.start("van", "hq", receive="manual", slow=True)
    handle = await mesh.distribute(BIG)
    delivery = await anext(mesh.node("van").deliveries())
    accepting = asyncio.create_task(delivery.accept())
    await later(4)
    await mesh.files().cancel(handle)
    with pytest.raises(FetchFailed, match="cancelled"):
        await accepting
    assert await mesh.states(handle) == {"van": CANCELLED}
    assert mesh.delivered() == []


@both
async def test_given_an_undecided_delivery_when_the_node_restarts_then_it_is_offered_again(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    await mesh.start("van", "hq", receive="manual")
    handle = await mesh.distribute()
    await anext(mesh.node("van").deliveries())
    await mesh.world.crash("van")
    await mesh.world.restart("van")
    delivery = await anext(mesh.node("van").deliveries())
    await delivery.accept()
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success


@only_documents("what nobody has offered on a link is not known")
async def test_given_a_hub_that_cached_a_cancelled_file_then_nobody_gets_it_from_there(mesh: Mesh) -> None:
    await mesh.start("hub", hub=True)
    await mesh.start("hq", "hub")
    handle = await mesh.distribute(scope=Formation("north"))
    await later()
    assert await mesh.node("hub").attachments.exists(handle.blob_hash)
    await mesh.files().cancel(handle)
    await later(1)
    await mesh.world.stop("hq")
    await mesh.start("van", "hub", formations=["north"])
    await later()
    assert mesh.delivered() == []
    assert (await mesh.files("van").status(handle)).is_cancelled
    assert TransferState.COMPLETED not in (await mesh.states(handle, at="van")).values()
