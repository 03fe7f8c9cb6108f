"""One more than each limit allows, from a peer or from a stranger, and what becomes of that."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mesh.attachments import requests
from mesh.attachments.requests import RequestQueue, SentBefore
from mesh.collections import sessions
from mesh.core import routes, sync_serving
from mesh.core.document import MAX_STATE_BYTES
from mesh.core.frames import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_OPEN_FRAGMENTS
from mesh.core.handshake import MAX_HANDSHAKE_BYTES, NONCE_BYTES, Handshake
from mesh.core.identity import Identity
from mesh.core.interest import MAX_INTEREST_ENTRIES, InterestSet
from mesh.core.items import written_once
from mesh.core.library import ROOT_NAME
from mesh.core.limits import LOG_LINES
from mesh.core.records import MAX_RECORD_BYTES
from mesh.core.selector import MAX_SELECTOR_BYTES
from mesh.core.update_reader import MAX_NESTING, MAX_STRUCTS
from mesh.core.versions import MAX_CLOCKS
from mesh.core.wire import Ack, Change, Changes, ChunkGet, Interest, InterestEntry, Message, Resume
from mesh.errors import LinkClosed, ProtocolViolation
from mesh.network import sockets, websocket
from mesh.network.tls import Tls, make_certificate
from mesh.network.transport import Connection
from mesh.network.websocket import WebSocketTransport
from tests.adversary.adversary import Adversary, change, offer
from tests.fuzz.bytes_of import number
from tests.simulation.virtual_clock import run_virtual, virtual
from tests.simulation.world import World
from tests.unit.core.test_busy_updates import BUSY
from tests.unit.core.test_roots import MISUSED

URL = "ws://hub:7700"
FEW = 3
SMALL = written_once(ROOT_NAME, {"/a": 1}, 5)
ENOUGH = [InterestEntry(f"c{n}") for n in range(100)]
"""Twice as much is over the limit that the tests set."""


async def adversary_of(world: World) -> Adversary:
    return await Adversary.dial(world.network.transport("evil"), URL, random.Random(7))


# --- what ends the link -----------------------------------------------------------------------

Said = Callable[[Adversary], list[Message]]


def origins(adversary: Adversary) -> list[Message]:
    return [Interest(str(n), 2, 1, []) for n in range(FEW + 1)]


def catchups(adversary: Adversary) -> list[Message]:
    return [Resume(n, b"", 0, False, [InterestEntry("cars")]) for n in range(1, FEW + 2)]


def entries(adversary: Adversary) -> list[Message]:
    wanted = [InterestEntry(f"c{n}") for n in range(MAX_INTEREST_ENTRIES + 1)]
    return [Interest(adversary.identity.node_id, 2, 0, wanted)]


def interests(adversary: Adversary) -> list[Message]:
    return [Interest(str(n), 2, 1, ENOUGH) for n in range(2)]


def resumed(adversary: Adversary) -> list[Message]:
    return [Resume(n, b"", 0, False, ENOUGH) for n in (1, 2)]


def clocks(adversary: Adversary) -> list[Message]:
    until = {b"%08d" % n: 1 for n in range(MAX_CLOCKS + 1)}
    return [Changes(1, 0, 0, [Change("cars", "x", (0, 0), {}, until, SMALL)])]


def selector(adversary: Adversary) -> list[Message]:
    large = {"a": "x" * (MAX_SELECTOR_BYTES - len('{"a":""}') + 1)}
    return [Interest(adversary.identity.node_id, 2, 0, [InterestEntry("cars", large)])]


@pytest.mark.limit("core.routes.MAX_ORIGINS", "core.sync_serving.MAX_CATCHUPS")
@pytest.mark.limit("core.interest.MAX_INTEREST_ENTRIES", "core.interest.MAX_INTEREST_BYTES")
@pytest.mark.limit("core.selector.MAX_SELECTOR_BYTES", "core.wire.MAX_ITEMS", "core.versions.MAX_CLOCKS")
@pytest.mark.parametrize(
    "said, reason",
    [
        (origins, f"speaks for more than {FEW} origins"),
        (catchups, f"a catch-up {FEW + 1} too many"),
        (entries, f"an interest of more than {MAX_INTEREST_ENTRIES} entries"),
        (interests, "wants what takes more than"),
        (resumed, "asked to resume what takes more than"),
        (clocks, f"length <= {MAX_CLOCKS}"),
        (selector, f"over the limit of {MAX_SELECTOR_BYTES}"),
    ],
)
def test_saying_too_much_ends_the_link(said: Said, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_ORIGINS", FEW)
    monkeypatch.setattr(sync_serving, "MAX_CATCHUPS", FEW)
    for module in (routes, sync_serving):
        monkeypatch.setattr(module, "MAX_INTEREST_BYTES", 3 * InterestSet(ENOUGH).size_bytes // 2)

    async def main() -> None:
        world = World(2)
        await world.start("hub")
        adversary = await adversary_of(world)
        await adversary.send(*said(adversary))
        ended = await adversary.until_ended()
        assert "protocol violation" in ended
        assert reason in ended
        await adversary.close()
        await world.close()

    run_virtual(main())


@pytest.mark.limit("core.frames.MAX_FRAME_BYTES", "core.frames.MAX_OPEN_FRAGMENTS")
@pytest.mark.limit("core.frames.MAX_MESSAGE_BYTES")
@pytest.mark.parametrize(
    "frames, reason",
    [
        ([b"\0" + bytes(MAX_FRAME_BYTES)], "the other side closed it"),
        ([b"\2" + n.to_bytes(4) + b"\0x" for n in range(MAX_OPEN_FRAGMENTS + 1)], "in pieces at once"),
        ([b"\1" + zlib.compress(bytes(MAX_MESSAGE_BYTES + 1))], f"more than {MAX_MESSAGE_BYTES} bytes"),
    ],
    ids=["frame", "fragments", "bomb"],
)
def test_sending_too_much_ends_the_link(frames: list[bytes], reason: str) -> None:
    async def main() -> None:
        world = World(2)
        await world.start("hub")
        adversary = await adversary_of(world)
        with suppress(LinkClosed):
            for frame in frames:
                await adversary.connection.send(frame)
        assert reason in await adversary.until_ended()
        await adversary.close()
        await world.close()

    run_virtual(main())


@pytest.mark.limit("attachments.requests.MAX_QUEUED")
def test_asking_for_too_many_chunks_is_a_violation() -> None:
    queue = RequestQueue(SentBefore())
    with pytest.raises(ProtocolViolation, match="chunks asked for at once"):
        queue.add(ChunkGet(bytes(32), 0, list(range(requests.MAX_QUEUED + 1)), 2))


# --- what is refused, and the link goes on ----------------------------------------------------

NESTED = b"\1\1\5\0\x28\1\3doc\2/a\1" + b"\x75\1" * (MAX_NESTING + 1) + b"\x7e\0"
TOO_MUCH: dict[str, tuple[Change, str]] = {
    "document": (
        change("x", written_once(ROOT_NAME, {"/a": "x" * MAX_STATE_BYTES}, 5)),
        f"over the limit of {MAX_STATE_BYTES}",
    ),
    "items": (change("x", number(1) + number(MAX_STRUCTS + 1) + b"\5\0"), f"more than {MAX_STRUCTS} items"),
    "nesting": (change("x", NESTED), f"nested more than {MAX_NESTING} levels"),
    "types": (change("x", MISUSED["arrays within arrays"]), "where none can be"),
    "competitors": (change("x", BUSY["every client writes the same field"]), "at once in one place"),
    "record": (
        change("x", written_once(ROOT_NAME, {"record": "x" * (MAX_RECORD_BYTES + 1)}, 1), "nodes"),
        f"at most {MAX_RECORD_BYTES} bytes",
    ),
}


@pytest.mark.limit("core.document.MAX_STATE_BYTES", "core.update_reader.MAX_STRUCTS")
@pytest.mark.limit("core.update_reader.MAX_NESTING", "core.roots.MAX_DEPTH", "core.searching.MAX_CONFLICTS")
@pytest.mark.limit("core.records.MAX_RECORD_BYTES")
@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_document_that_is_too_much_is_put_aside_with_the_reason(name: str) -> None:
    async def main() -> None:
        too_much, reason = TOO_MUCH[name]
        world = World(2)
        hub = await world.start("hub")
        for collection in ("cars", "nodes"):
            await hub.collection(collection).subscribe({})
        adversary = await adversary_of(world)
        await adversary.until(Resume)
        await offer(adversary, too_much, change("fine", SMALL))
        assert adversary.ended is None
        assert await hub.collection("cars").get("fine") == {"_id": "fine", "a": 1}
        assert await hub.collection(too_much.collection).get("x") is None
        assert hub._parts is not None
        refused = await hub._parts.store.read(
            lambda rows: rows.connection.execute("SELECT id, reason FROM quarantine").fetchall()
        )
        assert [id for id, _ in refused] == ["x"]
        assert reason in refused[0][1]
        await adversary.close()
        await world.close()

    run_virtual(main())


# --- what waits -------------------------------------------------------------------------------


@pytest.mark.limit("collections.sessions.MAX_APPLYING", "collections.sessions.MAX_APPLYING_BYTES")
@pytest.mark.parametrize("name, most", [("MAX_APPLYING", FEW), ("MAX_APPLYING_BYTES", 1)])
def test_frames_wait_unread_while_too_many_are_stored(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, name, most)
    waiting: list[int] = []
    run = sessions.SyncSession.run

    def counted(self: sessions.SyncSession, effects: Any) -> None:
        run(self, effects)
        waiting.append(self._applying)

    monkeypatch.setattr(sessions.SyncSession, "run", counted)

    async def main() -> None:
        world = World(3)
        hub = await world.start("hub")
        await hub.collection("cars").subscribe({})
        adversary = await adversary_of(world)
        await adversary.until(Resume)
        for n in range(1, 10 * FEW):
            await adversary.send(Changes(n, 0, 0, [change(str(n), SMALL)]))
        while not any(isinstance(said, Ack) and said.number == n for said in adversary.heard):
            await adversary.news()
        await adversary.close()
        await world.close()

    run_virtual(main())
    assert max(waiting) == most


# --- strangers --------------------------------------------------------------------------------


async def end_of(connection: Connection) -> str:
    try:
        while True:
            await connection.receive()
    except LinkClosed as error:
        return error.reason


@pytest.mark.limit("core.handshake.MAX_HANDSHAKE_BYTES")
@virtual
async def test_a_stranger_that_says_too_much_is_sent_away() -> None:
    world = World(2)
    await world.start("hub")
    stranger = await world.network.transport("stranger").dial(URL)
    handshake = Handshake(Identity(b"s" * 32), dialler=True, nonce=bytes(NONCE_BYTES))
    for frame in [*handshake.start(), bytes(MAX_HANDSHAKE_BYTES)]:
        await stranger.send(frame)
    assert "sent too much before it proved its key" in await end_of(stranger)
    await world.close()


@pytest.mark.limit("core.limits.LOG_LINES")
def test_a_stranger_that_comes_again_and_again_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = World(2)
        await world.start("hub")
        caplog.clear()
        for _ in range(2 * LOG_LINES):
            stranger = await world.network.transport("stranger").dial(URL)
            with suppress(LinkClosed):
                await stranger.send(b"rubbish")
            await end_of(stranger)
        await world.close()

    caplog.set_level(logging.INFO)
    run_virtual(main())
    about = [record.getMessage() for record in caplog.records if "no link with" in record.msg]
    assert len(about) == LOG_LINES
    assert "left out" in about[-1]


async def refusing(connection: Connection) -> None:
    raise AssertionError("no WebSocket was opened")


@pytest.mark.limit("network.sockets.OPEN_SECONDS")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_a_request_that_never_ends_is_cut_off(
    secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sockets, websocket):
        monkeypatch.setattr(module, "OPEN_SECONDS", 0.2)
    (tmp_path / "tls.pem").write_bytes(make_certificate())
    tls = Tls(tmp_path / "tls.pem") if secure else None
    listener = await WebSocketTransport(tls).listen("127.0.0.1:0", refusing)
    context = ssl._create_unverified_context() if secure else None
    silent = socket.create_connection(("127.0.0.1", listener.port))
    silent.setblocking(False)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
    async with asyncio.timeout(20):
        for end in (reader.read(), asyncio.get_running_loop().sock_recv(silent, 1000)):
            try:
                assert await end == b""
            except ConnectionResetError:
                pass
    silent.close()
    writer.close()
    await listener.close()


@pytest.mark.limit("network.sockets.MAX_OPENING")
async def test_one_more_that_opens_drives_out_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MAX_OPENING", FEW)
    listener = await WebSocketTransport().listen("127.0.0.1:0", refusing)
    openings = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(FEW + 1)]
    async with asyncio.timeout(20):
        try:
            assert await openings[0][0].read() == b""
        except ConnectionResetError:
            pass
    assert not any(reader.at_eof() for reader, _ in openings[1:])
    for _, writer in openings:
        writer.close()
    await listener.close()
