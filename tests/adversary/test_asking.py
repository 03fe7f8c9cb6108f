"""What a linked peer makes a node keep by asking."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from mesh.collections.sessions import MAX_ASKED, SyncSession
from mesh.core.wire import InterestEntry, Resume
from mesh.storage.documents import DocumentStore
from tests.adversary.adversary import Adversary
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

URL = "ws://hub:7700"


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
