"""Unmodified y-websocket clients and the nodes of a mesh edit the same documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh import Node
from mesh.gateway import Gateway
from tests.processes.yjs_client import WAIT_SECONDS, YjsClient, install

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("yjs")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yjs")
    install(folder)
    return folder


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node, Gateway]]:
    """A hub with a gateway, and a node that is linked with it."""
    async with Node(name="hub") as hub, Gateway(hub) as gateway:
        await hub.collection("notes").subscribe()
        assert hub.address is not None
        async with Node(name="van", peers=[hub.address]) as van:
            await van.collection("notes").subscribe()
            await van.settled(10)
            yield hub, van, gateway


async def eventually(node: Node, expected: dict[str, Any]) -> None:
    """Wait until the document reads so."""
    last = None
    try:
        async with asyncio.timeout(WAIT_SECONDS), node.collection("notes").observe() as changes:
            async for change in changes:
                last = change.documents
                if expected in last:
                    return
    except TimeoutError:
        raise AssertionError(f"it did not come to that: {last}") from None


async def test_fields_go_both_ways(folder: Path) -> None:
    async with two_nodes() as (_, van, gateway), YjsClient(folder, gateway.url, "notes/n1") as browser:
        await browser.until(lambda s: s["synced"])
        browser.do("set", "/title", "Plan")
        browser.do("set", "/size/width", 3)
        browser.do("set", "/tags", ["a", {"b": None}])
        await eventually(
            van, {"_id": "n1", "title": "Plan", "size": {"width": 3}, "tags": ["a", {"b": None}]}
        )
        await van.collection("notes").update("n1", {"title": "A plan", "size": {"height": 1.5}})
        await van.collection("notes").increment("n1", "seen", 2)
        await browser.until(
            lambda s: s["fields"].get("/title") == "A plan" and s["fields"].get("/size/height") == 1.5
        )
        browser.do("delete", "/tags")
        await eventually(
            van, {"_id": "n1", "title": "A plan", "size": {"width": 3, "height": 1.5}, "seen": 2}
        )


async def test_a_text_is_edited_by_several(folder: Path) -> None:
    """Two clients at gateways of two nodes; what one types, the other one sees."""
    async with AsyncExitStack() as stack:
        _, van, gateway = await stack.enter_async_context(two_nodes())
        other = await stack.enter_async_context(Gateway(van))
        one = await stack.enter_async_context(YjsClient(folder, gateway.url, "notes/n1"))
        two = await stack.enter_async_context(YjsClient(folder, other.url, "notes/n1"))
        await one.until(lambda s: s["synced"])
        one.do("insert", 0, "hello 🌍")
        await two.until(lambda s: s["body"] == "hello 🌍")
        two.do("insert", 5, ", you")
        two.do("bold", 0, 5)
        two.do("push", 1, {"a": [True]})
        await one.until(lambda s: s["body"] == "hello, you 🌍" and s["list"] == [1, {"a": [True]}])
        one.do("cut", 0, 7)
        one.do("set", "/title", "Both")
        await two.until(lambda s: s["body"] == "you 🌍" and s["fields"] == {"/title": "Both"})
        for node in (van,):
            assert await node.collection("notes").get("n1") == {"_id": "n1", "title": "Both"}


async def test_offline_edits_merge_on_return(folder: Path) -> None:
    async with two_nodes() as (_, van, gateway), YjsClient(folder, gateway.url, "notes/n1") as browser:
        await van.collection("notes").insert({"_id": "n1", "a": 1, "b": 1})
        await browser.until(lambda s: s["fields"] == {"/a": 1, "/b": 1})
        browser.do("insert", 0, "draft")
        await browser.until(lambda s: s["synced"])
        browser.do("offline")
        browser.do("set", "/a", 2)
        browser.do("insert", 5, ", more")
        await browser.until(lambda s: not s["synced"])
        await van.collection("notes").update("n1", {"b": 2})
        browser.do("online")
        await browser.until(lambda s: s["synced"] and s["fields"] == {"/a": 2, "/b": 2})
        await eventually(van, {"_id": "n1", "a": 2, "b": 2})


async def test_the_gateway_comes_back(folder: Path, tmp_path: Path) -> None:
    """The client goes on by itself, and what it has written meanwhile arrives."""
    async with Node(tmp_path / "hub") as hub:
        async with Gateway(hub) as gateway:
            listen = gateway.url.removeprefix("http://")
            stack = AsyncExitStack()
            browser = await stack.enter_async_context(YjsClient(folder, gateway.url, "notes/n1"))
            await browser.until(lambda s: s["synced"])
            browser.do("set", "/a", 1)
            await eventually(hub, {"_id": "n1", "a": 1})
        async with stack:
            await browser.until(lambda s: s["closed"] and s["closed"][0] == 1001)
            browser.do("set", "/b", 2)
            async with Gateway(hub, listen):
                await browser.until(lambda s: s["synced"])
                await eventually(hub, {"_id": "n1", "a": 1, "b": 2})


async def test_awareness(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        _, _, gateway = await stack.enter_async_context(two_nodes())
        one = await stack.enter_async_context(YjsClient(folder, gateway.url, "notes/n1"))
        await one.until(lambda s: s["synced"])
        one.do("aware", {"name": "Ada"})
        async with YjsClient(folder, gateway.url, "notes/n1") as two:
            await two.until(lambda s: {"name": "Ada"} in s["here"])
            two.do("aware", {"name": "Bob"})
            await one.until(lambda s: {"name": "Bob"} in s["here"])
        await one.until(lambda s: s["here"] == [{"name": "Ada"}])


async def test_a_client_of_a_dead_incarnation_starts_afresh(folder: Path) -> None:
    async with two_nodes() as (hub, van, gateway), YjsClient(folder, gateway.url, "notes/n1") as browser:
        await van.collection("notes").insert({"_id": "n1", "old": True})
        await browser.until(lambda s: s["fields"] == {"/old": True})
        await van.collection("notes").remove("n1")
        state = await browser.until(lambda s: s["closed"])
        assert state["closed"] == [
            4410,
            "this document was removed or replaced: start afresh with a new Y.Doc",
        ]

        browser.do("set", "/written/offline", 1)
        browser.do("online")
        state = await browser.until(lambda s: s["closed"] and not s["synced"])
        assert await hub.collection("notes").get("n1") is None

        browser.do("afresh")
        await browser.until(lambda s: s["synced"] and s["fields"] == {})
        browser.do("set", "/new", 1)
        await eventually(van, {"_id": "n1", "new": 1})

        async with YjsClient(folder, gateway.url, "notes/n1") as late:
            await late.until(lambda s: s["fields"] == {"/new": 1})
            late.do("offline")
            late.do("set", "/late", 1)
            await late.until(lambda s: not s["synced"])
            await van.collection("notes").remove("n1")
            await van.collection("notes").insert({"_id": "n1", "third": 1})
            await eventually(hub, {"_id": "n1", "third": 1})
            late.do("online")
            state = await late.until(lambda s: s["closed"])
            assert state["closed"][0] == 4410
        assert await hub.collection("notes").get("n1") == {"_id": "n1", "third": 1}


async def test_owned_documents_are_read_only(folder: Path) -> None:
    async with Node(name="hub") as hub, Gateway(hub) as gateway:
        async with YjsClient(folder, gateway.url, f"nodes/{hub.node_id}") as browser:
            await browser.until(lambda s: s["fields"].get("/name") == "hub")
            browser.do("set", "/name", "mine")
            state = await browser.until(lambda s: s["closed"])
            assert state["closed"][0] == 4403
        async with YjsClient(folder, gateway.url, f"nodes/{hub.node_id}") as browser:
            await browser.until(lambda s: s["fields"].get("/name") == "hub")
            await hub.set_formations(["north"])
            state = await browser.until(lambda s: s["closed"])
            assert state["closed"][0] == 4410
            browser.do("afresh")
            await browser.until(lambda s: s["fields"].get("/formations") == ["north"])


@pytest.mark.parametrize(
    "command, code, reason",
    [
        (("nest", "/a"), 4422, "root map"),
        (("set", "title", 1), 4422, "JSON Pointers"),
        (("insert", 0, "x" * (3 << 20)), 4413, "over the limit"),
    ],
)
async def test_what_no_document_can_hold_is_refused(
    folder: Path, command: tuple[Any, ...], code: int, reason: str
) -> None:
    async with Node(name="hub") as hub, Gateway(hub) as gateway:
        async with YjsClient(folder, gateway.url, "notes/n1") as browser:
            await browser.until(lambda s: s["synced"])
            browser.do(*command)
            state = await browser.until(lambda s: s["closed"])
            assert state["closed"][0] == code
            assert reason in state["closed"][1]
        assert await hub.collection("notes").get("n1") is None


async def test_a_token_is_needed_where_there_is_one(folder: Path) -> None:
    token = "correct horse battery staple"
    async with Node(name="hub") as hub, Gateway(hub, token=token) as gateway:
        async with YjsClient(folder, gateway.url, "notes/n1", access_token=token) as browser:
            await browser.until(lambda s: s["synced"])
        async with YjsClient(folder, gateway.url, "notes/n1") as browser:
            await browser.until(lambda s: s["closed"] and not s["synced"])
