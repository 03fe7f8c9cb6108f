"""Observers: a snapshot, then exactly what changes."""

from __future__ import annotations

import asyncio
import gc
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.changes import Change
from mesh.errors import NotStarted
from tests.simulation.virtual_clock import run_virtual
from tests.unit.collections.mesh_of_stores import mesh_of_stores


def ids(documents: list[dict[str, Any]]) -> list[str]:
    return [document["_id"] for document in documents]


def summary(change: Change) -> tuple[list[str], list[str], list[str], list[str]]:
    return ids(change.documents), ids(change.inserted), ids(change.updated), list(change.removed)


def test_the_snapshot_then_every_change() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            await cars.insert({"_id": "1", "color": "red"})
            await cars.insert({"_id": "2", "color": "blue"})
            async with cars.observe({"color": "red"}) as stream:
                assert summary(await anext(stream)) == (["1"], ["1"], [], [])
                await cars.update("2", {"color": "red"})
                assert summary(await anext(stream)) == (["1", "2"], ["2"], [], [])
                await cars.update("1", {"n": 5})
                change = await anext(stream)
                assert summary(change) == (["1", "2"], [], ["1"], [])
                assert change.updated == [{"_id": "1", "color": "red", "n": 5}]
                await cars.update("2", {"color": "blue"})
                assert summary(await anext(stream)) == (["1"], [], [], ["2"])
                await cars.remove("1")
                assert summary(await anext(stream)) == ([], [], [], ["1"])

    run_virtual(main())


def test_what_does_not_concern_the_query_is_not_told() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            node = await world.add("a")
            cars = node.collection()
            await cars.insert({"_id": "1", "color": "red"})
            stream = cars.observe({"color": "red"})
            await anext(stream)
            await cars.insert({"_id": "2", "color": "blue"})
            await cars.update("2", {"n": 1})
            await cars.remove("2")
            await cars.update("1", {"color": "red"})
            await node.collection("other").insert({"_id": "1", "color": "red"})
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 1)
            await cars.evict("1")
            assert summary(await anext(stream)) == ([], [], [], ["1"])

    run_virtual(main())


def test_a_slow_reader_gets_one_change_for_many() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            await cars.insert({"_id": "stays", "n": 0})
            await cars.insert({"_id": "goes", "n": 0})
            stream = cars.observe()
            await anext(stream)
            for n in range(1, 200):
                await cars.update("stays", {"n": n})
            await cars.remove("goes")
            await cars.insert({"_id": "comes", "n": 1})
            await cars.insert({"_id": "comes and goes", "n": 1})
            await cars.remove("comes and goes")
            change = await anext(stream)
            assert summary(change) == (["comes", "stays"], ["comes"], ["stays"], ["goes"])
            assert change.updated == [{"_id": "stays", "n": 199}]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 1)

    run_virtual(main())


def test_a_window_of_a_sorted_result() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            for i in range(5):
                await cars.insert({"_id": str(i), "n": i})
            stream = cars.observe(sort=[{"n": "desc"}], limit=2)
            assert summary(await anext(stream)) == (["4", "3"], ["4", "3"], [], [])
            await cars.update("0", {"n": 10})
            assert summary(await anext(stream)) == (["0", "4"], ["0"], [], ["3"])
            await cars.remove("4")
            assert summary(await anext(stream)) == (["0", "3"], ["3"], [], ["4"])
            await cars.update("1", {"x": 1})
            await cars.update("0", {"n": 2.5})
            change = await anext(stream)
            assert summary(change) == (["3", "0"], [], ["0"], [])

    run_virtual(main())


def applied(held: dict[str, Any], change: Change) -> dict[str, Any]:
    held = {key: value for key, value in held.items() if key not in change.removed}
    for document in change.inserted:
        assert document["_id"] not in held, "inserted twice"
        held[document["_id"]] = document
    for document in change.updated:
        assert document["_id"] in held, "updated what was not there"
        held[document["_id"]] = document
    return held


operations = st.one_of(
    st.tuples(st.just("upsert"), st.integers(0, 5), st.sampled_from(["red", "blue"]), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.integers(0, 5)),
    st.tuples(st.just("evict"), st.integers(0, 5)),
    st.tuples(st.just("read")),
    st.tuples(st.just("together"), st.integers(0, 5), st.integers(0, 5)),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(operations, max_size=25),
    st.sampled_from([None, {"color": "red"}, {"n": {"$gt": 1}}]),
    st.sampled_from([None, ["n"], [{"n": "desc"}, "color"]]),
    st.sampled_from([None, 1, 3]),
)
def test_the_changes_applied_to_the_snapshot_are_the_result(
    steps: list[Any], selector: Any, sort: Any, limit: int | None
) -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            stream = cars.observe(selector, sort=sort, limit=limit)
            started = False
            held: dict[str, Any] = {}

            async def read() -> None:
                nonlocal held, started
                expected = await cars.find(selector, sort=sort, limit=limit)
                if not started or held != {d["_id"]: d for d in expected} or shown != expected:
                    change = await anext(stream)
                    held = applied(held, change)
                    started = True
                    shown[:] = change.documents
                    assert change.documents == expected
                assert held == {document["_id"]: document for document in expected}

            shown: list[dict[str, Any]] = []
            for step in steps:
                match step:
                    case ("upsert", n, color, value):
                        await cars.upsert({"_id": str(n), "color": color, "n": value})
                    case ("remove", n):
                        await cars.remove(str(n))
                    case ("evict", n):
                        await cars.evict(str(n))
                    case ("together", a, b):
                        await asyncio.gather(
                            cars.upsert({"_id": str(a), "n": 2, "color": "red"}), cars.remove(str(b))
                        )
                    case _:
                        await read()
            await read()
            await stream.aclose()

    run_virtual(main())


