"""Who is meant: exactly the scope delivers, as each node judges for itself."""

from __future__ import annotations

import pytest

from mesh import (
    AllNodes,
    Capabilities,
    Capable,
    DistributionTimeout,
    Formation,
    InvalidScope,
    Nodes,
    TransferState,
)
from tests.behaviour.stage import DONE, FAILED, GHOST, MAP, PENDING, Mesh, both, later, only_documents


@both
async def test_given_a_formation_when_distributed_then_exactly_its_members_deliver(mesh: Mesh) -> None:
    await mesh.start("hq", formations=["north"])
    for number in range(6):
        await mesh.start(f"van{number}", "hq", formations=["north"] if number % 2 else ["south", "northern"])
    handle = await mesh.distribute(scope=Formation("north"))
    status = await mesh.files().wait_for_completion(handle, 60, min_targets=3)
    assert status.is_success
    assert mesh.states_of(status) == {"van1": DONE, "van3": DONE, "van5": DONE}
    await later()
    assert mesh.delivered() == ["van1", "van3", "van5"]
    assert [await van.attachments.exists(handle.blob_hash) for van in mesh.world.nodes.values()] == [
        True, False, True, False, True, False, True
    ]  # fmt: skip


@both
async def test_given_all_nodes_when_distributed_then_everybody_but_the_publisher(mesh: Mesh) -> None:
    await mesh.start("hq")
    for name in ("a", "b", "c"):
        await mesh.start(name, "hq")
    handle = await mesh.distribute(scope=AllNodes())
    status = await mesh.files().wait_for_completion(handle, 60, min_targets=3)
    assert mesh.states_of(status) == {"a": DONE, "b": DONE, "c": DONE}
    assert mesh.inbox("hq") == {}
    assert mesh.inbox("c") == {"map.bin": MAP}


