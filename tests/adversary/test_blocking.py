"""What a peer may send at most never keeps the event loop, nor anything else that runs on its thread."""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import events
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mesh.core.document import ABSENT, edit
from mesh.core.interest import MAX_BYTES, MAX_ENTRIES
from mesh.core.selector import MAX_SELECTOR_BYTES
from mesh.core.wire import Interest, InterestEntry, Resume
from mesh.network.websocket import WebSocketTransport
from mesh.node.node import Node
from tests.adversary.adversary import Adversary, change, offer
from tests.unit.edits import plan_merge

BLOCKED_SECONDS = 0.25


@contextmanager
def longest(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The CPU seconds of the callback of the event loop that took most: others' load does not count."""
    found = [0.0]
    run = events.Handle._run

    def timed(handle: Any) -> None:
        started = time.thread_time()
        run(handle)
        found[0] = max(found[0], time.thread_time() - started)

    with monkeypatch.context() as patched:
        patched.setattr(events.Handle, "_run", timed)
        yield found


def update(fields: dict[str, Any]) -> bytes:
    made = edit(ABSENT, lambda held: plan_merge(held, fields), tick=lambda: (b"h" * 8, 1), client_id=5)
    assert made is not None
    return made[0].update


async def documents(adversary: Adversary) -> None:
    large = {f"f{n}": "x" * 200_000 for n in range(5)}
    many = {f"f{n}": n for n in range(19_000)}
    await offer(adversary, change("large", update(large)), change("many", update(many)))


async def selectors(adversary: Adversary) -> None:
    values = ["x" * 20] * (MAX_SELECTOR_BYTES // 24)
    few = MAX_BYTES // MAX_SELECTOR_BYTES
    entries = [InterestEntry("cars", {"n": {"$in": [*values, n]}}) for n in range(min(few, MAX_ENTRIES))]
    await adversary.send(Interest(adversary.identity.node_id, 5, 0, entries))
    for number in range(1, 4):
        await adversary.send(Resume(number, b"", 0, False, entries))


INPUTS = {"documents": documents, "selectors": selectors}


@pytest.mark.parametrize("name", INPUTS)
async def test_large_but_legal_input_does_not_keep_the_loop(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Node(name="hub", data_dir=tmp_path) as hub, asyncio.timeout(60):
        cars = hub.collection("cars")
        await cars.subscribe({})
        await asyncio.gather(*(cars.upsert({"_id": str(n), "n": n}) for n in range(500)))
        adversary = await Adversary.dial(WebSocketTransport(), str(hub.address), random.Random(1))
        await adversary.until(Resume)
        with longest(monkeypatch) as seconds:
            await INPUTS[name](adversary)
            await asyncio.sleep(0.5)
        assert adversary.ended is None
        await adversary.close()
    assert seconds[0] < BLOCKED_SECONDS
