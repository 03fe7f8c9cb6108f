"""Cancelling, before, during and after; replacing by a newer version; trying again."""

from __future__ import annotations

import pytest

from mesh import (
    AllNodes,
    Formation,
    InvalidDistribution,
    Nodes,
    PermissionDenied,
    TransferState,
    UnknownDistribution,
)
from tests.behaviour.stage import (
    BIG,
    CANCELLED,
    DONE,
    FAILED,
    MAP,
    Mesh,
    both,
    later,
    only_direct,
    only_documents,
)
from tests.simulation.virtual_clock import DAY

MOVING = TransferState.TRANSFERRING


@both
async def test_given_nobody_is_there_when_cancelled_then_who_joins_never_starts(mesh: Mesh) -> None:
    await mesh.start("hq")
    handle = await mesh.distribute()
    await mesh.files().cancel(handle)
    await mesh.start("van", "hq")
    await later()
    assert (await mesh.files().status(handle)).is_cancelled
    assert mesh.delivered() == []
    assert not await mesh.node("van").attachments.exists(handle.blob_hash)


@both
async def test_given_an_offline_target_when_cancelled_then_it_never_starts(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    van = mesh.id("van")
    await mesh.world.crash("van")
    handle = await mesh.distribute(scope=Nodes([van]))
    await later()
    await mesh.files().cancel(handle)
    await mesh.world.restart("van")
    await later()
    assert await mesh.states(handle) == {"van": CANCELLED}
    assert mesh.delivered() == []


@both
async def test_given_a_running_transfer_when_cancelled_then_it_stops_within_a_sync_and_leaves_nothing(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    await later(4)
    assert await mesh.states(handle) == {"van": MOVING}
    await mesh.files().cancel(handle)
    await later(1)
    assert await mesh.states(handle) == {"van": CANCELLED}
    await later()  # the chunk that was under way arrives
    assert mesh.node("van").stats().blob_bytes_in < len(BIG)
    assert mesh.delivered() == []
    assert list((mesh.inbox_path("van").parent / "blobs").glob("**/*.data")) == []


@both
async def test_given_a_transfer_under_way_when_cancelled_while_it_is_offline_then_it_stops_on_return(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    await later(4)
    mesh.world.network.cut("hq", "van")
    await later(1)
    await mesh.files().cancel(handle)
    await later(DAY)
    mesh.world.network.heal()
    await later(300)
    assert await mesh.states(handle) == {"van": CANCELLED}
    assert mesh.delivered() == []


@both
async def test_given_a_crash_in_the_middle_when_cancelled_meanwhile_then_it_does_not_go_on(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    await later(4)
    await mesh.world.crash("van")
    await mesh.files().cancel(handle)
    await mesh.world.restart("van")
    await later(300)
    assert await mesh.states(handle) == {"van": CANCELLED}
    assert mesh.delivered() == []


@both
async def test_given_a_completed_target_when_cancelled_then_it_stays_completed(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("truck", "hq", slow=True)
    handle = await mesh.distribute(BIG)
    await later(3)
    assert await mesh.states(handle) == {"van": DONE, "truck": MOVING}
    await mesh.files().cancel(handle)
    status = await mesh.files().wait_for_completion(handle, 60)
    assert mesh.states_of(status) == {"van": DONE, "truck": CANCELLED}
    assert (status.completed, status.cancelled, status.failed) == (1, 1, 0)
    assert (status.is_cancelled, status.is_complete, status.is_success) == (True, True, False)
    await later()
    assert mesh.delivered() == ["van"]


@both
async def test_given_a_cancelled_distribution_when_cancelled_again_then_nothing_changes(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute()
    await mesh.files().wait_for_completion(handle, 60)
    await mesh.files().cancel(handle)
    before = await mesh.files().status(handle)
    await later()
    await mesh.files().cancel(handle)
    await mesh.files().cancel(handle.distribution_id)
    assert await mesh.files().status(handle) == before


@both
async def test_given_an_unknown_id_when_asked_for_then_every_verb_says_so(mesh: Mesh) -> None:
    await mesh.start("hq")
    files, id = mesh.files(), "a" * 26
    token = await mesh.node("hq").attachments.add(MAP)
    for asked in (
        files.status(id),
        files.cancel(id),
        files.retry(id),
        files.wait_for_completion(id, 1),
        anext(files.subscribe_progress(id)),
        files.distribute(token, supersedes=id),
    ):
        with pytest.raises(UnknownDistribution) as unknown:
            await asked
        assert unknown.value.distribution_id == id
    assert await files.handles() == []


@only_documents("only the publisher knows of a direct distribution")
async def test_given_another_nodes_distribution_when_cancelled_retried_or_replaced_then_it_is_denied(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute()
    await mesh.files().wait_for_completion(handle, 60)
    token = await mesh.node("van").attachments.info(handle.blob_hash)
    assert token is not None
    van = mesh.files("van")
    for asked in (van.cancel(handle), van.retry(handle), van.distribute(token, supersedes=handle)):
        with pytest.raises(PermissionDenied):
            await asked
    assert await mesh.states(handle) == {"van": DONE}


@only_direct("everybody knows of a distribution that is a document")
async def test_given_another_nodes_direct_distribution_when_asked_for_then_it_is_unknown(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute()
    await mesh.files().wait_for_completion(handle, 60)
    for asked in (mesh.files("van").status(handle), mesh.files("van").cancel(handle)):
        with pytest.raises(UnknownDistribution):
            await asked


@both
async def test_given_a_cancelled_distribution_when_the_blob_is_distributed_again_then_it_is_delivered(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    cancelled = await mesh.distribute(BIG)
    await later(4)
    await mesh.files().cancel(cancelled)
    handle = await mesh.distribute(BIG)
    assert (await mesh.files().wait_for_completion(handle, 300)).is_success
    assert await mesh.states(cancelled) == {"van": CANCELLED}
    assert mesh.inbox("van") == {"map.bin": BIG}


@both
async def test_given_two_distributions_of_one_blob_when_one_is_cancelled_then_the_other_goes_on(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    first, second = await mesh.distribute(BIG), await mesh.distribute(BIG)
    await later(4)
    await mesh.files().cancel(first)
    assert (await mesh.files().wait_for_completion(second, 300)).is_success
    assert await mesh.states(first) == {"van": CANCELLED}
    assert mesh.node("van").stats().blob_bytes_in < 1.3 * len(BIG)


@both
async def test_given_a_newer_version_when_it_supersedes_then_who_has_not_finished_never_does(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("truck", "hq", slow=True)
    old = await mesh.distribute(BIG)
    await later(3)
    assert await mesh.states(old) == {"van": DONE, "truck": MOVING}
    new = await mesh.distribute(MAP, name="new.bin", supersedes=old)
    assert (await mesh.files().wait_for_completion(new, 300, min_targets=2)).is_success
    await later()
    status = await mesh.files().status(old)
    assert mesh.states_of(status) == {"van": DONE, "truck": CANCELLED}
    assert (status.is_cancelled, status.superseded_by) == (True, new.distribution_id)
    assert sorted(mesh.inbox("van")) == ["map.bin", "new.bin"]
    assert sorted(mesh.inbox("truck")) == ["new.bin"]


@both
async def test_given_a_sleeper_when_a_version_was_replaced_meanwhile_then_it_gets_only_the_new_one(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    await mesh.world.crash("van")
    old = await mesh.distribute(MAP, Formation("north"))
    new = await mesh.distribute(b"better", Formation("north"), name="new.bin", supersedes=old)
    await later(DAY)
    await mesh.world.restart("van")
    assert (await mesh.files().wait_for_completion(new, 60)).is_success
    await later()
    assert sorted(mesh.inbox("van")) == ["new.bin"]


@both
async def test_given_a_replacement_that_is_cancelled_then_the_old_version_does_not_come_back(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    old = await mesh.distribute(BIG)
    await later(3)
    mesh.world.network.cut("hq", "van")
    new = await mesh.distribute(MAP, name="new.bin", supersedes=old)
    await mesh.files().cancel(new)
    mesh.world.network.heal()
    await later(300)
    assert await mesh.states(old) == {"van": CANCELLED}
    assert mesh.delivered() == []


@both
async def test_given_a_failed_target_when_retried_then_it_alone_tries_again(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    await mesh.start("refuser", "hq", receive="off")
    handle = await mesh.distribute(scope=AllNodes())
    status = await mesh.files().wait_for_completion(handle, 60, min_targets=2)
    assert mesh.states_of(status) == {"van": DONE, "refuser": FAILED}
    assert (status.is_complete, status.is_success, status.failed) == (True, False, 1)
    assert "receives nothing" in await mesh.reason(handle, "refuser")
    done = status.node_statuses[mesh.id("van")]
    await mesh.world.stop("refuser")
    await mesh.world.restart("refuser", receive="auto")
    await later()
    assert (await mesh.states(handle))["refuser"] is FAILED
    await mesh.files().retry(handle)
    status = await mesh.files().wait_for_completion(handle, 60)
    assert status.is_success
    assert status.node_statuses[mesh.id("van")] == done
    assert mesh.delivered() == ["refuser", "van"]


@both
async def test_given_a_retry_while_the_failed_target_is_away_when_it_returns_then_it_tries_again(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    await mesh.world.stop("van")
    await mesh.world.restart("van", receive="off")
    handle = await mesh.distribute()
    await mesh.files().wait_for_completion(handle, 60)
    await mesh.world.stop("van")
    await mesh.files().retry(handle)
    assert list((await mesh.states(handle)).values()) == [TransferState.PENDING]
    await mesh.world.restart("van", receive="auto")
    assert (await mesh.files().wait_for_completion(handle, 60)).is_success


@both
async def test_given_a_distribution_that_is_over_when_retried_then_it_is_refused(mesh: Mesh) -> None:
    await mesh.start("hq")
    cancelled, expired, replaced = [await mesh.distribute(expires_in=s) for s in (None, 1, None)]
    await mesh.files().cancel(cancelled)
    await mesh.distribute(supersedes=replaced)
    await later()
    for handle in (cancelled, expired, replaced):
        with pytest.raises(InvalidDistribution, match="distribute it again"):
            await mesh.files().retry(handle)


@both
async def test_given_nonsense_when_distributed_then_it_is_refused_and_nothing_is_published(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    token = await mesh.node("hq").attachments.add(MAP)
    for priority, expires_in in ((7, None), (2, 0), (2, -1), (2, float("nan")), (2, "soon"), ("high", None)):
        with pytest.raises(InvalidDistribution):
            await mesh.files().distribute(token, AllNodes(), priority, expires_in=expires_in)  # type: ignore[arg-type]
    assert await mesh.files().handles() == []
