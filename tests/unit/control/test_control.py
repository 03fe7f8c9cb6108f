"""The control server and client together, over a real socket, on a node of plain dicts."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed

from mesh.control import socket_path
from mesh.control.client import ControlClient
from mesh.control.server import ControlServer
from mesh.core.status import TransferState
from mesh.errors import (
    BlobNotFound,
    InvalidScope,
    MeshError,
    NodeNotRunning,
    PeerUnreachable,
    PermissionDenied,
    SourceNotFound,
    UnknownDistribution,
)
from mesh.version import VERSION
from tests.unit.fake_node import HUB_ID, VAN_ID, FakeDelivery, FakeNode, node_status


@pytest.fixture
async def stopped() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def server(fake_node: FakeNode, tmp_path: Path, stopped: asyncio.Event) -> AsyncIterator[ControlServer]:
    server = ControlServer(cast(Any, fake_node), tmp_path, shutdown=stopped.set)
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def client(server: ControlServer, tmp_path: Path) -> AsyncIterator[ControlClient]:
    async with ControlClient(tmp_path) as client:
        yield client


async def collect(client: ControlClient, method: str, params: dict[str, Any]) -> list[Any]:
    async with client.stream(method, params) as items:
        return [item async for item in items]


async def test_a_call_gets_its_result(client: ControlClient, fake_node: FakeNode) -> None:
    info = await client.call("node.info")
    assert info == {
        "node_id": fake_node.node_id,
        "name": "desk",
        "address": "ws://127.0.0.1:7700",
        "pid": os.getpid(),
        "mesh_id": None,
        "version": VERSION,
    }


async def test_only_this_user_can_reach_the_socket(server: ControlServer, tmp_path: Path) -> None:
    assert socket_path.find(tmp_path).stat().st_mode & 0o777 == 0o600


async def test_a_process_of_another_user_is_refused(
    server: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_path, "peer_uid", lambda _: os.geteuid() + 1)
    with pytest.raises(PermissionDenied, match="refuses this user"):
        async with ControlClient(tmp_path):
            pass


async def test_an_error_arrives_as_itself(client: ControlClient) -> None:
    with pytest.raises(PeerUnreachable, match="nobody answers") as caught:
        await client.call("node.connect", {"url": "ws://unreachable:1"})
    assert caught.value.url == "ws://unreachable:1"


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("no.such", {}, "no control method 'no.such'"),
        ("node.connect", {}, "missing required field `url`"),
        ("node.connect", {"url": 3}, "Expected `str`"),
        ("node.connect", {"url": "x", "more": 1}, "unknown field `more`"),
        ("node.connect", {"url": "x" * 5000}, "length <= 4096"),
        ("documents.find", {"collection": "cars", "limit": -1}, ">= 0"),
    ],
)
async def test_bad_requests_are_answered_with_what_is_wrong(
    client: ControlClient, method: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(MeshError) as caught:
        await client.call(method, params)
    assert message in str(caught.value)


async def test_a_defect_of_the_node_is_an_error_and_the_connection_goes_on(
    client: ControlClient, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(fake_node, "pause", broken)
    with pytest.raises(MeshError, match=r"node.pause failed in the node \(ZeroDivisionError: oops\)"):
        await client.call("node.pause")
    await client.call("node.resume")


async def test_calls_of_one_client_run_at_the_same_time(
    client: ControlClient, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = asyncio.Event()
    monkeypatch.setattr(fake_node, "pause", paused.wait)

    async def resume() -> None:
        paused.set()

    monkeypatch.setattr(fake_node, "resume", resume)
    await asyncio.gather(client.call("node.pause"), client.call("node.resume"))


async def test_a_call_that_is_given_up_is_cancelled_in_the_node(
    client: ControlClient, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        began.set()
        try:
            await asyncio.Future()
        finally:
            cancelled.set()

    monkeypatch.setattr(fake_node, "pause", pause)
    call = asyncio.create_task(client.call("node.pause"))
    await began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await cancelled.wait()
    await client.call("node.resume")


async def test_documents_are_found_one_at_a_time(client: ControlClient, fake_node: FakeNode) -> None:
    for id, year in (("a", 2001), ("b", 2012), ("c", 2005)):
        await client.call(
            "documents.upsert", {"collection": "cars", "document": {"_id": id, "year": year, "x": 1}}
        )
    params = {"collection": "cars", "sort": [{"year": "desc"}], "limit": 2, "fields": ["year"]}
    assert await collect(client, "documents.find", params) == [
        {"_id": "b", "year": 2012},
        {"_id": "c", "year": 2005},
    ]
    assert await collect(client, "documents.find", {"collection": "cars", "selector": {"year": 2001}}) == [
        {"_id": "a", "year": 2001, "x": 1}
    ]


async def test_an_observer_hears_of_every_change(client: ControlClient, fake_node: FakeNode) -> None:
    cars = fake_node.collection("cars")
    await cars.upsert({"_id": "a"})
    async with client.stream("documents.observe", {"collection": "cars"}) as items:
        assert await anext(items) == {"change": "present", "document": {"_id": "a"}}
        await client.call("documents.upsert", {"collection": "cars", "document": {"_id": "b"}})
        assert await anext(items) == {"change": "inserted", "document": {"_id": "b"}}
        await client.call("documents.upsert", {"collection": "cars", "document": {"_id": "b", "n": 1}})
        assert await anext(items) == {"change": "updated", "document": {"_id": "b", "n": 1}}
        assert await client.call("documents.remove", {"collection": "cars", "id": "a"}) == 1
        assert await anext(items) == {"change": "removed", "document": {"_id": "a"}}


async def test_leaving_a_stream_ends_it_in_the_node(client: ControlClient, fake_node: FakeNode) -> None:
    closed = asyncio.Event()
    cars = fake_node.collection("cars")
    await cars.upsert({"_id": "a"})
    async with client.stream("documents.observe", {"collection": "cars"}) as items:
        await anext(items)
        (stream,) = cars.streams
        on_close = stream._on_close
        assert on_close is not None

        def noting() -> None:
            on_close()
            closed.set()

        stream._on_close = noting
    await closed.wait()
    assert cars.streams == []


async def test_a_stream_can_be_cancelled_by_message(server: ControlServer, tmp_path: Path) -> None:
    async with unix_connect(str(socket_path.find(tmp_path)), uri="ws://localhost/") as raw:
        await raw.send(json.dumps({"id": 7, "method": "deliveries.watch"}))
        await raw.send(json.dumps({"id": 7, "cancel": True}))
        assert json.loads(await raw.recv()) == {"id": 7, "end": True}
        await raw.send(json.dumps({"id": 7, "cancel": True}))  # it is over: nothing to answer
        await raw.send(json.dumps({"id": 7, "method": "node.pause"}))
        assert json.loads(await raw.recv()) == {"id": 7, "result": None}


@pytest.mark.parametrize("texts", [["garbage"], ['{"id": 1, "method": "deliveries.watch"}'] * 2])
async def test_who_breaks_the_protocol_is_disconnected(
    server: ControlServer, tmp_path: Path, texts: list[str]
) -> None:
    async with unix_connect(str(socket_path.find(tmp_path)), uri="ws://localhost/") as raw:
        for text in texts:
            await raw.send(text)
        with pytest.raises(ConnectionClosed) as caught:
            await raw.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1002


async def test_presence_is_told_again_from_time_to_time_where_that_is_asked_for(
    client: ControlClient,
) -> None:
    async with client.stream("node.observe_presence", {"every": 0.1}) as items:
        for _ in range(3):
            assert [peer["name"] for peer in (await anext(items))["peers"]] == ["van7"]


async def test_files_go_in_and_out(client: ControlClient, tmp_path: Path) -> None:
    (tmp_path / "map").write_bytes(b"tiles")
    token = await client.call("attachments.add", {"path": str(tmp_path / "map")})
    assert (token["size_bytes"], token["metadata"]["name"]) == (5, "map")
    [held] = await client.call("attachments.list")
    assert held.items() >= token.items()
    params = {"hash": token["hash"][:6], "path": str(tmp_path / "copy")}
    assert await client.call("attachments.export", params) == token
    assert (tmp_path / "copy").read_bytes() == b"tiles"
    with pytest.raises(BlobNotFound):
        await client.call("attachments.export", {"hash": "ff", "path": str(tmp_path / "copy")})
    with pytest.raises(MeshError, match="cannot write"):
        await client.call("attachments.export", params | {"path": str(tmp_path / "none" / "copy")})
    with pytest.raises(SourceNotFound):
        await client.call("attachments.add", {"path": str(tmp_path / "missing")})


async def distribute(client: ControlClient, tmp_path: Path, **more: Any) -> str:
    (tmp_path / "map").write_bytes(b"tiles")
    params = {"path": str(tmp_path / "map"), "scope": {"type": "all"}} | more
    made = await client.call("distributions.create", params)
    return str(made["handle"]["distribution_id"])


async def test_a_distribution_is_made_as_asked(
    client: ControlClient, fake_node: FakeNode, tmp_path: Path
) -> None:
    first = await distribute(client, tmp_path)
    scope = {"type": "nodes", "node_ids": ["vvvv", HUB_ID]}
    second = await distribute(
        client, tmp_path, scope=scope, priority="critical", expires_in=60.0, supersedes=first[:3]
    )
    assert fake_node.distributions.made[1] == {"expires_in": 60.0, "supersedes": first}
    (old, new) = await client.call("distributions.list")
    assert (old["name"], old["size_bytes"]) == ("map", 5)
    handle = new["status"]["handle"]
    assert handle["distribution_id"] == second
    assert handle["priority"] == 4
    # the abbreviated id of a known node is made whole, an unknown one stays
    assert handle["scope"] == {"type": "nodes", "node_ids": [VAN_ID, HUB_ID]}


async def test_a_bad_distribution_is_refused(client: ControlClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidScope):
        await distribute(client, tmp_path, scope={"type": "everybody"})
    with pytest.raises(MeshError, match="priority"):
        await distribute(client, tmp_path, priority="urgent")
    with pytest.raises(MeshError, match="either a path or a hash"):
        await distribute(client, tmp_path, hash="ab")
    with pytest.raises(BlobNotFound):
        await distribute(client, tmp_path, path=None, hash="ff")
    assert await client.call("distributions.list") == []


async def test_progress_is_streamed_to_its_end(
    client: ControlClient, fake_node: FakeNode, tmp_path: Path
) -> None:
    id = await distribute(client, tmp_path)
    async with client.stream("distributions.progress", {"id": id[:2]}) as items:
        assert (await anext(items))["total_targets"] == 0
        await fake_node.distributions.push(id, node_status(VAN_ID, TransferState.TRANSFERRING, 50))
        assert (await anext(items))["in_progress"] == 1
        await fake_node.distributions.push(id, node_status(VAN_ID, TransferState.COMPLETED, 100))
        assert (await anext(items))["completed"] == 1
        with pytest.raises(StopAsyncIteration):
            await anext(items)


async def test_the_list_is_told_again_after_a_change(
    client: ControlClient, fake_node: FakeNode, tmp_path: Path
) -> None:
    id = await distribute(client, tmp_path)
    async with client.stream("distributions.watch") as items:
        async with asyncio.timeout(5):
            while True:
                (listed,) = await anext(items)
                if listed["status"]["completed"]:
                    break
                if not fake_node.distributions.statuses[id].completed:
                    await fake_node.distributions.push(id, node_status(VAN_ID, TransferState.COMPLETED, 100))


async def test_distributions_are_found_by_the_start_of_their_id(
    client: ControlClient, fake_node: FakeNode, tmp_path: Path
) -> None:
    first, second = await distribute(client, tmp_path), await distribute(client, tmp_path)
    assert await client.call("distributions.cancel", {"id": "d0"}) == first
    assert await client.call("distributions.retry", {"id": "d1"}) == second
    assert (fake_node.distributions.cancelled, fake_node.distributions.retried) == ([first], [second])
    with pytest.raises(MeshError, match="'d' is the start of 2 distributions"):
        await client.call("distributions.cancel", {"id": "d"})
    with pytest.raises(UnknownDistribution):
        await client.call("distributions.status", {"id": "zz"})
    with pytest.raises(UnknownDistribution):
        await collect(client, "distributions.progress", {"id": "zz"})


async def test_deliveries_wait_for_a_decision(
    client: ControlClient, fake_node: FakeNode, tmp_path: Path
) -> None:
    (tmp_path / "map").write_bytes(b"tiles")
    delivery = FakeDelivery(await fake_node.attachments.add(tmp_path / "map"))
    with pytest.raises(MeshError, match="no delivery eee"):
        await client.call("deliveries.accept", {"id": "eee"})
    fake_node.offer(delivery)
    async with client.stream("deliveries.watch") as items:
        item = await anext(items)
        assert (item["distribution_id"], item["publisher"], item["priority"]) == ("e" * 26, HUB_ID, 3)
    assert await client.call("deliveries.reject", {"id": "ee", "reason": "no room"}) == "e" * 26
    assert delivery.decision == "rejected: no room"
    with pytest.raises(MeshError, match="no delivery"):
        await client.call("deliveries.accept", {"id": "ee"})


async def test_nobody_listens_on_an_empty_home(tmp_path: Path) -> None:
    with pytest.raises(NodeNotRunning, match="mesh up --home"):
        async with ControlClient(tmp_path):
            pass


async def test_a_stale_socket_is_nobody_and_is_replaced(fake_node: FakeNode, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path.prepare(tmp_path)))
    with pytest.raises(NodeNotRunning):
        async with ControlClient(tmp_path):
            pass
    server = ControlServer(cast(Any, fake_node), tmp_path, shutdown=lambda: None)
    await server.start()
    async with ControlClient(tmp_path) as client:
        assert (await client.call("node.info"))["name"] == "desk"
    await server.close()


async def test_a_retired_server_serves_who_is_there_and_takes_nobody_new(
    server: ControlServer, client: ControlClient, tmp_path: Path, stopped: asyncio.Event
) -> None:
    await client.call("node.shutdown")
    await stopped.wait()
    server.retire()
    assert not socket_path.find(tmp_path).exists()
    with pytest.raises(NodeNotRunning):
        async with ControlClient(tmp_path):
            pass
    await client.call("node.info")
    await server.close()
    await client.closed()
    with pytest.raises(NodeNotRunning):
        await client.call("node.info")


async def test_closing_ends_what_is_open(
    fake_node: FakeNode, tmp_path: Path, stopped: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = asyncio.Event()

    async def pause() -> None:
        began.set()
        await asyncio.Future()

    monkeypatch.setattr(fake_node, "pause", pause)
    server = ControlServer(cast(Any, fake_node), tmp_path, shutdown=stopped.set)
    await server.start()
    async with ControlClient(tmp_path) as client:
        call = asyncio.create_task(client.call("node.pause"))
        await began.wait()
        async with client.stream("deliveries.watch") as items:
            waiting = asyncio.ensure_future(anext(items))
            await client.call("node.info")
            await server.close()
            for open_one in (call, waiting):
                with pytest.raises(NodeNotRunning):
                    await open_one
    assert list(tmp_path.iterdir()) == []
    await server.close()