def test_a_change_of_order_alone_is_told() -> None:
    """The order is part of the result."""

    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            await cars.insert({"_id": "1", "n": 1})
            await cars.insert({"_id": "2", "n": 2})
            stream = cars.observe(sort=["n"])
            await anext(stream)
            await cars.update("1", {"n": 3})
            assert summary(await anext(stream)) == (["2", "1"], [], ["1"], [])

    run_virtual(main())


def test_leaving_the_loop_leaks_nothing() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            node = await world.add("a")
            cars = node.collection()
            await cars.insert({"_id": "1"})
            for _ in range(20):
                async for _change in cars.observe():
                    break
            never_read = [cars.observe() for _ in range(20)]
            for i in range(10):
                await cars.upsert({"_id": "1", "n": i})
            assert all(stream.source._waiting is None for stream in never_read)  # type: ignore[attr-defined]
            del never_read
            gc.collect()
            assert not any(node.observers._streams.values())

    run_virtual(main())


def test_a_stream_that_is_closed_ends() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            stream = cars.observe()
            await anext(stream)
            waiting = asyncio.create_task(anext(stream, None))
            await asyncio.sleep(0)
            await stream.aclose()
            await stream.aclose()
            assert await waiting is None
            await cars.insert({"_id": "1"})
            assert [change async for change in stream] == []
            never_read = cars.observe()
            await never_read.aclose()
            assert [change async for change in never_read] == []

    run_virtual(main())


def test_closing_the_node_ends_every_stream() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            node = await world.add("a")
            cars = node.collection()
            await cars.insert({"_id": "1"})
            stream, unread = cars.observe(), cars.observe()
            await anext(stream)
            await cars.update("1", {"n": 1})
            await node.stop()
            assert [summary(change)[2] async for change in stream] == [["1"]], "what is unread is still told"
            assert [change async for change in unread] == []
            with pytest.raises(NotStarted):
                await anext(cars.observe())

    run_virtual(main())


def test_a_first_read_that_is_given_up_can_be_repeated() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            node = await world.add("a")
            cars = node.collection()
            await cars.insert({"_id": "1"})
            stream = cars.observe()
            original = node.store.read
            never = asyncio.Event()

            async def slow(job: Any) -> Any:
                await never.wait()
                return await original(job)

            node.store.read = slow  # type: ignore[method-assign]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 1)
            await cars.insert({"_id": "2"})
            node.store.read = original  # type: ignore[method-assign]
            assert ids((await anext(stream)).documents) == ["1", "2"]

    run_virtual(main())


def test_what_is_committed_while_the_snapshot_is_read_is_not_lost() -> None:
    async def main() -> None:
        for delayed, seconds in itertools.product((False, True), (0, 1)):
            async with mesh_of_stores() as world:
                node = await world.add("a")
                cars = node.collection()
                await cars.insert({"_id": "1", "n": 1})
                original = node.store.read

                async def slow(
                    job: Any, original: Any = original, delayed: bool = delayed, seconds: int = seconds
                ) -> Any:
                    if delayed:  # the snapshot is newer than what is told first
                        await asyncio.sleep(seconds)
                        return await original(job)
                    result = await original(job)  # the snapshot is older
                    await asyncio.sleep(seconds)
                    return result

                stream = cars.observe()
                node.store.read = slow  # type: ignore[method-assign]
                first = asyncio.create_task(anext(stream))
                await asyncio.sleep(seconds / 2)
                await cars.update("1", {"n": 2})
                await cars.insert({"_id": "2", "n": 1})
                held = applied({}, await first)
                node.store.read = original  # type: ignore[method-assign]
                try:
                    held = applied(held, await asyncio.wait_for(anext(stream), 5))
                except TimeoutError:
                    assert seconds, "everything came with the snapshot"
                assert held == {"1": {"_id": "1", "n": 2}, "2": {"_id": "2", "n": 1}}

    run_virtual(main())


def test_what_peers_write_is_observed() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            a, b = await world.line(2)
            await a.collection().subscribe()
            stream = a.collection().observe({"n": {"$gt": 1}})
            assert (await anext(stream)).documents == []
            await b.collection().insert({"_id": "1", "n": 2})
            assert ids((await anext(stream)).inserted) == ["1"]
            await b.collection().update("1", {"n": 1})
            assert (await anext(stream)).removed == ["1"]

    run_virtual(main())
