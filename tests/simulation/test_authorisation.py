"""The threat model of a closed mesh, row by row: who may do what to whom."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
import pytest

from mesh import BlobToken, Credentials, Node, Nodes, PermissionDenied
from mesh.core import records
from mesh.core.certificates import Certificate, grant_of, issue, revoke
from mesh.core.chunks import Buffer
from mesh.core.document import ABSENT
from mesh.core.frames import FrameReader
from mesh.core.identity import Identity
from mesh.core.membership import Membership
from mesh.core.receipts import distribution_id_of
from mesh.core.wire import (
    Ack,
    BlobAsk,
    BlobHave,
    Change,
    Changes,
    ChunkList,
    ChunkListGet,
    Goodbye,
    Grave,
    Hello,
    Interest,
    InterestEntry,
    Proof,
    Resume,
    Want,
)
from mesh.errors import InvalidDistribution
from mesh.network.link import Link
from mesh.network.memory_connection import MemoryConnection
from tests.simulation.test_membership import admin, key
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


# --- records ------------------------------------------------------------------------------------------

NODE = {
    "name": "mallory", "formations": [], "capabilities": {}, "hub": False, "listen": None, "version": "1",
    "started_at": 1.0,
}  # fmt: skip


def record_of(credentials: Credentials | None, who: Identity, **changes: object) -> Change:
    """The `nodes` record of ``who`` under the certificates of ``credentials``."""
    membership = None if credentials is None else credentials.membership
    body = {**NODE, **changes}
    return records.sign(
        who, "nodes", who.node_id, body, ABSENT, b"c" * 8, 1, adopted=False, membership=membership
    )[0]


async def send_as(world: World, name: str, to: str, *changes: Change) -> None:
    """Let a node send what it does not hold."""
    parts = world.nodes[name]._parts
    assert parts is not None
    link = world.link(name, to)
    link._deliver = lambda *_: None
    frame = parts.replicator._syncs[world.nodes[to].node_id].serving._window.last
    link.send(Changes(frame + 1, 0, 0, list(changes)))
    await asyncio.sleep(1)


@virtual
async def test_a_record_of_who_is_no_member_is_believed_by_nobody() -> None:
    world = World(9)
    hq = await world.start("hq", credentials=admin(), hub=True)
    other = await world.start("other", ["hq"], credentials=member("other", role="relay"), hub=True)
    van = await world.start("van", ["hq"], credentials=member("van"))
    await linked(hq, van)
    await linked(hq, other)
    stranger, thief = key("stranger"), key("thief")
    foreign = Credentials(
        stranger, issue(Identity(b"blue".ljust(32)), [], stranger.public_key, grant_of("admin"), EPOCH)
    )
    borrowed = Credentials(thief, member("bus").membership.chain)
    chainless = record_of(None, stranger)
    honest = record_of(member("bus"), key("bus"))
    swapped = msgspec.structs.replace(honest, id=van.node_id)
    await send_as(
        world,
        "van",
        "hq",
        chainless,
        record_of(foreign, stranger),
        record_of(borrowed, thief),
        swapped,
        honest,
    )
    for node in (hq, other):
        known = {document["_id"] for document in await node.members()}
        assert key("bus").node_id in known  # that one is true, whoever passed it on
        assert not {stranger.node_id, thief.node_id} & known
    assert hq.stats().documents_refused == 4
    assert other.stats().documents_refused == 0
    await world.close()


def test_a_revoked_writer_is_void_on_every_node_alike() -> None:
    """Whether it heard of the revocation before the records or after them, and after every restart."""
    now = Membership(HQ.membership.chain)
    chain = member("van").membership
    change = record_of(member("van"), key("van"))
    assert records.arrive(ABSENT, change, now) is not None
    now.learn([revoke(HQ.identity, HQ.membership.chain, key("van").node_id, 1, EPOCH + 1)])
    with pytest.raises(PermissionDenied, match="was revoked"):
        records.arrive(ABSENT, change, now)
    assert not records.stands(change.update, now)
    again = issue(HQ.identity, HQ.membership.chain, key("van").public_key, grant_of("member"), EPOCH, epoch=2)
    renewed = record_of(Credentials(key("van"), again), key("van"))
    assert records.arrive(ABSENT, renewed, now) is not None
    assert len(change.update) - len(record_of(None, key("van")).update) < 600
    assert chain.revoked == {}


@virtual
async def test_what_a_revoked_publisher_has_distributed_ends() -> None:
    world = World(11)
    hq = await world.start("hq", credentials=admin(), hub=True)
    van = await world.start("van", ["hq"], credentials=member("van", role="publish"))
    bus = await world.start("bus", ["hq"], credentials=member("bus"), receive="manual")
    await linked(hq, van)
    await linked(hq, bus)
    token = await van.attachments.add(b"x" * 1000)
    handle = await van.distributions.distribute(token, Nodes([bus.node_id]))
    await van.settled(10)
    await bus.settled(10)
    assert await bus.collection("distributions").get(handle.distribution_id)
    await hq.revoke(van.node_id)
    await bus.settled(10)
    await asyncio.sleep(5)
    late = await world.start("late", ["hq"], credentials=member("late"))
    await linked(hq, late)
    await late.settled(10)
    for node in (hq, bus, late):
        assert await node.collection("distributions").get(handle.distribution_id) is None
        assert van.node_id not in {document["_id"] for document in await node.members()}
        assert not await node.distributions.handles()
    assert late.stats().documents_refused == 0
    await world.close()


def grant_publish(certificate: Certificate) -> Certificate:
    """What a member would like to have."""
    return msgspec.structs.replace(certificate, grant=grant_of("publish"))


@virtual
async def test_only_publishers_distribute_and_admins_may_cancel() -> None:
    monkeypatch = pytest.MonkeyPatch()
    world = World(13)
    hq = await world.start("hq", credentials=admin())
    van = await world.start("van", ["hq"], credentials=member("van"))
    truck = await world.start("truck", ["hq"], credentials=member("truck", role="publish"))
    bus = await world.start("bus", ["hq"], credentials=member("bus"), receive="manual")
    for node in (van, truck, bus):
        await linked(hq, node)
    token = await van.attachments.add(b"x" * 1000)
    with pytest.raises(PermissionDenied, match="lacks the role publish"):
        await van.distributions.distribute(token, Nodes([bus.node_id]))
    with pytest.raises(PermissionDenied, match="lacks the role publish"):
        await van.direct.distribute(token, Nodes([bus.node_id]))
    token = await truck.attachments.add(b"y" * 1000)
    handle = await truck.distributions.distribute(token, Nodes([bus.node_id]))
    await truck.settled(10)
    await bus.settled(10)
    with pytest.raises(PermissionDenied, match="only there"):
        await bus.distributions.cancel(handle)
    await hq.distributions.cancel(handle)
    await hq.settled(10)
    await bus.settled(10)
    for node in (hq, truck, bus):
        held = await node.collection("distributions").find({"_id": handle.distribution_id})
        assert [document["cancelled_at"] is not None for document in held] == [True]
    with pytest.raises(InvalidDistribution, match="cancelled"):
        await truck.distributions.retry(handle)
    # A client that leaves out the check, and signs under its own certificates.
    body = {name: value for name, value in held[0].items() if name not in ("_id", "cancelled_at")}
    body |= {"publisher": van.node_id, "nonce": "n" * 20}
    document_id = distribution_id_of(van.node_id, "n" * 20)
    lying = member("van").membership
    lying.chain = [grant_publish(lying.chain[0]), *lying.chain[1:]]
    false, _ = records.sign(
        key("van"), "distributions", document_id, body, ABSENT, b"c" * 8, 1, adopted=False, membership=lying
    )
    with monkeypatch.context() as patch:
        patch.setattr(records, "_check_right", lambda *_: None)
        change, _ = records.sign(
            key("van"), "distributions", document_id, body, ABSENT, b"c" * 8, 1, adopted=False,
            membership=member("van").membership,
        )  # fmt: skip
    await send_as(world, "van", "hq", false, change)
    assert await hq.collection("distributions").get(document_id) is None
    assert hq.stats().documents_refused == 2
    await world.close()


# --- blobs --------------------------------------------------------------------------------------------


def asked(link: Link, token: BlobToken, origin: str, sequence: int = 1) -> None:
    hash = bytes.fromhex(token.hash)
    chunks_hash = bytes.fromhex(token.chunks_hash)
    link.send(BlobAsk(origin, sequence, hash, token.size_bytes, chunks_hash, 2, 0, False))
    link.send(ChunkListGet(hash, 0))


@virtual
async def test_a_blob_goes_only_to_whom_something_readable_brings_it() -> None:
    world = World(15)
    hq = await world.start("hq", credentials=admin())
    van = await world.start("van", ["hq"], credentials=member("van", ["cars"]))
    await linked(hq, van)
    await van.settled(10)
    secret = await hq.attachments.add(b"secret" * 10_000)
    nowhere = BlobToken("ab" * 32, secret.size_bytes, "cd" * 32)
    shown = await hq.attachments.add(b"shown" * 10_000)
    await hq.collection("secret").insert({"_id": "s", "file": secret.to_dict()})
    link = world.link("van", "hq")
    heard = listen(link)
    for token in (secret, nowhere):
        asked(link, token, van.node_id)
    await asyncio.sleep(1)
    answers = [
        [m for m in heard if isinstance(m, BlobHave | ChunkList) and m.hash == bytes.fromhex(token.hash)]
        for token in (secret, nowhere)
    ]
    told = [
        [(type(m), getattr(m, "chunks", None), getattr(m, "hashes", None)) for m in some] for some in answers
    ]
    assert told[0] == told[1]
    assert told[0]
    # As soon as something brings it, it comes; without another question.
    await van.collection("cars").subscribe()
    fetch = asyncio.ensure_future(van.attachments.fetch(shown, timeout=100))
    await asyncio.sleep(1)
    assert not fetch.done()
    await hq.collection("cars").insert({"_id": "c", "file": shown.to_dict()})
    assert (await fetch).token.hash == shown.hash
    await world.close()


@virtual
async def test_who_is_not_in_the_scope_gets_nothing_of_a_distribution() -> None:
    world = World(17)
    hq = await world.start("hq", credentials=admin())
    relay = await world.start("relay", ["hq"], credentials=member("relay", role="relay"))
    far = await world.start("far", ["relay"], credentials=member("far"))
    near = await world.start("near", ["relay"], credentials=member("near"))
    for node in (far, near):
        await linked(relay, node)
    token = await hq.attachments.add(b"x" * 100_000)
    handle = await hq.distributions.distribute(token, Nodes([far.node_id]))
    status = await hq.distributions.wait_for_completion(handle, 60)
    assert status.completed == 1
    assert await far.attachments.exists(token.hash)
    fetch = asyncio.ensure_future(near.attachments.fetch(token, timeout=100))
    await asyncio.sleep(90)
    assert not fetch.done()
    fetch.cancel()
    assert near.stats().blob_bytes_in == 0
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


# --- at random ----------------------------------------------------------------------------------------

COLLECTIONS = ("cars", "cars-2", "map", "logs")
GLOBS: tuple[list[str], ...] = ([], ["*"], ["cars*"], ["cars"], ["cars-2", "map"], ["l*", "map"], ["logs"])


def allowed(patterns: list[str], collection: str) -> bool:
    return any(fnmatchcase(collection, pattern) for pattern in patterns)


Passes = Callable[[str, str, str], bool]


def reached(writer: str, collection: str, names: list[str], passes: Passes, carries: Passes) -> set[str]:
    """The nodes that get what one has written: links let it pass from node to node, which carry it on."""
    found: set[str] = set()
    carriers = [writer]
    while carriers:
        one = carriers.pop()
        for other in names:
            if other not in (writer, *found) and passes(one, other, collection):
                found.add(other)
                if carries(one, other, collection):
                    carriers.append(other)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0], ids=["tree", "graph", "clique"])
def test_every_node_holds_exactly_what_it_may_read_and_subscribed_to(seed: int, density: float) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        world = World(seed)
        names = ["hq", "a", "b", "c", "d"]
        read = {name: ["*"] if name == "hq" else rng.choice(GLOBS) for name in names}
        write = {name: ["*"] if name == "hq" else rng.choice(GLOBS) for name in names}
        roles = {name: rng.choice(["member", "relay", "publish"]) for name in names}
        links: set[tuple[str, str]] = set()
        for number, name in enumerate(names):
            earlier = names[:number]
            peers = [peer for peer in earlier if rng.random() < density] or rng.sample(
                earlier, min(number, 1)
            )
            links |= {(name, peer) for peer in peers} | {(peer, name) for peer in peers}
            credentials = admin() if name == "hq" else member(name, read[name], write[name], roles[name])
            await world.start(name, peers, credentials=credentials)
        nodes = world.nodes
        for name in names:
            for collection in COLLECTIONS:
                if allowed(write[name], collection) and rng.random() < 0.8:
                    await nodes[name].collection(collection).insert({"_id": name})
        wanted: dict[str, set[str]] = {name: set() for name in names}
        for name in names:
            for collection in COLLECTIONS:
                if rng.random() < 0.7 and allowed(read[name], collection):
                    wanted[name].add(collection)
                    await nodes[name].collection(collection).subscribe()
        for name, other in sorted(links):
            await linked(nodes[name], nodes[other])
        wrote = {
            (name, collection)
            for name in names
            for collection in COLLECTIONS
            if name in await ids(nodes[name], collection)
        }
        await asyncio.sleep(10)
        for node in nodes.values():
            await node.settled(60)

        def passes(one: str, other: str, collection: str) -> bool:
            may = allowed(write[one], collection) and allowed(read[other], collection)
            return may and (one, other) in links

        def carries(one: str, other: str, collection: str) -> bool:
            return other == "hq" or roles[other] == "relay" or collection in wanted[other]

        for name, collection in itertools.product(names, COLLECTIONS):
            own = {name} if (name, collection) in wrote else set()
            due = {
                writer
                for writer in names
                if (writer, collection) in wrote
                and name in reached(writer, collection, names, passes, carries)
            }
            held = await ids(nodes[name], collection)
            if collection in wanted[name]:
                assert held == own | due, (name, collection)
            else:  # a relay holds what it passes on
                assert held == own or (allowed(read[name], collection) and carries("", name, collection))
        assert all(node.stats().documents_refused == 0 for node in nodes.values())
        await world.close()

    run_virtual(main())
