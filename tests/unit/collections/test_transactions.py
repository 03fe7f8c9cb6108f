"""Transactions of a node: one commit or none, nobody sees half of one, and none can stop the node."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

from mesh import (
    Collection,
    DocumentExists,
    MeshError,
    NestedTransaction,
    Node,
    NotStarted,
    PermissionDenied,
    StorageFull,
    TransactionEnded,
)
from mesh.core.commits import Commit
from mesh.storage import transactions
from mesh.storage.connection import Connection
from mesh.storage.rows import Rows
from mesh.storage.transactions import MAX_TRANSACTION_SECONDS
from mesh.storage.worker import ThreadWorker
from tests.simulation.virtual_clock import run_virtual
from tests.simulation.world import World

BOTH = ("file", "memory")


@pytest.fixture(params=BOTH)
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    async with Node(tmp_path / "n" if request.param == "file" else None, listen=None) as made:
        yield made


@pytest.fixture
async def file_node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node(tmp_path / "n", listen=None) as made:
        yield made


def followed(node: Node) -> list[list[Commit]]:
    """What the followers of the store are told, call by call."""
    told: list[list[Commit]] = []
    node._started.store.follow(told.append)
    return told


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def ids(cars: Any) -> list[str]:
    return [document["_id"] for document in await cars.find()]


# --- all or nothing -------------------------------------------------------------------------------


async def test_several_writes_are_one_commit(node: Node) -> None:
    told = followed(node)
    async with node.transaction() as tx:
        cars = tx.collection("cars")
        assert await cars.insert({"_id": "1", "n": 1}) == "1"
        await cars.increment("1", "n", 2)
        await tx.collection("vans").insert({"_id": "2"})
        made = await cars.insert({"n": 5})
        await cars.remove("2")
        assert await cars.get("1") == {"_id": "1", "n": 3}
        assert await cars.count({"n": {"$gt": 3}}) == 1
        assert told == []
    [commits] = told
    assert [commit.change.id for commit in commits] == ["1", "1", "2", made]
    assert await node.collection("cars").get("1") == {"_id": "1", "n": 3}
    assert await ids(node.collection("vans")) == ["2"]
    assert node.stats().documents == 4, "and the node's own document"


async def test_an_error_in_the_block_undoes_all_of_it(node: Node) -> None:
    cars = node.collection("cars")
    await cars.insert({"_id": "1", "n": 1})
    told = followed(node)

    async def fails() -> None:
        async with node.transaction() as tx:
            await tx.collection("cars").update("1", {"n": 2})
            await tx.collection("cars").insert({"_id": "2"})
            raise KeyError

    with pytest.raises(KeyError):
        await fails()
    assert await cars.find() == [{"_id": "1", "n": 1}]
    await cars.insert({"_id": "3"})
    assert [[commit.change.id for commit in commits] for commits in told if commits] == [["3"]]


async def test_an_operation_that_fails_undoes_itself_only(node: Node) -> None:
    async with node.transaction() as tx:
        cars = tx.collection("cars")
        await cars.insert({"_id": "1"})
        with pytest.raises(DocumentExists):
            await cars.insert({"_id": "1", "n": 2})

        def half(rows: Rows) -> None:
            rows.connection.execute("DELETE FROM documents")
            raise LookupError

        with pytest.raises(LookupError):
            await tx._store.write(half)
        await cars.insert({"_id": "2"})
    assert await node.collection("cars").find() == [{"_id": "1"}, {"_id": "2"}]


async def test_cancelling_the_block_undoes_all_of_it(node: Node) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with node.transaction() as tx:
            await tx.collection("cars").insert({"_id": "1"})
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ids(node.collection("cars")) == []
    await node.collection("cars").insert({"_id": "2"})


async def test_after_a_cancelled_operation_nothing_is_committed(file_node: Node) -> None:
    """Nobody can know whether it took place."""

    async def half() -> None:
        async with file_node.transaction() as tx:
            cars = tx.collection("cars")
            await cars.insert({"_id": "1"})
            task = asyncio.create_task(cars.remove({"n": 2}))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TransactionEnded, match="cancelled"):
                await cars.get("1")

    with pytest.raises(TransactionEnded, match="cancelled"):
        await half()
    assert await ids(file_node.collection("cars")) == []


async def test_what_does_not_fit_on_the_disk_undoes_itself_only(file_node: Node) -> None:
    await file_node._started.store.write(
        lambda rows: rows.connection.execute("PRAGMA max_page_count = 100").fetchone()
    )
    async with file_node.transaction() as tx:
        cars = tx.collection("cars")
        await cars.insert({"_id": "1"})
        with pytest.raises(StorageFull):
            await cars.insert({"_id": "big", "big": "x" * 900_000})
        await cars.insert({"_id": "2"})
    assert await ids(file_node.collection("cars")) == ["1", "2"]


async def test_a_transaction_that_the_database_gives_up_is_over(node: Node) -> None:
    """As SQLite may on a full disk or a failing one."""

    def give_up(rows: Rows) -> None:
        rows.connection.execute("ROLLBACK")
        raise OSError("the disk is on fire")

    async def fails() -> None:
        async with node.transaction() as tx:
            cars = tx.collection("cars")
            await cars.insert({"_id": "1"})
            writing = [tx._store.write(give_up), cars.insert({"_id": "2"})]
            first, second = await asyncio.gather(*writing, return_exceptions=True)
            assert isinstance(first, OSError)
            assert isinstance(second, MeshError)
            with pytest.raises(TransactionEnded, match="on fire"):
                await cars.insert({"_id": "3"})

    with pytest.raises(TransactionEnded, match="on fire"):
        await fails()
    assert await ids(node.collection("cars")) == []
    await node.collection("cars").insert({"_id": "4"})


async def test_nothing_in_the_block_is_nothing(node: Node) -> None:
    told = followed(node)
    async with node.transaction():
        pass
    async with node.transaction() as tx:
        assert await tx.collection("cars").get("1") is None
    assert [commits for commits in told if commits] == []


async def test_operations_at_once_are_all_in_it(node: Node) -> None:
    async with node.transaction() as tx:
        cars = tx.collection("cars")
        results = await asyncio.gather(
            *[cars.insert({"_id": str(i % 50)}) for i in range(60)], return_exceptions=True
        )
        assert sum(isinstance(result, DocumentExists) for result in results) == 10
    assert await node.collection("cars").count() == 50


CRASH = """
    import asyncio, sys
    from mesh import Node

    async def main(home):
        async with Node(home, listen=None) as node:
            n = 0
            while True:
                async with node.transaction() as tx:
                    cars = tx.collection("cars")
                    for i in range(10):
                        await cars.insert({"_id": f"{n:06}-{i}"})
                        print("inside", n, flush=True)
                print("done", n, flush=True)
                n += 1

    asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("inside", [3, 17, 60, 101])
