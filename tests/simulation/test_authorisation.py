"""The threat model of a closed mesh, row by row: who may do what to whom."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from mesh import PermissionDenied
from mesh.core.chunks import Buffer
from mesh.core.frames import FrameReader
from mesh.core.identity import Identity
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.wire import (
    Ack,
    Change,
    Changes,
    Goodbye,
    Grave,
    Hello,
    Interest,
    InterestEntry,
    Proof,
    Resume,
    Want,
)
from mesh.network.memory_connection import MemoryConnection
from tests.simulation.closed_mesh import apart, ids, linked, listen, member, said
from tests.simulation.test_membership import admin
from tests.simulation.virtual_clock import run_virtual, virtual
from tests.simulation.world import World

# --- documents ----------------------------------------------------------------------------------------


@virtual
async def test_a_member_with_narrow_globs_learns_nothing_else() -> None:
    """In a line hq - relay - van - end: what van and end may not read reaches neither, in no message."""
    world = World(1)
    hq = await world.start("hq", credentials=admin(), hub=True)
    relay = await world.start("relay", ["hq"], credentials=member("relay", role="relay"))
    van = await world.start("van", ["relay"], credentials=member("van", ["cars*", "map"], role="relay"))
    await linked(hq, relay)
    await linked(relay, van)
    heard = listen(world.link("van", "relay"))
    end = await world.start("end", ["van"], credentials=member("end", ["map", "secret*"]))
    await linked(van, end)
    heard_at_end = listen(world.link("end", "van"))
    for node, name in (
        (hq, "secret"),
        (hq, "cars-1"),
        (hq, "map"),
        (van, "cars-1"),
        (end, "map"),
        (end, "secret-end"),
    ):
        await node.collection(name).insert({"_id": f"{name}-of-{node.name}", "word": f"word-{name}"})
    await relay.collection("secret").subscribe()
    await van.collection("cars-1").subscribe()
    await van.collection("map").subscribe()
    await end.collection("map").subscribe()
    await end.collection("secret").subscribe()
    for node in (hq, relay, van, end):
        await node.settled(30)
    assert await ids(relay, "secret") == {"secret-of-hq"}
    assert await ids(hq, "cars-1") == {"cars-1-of-hq", "cars-1-of-van"}
    assert await ids(end, "map") == {"map-of-hq", "map-of-end"}
    assert (await van.collections()).keys() - OWNED_COLLECTIONS == {"cars-1", "map"}
    assert await ids(end, "secret") == set()
    assert b"word-map" in said(heard)
    for word in (b"word-secret", b"secret-of-hq", b"secret-end"):
        assert word not in said(heard)
    for word in (b"word-secret", b"secret-of-hq", b"word-cars", b"cars-1"):
        assert word not in said(heard_at_end)
    assert all(node.stats().documents_refused == 0 for node in (hq, relay, van, end))
    await world.close()


@virtual
async def test_what_a_peer_may_not_write_is_dropped_on_arrival() -> None:
    world = World(3)
    hq = await world.start("hq", credentials=admin(), hub=True)
    other = await world.start("other", ["hq"], credentials=member("other", role="relay"), hub=True)
    van = await world.start("van", ["hq"], credentials=member("van", ["cars", "map"], ["cars"]))
    await hq.collection("map").insert({"_id": "m", "roads": 1})
    await van.collection("map").subscribe()
    await linked(hq, van)
    await van.settled(10)
    with pytest.raises(PermissionDenied, match="does not let it write map, only cars"):
        await van.collection("map").update("m", {"roads": 2})
    with pytest.raises(PermissionDenied, match="map"):
        async with van.transaction() as transaction:
            await transaction.collection("map").remove("m")
    with closing(van.yjs_documents()) as browsers, pytest.raises(PermissionDenied, match="write map"):
        await browsers.contribute(("map", "m"), None, b"\0\0")
    with pytest.raises(PermissionDenied, match="does not let it read secret"):
        await van.collection("secret").subscribe()
    # A client that leaves out the check.
    parts = van._parts
    assert parts is not None
    forger = await world.start("forger", credentials=member("forger"))
    await forger.collection("map").insert({"_id": "m", "roads": 3})
    row = await forger._parts.store.read(lambda rows: rows.get("map", "m"))  # type: ignore[union-attr]
    assert row is not None
    link = world.link("van", "hq")
    await van.collection("cars").insert({"_id": "c"})
    await van.settled(10)
    frame = parts.replicator._syncs[hq.node_id].serving._window.last
    link._deliver = lambda *_: None  # it does not care for the answers
    change = Change("map", "m", (7, 0), {}, row.state.vector, row.state.update)
    grave = Grave("map", 1, 1, 9, 0)
    link.send(Changes(frame + 1, 0, 0, [change], graves=[grave]))
    link.send(Changes(frame + 2, 0, 0, [msgspec.structs.replace(change, collection="cars")]))
    await asyncio.sleep(1)
    assert await hq.collection("map").get("m") == {"_id": "m", "roads": 1}
    assert await hq.collection("cars").get("m") == {"_id": "m", "roads": 3}
    assert hq.stats().documents_refused == 2
    assert (await other.collection("map").get("m")) == {"_id": "m", "roads": 1}
    assert world.link("hq", "van")
    # Who goes on with it, loses the link.
    for number in range(3, 9):
        link.send(Changes(frame + number, 0, 0, [change] * 200))
    await apart(hq, van)
    await world.close()


@virtual
async def test_asking_for_more_does_not_help() -> None:
    """Resumes and wants for what was never announced, and of what may not be read."""
    world = World(5)
    hq = await world.start("hq", credentials=admin())
    await hq.collection("secret").insert({"_id": "s", "word": "word-secret"})
    van = await world.start("van", ["hq"], credentials=member("van", ["cars"]))
    await linked(hq, van)
    await van.settled(10)
    link = world.link("van", "hq")
    heard = listen(link)
    link.send(Interest(van.node_id, 1 << 52, 0, [InterestEntry("*"), InterestEntry("secret")]))
    link.send(Interest("a" * 52, 1 << 52, 3, [InterestEntry("secret")]))
    for number, entry in enumerate([InterestEntry("secret"), InterestEntry("*")], 100):
        link.send(Resume(number, b"", 0, True, [entry]))
        link.send(Resume(number + 10, b"", 0, False, [entry]))
    await hq.collection("secret").update("s", {"word": "word-secret-2"})
    await asyncio.sleep(1)
    assert b"word-secret" not in said(heard)
    link.send(Ack(1, [Want("secret", "s", (-1, 0), {}, b"\0")]))
    await asyncio.sleep(1)
    assert b"word-secret" not in said(heard)
    await world.close()


@virtual
async def test_who_may_only_write_sees_nothing_of_what_others_have_written() -> None:
    world = World(7)
    hq = await world.start("hq", credentials=admin(), hub=True)
    van = await world.start("van", ["hq"], credentials=member("van", [], ["logs"]))
    bus = await world.start("bus", ["hq"], credentials=member("bus", [], ["logs"]))
    await linked(hq, van)
    await van.collection("logs").insert({"_id": "van", "word": "van"})
    await bus.collection("logs").insert({"_id": "bus", "word": "bus"})
    await linked(hq, bus)
    await van.settled(10)
    await bus.settled(10)
    assert await ids(hq, "logs") == {"van", "bus"}
    assert await ids(van, "logs") == {"van"}
    await hq.collection("logs").update("van", {"read": True})
    await van.collection("logs").update("van", {"word": "again"})
    await van.settled(10)
    assert await hq.collection("logs").get("van") == {"_id": "van", "word": "again", "read": True}
    assert await van.collection("logs").get("van") == {"_id": "van", "word": "again"}
    await world.close()


# --- links --------------------------------------------------------------------------------------------


@virtual
async def test_two_meshes_on_one_network_never_exchange_a_byte_of_content() -> None:
    """Whoever dials whom, and whether closed or open: nothing but hellos, refusals and goodbyes passes."""
    passed: list[bytes] = []
    send = MemoryConnection.send

    async def overheard(self: MemoryConnection, frame: Buffer) -> None:
        passed.append(bytes(frame))
        await send(self, frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryConnection, "send", overheard)
        world = World(19)
        red = await world.start("red", ["blue", "open"], credentials=admin("red"), hub=True)
        blue_root = Identity(b"blue".ljust(32))
        blue = await world.start("blue", ["red", "open"], credentials=admin("blue", blue_root), hub=True)
        open_ = await world.start("open", ["red", "blue"], hub=True)
        for node in (red, blue, open_):
            await node.collection("cars").insert({"_id": "c1", "word": f"content-of-{node.name}"})
            token = await node.attachments.add(f"bytes-of-{node.name}".encode() * 1000)
            await node.distributions.distribute(token)
        await asyncio.sleep(600)
        for node in (red, blue, open_):
            assert not node.presence().peers
            assert len(await node.members()) == 1
        await world.close()
    assert passed
    kinds = {type(FrameReader().feed(frame)) for frame in passed}
    assert kinds <= {Hello, Proof, Goodbye}
    assert not any(b"content-of" in frame or b"bytes-of" in frame for frame in passed)


def test_more_rights_bring_what_was_held_back(tmp_path: Path) -> None:
    """The place in a peer's log that was reached under other rights says nothing any more."""

    async def main() -> None:
        world = World(20, tmp_path)
        hq = await world.start("hq", credentials=admin())
        await world.start("van", ["hq"], credentials=member("van", ["cars"]), hub=True)
        await hq.collection("cars").insert({"_id": "c"})
        await hq.collection("map").insert({"_id": "m"})
        await world.nodes["van"].settled(20)
        assert await ids(world.nodes["van"], "map") == set()
        await world.stop("van")
        van = await world.restart("van", credentials=member("van", ["cars", "map"]))
        await linked(hq, van)
        await van.settled(20)
        assert await ids(van, "map") == {"m"}
        await world.stop("van")
        van = await world.restart("van", credentials=member("van", ["cars"]))
        await linked(hq, van)
        await hq.collection("map").insert({"_id": "m2"})
        await van.settled(20)
        assert await ids(van, "map") == {"m"}  # what was told cannot be taken back
        await world.close()

    run_virtual(main())
