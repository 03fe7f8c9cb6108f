"""What a peer may send at most never keeps the event loop, nor anything else that runs on its thread."""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import events
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pycrdt
import pytest

from mesh.core.document import ABSENT, edit
from mesh.core.interest import MAX_BYTES, MAX_ENTRIES
from mesh.core.items import written_once
from mesh.core.library import ROOT_NAME
from mesh.core.selector import MAX_SELECTOR_BYTES
from mesh.core.wire import Interest, InterestEntry, Resume
from mesh.network.websocket import WebSocketTransport
from mesh.node.node import Node
from tests.adversary.adversary import Adversary, change, offer
from tests.fuzz.bytes_of import number, text
from tests.unit.core.test_conflicts import KILLERS, MISORDERED
from tests.unit.edits import plan_merge

BLOCKED_SECONDS = 0.25


@contextmanager
def longest_in_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The CPU seconds of the call of the CRDT library that took most: meanwhile no other thread runs."""
    found = [0.0]
    apply = pycrdt.Doc.apply_update

    def timed(doc: Any, update: bytes) -> None:
        started = time.thread_time()
        try:
            apply(doc, update)
        finally:
            found[0] = max(found[0], time.thread_time() - started)

    with monkeypatch.context() as patched:
        patched.setattr(pycrdt.Doc, "apply_update", timed)
        yield found


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
    for catchup in range(1, 4):
        await adversary.send(Resume(catchup, b"", 0, False, entries))


def of_many(clients: int, each: int) -> bytes:
    """An update of many clients, each of which writes fields of its own and one that all write."""
    first = bytes((0x28,)) + number(1) + text("doc")
    blocks = []
    for client in range(clients, 0, -1):
        items = [first + text(f"/{client}.{n}") + b"\1\x7e" for n in range(each - 1)]
        items.append(first + text("/all") + b"\1\x7e")
        blocks.append(number(each) + number(client) + number(0) + b"".join(items))
    return number(clients) + b"".join(blocks) + number(0)


async def crowds(adversary: Adversary) -> None:
    await offer(adversary, change("clients", of_many(256, 2)), change("items", of_many(100, 190)))


async def conflicts(adversary: Adversary) -> None:
    killers = {**KILLERS, **MISORDERED}
    await offer(adversary, *(change(name, update) for name, update in killers.items()))


async def four_mebibytes(adversary: Adversary) -> None:
    await offer(
        adversary, change("large", written_once(ROOT_NAME, {f"/f{n}": "x" * 200_000 for n in range(20)}, 5))
    )


INPUTS = {
    "documents": documents,
    "selectors": selectors,
    "crowds": crowds,
    "conflicts": conflicts,
    "four mebibytes": four_mebibytes,
}


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
        with longest(monkeypatch) as seconds, longest_in_library(monkeypatch) as in_library:
            await INPUTS[name](adversary)
            await asyncio.sleep(0.5)
        assert adversary.ended is None
        await adversary.close()
    assert seconds[0] < BLOCKED_SECONDS
    assert in_library[0] < BLOCKED_SECONDS