def test_kill_9_leaves_whole_transactions_only(tmp_path: Path, inside: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CRASH), str(tmp_path / "n")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            lines: list[str] = []
            while sum(line.startswith("inside") for line in lines) < inside:
                lines.append(process.stdout.readline())
                assert lines[-1]
        finally:
            process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    done = sum(line.startswith("done") and line.endswith("\n") for line in lines)

    async def what_is_there() -> list[str]:
        async with Node(tmp_path / "n", listen=None) as node:
            return await ids(node.collection("cars"))

    found = asyncio.run(what_is_there())
    assert len(found) % 10 == 0, "all of a transaction, or nothing"
    assert done <= len(found) // 10 <= done + 1


# --- who waits ------------------------------------------------------------------------------------


async def test_other_writers_wait_and_other_readers_do_not(file_node: Node) -> None:
    cars = file_node.collection("cars")
    await cars.insert({"_id": "1", "n": 1})
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        async with file_node.transaction() as tx:
            await tx.collection("cars").update("1", {"n": 2})
            await tx.collection("cars").insert({"_id": "2"})
            inside.set()
            await go_on.wait()
            await tx.collection("cars").insert({"_id": "3"})

    blocked = asyncio.create_task(block())
    await inside.wait()
    writer = asyncio.create_task(cars.update("1", {"m": 1}))
    second = asyncio.create_task(another(file_node))
    async with cars.observe() as changes:
        assert (await anext(changes)).documents == [{"_id": "1", "n": 1}]
        assert await cars.find() == [{"_id": "1", "n": 1}], "the state before it"
        await turns()
        assert not writer.done()
        assert not second.done()
        go_on.set()
        change = await anext(changes)
        assert [document["_id"] for document in change.inserted[:2]] == ["2", "3"]
    await asyncio.gather(blocked, writer, second)
    assert await cars.find() == [
        {"_id": "1", "m": 1, "n": 2}, {"_id": "2"}, {"_id": "3"}, {"_id": "other"}
    ]  # fmt: skip


