"""Who comes late, sleeps for weeks, is only ever met by half of the others, or has no idea of the time."""

from __future__ import annotations

import asyncio

import pytest

from mesh import AllNodes, DistributionTimeout, Formation, Nodes, TransferState
from tests.behaviour.stage import (
    BIG,
    DONE,
    FAILED,
    MAP,
    MINUTE,
    PENDING,
    YEAR,
    Mesh,
    both,
    later,
    only_direct,
    only_documents,
)
from tests.simulation.virtual_clock import DAY


@both
async def test_given_a_distribution_when_a_node_joins_the_mesh_later_then_it_is_served(mesh: Mesh) -> None:
    await mesh.start("hq")
    handle = await mesh.distribute(scope=Formation("north"))
    await later(3 * DAY)
    await mesh.start("south", "hq", formations=["south"])
    await mesh.start("north", "hq", formations=["north"])
    status = await mesh.files().wait_for_completion(handle, 60)
    assert mesh.states_of(status) == {"north": DONE}
    assert mesh.delivered() == ["north"]


@both
async def test_given_a_sleeper_when_it_is_back_after_weeks_then_it_is_served(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    van = mesh.id("van")
    await mesh.world.crash("van")
    handle = await mesh.distribute(scope=Nodes([van]))
    await later(21 * DAY)
    assert await mesh.states(handle) == {van: PENDING}
    await mesh.world.restart("van")
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    assert mesh.inbox("van") == {"map.bin": MAP}


@both
async def test_given_a_node_that_is_offline_for_a_moment_when_it_resumes_then_it_is_served(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    await mesh.node("van").pause()
    handle = await mesh.distribute(scope=Formation("north"))
    await later(DAY)
    assert await mesh.states(handle) == {"van": PENDING}
    await mesh.node("van").resume()
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success


@only_documents("a direct distribution needs a link between publisher and target")
async def test_given_a_hub_only_ever_online_with_one_side_when_they_take_turns_then_all_is_told(
    mesh: Mesh,
) -> None:
    await mesh.start("hub", hub=True)
    await mesh.start("van", "hub", formations=["north"])
    await later(5)
    await mesh.world.stop("van")
    await mesh.start("hq", "hub")
    handle = await mesh.distribute(scope=Formation("north"))
    await later()
    assert mesh.inbox("hub") == {}
    await mesh.world.stop("hq")
    await mesh.world.restart("van")
    await later()
    assert mesh.inbox("van") == {"map.bin": MAP}
    await mesh.world.stop("van")
    await mesh.world.restart("hq")
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success


@only_documents("a direct distribution reaches neighbours only")
async def test_given_a_chain_of_relays_when_distributed_then_the_far_end_is_served_and_told(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    await mesh.start("one", "hq")
    await mesh.start("two", "one")
    await mesh.start("van", "two", formations=["north"])
    handle = await mesh.distribute(BIG, Formation("north"))
    status = await mesh.files().wait_for_completion(handle, 120)
    assert mesh.states_of(status) == {"van": DONE}
    assert mesh.delivered() == ["van"]


@only_direct("documents are relayed")
async def test_given_a_target_two_hops_away_when_distributed_directly_then_it_stays_pending_until_linked(
    mesh: Mesh,
) -> None:
    await mesh.start("hq")
    await mesh.start("relay", "hq")
    await mesh.start("van", "relay")
    van = mesh.id("van")
    handle = await mesh.distribute(scope=Nodes([van]))
    with pytest.raises(DistributionTimeout) as timeout:
        await mesh.files().wait_for_completion(handle, DAY)
    assert mesh.states_of(timeout.value.status) == {"van": PENDING}
    address = mesh.node("hq").address
    assert address is not None
    await mesh.node("van").connect(address)
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success


@both
async def test_given_an_expired_distribution_when_a_node_comes_back_then_it_fetches_nothing(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    await mesh.world.stop("van")
    handle = await mesh.distribute(scope=Formation("north"), expires_in=DAY)
    await later(2 * DAY)
    await mesh.world.restart("van")
    await later()
    status = await mesh.files().wait_for_completion(handle, 60)
    assert (status.is_expired, status.is_complete, status.is_success) == (True, True, False)
    assert not await mesh.node("van").attachments.exists(handle.blob_hash)
    assert mesh.delivered() == []


@both
async def test_given_a_target_that_is_away_when_it_expires_then_it_has_failed(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.world.stop("van")
    handle = await mesh.distribute(scope=Formation("north"), expires_in=DAY)
    waiting = asyncio.create_task(mesh.files().wait_for_completion(handle, 2 * DAY))
    await later(DAY - MINUTE)
    assert not (await mesh.files().status(handle)).is_complete
    status = await waiting
    assert (status.is_complete, status.pending, status.failed) == (True, 0, 1)
    assert await mesh.files().status(handle) == status
    await mesh.world.restart("van")
    await later()
    assert await mesh.states(handle) == {"van": FAILED}
    assert "expired" in await mesh.reason(handle, "van")


@both
async def test_given_a_running_transfer_when_it_expires_then_it_stops_and_says_so(mesh: Mesh) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG, expires_in=4)
    await later(3)
    assert (await mesh.states(handle))["van"] is TransferState.TRANSFERRING
    await later()
    assert await mesh.states(handle) == {"van": FAILED}
    assert "expired" in await mesh.reason(handle, "van")
    assert mesh.delivered() == []
    assert mesh.node("van").stats().blobs == 0


@both
async def test_given_a_completed_distribution_when_it_expires_then_it_stays_completed(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute(expires_in=MINUTE)
    assert (await mesh.files().wait_for_completion(handle, 30)).is_success
    await later(DAY)
    status = await mesh.files().status(handle)
    assert (status.is_expired, status.is_success) == (True, True)
    assert mesh.inbox("van") == {"map.bin": MAP}


@both
async def test_given_clocks_that_are_years_off_when_nothing_expires_then_everybody_is_served(
    mesh: Mesh,
) -> None:
    await mesh.start("hq", skew=-7 * YEAR)
    await mesh.start("ahead", "hq", skew=9 * YEAR)
    await mesh.start("behind", "hq", skew=-20 * YEAR)
    handle = await mesh.distribute()
    status = await mesh.files().wait_for_completion(handle, 60, min_targets=2)
    assert mesh.states_of(status) == {"ahead": DONE, "behind": DONE}
    done = {node.node_id: node.completed_at or 0 for node in status.node_statuses.values()}
    assert done[mesh.id("ahead")] - done[mesh.id("behind")] == pytest.approx(29 * YEAR, abs=DAY)


@both
async def test_given_a_clock_years_ahead_when_it_expires_then_only_that_node_stays_out(mesh: Mesh) -> None:
    await mesh.start("hq")
    await mesh.start("ahead", "hq", skew=9 * YEAR)
    await mesh.start("behind", "hq", skew=-9 * YEAR)
    handle = await mesh.distribute(expires_in=DAY)
    await later()
    assert mesh.delivered() == ["behind"]
    states = await mesh.states(handle)
    assert states["behind"] is DONE
    assert states["ahead"] is not DONE


@both
async def test_given_a_lost_link_when_transferring_then_it_goes_on_once_it_is_back(mesh: Mesh) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    await later(4)
    mesh.world.network.cut("hq", "van")
    await later(10 * MINUTE)
    assert mesh.delivered() == []
    mesh.world.network.heal()
    before = asyncio.get_running_loop().time()
    assert (await mesh.files().wait_for_completion(handle, 10 * MINUTE)).is_success
    assert asyncio.get_running_loop().time() > before
    assert mesh.inbox("van") == {"map.bin": BIG}
    assert mesh.node("van").stats().blob_bytes_in < 1.5 * len(BIG)


@both
async def test_given_a_silent_partition_when_it_heals_then_everybody_completes(mesh: Mesh) -> None:
    await mesh.start("hq")
    for name in ("a", "b", "c"):
        await mesh.start(name, "hq")
    await later(1)
    mesh.world.network.partition([["a", "b"]], silent=True)
    handle = await mesh.distribute(scope=AllNodes())
    await later(5 * MINUTE)
    assert (await mesh.states(handle))["c"] is DONE
    assert mesh.delivered() == ["c"]
    mesh.world.network.heal()
    status = await mesh.files().wait_for_completion(handle, 10 * MINUTE, min_targets=3)
    assert status.is_success
    assert mesh.delivered() == ["a", "b", "c"]


@both
async def test_given_an_empty_file_when_distributed_then_it_is_delivered(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute(b"")
    status = await mesh.files().wait_for_completion(handle, 60)
    assert (status.is_success, status.overall_progress) == (True, 1.0)
    assert mesh.inbox("van") == {"map.bin": b""}


@both
async def test_given_a_publisher_without_the_blob_when_it_gets_it_then_the_targets_do(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("archive")
    token = await mesh.node("archive").attachments.add(MAP, name="map.bin")
    handle = await mesh.files().distribute(token, Formation("north"))
    await later()
    assert mesh.delivered() == []
    assert "van" in await mesh.states(handle)
    address = mesh.node("hq").address
    assert address is not None
    await mesh.node("archive").connect(address)
    assert (await mesh.files().wait_for_completion(handle, 10 * MINUTE)).is_success
    assert mesh.delivered() == ["van"]
