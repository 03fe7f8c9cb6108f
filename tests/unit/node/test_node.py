"""The node as a whole: its life, what it refuses, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh import (
    AddressInUse,
    Capabilities,
    DataDirInUse,
    DataDirUnusable,
    Formation,
    InvalidAddress,
    InvalidNode,
    InvalidScope,
    InvalidToken,
    MeshError,
    Node,
    Nodes,
    NotStarted,
    PeerUnreachable,
    PermissionDenied,
    PlaintextRefused,
    SettleTimeout,
    StoreTooNew,
)


def what_is_open() -> tuple[int, set[str]]:
    return len(os.listdir("/proc/self/fd")), {thread.name for thread in threading.enumerate()}


def test_everything_that_is_public_is_exported() -> None:
    for name in mesh.__all__:
        assert hasattr(mesh, name)
    for name in dir(mesh.errors):
        value = getattr(mesh.errors, name)
        if isinstance(value, type) and issubclass(value, MeshError):
            assert name in mesh.__all__


async def test_two_nodes_sync_a_document_and_a_file(tmp_path: Path) -> None:
    async with (
        Node(tmp_path / "hq") as hq,
        Node(tmp_path / "van", peers=[hq.address or ""], inbox=tmp_path / "inbox") as van,
    ):
        assert (hq.name, van.name) == ("hq", "van")
        await van.collection("cars").subscribe()
        await hq.collection("cars").insert({"_id": "c1", "color": "red"})
        token = await hq.attachments.add(b"a map", name="map.bin")
        handle = await hq.distributions.distribute(token)
        status = await hq.distributions.wait_for_completion(handle, timeout=20)
        assert status.is_success
        await van.settled(20)
        assert await van.collection("cars").get("c1") == {"_id": "c1", "color": "red"}
        assert (tmp_path / "inbox" / "map.bin").read_bytes() == b"a map"
        assert {member["_id"] for member in await hq.members()} == {hq.node_id, van.node_id}
        stats = van.stats()
        assert (stats.links, stats.blobs) == (1, 1)
        assert 5 <= stats.blob_bytes_in < 100
        [peer] = van.presence().peers
        assert (peer.node_id, peer.name, peer.url) == (hq.node_id, "hq", hq.address)


async def test_closing_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Node(tmp_path / "warm-up"):
        pass
    before = what_is_open()
    tasks = asyncio.all_tasks()
    for _ in range(5):
        async with Node(tmp_path / "a") as a, Node(peers=[a.address or ""]) as b:
            await b.settled(20)
            stream = a.collection("cars").observe()
            await anext(stream)
            presence = a.observe_presence()
            await anext(presence)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert asyncio.all_tasks() == tasks
    assert what_is_open() == before


async def test_identity_and_documents_outlive_a_restart(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with node:
        node_id = node.node_id
        await node.collection("cars").insert({"_id": "c1"})
        token = await node.attachments.add(b"bytes")
    async with node:
        assert node.node_id == node_id
        assert await node.collection("cars").count() == 1
        assert await node.attachments.exists(token.hash)


async def test_subscriptions_are_listed_and_cancelled_after_a_restart(tmp_path: Path) -> None:
    async with Node(tmp_path, listen=None) as node:
        await node.collection("vans").subscribe()
        await node.collection("cars").subscribe({"region": "north", "year": {"$gt": 2010}})
        await node.collection("cars").subscribe()
    async with Node(tmp_path, listen=None) as node:
        cars = node.collection("cars")
        assert [(one.collection, one.selector) for one in await node.subscriptions()] == [
            ("cars", {"region": "north", "year": {"$gt": 2010}}),
            ("cars", {}),
            ("vans", {}),
        ]
        assert await cars.unsubscribe({"year": {"$gt": 2010.0}, "region": "north"})
        assert not await cars.unsubscribe({"year": 5})
        [whole] = await cars.subscriptions()
        await whole.cancel()
    async with Node(tmp_path, listen=None) as node:
        assert [one.collection for one in await node.subscriptions()] == ["vans"]


def test_nothing_happens_before_start(tmp_path: Path) -> None:
    node = Node(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    for use in (
        lambda: node.node_id,
        lambda: node.attachments,
        lambda: node.collection("cars"),
        node.presence,
        node.stats,
    ):
        with pytest.raises(NotStarted, match="start"):
            use()


async def test_nothing_works_after_close(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with node:
        cars = node.collection("cars")
        attachments = node.attachments
        distributions = node.distributions
    await node.close()
    for use in (
        cars.insert({}),
        cars.find(),
        attachments.add(b""),
        distributions.handles(),
        node.settled(1),
        node.connect("ws://127.0.0.1:1"),
    ):
        with pytest.raises(NotStarted):
            await use


async def test_a_failed_start_releases_everything_and_can_be_repeated(tmp_path: Path) -> None:
    before = what_is_open()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = Node(tmp_path, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(AddressInUse):
            await node.start()
    assert what_is_open() == before
    async with node:
        assert node.address


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"listen": "0.0.0.0:0"}, PlaintextRefused),
        ({"listen": "nonsense"}, InvalidAddress),
        ({"peers": ["http://127.0.0.1:1"]}, InvalidAddress),
        ({"peers": ["ws://192.0.2.1:7700"]}, PlaintextRefused),
        ({"peers": [5]}, InvalidAddress),
        ({"inbox": "/dev/null"}, InvalidNode),
    ],
)
async def test_what_cannot_work_fails_at_start(
    tmp_path: Path, options: dict[str, Any], error: type[MeshError]
) -> None:
    before = what_is_open()
    with pytest.raises(error):
        await Node(tmp_path, **options).start()
    assert what_is_open() == before
    async with Node(tmp_path):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"receive": "sometimes"},
        {"credentials": "mine"},
        {"discovery": True},
        {"name": ""},
        {"name": "a\nb"},
        {"capabilities": {"gpu_gb": 1}},
        {"capabilities": Capabilities(gpu_gb=-1)},
        {"formations": [""]},
        {"formations": ["\x1b[31mred"]},
        {"formations": ["a\nb"]},
        {"formations": [5]},
        {"formations": ["\ud800"]},
        {"formations": [f"f{i}" for i in range(100)]},
    ],
)
def test_what_no_node_can_be_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(MeshError):
        Node(**options)


async def test_a_data_directory_has_one_node(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        with pytest.raises(DataDirInUse, match=str(tmp_path)):
            await Node(tmp_path).start()
        assert await node.collection("cars").count() == 0


async def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataDirUnusable, match="cannot be used: it is not a directory"):
        await Node(tmp_path / "file").start()
    assert (tmp_path / "file").read_text() == "mine"


async def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    async with Node(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) "
            "VALUES ('docmesh', 'm999_future', '')"
        )
    connection.close()
    before = (tmp_path / "store.sqlite").read_bytes()
    with pytest.raises(StoreTooNew, match="m999_future"):
        await Node(tmp_path).start()
    assert (tmp_path / "store.sqlite").read_bytes() == before


async def test_an_unreachable_peer() -> None:
    async with Node(listen=None) as node:
        assert node.address is None
        with pytest.raises(PeerUnreachable):
            await node.connect("ws://127.0.0.1:1")
    async with Node(peers=["ws://127.0.0.1:1"]) as node:
        with pytest.raises(SettleTimeout, match=r"127\.0\.0\.1:1"):
            await node.settled(0.2)
        [dial] = node.presence().dials
        assert dial.state != "connected"


async def test_pause_is_offline_and_resume_catches_up(tmp_path: Path) -> None:
    async with Node() as hub, Node(tmp_path, peers=[hub.address or ""]) as edge:
        for node in (hub, edge):
            await node.collection("cars").subscribe()
        await edge.settled(20)
        await edge.pause()
        assert not edge.presence().online
        assert edge.address is None
        await edge.collection("cars").insert({"_id": "edge"})
        await hub.collection("cars").insert({"_id": "hub"})
        await edge.resume()
        await edge.settled(20)
        assert await edge.collection("cars").count() == 2
        assert await hub.collection("cars").count() == 2


async def test_a_disconnected_peer_stays_so_until_connect() -> None:
    async with Node() as a, Node(peers=[a.address or ""]) as b:
        await b.settled(20)
        await a.disconnect(b.node_id)
        async with a.observe_presence() as changes:
            async for presence in changes:
                if not presence.peers:
                    break
        assert await a.connect(b.address or "") == b.node_id
        await a.settled(20)


@pytest.mark.parametrize("collection", ["nodes", "distributions", "receipts"])
async def test_the_documents_of_the_mesh_are_read_only(collection: str) -> None:
    async with Node() as node:
        documents = node.collection(collection)
        await documents.find()
        for write in (
            documents.insert({}),
            documents.upsert({"_id": "x"}),
            documents.remove({}, all=True),
            documents.evict("x"),
        ):
            with pytest.raises(PermissionDenied):
                await write


async def test_what_a_hub_holds_is_not_evicted() -> None:
    async with Node(hub=True) as node:
        with pytest.raises(PermissionDenied, match="a hub holds everything"):
            await node.collection("cars").evict({})


async def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    async with Node(tmp_path, capabilities=Capabilities(tags=("camera",))) as node:
        with pytest.raises(InvalidToken):
            await node.distributions.distribute("x")  # type: ignore[arg-type]
        token = await node.attachments.add(b"bytes")
        with pytest.raises(InvalidScope):
            await node.distributions.distribute(token, Nodes("abc"))
        for name in ("", " ", "a\nb", "n" * 129):
            with pytest.raises(InvalidScope, match="a name of 1 to 128 printable characters"):
                await node.distributions.distribute(token, Formation(name))
            with pytest.raises(InvalidNode, match="a name of 1 to 128 printable characters"):
                await node.set_formations([name])
        with pytest.raises(MeshError):
            await node.attachments.add(tmp_path)


@pytest.mark.parametrize("inbox", [".", "..", "blobs", "blobs/ab"])
async def test_the_inbox_is_never_among_the_nodes_own_files(tmp_path: Path, inbox: str) -> None:
    home = tmp_path / "home"
    with pytest.raises(InvalidNode, match="own files"):
        await Node(home, inbox=home / inbox).start()
    async with Node(home, inbox=home / "inbox"):
        pass


async def test_calls_that_overlap_take_turns(tmp_path: Path) -> None:
    tasks = asyncio.all_tasks()
    async with Node() as hub:
        node = Node(tmp_path, peers=[hub.address or ""])
        await asyncio.gather(node.start(), node.start())
        await asyncio.gather(node.pause(), node.resume(), node.resume())
        assert node.presence().online
        await node.settled(20)
        await node.pause()
        await asyncio.gather(node.resume(), node.close())
        await asyncio.gather(node.start(), node.close(), node.start())
        await node.settled(20)
        await asyncio.gather(node.close(), node.close())
        with pytest.raises(NotStarted):
            await node.resume()
    assert asyncio.all_tasks() == tasks


async def test_two_nodes_that_dial_each_other_settle() -> None:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        first, second = (f"127.0.0.1:{probe.getsockname()[1]}" for probe in (one, other))
    async with Node(listen=first, peers=[f"ws://{second}"]) as a:
        with pytest.raises(SettleTimeout, match="not linked"):
            await a.settled(0.1)
        settling = asyncio.create_task(a.settled(20))
        async with Node(listen=second, peers=[f"ws://{first}"]) as b:
            await asyncio.gather(settling, b.settled(20))


async def test_a_node_that_is_told_to_dial_itself_settles() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    async with Node(listen=address, peers=[f"ws://{address}"]) as node:
        await node.settled(20)
