"""The protocol of y-websocket, spoken to the gateway byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pycrdt
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from mesh import Credentials, Node
from mesh.core.certificates import grant_of
from mesh.core.yjs_messages import (
    AWARENESS,
    STEP_1,
    STEP_2,
    SYNC,
    UPDATE,
    Awareness,
    decode_awareness,
    decode_message,
    encode_awareness,
    encode_sync,
)
from mesh.gateway import Gateway, yjs


class Client:
    """What a provider does, without waiting for anything by itself."""

    def __init__(self, connection: ClientConnection, doc: pycrdt.Doc[Any] | None = None) -> None:
        self.connection = connection
        self.doc = doc or pycrdt.Doc()
        self.map = self.doc.get("doc", type=pycrdt.Map)
        self.told: list[Awareness] = []

    async def begin(self) -> None:
        """Sync, as a provider does when it is connected."""
        await self.connection.send(encode_sync(STEP_1, self.doc.get_state()))
        await self.until(lambda about, step: (about, step) == (SYNC, STEP_1))

    async def until(self, condition: Callable[[int, int], bool]) -> None:
        """Take messages, up to one that fits."""
        while True:
            data = await self.connection.recv()
            assert isinstance(data, bytes)
            message = decode_message(data)
            if message.about == AWARENESS:
                self.told += decode_awareness(message.payload)
            elif message.step == STEP_1:
                await self.connection.send(encode_sync(STEP_2, self.doc.get_update(message.payload)))
            else:
                self.doc.apply_update(message.payload)
            if condition(message.about, message.step):
                return

    async def write(self, fields: dict[str, Any]) -> None:
        before = self.doc.get_state()
        self.map.update(fields)
        await self.connection.send(encode_sync(UPDATE, self.doc.get_update(before)))

    async def reads(self, fields: dict[str, Any]) -> None:
        while self.map.to_py() != fields:
            await self.until(lambda about, step: True)

    async def closed(self) -> tuple[int, str]:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.connection.recv()
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason or ""


@asynccontextmanager
async def client_of(
    gateway: Gateway, name: str = "notes/n1", doc: pycrdt.Doc[Any] | None = None
) -> AsyncIterator[Client]:
    async with websockets.connect(f"{gateway.url.replace('http', 'ws')}/yjs/{name}") as connection:
        yield Client(connection, doc)


async def version(node: Node) -> int:
    """The changes that this node has made so far."""
    return node._started.store.head


async def test_one_version_for_each_update_that_says_something(node: Node, gateway: Gateway) -> None:
    async with client_of(gateway) as one, client_of(gateway) as two:
        await one.begin()
        await two.begin()
        before = await version(node)
        await one.write({"/a": 1, "/b": 2})
        await two.reads({"/a": 1.0, "/b": 2.0})
        assert await version(node) == before + 1
        await one.connection.send(encode_sync(UPDATE, one.doc.get_update()))
        await one.connection.send(encode_sync(STEP_2, one.doc.get_update()))
        await two.connection.send(encode_sync(STEP_2, two.doc.get_update()))
        await one.write({"/a": 2})
        await two.reads({"/a": 2.0, "/b": 2.0})
        assert await version(node) == before + 2
        assert await node.collection("notes").get("n1") == {"_id": "n1", "a": 2, "b": 2}


async def test_what_is_committed_while_a_client_begins_is_not_missed(node: Node, gateway: Gateway) -> None:
    notes = node.collection("notes")

    async def busy() -> None:
        for n in range(50):
            await notes.upsert({"_id": "n1", "n": n})

    writing = asyncio.create_task(busy())
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(8):
            client = await stack.enter_async_context(client_of(gateway))
            await client.begin()
            clients.append(client)
        await writing
        for client in clients:
            await client.reads({"/n": 49.0})


async def test_a_client_with_a_past_of_its_own_is_merged(node: Node, gateway: Gateway) -> None:
    """It was written to before it ever met the gateway."""
    await node.collection("notes").insert({"_id": "n1", "a": 1})
    async with client_of(gateway) as client:
        client.map["/b"] = 2
        await client.begin()
        await client.reads({"/a": 1.0, "/b": 2.0})
        await client.until(lambda about, step: step == UPDATE)
        assert await node.collection("notes").get("n1") == {"_id": "n1", "a": 1, "b": 2}


async def test_who_comes_back_lacks_only_what_is_new(node: Node, gateway: Gateway) -> None:
    await node.collection("notes").insert({"_id": "n1", "a": "x" * 10_000})
    async with client_of(gateway) as client:
        await client.begin()
        doc = client.doc
    await node.collection("notes").update("n1", {"b": 1})
    async with client_of(gateway, doc=doc) as client:
        await client.connection.send(encode_sync(STEP_1, doc.get_state()))
        answer = await client.connection.recv()
        assert len(answer) < 200


async def test_what_a_client_has_kept_is_known_by_its_mark(node: Node, gateway: Gateway) -> None:
    """It is connected with an empty document, and then loads what it has kept, as y-indexeddb does."""
    notes = node.collection("notes")
    await notes.insert({"_id": "n1", "a": 1})
    async with client_of(gateway) as client:
        await client.begin()
        await client.write({"/b": 2})
        kept = client.doc.get_update()
    async with client_of(gateway) as client, client_of(gateway) as other:
        await other.begin()
        await client.begin()
        await client.connection.send(encode_sync(UPDATE, kept))
        await client.write({"/c": 3})
        await other.reads({"/a": 1.0, "/b": 2.0, "/c": 3.0})
        await notes.remove("n1")
        assert (await client.closed())[0] == 4410
    await notes.insert({"_id": "n1", "new": 1})
    async with client_of(gateway) as client:
        await client.begin()
        await client.connection.send(encode_sync(UPDATE, kept))
        assert (await client.closed())[0] == 4410
    assert await notes.get("n1") == {"_id": "n1", "new": 1}


async def test_what_was_dropped_here_comes_back_with_a_client(node: Node, gateway: Gateway) -> None:
    await node.collection("notes").insert({"_id": "n1", "a": 1})
    async with client_of(gateway) as client:
        await client.begin()
        await node.collection("notes").evict("n1")
        assert (await client.closed())[0] == 4503
        doc = client.doc
    async with client_of(gateway, doc=doc) as client:
        await client.begin()
        await client.until(lambda about, step: step == UPDATE)
    assert await node.collection("notes").get("n1") == {"_id": "n1", "a": 1}


async def test_a_client_that_knows_more_comes_later(node: Node, gateway: Gateway) -> None:
    """It comes from another gateway, where the document has begun anew."""
    async with Node() as other, Gateway(other) as ahead:
        for _ in range(2):
            await other.collection("notes").insert({"_id": "n1", "a": 1})
            await other.collection("notes").remove("n1")
        await other.collection("notes").insert({"_id": "n1", "a": 1})
        async with client_of(ahead) as client:
            await client.begin()
            doc = client.doc
        await node.collection("notes").insert({"_id": "n1", "old": 1})
        async with client_of(gateway, doc=doc) as client:
            await client.connection.send(encode_sync(STEP_1, doc.get_state()))
            assert (await client.closed())[0] == 4503


async def test_what_this_node_may_not_write_can_be_read(tmp_path: Path) -> None:
    hq = Credentials.create(tmp_path)
    async with Node(name="hub", credentials=hq) as node, Gateway(node) as gateway:
        notes = node.collection("notes")
        await notes.insert({"_id": "n1", "a": 1})
        await notes.update("n1", {"a": 2})
        own, *above = hq.membership.chain
        hq.membership.chain = [msgspec.structs.replace(own, grant=grant_of("member", ["*"], [])), *above]
        async with client_of(gateway) as reader:
            await reader.connection.send(encode_sync(STEP_1, reader.doc.get_state()))
            await reader.reads({"/a": 2.0})
            await reader.connection.send(b"\x03")
            asked: list[int] = []

            def is_last(about: int, step: int) -> bool:
                asked.append(about)
                return about == AWARENESS

            await reader.until(is_last)
            assert asked == [AWARENESS]  # and not to tell what it has: that would be refused
            await reader.write({"/a": 3})
            code, reason = await reader.closed()
            assert (code, "does not let it write notes" in reason) == (4403, True)
        assert await notes.get("n1") == {"_id": "n1", "a": 2}


async def test_what_is_not_of_the_protocol(gateway: Gateway) -> None:
    update = encode_sync(UPDATE, b"\1\1\1\0\x28\1\3doc\2/a\1w\1x\0")
    for name, messages, code in (
        ("notes/n1", ["text"], 4400),
        ("notes/n1", [b"\0\7"], 4400),
        ("notes/n1", [update], 4400),
        ("notes/n1", [encode_sync(STEP_1, b"\xff\xff")], 4422),
        ("notes/n1", [encode_sync(STEP_1, b"\0"), encode_sync(UPDATE, b"garbage")], 4422),
        ("notes/n1", [encode_sync(STEP_1, b"\0"), encode_sync(UPDATE, b"\0\1\5\1\0\1")], 4503),
        ("notes/n1", [encode_awareness([Awareness(1, 1, "no JSON")])], 4400),
        ("-/n1", [encode_sync(STEP_1, b"\0")], 4400),
        ("notes/" + "x" * 600, [encode_sync(STEP_1, b"\0")], 4422),
        ("nodes/me", [encode_sync(STEP_1, b"\0"), update], 4403),
    ):
        async with client_of(gateway, name) as client:
            for message in messages:
                await client.connection.send(message)
            assert (await client.closed())[0] == code, (name, messages)


async def test_a_message_over_the_limit(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        with contextlib.suppress(ConnectionClosed):
            await client.connection.send(b"x" * (5 << 20))
        assert (await client.closed())[0] == 1009


async def test_awareness_comes_back_to_its_sender(gateway: Gateway) -> None:
    async with client_of(gateway) as one, client_of(gateway) as two:
        ada = Awareness(1, 0, '{"name": "Ada"}')
        await one.connection.send(encode_awareness([ada]))
        for client in (one, two):
            await client.until(lambda about, step: about == AWARENESS)
            assert client.told == [ada]
        await two.connection.send(b"\3")
        await two.until(lambda about, step: about == AWARENESS)
        assert two.told == [ada, ada]
        await one.connection.close()
        await two.until(lambda about, step: about == AWARENESS)
        assert two.told[-1] == Awareness(1, 1, "null")


async def test_a_flood_of_awareness_is_cut_off_and_the_others_go_on(gateway: Gateway) -> None:
    async with client_of(gateway) as flooder, client_of(gateway) as other:
        await other.begin()

        async def flood() -> None:
            with contextlib.suppress(ConnectionClosed):
                for clock in range(100_000):
                    await flooder.connection.send(encode_awareness([Awareness(1, clock, '"x"')]))

        flooding = asyncio.create_task(flood())
        code, reason = await asyncio.wait_for(flooder.closed(), 20)
        await flooding
        assert (code, "too much awareness" in reason) == (4429, True)
        while not other.told or other.told[-1].state != "null":  # it is seen to have left
            await other.until(lambda about, step: about == AWARENESS)
        assert other.told[-1].clock < 10_000
        await other.write({"/a": 1})
        await other.reads({"/a": 1.0})


async def test_who_moves_a_cursor_is_no_flood(gateway: Gateway) -> None:
    async with client_of(gateway) as one:
        for clock in range(600):  # ten seconds of it, at once
            cursor = f'{{"user": {{"name": "Ada", "color": "#30bced"}}, "cursor": {{"at": {clock}}}}}'
            await one.connection.send(encode_awareness([Awareness(1, clock, cursor)]))
        while not one.told or one.told[-1].clock < 599:
            await one.until(lambda about, step: about == AWARENESS)


@pytest.mark.limit("gateway.yjs.MAX_UNSENT_BYTES", "gateway.yjs.MAX_ALL_UNSENT_BYTES")
@pytest.mark.parametrize("limit", ["MAX_UNSENT_BYTES", "MAX_ALL_UNSENT_BYTES"])
async def test_a_client_that_does_not_read_costs_itself(
    node: Node, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    for one in ("MAX_UNSENT_BYTES", "MAX_ALL_UNSENT_BYTES"):
        monkeypatch.setattr(yjs, one, 1 << 20 if one == limit else 1 << 30)
    notes = node.collection("notes")
    async with client_of(gateway) as slow:
        await slow.begin()
        slow.connection.transport.pause_reading()
        async with client_of(gateway) as quick:
            await quick.begin()
            for n in range(60):
                await notes.upsert({"_id": "n1", "n": n, "ballast": f"{n} " * 100_000})
                while quick.map.to_py().get("/n") != n:
                    await quick.until(lambda about, step: True)
        slow.connection.transport.resume_reading()
        assert (await asyncio.wait_for(slow.closed(), 20))[0] == 4503


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [1.0, float("inf")], {"a": [float("nan")]}])
async def test_a_number_that_json_does_not_have_is_refused(node: Node, gateway: Gateway, value: Any) -> None:
    async with client_of(gateway) as one, client_of(gateway) as two:
        await one.begin()
        await two.begin()
        await one.write({"/a": value})
        code, reason = await one.closed()
        assert (code, "NaN or an infinity" in reason) == (4422, True)
        await two.write({"/b": 1})
        await two.reads({"/b": 1.0})
    assert await node.collection("notes").get("n1") == {"_id": "n1", "b": 1}