async def another(node: Node) -> None:
    async with node.transaction() as tx:
        await tx.collection("cars").insert({"_id": "other"})


async def test_in_memory_readers_wait_too() -> None:
    async with Node(listen=None) as node:
        cars = node.collection("cars")
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def block() -> None:
            async with node.transaction() as tx:
                await tx.collection("cars").insert({"_id": "1"})
                inside.set()
                await go_on.wait()

        blocked = asyncio.create_task(block())
        await inside.wait()
        reader = asyncio.create_task(cars.find())
        await turns()
        assert not reader.done()
        go_on.set()
        await blocked
        assert await reader == [{"_id": "1"}]


def test_frames_of_peers_wait_and_nothing_is_sent_before_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(1, tmp_path)
        a = await world.start("a")
        b = await world.start("b", ["a"])
        for each in (a, b):
            await each.collection("cars").subscribe()
        await b.settled(60)
        async with a.transaction() as tx:
            await tx.collection("cars").insert({"_id": "a1"})
            await b.collection("cars").insert({"_id": "b1"})
            await asyncio.sleep(20)
            assert await ids(b.collection("cars")) == ["b1"]
            assert await ids(tx.collection("cars")) == ["a1"]
            assert await ids(a.collection("cars")) == []
            await tx.collection("cars").insert({"_id": "a2"})
        await b.settled(60)
        assert await ids(a.collection("cars")) == await ids(b.collection("cars")) == ["a1", "a2", "b1"]
        await a.close()
        await b.close()

    run_virtual(main())