@both
async def test_given_named_nodes_when_one_is_unknown_then_it_stays_pending_and_visible(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("other", "hq")
    handle = await mesh.distribute(scope=Nodes([mesh.id("van"), "ghost"]))
    with pytest.raises(DistributionTimeout) as timeout:
        await mesh.files().wait_for_completion(handle, 30)
    status = timeout.value.status
    assert mesh.states_of(status) == {"van": DONE, "ghost": PENDING}
    assert (status.total_targets, status.completed, status.pending) == (2, 1, 1)
    assert not status.is_complete
    assert mesh.delivered() == ["van"]


@both
async def test_given_the_publisher_by_name_when_distributed_then_it_delivers_to_itself(mesh: Mesh) -> None:
    await mesh.start("hq")
    handle = await mesh.distribute(scope=Nodes([mesh.id("hq")]))
    assert (await mesh.files().wait_for_completion(handle, 30)).is_success
    assert mesh.inbox("hq") == {"map.bin": MAP}


@both
async def test_given_capabilities_when_distributed_then_only_the_capable_deliver(mesh: Mesh) -> None:
    await mesh.start("hq")
    machines = {
        "big": Capabilities(gpu_gb=24, cpu_arch="amd64", storage_mb=9000, tags=["camera", "gps"]),
        "small": Capabilities(gpu_gb=4, cpu_arch="amd64", storage_mb=9000, tags=["camera", "gps"]),
        "full": Capabilities(gpu_gb=24, cpu_arch="amd64", storage_mb=10, tags=["camera", "gps"]),
        "blind": Capabilities(gpu_gb=24, cpu_arch="amd64", storage_mb=9000, tags=["gps"]),
        "arm": Capabilities(gpu_gb=24, cpu_arch="aarch64", storage_mb=9000, tags=["camera", "gps"]),
        "mute": Capabilities(),
    }
    for name, capabilities in machines.items():
        await mesh.start(name, "hq", capabilities=capabilities)
    wanted = Capable(min_gpu_gb=8, cpu_arch="x86_64", min_storage_mb=100, tags=["camera"])
    handle = await mesh.distribute(scope=wanted)
    assert mesh.states_of(await mesh.files().wait_for_completion(handle, 60)) == {"big": DONE}
    await later()
    assert mesh.delivered() == ["big"]


@both
async def test_given_nobody_in_the_scope_when_waited_for_then_it_is_no_success(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute(scope=Formation("south"))
    with pytest.raises(DistributionTimeout) as timeout:
        await mesh.files().wait_for_completion(handle, 30)
    status = timeout.value.status
    assert (status.total_targets, status.is_complete, status.is_success) == (0, False, False)
    assert status.overall_progress == 0.0
    assert mesh.delivered() == []


@both
async def test_given_a_scope_that_says_nothing_when_distributed_then_it_is_refused(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    token = await mesh.node("hq").attachments.add(MAP)
    nonsense = (Capable(), Nodes([]), Formation(""), Capable(min_gpu_gb=float("nan")), "all", None)
    for scope in nonsense:
        with pytest.raises(InvalidScope):
            await mesh.files().distribute(token, scope)  # type: ignore[arg-type]
        with pytest.raises(InvalidScope):
            await mesh.files().dry_run(scope)  # type: ignore[arg-type]
    await later()
    assert await mesh.files().handles() == []
    assert mesh.delivered() == []


@both
async def test_given_an_unknown_scope_from_a_newer_peer_then_nobody_delivers(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    token = await mesh.node("hq").attachments.add(MAP)
    await mesh.publish_raw(token, {"type": "within", "polygon": [[0, 0], [1, 1]]})
    await later()
    assert mesh.delivered() == []
    assert not await mesh.node("van").attachments.exists(token.hash)
    handle = await mesh.distribute(scope=AllNodes())
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success


@only_documents("an offer of a newer publisher is answered to that publisher, which is not this version")
async def test_given_an_unknown_scope_from_a_newer_peer_then_the_receipt_says_why(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    token = await mesh.node("hq").attachments.add(MAP)
    id = await mesh.publish_raw(token, {"type": "all", "but": ["van"]})
    await later()
    receipt = await mesh.node("van").collection("receipts").get(f"{id}:{mesh.id('van')}")
    assert receipt is not None
    assert (receipt["status"], "Upgrade this node" in receipt["error"]) == (FAILED, True)


@both
async def test_given_a_dry_run_then_it_names_who_would_receive_and_nothing_moves(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("truck", "hq", formations=["south"])
    await later(1)
    everybody = sorted([mesh.id("van"), mesh.id("truck")])
    assert await mesh.files().dry_run(AllNodes()) == everybody
    assert await mesh.files().dry_run(Formation("north")) == [mesh.id("van")]
    assert await mesh.files().dry_run(Nodes([mesh.id("hq"), GHOST])) == [mesh.id("hq")]
    assert await mesh.files().handles() == []


@both
async def test_given_a_node_when_it_joins_the_formation_then_it_delivers(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute(scope=Formation("south"))
    await later()
    await mesh.world.stop("van")
    await mesh.world.restart("van", formations=("north", "south"))
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    assert mesh.delivered() == ["van"]


@both
async def test_given_a_running_transfer_when_the_node_leaves_the_formation_then_it_never_delivers(
    mesh: Mesh,
) -> None:
    await mesh.start("hq", slow=True)
    await mesh.start("van", "hq", formations=["north"])
    await mesh.start("truck", "hq", formations=["north"])
    handle = await mesh.distribute(bytes(4 << 20), Formation("north"))
    await later(3)
    assert (await mesh.states(handle))["van"] is TransferState.TRANSFERRING
    await mesh.world.stop("van")
    await mesh.world.restart("van", formations=("south",))
    status = await mesh.files().wait_for_completion(handle, 300)
    assert mesh.states_of(status) == {"truck": DONE}
    await later()
    assert mesh.delivered() == ["truck"]


@both
async def test_given_a_completed_node_when_it_leaves_the_formation_then_it_stays_completed(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute(scope=Formation("north"))
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    await mesh.world.stop("van")
    await mesh.world.restart("van", formations=("south",))
    await later()
    assert await mesh.states(handle) == {"van": DONE}
    assert mesh.inbox("van") == {"map.bin": MAP}


@only_documents("a direct distribution reaches neighbours only: nobody relays it")
async def test_given_a_relay_outside_the_scope_then_it_passes_on_and_delivers_nothing(mesh: Mesh) -> None:
    await mesh.start("hq")
    await mesh.start("relay", "hq")
    await mesh.start("van", "relay", formations=["north"])
    handle = await mesh.distribute(scope=Formation("north"))
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success
    assert mesh.delivered() == ["van"]
