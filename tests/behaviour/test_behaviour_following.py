"""How a distribution is followed to its end, and what goes first when there are many."""

from __future__ import annotations

import asyncio
import random

import pytest

from mesh import (
    AllNodes,
    DistributionTimeout,
    Formation,
    InvalidDistribution,
    Node,
    NotStarted,
    TransferPriority,
    TransferState,
)
from tests.behaviour.stage import BIG, DONE, MAP, MINUTE, PENDING, Mesh, both, later


@both
async def test_given_a_distribution_when_followed_then_the_present_comes_first_and_the_end_last(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG, Formation("north"))
    await later(3)
    frames = [frame async for frame in mesh.files().subscribe_progress(handle)]
    states = [mesh.states_of(frame)["van"] for frame in frames]
    assert states[0] is TransferState.TRANSFERRING
    assert states[-1] is DONE
    progress = [frame.overall_progress for frame in frames]
    assert progress == sorted(progress)
    assert 0 < progress[0] < 1
    assert len(set(progress)) >= 4
    assert frames[-1].is_success


@both
async def test_given_a_finished_distribution_when_followed_then_there_is_one_frame(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute()
    await mesh.files().wait_for_completion(handle, 60)
    frames = [frame async for frame in mesh.files().subscribe_progress(handle.distribution_id)]
    assert [frame.is_success for frame in frames] == [True]


@both
async def test_given_a_slow_reader_when_much_happens_then_it_gets_few_frames_and_never_loses_the_last(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    async with mesh.files().subscribe_progress(handle) as frames:
        assert not (await anext(frames)).is_complete
        await later()
        rest = [frame async for frame in frames]
    assert len(rest) == 1
    assert rest[0].is_success


@both
async def test_given_a_wait_that_is_too_short_when_it_times_out_then_it_carries_the_status_and_all_goes_on(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    with pytest.raises(DistributionTimeout) as timeout:
        await mesh.files().wait_for_completion(handle, 5)
    assert (timeout.value.distribution_id, timeout.value.timeout) == (handle.distribution_id, 5)
    assert mesh.states_of(timeout.value.status) == {"van": TransferState.TRANSFERRING}
    assert 0 < timeout.value.status.overall_progress < 1
    assert (await mesh.files().wait_for_completion(handle, 300)).is_success


@both
async def test_given_an_open_scope_when_too_few_are_there_then_it_waits_for_the_number_asked_for(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute(scope=AllNodes())
    waiting = asyncio.create_task(mesh.files().wait_for_completion(handle, 3600, min_targets=2))
    await later()
    assert await mesh.states(handle) == {"van": DONE}
    assert not waiting.done()
    await mesh.start("truck", "hq")
    assert mesh.states_of(await waiting) == {"van": DONE, "truck": DONE}


@both
async def test_given_an_open_scope_when_one_is_done_then_it_does_not_end_before_it_settles(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    handle = await mesh.distribute(scope=AllNodes())
    waiting = asyncio.create_task(mesh.files().wait_for_completion(handle, 3600, settle=30))
    await later(10)
    assert await mesh.states(handle) == {"van": DONE}
    await mesh.start("truck", "hq", slow=True)
    status = await waiting
    assert mesh.states_of(status) == {"van": DONE, "truck": DONE}


@both
async def test_given_followers_when_it_is_cancelled_or_expires_then_their_streams_end(mesh: Mesh) -> None:
    await mesh.start("hq")
    cancelled, expired = await mesh.distribute(), await mesh.distribute(expires_in=30)
    streams = [mesh.files().subscribe_progress(handle) for handle in (cancelled, expired)]
    assert [(await anext(stream)).total_targets for stream in streams] == [0, 0]
    await mesh.files().cancel(cancelled)
    first, second = [[frame async for frame in stream] for stream in streams]
    assert [frame.is_cancelled for frame in first] == [True]
    assert [frame.is_expired for frame in second] == [True]


@both
async def test_given_several_followers_when_one_leaves_then_the_others_go_on(mesh: Mesh) -> None:
    await mesh.start_hq_and_van(slow=True)
    handle = await mesh.distribute(BIG)
    stays = mesh.files().subscribe_progress(handle)
    await anext(stays)
    async for _ in mesh.files().subscribe_progress(handle):
        break
    assert [frame async for frame in stays][-1].is_success


@both
async def test_given_times_and_numbers_that_are_none_when_waiting_then_they_are_refused(mesh: Mesh) -> None:
    await mesh.start("hq")
    handle = await mesh.distribute()
    for timeout, min_targets, settle in ((-1, 1, 0.5), (float("nan"), 1, 0.5), (1, 0, 0.5), (1, 1, -1)):
        with pytest.raises(InvalidDistribution):
            await mesh.files().wait_for_completion(handle, timeout, min_targets=min_targets, settle=settle)


@both
async def test_given_a_node_that_is_not_started_when_asked_then_it_says_so(mesh: Mesh) -> None:
    await mesh.start_hq_and_van()
    files, handle = mesh.files(), await mesh.distribute()
    await mesh.world.stop("hq")
    with pytest.raises(NotStarted):
        await files.status(handle)
    with pytest.raises(NotStarted):
        files.subscribe_progress(handle)
    idle = Node("idle")
    with pytest.raises(NotStarted):
        _ = idle.distributions if mesh.backend == "documents" else idle.direct


@both
async def test_given_handles_when_listed_then_the_oldest_comes_first_and_they_survive_json(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van()
    made = []
    for number in range(5):
        made.append(await mesh.distribute(bytes([number]), Formation("north")))
        await later(1)
    handles = await mesh.files().handles()
    assert handles == made
    assert [type(handle).from_dict(handle.to_dict()) for handle in handles] == made
    status = await mesh.files().status(made[0])
    assert type(status).from_dict(status.to_dict()) == status


@both
async def test_given_300_distributions_at_once_when_a_target_comes_then_the_urgent_go_first(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    await mesh.node("van").pause()
    priorities = [TransferPriority(1 + number % 4) for number in range(300)]
    random.Random(300).shuffle(priorities)
    handles = [
        await mesh.distribute(number.to_bytes(2) * 2000, Formation("north"), priority, name=f"{number}")
        for number, priority in enumerate(priorities)
    ]
    assert set((await mesh.states(handles[0])).values()) == {PENDING}
    await mesh.node("van").resume()
    await later(10 * MINUTE)
    done: dict[TransferPriority, list[float]] = {priority: [] for priority in TransferPriority}
    for handle in handles:
        status = await mesh.files().status(handle)
        assert status.is_success
        done[handle.priority].append(status.node_statuses[mesh.id("van")].completed_at or 0)
    assert len(mesh.inbox("van")) == 300
    middle = {priority: sorted(times)[len(times) // 2] for priority, times in done.items()}
    critical, high, normal, low = (middle[priority] for priority in TransferPriority)
    assert critical < high < normal < low
    assert max(done[TransferPriority.HIGH]) < min(done[TransferPriority.LOW])


@both
async def test_given_a_running_transfer_when_something_critical_comes_then_it_does_not_wait(
    mesh: Mesh,
) -> None:
    await mesh.start_hq_and_van(slow=True)
    bulk = [await mesh.distribute(bytes([n]) * (4 << 20), name=f"{n}") for n in range(6)]
    await later(5)
    urgent = await mesh.distribute(MAP, priority=TransferPriority.CRITICAL, name="urgent")
    assert (await mesh.files().wait_for_completion(urgent, 15)).is_success
    assert not any([(await mesh.files().status(handle)).is_complete for handle in bulk])
