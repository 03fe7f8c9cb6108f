"""What a linked peer makes a node keep by asking."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from mesh.collections.sessions import MAX_ASKED, SyncSession
from mesh.core.wire import InterestEntry, Resume, Resumed
from mesh.storage.documents import DocumentStore
from tests.adversary.adversary import Adversary
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

URL = "ws://hub:7700"


@pytest.mark.limit("collections.sessions.MAX_ASKED")
def test_catchups_that_wait_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    back_pressure = SyncSession.back_pressure

    def looked_at(session: SyncSession) -> asyncio.Future[None] | None:
        nonlocal most
        most = max(most, len(session._resumes))
        return back_pressure(session)

    monkeypatch.setattr(SyncSession, "back_pressure", looked_at)

    async def main() -> None:
        world = World(2)
        hub = await world.start("hub")
        adversary = await Adversary.dial(world.network.transport("evil"), URL, random.Random(1))
        going_on, read = asyncio.Event(), DocumentStore.read

        async def stuck(store: DocumentStore, job: Any) -> Any:
            await going_on.wait()
            return await read(store, job)

        with monkeypatch.context() as slow:
            slow.setattr(DocumentStore, "read", stuck)
            await hub.collection("cars").subscribe({})  # where it stands with them is read
            for number in range(1, 10 * MAX_ASKED):
                await adversary.send(Resume(number, b"", 0, False, [InterestEntry("cars")]))
            await asyncio.sleep(1)
            assert most == MAX_ASKED
        going_on.set()
        await asyncio.sleep(5)
        assert adversary.ended is None
        await adversary.close()
        await world.close()

    run_virtual(main())


def test_lies_about_a_log_do_not_make_another_of_it() -> None:
    async def main() -> None:
        world = World(2)
        hub = await world.start("hub")
        assert hub._parts is not None
        store = hub._parts.store
        log_id, entries = store.log_id, [InterestEntry("cars")]
        adversary = await Adversary.dial(world.network.transport("evil"), URL, random.Random(1))
        await adversary.send(Resume(1, log_id, store.head + 1000, False, entries))
        await adversary.send(Resume(2, b"of another life!", 7, False, entries))
        await asyncio.sleep(1)
        assert adversary.ended is None
        assert store.log_id == log_id
        answers = [message for message in adversary.heard if isinstance(message, Resumed)]
        assert [(answer.number, answer.reconcile) for answer in answers] == [(1, True), (2, True)]
        await adversary.close()
        await world.close()

    run_virtual(main())
