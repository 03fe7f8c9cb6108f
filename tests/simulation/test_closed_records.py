"""Records and blobs of a closed mesh: whose are believed, and who gets which."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from mesh import BlobToken, Credentials, Nodes, PermissionDenied
from mesh.core import records
from mesh.core.certificates import Certificate, grant_of, issue, revoke
from mesh.core.document import ABSENT
from mesh.core.identity import Identity
from mesh.core.membership import Membership
from mesh.core.receipts import distribution_id_of
from mesh.core.wire import (
    BlobAsk,
    BlobHave,
    Change,
    ChunkList,
    ChunkListGet,
)
from mesh.errors import InvalidDistribution
from mesh.network.link import Link
from tests.simulation.closed_mesh import HQ, linked, listen, member, send_as
from tests.simulation.test_membership import admin, key
from tests.simulation.virtual_clock import virtual
from tests.simulation.world import EPOCH, World

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
    with pytest.raises(PermissionDenied, match=r"lacks the role publish.*`mesh invite --role publish`"):
        await van.distributions.distribute(token, Nodes([bus.node_id]))
    with pytest.raises(PermissionDenied, match=r"lacks the role publish.*`mesh invite --role publish`"):
        await van.direct.distribute(token, Nodes([bus.node_id]))
    token = await truck.attachments.add(b"y" * 1000)
    handle = await truck.distributions.distribute(token, Nodes([bus.node_id]))
    await truck.settled(10)
    await bus.settled(10)
    with pytest.raises(PermissionDenied, match="only there, or on an admin of a closed mesh,"):
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
        patch.setattr(Membership, "require_publish", lambda _: None)
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
