"""Who waits for whom in a store on a file: reads for nobody, local writes for one frame at most."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.core.commits import Commit
from mesh.storage import finding
from mesh.storage.documents import DocumentStore
from mesh.storage.rows import Rows
from mesh.storage.turns import Turns
from mesh.storage.worker import ThreadWorker
from tests.unit.edits import edit, plan_merge

SECONDS = 20
"""A thread that is held up for longer has been forgotten."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DocumentStore]:
    workers = ThreadWorker("test-write"), ThreadWorker("test-read")
    made = DocumentStore(tmp_path / "s.sqlite", *workers, rng=random.Random(1), clock=lambda: 1.7e9)
    await made.open()
    yield made
    await made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test-")]


def put(*document_ids: str) -> Callable[[Rows], Any]:
    def job(rows: Rows) -> None:
        for document_id in document_ids:
            edit(rows, "c", document_id, lambda held: plan_merge(held, {"n": 1}))

    return job


def count(rows: Rows) -> int:
    return finding.count(rows, "c")


class Gate:
    """Holds up a thread inside of a job."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self.open = threading.Event()

    def __call__(self, rows: Rows) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self.open.wait(SECONDS)


async def test_a_long_write_does_not_hold_up_reads(store: DocumentStore) -> None:
    await store.write(put("1"))
    gate = Gate()

    def long(rows: Rows) -> None:
        put("2")(rows)
        gate(rows)

    writing = asyncio.create_task(store.write(long))
    await gate.reached.wait()
    assert await store.read(count) == 1
    gate.open.set()
    await writing
    assert await store.read(count) == 2


async def test_a_long_read_does_not_hold_up_writes_and_sees_one_state(store: DocumentStore) -> None:
    await store.write(put("1"))
    gate = Gate()

    def long(rows: Rows) -> tuple[int, int, int]:
        before, head = count(rows), finding.position(rows)
        gate(rows)
        return before, head, count(rows)

    reading = asyncio.create_task(store.read(long))
    await gate.reached.wait()
    await store.write(put("2"))
    gate.open.set()
    before, head, after = await reading
    assert before == after == 1
    assert head == store.head - 1


async def test_followers_know_what_a_read_has_seen(store: DocumentStore) -> None:
    told: set[str] = set()

    def follow(commits: list[Commit]) -> None:
        told.update(commit.change.id for commit in commits)

    store.follow(follow)

    async def write(first: int) -> None:
        for i in range(first, first + 100):
            await store.write(put(str(i)))

    async def read() -> None:
        for _ in range(300):
            found = await store.read(lambda rows: finding.find(rows, "c"))
            assert told.issuperset(document["_id"] for document in found)

    await asyncio.gather(write(0), write(100), read())


async def test_reads_cannot_write(store: DocumentStore) -> None:
    with pytest.raises(Exception, match="readonly"):
        await store.read(lambda rows: rows.connection.execute("DELETE FROM documents"))
    assert await store.read(count) == 0


async def test_frames_let_local_writes_go_first_and_keep_their_order(store: DocumentStore) -> None:
    gate = Gate()
    done: list[str] = []

    async def write(name: str, job: Callable[[Rows], Any], bulk: bool) -> None:
        await store.write(job, bulk=bulk)
        done.append(name)

    frames = [[f"{frame}-{i}" for i in range(500)] for frame in range(4)]
    tasks = [asyncio.create_task(write("held", gate, False))]
    await gate.reached.wait()
    tasks += [asyncio.create_task(write(f"frame {n}", put(*ids), True)) for n, ids in enumerate(frames)]
    tasks += [asyncio.create_task(write(f"local {n}", put(f"local{n}"), False)) for n in range(3)]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert done == ["held", "frame 0", "local 0", "local 1", "local 2", "frame 1", "frame 2", "frame 3"]
    assert store.documents == 2003


async def test_a_commit_is_bounded(store: DocumentStore) -> None:
    sizes: list[int] = []
    store.follow(lambda commits: sizes.append(len(commits)))
    jobs = [store.write(put(*[f"{job}-{i}" for i in range(100)]), bulk=True) for job in range(20)]
    await asyncio.gather(*jobs)
    assert sum(sizes) == 2000
    assert max(sizes) == 500
    sizes.clear()
    await asyncio.gather(*[store.write(put(f"local{i}")) for i in range(1200)])
    assert max(sizes) == 500
    assert len(sizes) == 3


# --- turns ----------------------------------------------------------------------------------------


async def test_turns_come_in_order_and_skip_who_gave_up() -> None:
    turns = Turns()
    order: list[str] = []

    async def take(name: str) -> None:
        async with turns:
            order.append(name)
            await asyncio.sleep(0)

    def begin() -> None:
        order.append("callback")
        asyncio.get_running_loop().call_soon(turns.give_back)

    await turns.wait()
    tasks = [asyncio.create_task(take(name)) for name in "abc"]
    await asyncio.sleep(0)
    turns.take(begin)
    tasks.append(asyncio.create_task(take("d")))
    await asyncio.sleep(0)
    tasks[1].cancel()
    turns.give_back()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "c", "callback", "d"]
    assert isinstance(results[1], asyncio.CancelledError)
    async with turns:
        order.append("free again")


async def test_a_turn_that_comes_as_its_owner_gives_up_is_passed_on() -> None:
    turns = Turns()
    await turns.wait()
    first, second = asyncio.create_task(turns.wait()), asyncio.create_task(turns.wait())
    await asyncio.sleep(0)
    turns.give_back()
    first.cancel()
    await second
    assert first.cancelled()
