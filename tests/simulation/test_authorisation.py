"""The threat model of a closed mesh, row by row: who may do what to whom."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec
import pytest

from mesh import BlobToken, Credentials, Nodes, Node, PermissionDenied
from mesh.core import records
from mesh.core.certificates import grant_of, issue
from mesh.core.document import ABSENT
from mesh.core.identity import Identity
from mesh.core.membership import Membership
from mesh.core.wire import (
    Ack,
    BlobAsk,
    BlobHave,
    Change,
    ChunkList,
    ChunkListGet,
    Changes,
    Grave,
    Interest,
    InterestEntry,
    Resume,
    Want,
)
from mesh.network.link import Link
from tests.simulation.test_membership import ROOT, admin, key
from tests.simulation.test_membership import linked as wait_for_link
from tests.simulation.virtual_clock import run_virtual, virtual
from tests.simulation.world import EPOCH, World

HQ = admin()


def member(
    name: str, read: Iterable[str] = ("*",), write: Iterable[str] | None = None, role: str = "member"
) -> Credentials:
    grant = grant_of(role, read, write)
    chain = issue(HQ.identity, HQ.membership.chain, key(name).public_key, grant, EPOCH)
    return Credentials(key(name), chain)


async def linked(a: Node, b: Node, *, yes: bool = True) -> None:
    async with asyncio.timeout(60):
        await wait_for_link(a, b, yes=yes)


async def apart(a: Node, b: Node) -> None:
    await linked(a, b, yes=False)


def listen(link: Link) -> list[object]:
    """Everything that comes on a link from now on."""
    heard: list[object] = []
    deliver = link._deliver

    def overhear(where: Link, message: object) -> object:
        heard.append(message)
        return deliver(where, message)  # type: ignore[arg-type]

    link._deliver = overhear  # type: ignore[assignment]
    return heard


def said(messages: Iterable[object]) -> bytes:
    return b"".join(msgspec.msgpack.encode(message) for message in messages)


async def ids(node: Node, collection: str) -> set[str]:
    return {document["_id"] for document in await node.collection(collection).find()}


# --- documents ----------------------------------------------------------------------------------------


@virtual
async def test_a_member_with_narrow_globs_learns_nothing_else() -> None:
    """In a line hq - relay - van - end: what van and end may not read reaches neither, in no message."""
    world = World(1)
    hq = await world.start("hq", credentials=HQ, hub=True)
    relay = await world.start("relay", ["hq"], credentials=member("relay", role="relay"))
    van = await world.start("van", ["relay"], credentials=member("van", ["cars*", "map"], role="relay"))
    await linked(hq, relay)
    await linked(relay, van)
    heard = listen(world.link("van", "relay"))
    end = await world.start("end", ["van"], credentials=member("end", ["map", "secret*"]))
    await linked(van, end)
    heard_at_end = listen(world.link("end", "van"))
    for node, name in ((hq, "secret"), (hq, "cars-1"), (hq, "map"), (van, "cars-1"), (end, "map"), (end, "secret-end")):
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
    assert await van.collections() == {"cars-1": 2, "map": 2, "nodes": 4} | {
        name: count for name, count in (await van.collections()).items() if name in ("nodes", "receipts")
    }
    assert await ids(end, "secret") == set()
    assert b"word-map" in said(heard)
    for word in (b"word-secret", b"secret-of-hq", b"secret-end"):
        assert word not in said(heard)
    for word in (b"word-secret", b"secret-of-hq", b"word-cars", b"cars-1"):
        assert word not in said(heard_at_end)
    # After a new start without positions nothing else comes of comparing.
    assert all(node.stats().documents_refused == 0 for node in (hq, relay, van, end))
    await world.close()


@virtual
async def test_what_a_peer_may_not_write_is_dropped_on_arrival() -> None:
    world = World(3)
    hq = await world.start("hq", credentials=HQ, hub=True)
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
    hq = await world.start("hq", credentials=HQ)
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
    hq = await world.start("hq", credentials=HQ, hub=True)
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
