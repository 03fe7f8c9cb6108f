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
from mesh.errors import InvalidSelector, NotStarted
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
            assert not node.observers._told, "nobody is told who has not begun to read"
            abandoned = [cars.observe(), cars.observe({"_id": "1"})]
            for stream in abandoned:
                await anext(stream)
            del never_read, abandoned, stream
            gc.collect()
            assert not node.observers._told
            assert not node.observers._streams

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


def test_an_equal_number_of_another_kind_is_an_update() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            await cars.insert({"_id": "1", "n": 1})
            stream = cars.observe()
            await anext(stream)
            await cars.update("1", {"n": True})
            assert summary(await anext(stream)) == (["1"], [], ["1"], [])

    run_virtual(main())


def test_a_change_shows_the_result_as_it_was() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            stream = cars.observe(sort=[{"n": "desc"}])
            changes = [await anext(stream)]
            for n in range(1000):
                await cars.insert({"_id": f"{n:03}", "n": n % 10})
                changes.append(await anext(stream))
            for n in range(0, 1000, 3):
                await cars.remove(f"{n:03}")
            last = await anext(stream)
            assert last.documents == await cars.find(sort=[{"n": "desc"}])
            assert [len(change.documents) for change in changes] == list(range(1001))
            assert ids(changes[21].documents) == sorted(
                ids(changes[21].documents), key=lambda i: (-(int(i) % 10), i)
            )

    run_virtual(main())


def test_observers_of_ids_are_told_of_these_only() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            node = await world.add("a")
            cars = node.collection()
            one = cars.observe({"_id": "1"})
            some = cars.observe({"_id": {"$in": ["1", "2"]}, "n": {"$gt": 0}})
            streams = [cars.observe({"_id": str(i)}) for i in range(3, 100)]
            for stream in (one, some, *streams):
                assert (await anext(stream)).documents == []
            await cars.insert({"_id": "1", "n": 1})
            await node.collection("other").insert({"_id": "1", "n": 1})
            await cars.insert({"_id": "2", "n": 1})
            assert summary(await anext(one)) == (["1"], ["1"], [], [])
            assert summary(await anext(some)) == (["1", "2"], ["1", "2"], [], [])
            await cars.update("2", {"n": 0})
            assert summary(await anext(some)) == (["1"], [], [], ["2"])
            assert not any(stream._items for stream in (one, *streams))
            await cars.insert({"_id": "50", "n": 1})
            assert summary(await anext(streams[47])) == (["50"], ["50"], [], [])

    run_virtual(main())


steps = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["red", "blue", None])), max_size=15)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(steps, min_size=2, max_size=4),
    st.lists(st.integers(0, 3), min_size=1, max_size=10),
    st.sampled_from([None, {"color": "red"}, {"_id": {"$in": ["1", "2", "3"]}}]),
    st.sampled_from([None, ["color"], [{"n": "desc"}]]),
    st.sampled_from([None, 3]),
)
def test_writers_at_once_and_a_slow_reader(
    writers: list[list[tuple[int, str | None]]],
    pauses: list[int],
    selector: Any,
    sort: Any,
    limit: int | None,
) -> None:
    """However writes and reads take turns, replaying the changes gives the result, and none comes twice."""

    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            stream = cars.observe(selector, sort=sort, limit=limit)
            held: dict[str, Any] = {}
            shown: list[dict[str, Any]] = []

            async def write(number: int, writes: list[tuple[int, str | None]]) -> None:
                for turn, (document, color) in enumerate(writes):
                    if color is None:
                        await cars.remove(str(document))
                    else:
                        await cars.upsert({"_id": str(document), "color": color, "n": number * turn})
                    if turn % 2:
                        await asyncio.sleep(0)

            async def read() -> None:
                nonlocal held
                for pause in itertools.cycle(pauses):
                    change = await anext(stream, None)
                    if change is None:
                        return
                    held = applied(held, change)
                    shown[:] = change.documents
                    for _ in range(pause):
                        await asyncio.sleep(0)

            reader = asyncio.create_task(read())
            await asyncio.gather(*(write(number, writes) for number, writes in enumerate(writers)))
            await asyncio.sleep(1)  # on the virtual clock: everything has been told, and read
            await stream.aclose()
            await reader
            assert shown == await cars.find(selector, sort=sort, limit=limit)
            assert held == {document["_id"]: document for document in shown}

    run_virtual(main())


@pytest.mark.parametrize("limit", [None, 5])
def test_what_a_slow_reader_has_already_is_not_told(limit: int | None) -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            await cars.insert({"_id": "1", "n": 0})
            stream = cars.observe({"n": {"$lt": 10}}, limit=limit)
            await anext(stream)
            await cars.update("1", {"n": 1})
            await cars.update("1", {"n": 0})
            await cars.update("1", {"n": 10})
            await cars.update("1", {"n": 0})
            await cars.insert({"_id": "2", "n": 1})
            await cars.remove("2")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 1)
            await cars.update("1", {"n": 2})
            assert summary(await anext(stream)) == (["1"], [], ["1"], [])

    run_virtual(main())


def test_a_limit_that_cannot_be() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            cars = (await world.add("a")).collection()
            with pytest.raises(InvalidSelector):
                cars.observe(limit=-1)

    run_virtual(main())