def test_links_made_inside_of_a_block_sync_after_it(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(1, tmp_path)
        a, b = await world.start("a"), await world.start("b")
        for each in (a, b):
            await each.collection("cars").subscribe()
        await b.collection("cars").insert({"_id": "b1"})
        async with a.transaction() as tx:
            assert b.address is not None
            await a.connect(b.address)
            await asyncio.sleep(10)
            await tx.collection("cars").insert({"_id": "a1"})
        await a.settled(60)
        assert await ids(a.collection("cars")) == await ids(b.collection("cars")) == ["a1", "b1"]
        assert len(a.presence().peers) == 1
        await a.close()
        await b.close()

    run_virtual(main())


# --- what is refused ------------------------------------------------------------------------------


Use = Callable[[Node, Collection], Coroutine[Any, Any, Any]]

NESTED: dict[str, Use] = {
    "write": lambda node, cars: cars.insert({"_id": "x"}),
    "remove": lambda node, cars: cars.remove("1"),
    "subscribe": lambda node, cars: cars.subscribe(),
    "transaction": lambda node, cars: another(node),
    "in a task": lambda node, cars: asyncio.wait_for(cars.insert({"_id": "x"}), 60),
}


@pytest.mark.parametrize("use", NESTED.values(), ids=NESTED)
async def test_what_would_wait_for_the_block_is_refused_inside_of_it(node: Node, use: Use) -> None:
    cars = node.collection("cars")
    async with node.transaction() as tx:
        await tx.collection("cars").insert({"_id": "1"})
        with pytest.raises(NestedTransaction):
            await use(node, cars)
        with pytest.raises(NestedTransaction):
            await asyncio.create_task(use(node, cars))
    assert await ids(cars) == ["1"]
    await use(node, cars)


async def test_in_memory_reading_is_refused_as_well() -> None:
    async with Node(listen=None) as node:
        async with node.transaction():
            with pytest.raises(NestedTransaction):
                await node.collection("cars").find()
        assert await node.collection("cars").find() == []


async def test_a_task_that_outlives_the_block_is_free_of_it(node: Node) -> None:
    ended = asyncio.Event()

    async def later() -> None:
        await ended.wait()
        await node.collection("cars").insert({"_id": "later"})
        await another(node)

    async with node.transaction():
        task = asyncio.create_task(later())
        await turns()
    ended.set()
    await task
    assert await ids(node.collection("cars")) == ["later", "other"]


async def test_another_node_is_another_matter(node: Node) -> None:
    async with Node(listen=None) as other, node.transaction() as tx:
        await other.collection("cars").insert({"_id": "1"})
        async with other.transaction() as their:
            await their.collection("cars").insert({"_id": "2"})
            await tx.collection("cars").insert({"_id": "3"})
        assert await ids(other.collection("cars")) == ["1", "2"]
    assert await ids(node.collection("cars")) == ["3"]


async def test_what_belongs_to_the_mesh_is_refused(node: Node) -> None:
    async with node.transaction() as tx:
        with pytest.raises(PermissionDenied):
            await tx.collection("nodes").upsert({"_id": "forged"})
        assert await ids(tx.collection("nodes")) == [node.node_id]


async def test_a_transaction_that_is_over_says_so(node: Node) -> None:
    async with node.transaction() as tx:
        cars = tx.collection("cars")
    for use in (cars.insert({}), cars.get("1"), cars.find(), tx.collection("vans").upsert({})):
        with pytest.raises(TransactionEnded, match="committed"):
            await use
    with pytest.raises(KeyError):
        async with node.transaction() as tx:
            raise KeyError
    with pytest.raises(TransactionEnded, match="rolled back"):
        await tx.collection("cars").find()


async def test_a_node_that_is_not_running_has_none(tmp_path: Path) -> None:
    node = Node(tmp_path / "n", listen=None)
    with pytest.raises(NotStarted):
        node.transaction()


# --- none can stop the node -----------------------------------------------------------------------


@pytest.mark.parametrize("where", BOTH)
def test_a_block_that_stays_open_is_rolled_back(tmp_path: Path, where: str) -> None:
    async def main() -> None:
        world = World(1, tmp_path if where == "file" else None)
        node = await world.start("a")
        loop = asyncio.get_running_loop()
        started = loop.time()
        inside = asyncio.Event()

        async def forgotten() -> None:
            async with node.transaction() as tx:
                cars = tx.collection("cars")
                await cars.insert({"_id": "1"})
                inside.set()
                await asyncio.sleep(100)
                with pytest.raises(TransactionEnded, match="30 s"):
                    await cars.insert({"_id": "2"})

        task = asyncio.create_task(forgotten())
        await inside.wait()
        await node.collection("cars").insert({"_id": "3"})
        assert loop.time() - started == MAX_TRANSACTION_SECONDS
        with pytest.raises(TransactionEnded, match="30 s"):
            await task
        assert await ids(node.collection("cars")) == ["3"]
        await node.close()

    run_virtual(main())


async def test_closing_rolls_back_what_is_open(tmp_path: Path) -> None:
    for place in (tmp_path / "n", None):
        node = Node(place, listen=None)
        await node.start()
        inside, closed = asyncio.Event(), asyncio.Event()

        async def block(node: Node, inside: asyncio.Event, closed: asyncio.Event) -> None:
            async with node.transaction() as tx:
                await tx.collection("cars").insert({"_id": "1"})
                inside.set()
                await closed.wait()

        blocked = asyncio.create_task(block(node, inside, closed))
        await inside.wait()
        writer = asyncio.create_task(node.collection("cars").insert({"_id": "2"}))
        second = asyncio.create_task(another(node))
        await turns()
        async with asyncio.timeout(10):
            await node.close()
        closed.set()
        with pytest.raises(TransactionEnded, match="closed"):
            await blocked
        with pytest.raises(NotStarted):
            await second
        assert await writer == "2"
    async with Node(tmp_path / "n", listen=None) as again:
        assert await ids(again.collection("cars")) == ["2"]


async def test_a_node_can_be_closed_inside_of_a_block(tmp_path: Path) -> None:
    node = Node(tmp_path / "n", listen=None)
    await node.start()

    async def block() -> None:
        async with asyncio.timeout(10), node.transaction() as tx:
            await tx.collection("cars").insert({"_id": "1"})
            await node.close()

    with pytest.raises(TransactionEnded, match="closed"):
        await block()


async def test_who_waits_for_a_turn_can_give_up(node: Node) -> None:
    async with node.transaction() as tx:
        await tx.collection("cars").insert({"_id": "1"})
        waiting = asyncio.create_task(another(node), context=Context())
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await another(node)
    assert await ids(node.collection("cars")) == ["1", "other"]


# --- where its operations run -----------------------------------------------------------------------


@pytest.mark.parametrize("loop_seconds", [60.0, 0.0])
async def test_brief_operations_are_done_on_the_loop_while_they_do_not_hold_it_up(
    file_node: Node, monkeypatch: pytest.MonkeyPatch, loop_seconds: float
) -> None:
    monkeypatch.setattr(transactions, "LOOP_SECONDS", loop_seconds)
    asked = 0
    call = ThreadWorker.call

    def counted(self: ThreadWorker, then: Any, function: Any, *args: Any) -> None:
        nonlocal asked
        # And not what else a node does.
        asked += getattr(function, "__func__", None) in (Connection.attempt, Connection.read)
        call(self, then, function, *args)

    async with file_node.transaction() as tx:
        monkeypatch.setattr(ThreadWorker, "call", counted)
        cars = tx.collection("cars")
        for n in range(10):
            await cars.upsert({"_id": str(n % 5), "n": n})
            assert await cars.get(str(n % 5)) == {"_id": str(n % 5), "n": n}
        with pytest.raises(DocumentExists):
            await cars.insert({"_id": "1"})
        assert asked == (1 if loop_seconds else 21), "the first one begins the transaction"
        assert await cars.count() == 5
        monkeypatch.undo()
    assert [document["n"] for document in await file_node.collection("cars").find()] == [5, 6, 7, 8, 9]


async def test_many_operations_let_others_have_their_turn(node: Node) -> None:
    async def write_many() -> None:
        async with node.transaction() as tx:
            for n in range(20_000):
                await tx.collection("cars").upsert({"_id": str(n % 5), "n": n})

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(write_many(), 0.05)
    assert await node.collection("cars").count() == 0


async def test_operations_at_the_same_time_do_not_share_the_connection(file_node: Node) -> None:
    async with file_node.transaction() as tx:
        cars = tx.collection("cars")
        await cars.insert({"_id": "0", "n": 0})
        found, _, got = await asyncio.gather(
            cars.remove({"n": 0}), cars.upsert({"_id": "0", "n": 1}), cars.get("0")
        )
        assert (found, got) == (1, {"_id": "0", "n": 1}), "in the order in which they were asked for"
