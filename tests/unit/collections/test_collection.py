"""What the methods of a collection do, and every way in which they refuse."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mesh.collections.collection import Collection
from mesh.core.document import MAX_DOCUMENT_BYTES
from mesh.errors import (
    DocumentExists,
    DocumentNotFound,
    DocumentTooLarge,
    InvalidCollectionName,
    InvalidDocument,
    InvalidIndex,
    InvalidSelector,
    PermissionDenied,
)
from tests.simulation.virtual_clock import run_virtual
from tests.unit.collections.mesh_of_stores import DocumentNode, mesh_of_stores
from tests.unit.owned_bodies import node_body


def with_cars(test: Callable[[Collection], Awaitable[None]]) -> Callable[[], None]:
    """Run a test with an empty collection."""

    def run() -> None:
        async def main() -> None:
            async with mesh_of_stores() as world:
                await test((await world.add("a")).collection())

        run_virtual(main())

    run.__name__ = test.__name__
    return run


@with_cars
async def test_insert_and_get(cars: Collection) -> None:
    assert await cars.insert({"_id": "1", "color": "red", "owner": {"name": "A"}}) == "1"
    assert await cars.get("1") == {"_id": "1", "color": "red", "owner": {"name": "A"}}
    assert await cars.get("2") is None
    generated = await cars.insert({"color": "blue"})
    assert await cars.get(generated) == {"_id": generated, "color": "blue"}
    assert await cars.insert({}) != await cars.insert({})
    assert await cars.count() == 4


@with_cars
async def test_insert_refuses_what_is_there(cars: Collection) -> None:
    await cars.insert({"_id": "1", "n": 1})
    with pytest.raises(DocumentExists) as caught:
        await cars.insert({"_id": "1", "n": 2})
    assert (caught.value.collection, caught.value.document_id) == ("cars", "1")
    assert await cars.get("1") == {"_id": "1", "n": 1}
    await cars.remove("1")
    await cars.insert({"_id": "1", "m": 3})
    assert await cars.get("1") == {"_id": "1", "m": 3}


@with_cars
async def test_of_two_inserts_at_once_one_is_refused(cars: Collection) -> None:
    results = await asyncio.gather(
        *[cars.insert({"_id": "1", "n": n}) for n in range(5)], return_exceptions=True
    )
    assert results.count("1") == 1
    assert sum(isinstance(result, DocumentExists) for result in results) == 4


@with_cars
async def test_upsert_merges(cars: Collection) -> None:
    await cars.upsert({"_id": "1", "a": 1, "o": {"x": 1, "y": {"z": 1}}})
    await cars.upsert({"_id": "1", "b": 2, "o": {"y": {"w": 2}}})
    assert await cars.get("1") == {"_id": "1", "a": 1, "b": 2, "o": {"x": 1, "y": {"z": 1, "w": 2}}}
    await cars.upsert({"_id": "1", "o": [1]})
    assert await cars.get("1") == {"_id": "1", "a": 1, "b": 2, "o": [1]}


@with_cars
async def test_update_needs_the_document(cars: Collection) -> None:
    with pytest.raises(DocumentNotFound) as caught:
        await cars.update("1", {"a": 1})
    assert (caught.value.collection, caught.value.document_id) == ("cars", "1")
    assert await cars.count() == 0
    await cars.insert({"_id": "1", "a": 1})
    await cars.update("1", {"_id": "1", "a": 2})
    assert await cars.get("1") == {"_id": "1", "a": 2}
    with pytest.raises(InvalidDocument, match="never changes"):
        await cars.update("1", {"_id": "2", "a": 3})
    await cars.remove("1")
    with pytest.raises(DocumentNotFound):
        await cars.update("1", {"a": 1})


@with_cars
async def test_replace_removes_what_is_absent(cars: Collection) -> None:
    await cars.replace({"_id": "1", "a": 1, "o": {"x": 1, "y": 2}})
    await cars.replace({"_id": "1", "o": {"x": 3}, "b": True})
    assert await cars.get("1") == {"_id": "1", "o": {"x": 3}, "b": True}
    await cars.replace({"_id": "1"})
    assert await cars.get("1") == {"_id": "1"}


@with_cars
async def test_unset(cars: Collection) -> None:
    await cars.insert({"_id": "1", "a": 1, "o": {"x": {"deep": 1}, "y": 2}, "d.t": 1})
    await cars.unset("1", "a", "o.x.deep", "missing", "o.no.such")
    assert await cars.get("1") == {"_id": "1", "o": {"x": {}, "y": 2}, "d.t": 1}
    await cars.unset("1", "/o", r"d\.t")
    assert await cars.get("1") == {"_id": "1"}
    with pytest.raises(DocumentNotFound):
        await cars.unset("2", "a")
    with pytest.raises(InvalidDocument, match="never changes"):
        await cars.unset("1", "_id")


@with_cars
async def test_what_is_removed_is_what_the_selector_said_when_it_was_asked_for(cars: Collection) -> None:
    for i in range(3):
        await cars.insert({"_id": str(i), "n": i})
    selector = {"n": {"$in": [1]}}
    removing = asyncio.create_task(cars.remove(selector))
    await asyncio.gather(cars.count())  # it is under way
    selector["n"]["$in"].append(2)
    selector.clear()
    assert await removing == 1


@with_cars
async def test_indexes_tell_cases_apart(cars: Collection) -> None:
    await cars.insert({"year": 1, "Year": 2})
    for field in ("year", "Year", "YEAR"):
        await cars.create_index(field)
    for field in ("year", "Year"):
        assert (await cars.explain({field: 1}))["fields"] == [field]


@with_cars
async def test_a_window_that_cannot_be(cars: Collection) -> None:
    for wrong in (
        {"limit": "5"},
        {"limit": 1.5},
        {"skip": None},
        {"skip": -1},
        {"fields": "abc"},
        {"fields": [5]},
    ):
        with pytest.raises(InvalidSelector):
            await cars.find(**wrong)
    with pytest.raises(InvalidSelector):
        cars.observe(limit="x")  # type: ignore[arg-type]


@with_cars
async def test_increment(cars: Collection) -> None:
    await cars.insert({"_id": "1", "n": 5})
    await cars.increment("1", "n")
    await cars.increment("1", "n", -3)
    await cars.increment("1", "new", 0.5)
    await cars.increment("1", "deep.er", 2)
    assert await cars.get("1") == {"_id": "1", "n": 3, "new": 0.5, "deep": {"er": 2}}
    await cars.upsert({"_id": "1", "n": 10})
    await cars.increment("1", "n")
    assert (await cars.get("1") or {})["n"] == 11
    with pytest.raises(DocumentNotFound):
        await cars.increment("2", "n")
    await cars.upsert({"_id": "1", "text": "x"})
    for field, by in (("text", 1), ("n", math.nan), ("n", "1"), ("deep", 1), ("_id", 1)):
        with pytest.raises(InvalidDocument):
            await cars.increment("1", field, by)  # type: ignore[arg-type]


@with_cars
async def test_many_increments_at_once_add_up(cars: Collection) -> None:
    await cars.insert({"_id": "1"})
    await asyncio.gather(*[cars.increment("1", "n") for _ in range(100)])
    assert await cars.get("1") == {"_id": "1", "n": 100}


@with_cars
async def test_find(cars: Collection) -> None:
    for i, color in enumerate(["red", "blue", "red", "green"]):
        await cars.insert({"_id": f"c{i}", "color": color, "n": -i, "o": {"i": i}})

    def ids(found: list[dict[str, Any]]) -> list[str]:
        return [document["_id"] for document in found]

    assert ids(await cars.find()) == ["c0", "c1", "c2", "c3"]
    assert ids(await cars.find({"color": "red"})) == ["c0", "c2"]
    assert ids(await cars.find({"o.i": {"$gte": 2}})) == ["c2", "c3"]
    assert ids(await cars.find(sort=["n"])) == ["c3", "c2", "c1", "c0"]
    assert ids(await cars.find(sort=[{"color": "desc"}, "n"])) == ["c2", "c0", "c3", "c1"]
    assert ids(await cars.find(sort=["n"], skip=1, limit=2)) == ["c2", "c1"]
    assert ids(await cars.find(limit=0)) == []
    assert ids(await cars.find(skip=9)) == []
    assert await cars.find({"_id": "c1"}, fields=["color", "o.i"]) == [
        {"_id": "c1", "color": "blue", "o": {"i": 1}}
    ]
    assert await cars.count({"color": "red"}) == 2
    assert await cars.count({}) == await cars.count() == 4
    assert await cars.find({"color": "none"}) == []


@with_cars
async def test_what_find_gives_is_the_callers_to_change(cars: Collection) -> None:
    await cars.insert({"_id": "1", "o": {"x": 1}})
    [found] = await cars.find()
    found["o"]["x"] = 2
    assert await cars.get("1") == {"_id": "1", "o": {"x": 1}}


@with_cars
async def test_remove(cars: Collection) -> None:
    for i in range(5):
        await cars.insert({"_id": str(i), "odd": i % 2 == 1})
    assert await cars.remove("0") == 1
    assert await cars.remove("0") == 0
    assert await cars.remove("no such") == 0
    assert await cars.remove({"odd": True}) == 2
    with pytest.raises(InvalidSelector, match="all=True"):
        await cars.remove({})
    assert await cars.count() == 2
    assert await cars.remove({}, all=True) == 2
    assert await cars.count() == 0
    assert await cars.find() == []


@with_cars
async def test_evict(cars: Collection) -> None:
    for i in range(5):
        await cars.insert({"_id": str(i), "odd": i % 2 == 1})
    assert await cars.evict("0") == 1
    assert await cars.evict("0") == 0
    assert await cars.evict({"odd": True}) == 2
    assert await cars.evict({}) == 2
    assert await cars.count() == 0
    subscription = await cars.subscribe({"odd": True})
    with pytest.raises(PermissionDenied, match="cancel the subscription"):
        await cars.evict("1")
    await subscription.cancel()
    assert await cars.evict("1") == 0


@with_cars
async def test_a_subscription_is_what_it_selects(cars: Collection) -> None:
    selector = {"a": {"$in": [1.0]}, "b": 2}
    one = await cars.subscribe(selector)
    other = await cars.subscribe({"b": 2.0, "a": {"$in": [1]}})
    selector["a"]["$in"].append(5)  # type: ignore[index]
    assert one.selector == other.selector == {"a": {"$in": [1]}, "b": 2}
    assert [found.selector for found in await cars.subscriptions()] == [one.selector]
    await one.cancel()
    assert await cars.subscriptions() == []
    assert await cars.evict({}) == 0  # nothing is subscribed to any more


HARMLESS: dict[str, Any] = {"_id": "1", "a": 1}


@with_cars
async def test_what_cannot_be_stored_is_refused_and_nothing_is_written(cars: Collection) -> None:
    await cars.insert(HARMLESS)
    writes: list[Callable[[Any], Awaitable[Any]]] = [
        lambda bad: cars.insert({"x": bad}),
        lambda bad: cars.upsert({"_id": "1", "a": 2, "x": bad}),
        lambda bad: cars.replace({"_id": "1", "a": 2, "x": bad}),
        lambda bad: cars.update("1", {"a": 2, "x": bad}),
    ]
    for write in writes:
        for bad in (math.nan, 2**53, "\ud800", b"bytes", {1: 2}, object(), {"deep": [math.inf]}):
            with pytest.raises(InvalidDocument) as caught:
                await write(bad)
            assert caught.value.path.startswith("/x")
        with pytest.raises(DocumentTooLarge) as large:
            await write("x" * MAX_DOCUMENT_BYTES)
        assert large.value.limit == MAX_DOCUMENT_BYTES
    for document_id in ("", 5, None, "x" * 513, "\ud800"):
        with pytest.raises(InvalidDocument) as caught:
            await cars.insert({"_id": document_id})
        assert caught.value.path == "/_id"
        with pytest.raises(InvalidDocument):
            await cars.get(document_id)  # type: ignore[arg-type]
    document: Any
    for document in (None, [], "text", 5):
        for method in (cars.insert, cars.upsert, cars.replace):
            with pytest.raises(InvalidDocument):
                await method(document)
        with pytest.raises(InvalidDocument):
            await cars.update("1", document)
    assert await cars.find() == [HARMLESS]


@with_cars
async def test_selectors_that_cannot_be_are_refused(cars: Collection) -> None:
    await cars.insert(HARMLESS)
    bad: Any
    for bad in ({"$oops": 1}, {"a": {"$gt": 1, "x": 2}}, [], {"a": {"$regex": "(a+"}}):
        for method in (cars.find, cars.count, cars.remove, cars.evict, cars.subscribe):
            with pytest.raises(InvalidSelector):
                await method(bad)
        with pytest.raises(InvalidSelector):
            cars.observe(bad)
    for bad in ([{"a": "sideways"}], [5]):
        with pytest.raises(InvalidSelector):
            await cars.find(sort=bad)
        with pytest.raises(InvalidSelector):
            cars.observe(sort=bad)
    for window in ({"skip": -1}, {"limit": -1}, {"limit": 2**63}, {"skip": 2**64}):
        with pytest.raises(InvalidSelector):
            await cars.find(**window)  # type: ignore[arg-type]
    assert await cars.count() == 1


def test_collections_of_the_mesh_are_read_only() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            node = await world.add("a")
            await node.owned.write("nodes", node.node_id, node_body(name="a"))
            nodes = node.collection("nodes")
            assert await nodes.find() == [node_body(_id=node.node_id, name="a")]
            assert await nodes.get(node.node_id)
            assert await nodes.count() == 1
            attempts: list[Awaitable[Any]] = [
                nodes.insert({"x": 1}),
                nodes.upsert({"_id": node.node_id}),
                nodes.replace({"_id": node.node_id}),
                nodes.update(node.node_id, {"name": "b"}),
                nodes.unset(node.node_id, "name"),
                nodes.increment(node.node_id, "n"),
                nodes.remove(node.node_id),
                nodes.remove({}, all=True),
                nodes.evict(node.node_id),
            ]
            for attempt in attempts:
                with pytest.raises(PermissionDenied):
                    await attempt
            assert await nodes.count() == 1

    run_virtual(main())


def test_names() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            node = await world.add("a")
            for name in ("", ".hidden", "a b", "é", 5):
                with pytest.raises(InvalidCollectionName):
                    node.collection(name)  # type: ignore[arg-type]
            assert repr(node.collection("a")) == "Collection('a')"

    run_virtual(main())


def test_collections_are_apart() -> None:
    async def main() -> None:
        async with mesh_of_stores() as world:
            node: DocumentNode = await world.add("a")
            await node.collection("one").insert({"_id": "x", "n": 1})
            await node.collection("two").insert({"_id": "x", "n": 2})
            await node.collection("one").remove({}, all=True)
            assert await node.contents("two") == {"x": {"n": 2}}
            assert await node.contents("one") == {}

    run_virtual(main())


@with_cars
async def test_what_the_caller_changes_while_a_write_is_queued_is_not_written(cars: Collection) -> None:
    tags = ["red"]
    writing = asyncio.ensure_future(cars.insert({"_id": "c1", "tags": tags}))
    await asyncio.sleep(0)
    tags.append("blue")
    await writing
    assert await cars.get("c1") == {"_id": "c1", "tags": ["red"]}


@with_cars
async def test_an_index_finds_what_was_there_and_what_comes(cars: Collection) -> None:
    for year in range(50):
        await cars.insert({"_id": f"a{year}", "year": year, "at": {"city": "x"}})
    await cars.create_index("year", "at.city")
    for year in range(50):
        await cars.insert({"_id": f"b{year}", "year": year, "at": {"city": "y"}})
    explained = await cars.explain({"year": 7})
    assert (explained["index"], explained["fields"]) == ('cars["year","at.city"]', ["year"])
    assert (explained["scan"], explained["exact"]) == (False, True)
    assert [document["_id"] for document in await cars.find({"year": 7})] == ["a7", "b7"]
    await cars.update("a7", {"year": 8})
    await cars.remove("b8")
    assert [document["_id"] for document in await cars.find({"year": 8})] == ["a7", "a8"]
    found = await cars.find({"at.city": "y", "year": {"$gt": 40}}, sort=[{"year": "desc"}], skip=1, limit=2)
    assert [document["_id"] for document in found] == ["b48", "b47"]
    for fields in ((), ("",), ('"',)):
        with pytest.raises(InvalidIndex):
            await cars.create_index(*fields)


@with_cars
async def test_indexes_are_listed_and_dropped(cars: Collection) -> None:
    for fields in (["year"], ["a\\.b", "/at/city"], ["/a.b", "at.city"], ["Year"]):
        await cars.create_index(*fields)
    assert await cars.indexes() == [("Year",), ("a\\.b", "at.city"), ("year",)]
    assert await cars.drop_index("/a.b", "at.city")
    assert await cars.drop_index("year")
    assert not await cars.drop_index("year")
    assert await cars.indexes() == [("Year",)]
    assert (await cars.explain({"year": 1}))["scan"]
    with pytest.raises(InvalidIndex):
        await cars.drop_index()
