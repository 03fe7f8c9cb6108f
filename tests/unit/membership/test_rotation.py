"""A node that changes its key stays what it was, under another id."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh import (
    AllNodes,
    Credentials,
    CredentialsUnusable,
    MembershipRefused,
    Node,
    PeerUnreachable,
    TransferState,
)
from mesh.core.certificates import RENEW_SECONDS
from mesh.core.renewal import retired
from mesh.errors import InvalidAddress, MeshError
from mesh.membership import credentials as module
from mesh.node.environment import Environment
from tests.simulation.test_membership import linked


@pytest.fixture
async def hq(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node(tmp_path / "hq", credentials=Credentials.create(tmp_path / "hq")) as node:
        yield node


async def joined(hq: Node, home: Path, role: str = "publish") -> Credentials:
    return await Credentials.join(home, await hq.invite(role=role, collections=["cars", "files"]))


async def test_the_new_key_may_what_the_old_one_might_and_the_old_one_nothing(
    tmp_path: Path, hq: Node
) -> None:
    assert hq.address is not None
    home = tmp_path / "van"
    old = await joined(hq, home)
    await hq.collection("cars").subscribe()
    async with Node(home, credentials=old) as van:
        await van.connect(hq.address)
        await van.collection("cars").insert({"_id": "c1"})
        token = await van.attachments.add(b"of the old id")
        handle = await van.distributions.distribute(token, AllNodes())
        await van.distributions.wait_for_completion(handle, 20)
        await van.settled(10)
        old_chain = old.membership.chain
    new = await Credentials.rotate(home, hq.address)
    assert new.node_id != old.node_id
    assert new.membership.grant == old.membership.grant
    assert Credentials.load(home).node_id == new.node_id
    async with Node(home, credentials=new) as van:
        assert van.node_id == new.node_id
        await van.connect(hq.address)
        await linked(hq, van)
        await van.settled(10)
        assert hq.standings() == {hq.node_id: "admin", van.node_id: "publish", old.node_id: "retired"}
        # What it held is there, and what the old id owns can be read on both.
        assert await van.collection("cars").count() == 1
        for node in (hq, van):
            status = await node.distributions.status(handle)
            assert status.node_statuses[hq.node_id].status == TransferState.COMPLETED
        await van.collection("cars").insert({"_id": "c2"})
        await van.settled(10)
        assert await hq.collection("cars").count() == 2
        async with Node(credentials=Credentials(old.identity, old_chain, home)) as thief:
            with pytest.raises(MembershipRefused, match="has changed its key"):
                await thief.connect(hq.address)
        # Whoever has changed the key: revoking the id that people know ends the node.
        await hq.revoke(old.node_id)
        with pytest.raises(MembershipRefused, match="revoked"):
            await van.connect(hq.address)
        assert not hq.presence().peers


async def test_who_was_away_learns_the_new_key_from_whoever_it_meets(tmp_path: Path) -> None:
    """The admin is gone by then; and the old key opens nothing any more where it is known."""
    van_home, depot_home = tmp_path / "van", tmp_path / "depot"
    async with Node(tmp_path / "hq", credentials=Credentials.create(tmp_path / "hq"), hub=True) as hq:
        assert hq.address is not None
        old = await joined(hq, van_home)
        old_chain = old.membership.chain
        depot_credentials = await joined(hq, depot_home)
        async with (
            Node(van_home, credentials=old, peers=[hq.address]) as van,
            Node(depot_home, credentials=depot_credentials, peers=[hq.address]) as depot,
        ):
            for node in (van, depot):
                await node.collection("cars").subscribe()
            await van.collection("cars").insert({"_id": "c1", "n": 1})
            await observed(depot, {"_id": "c1", "n": 1})
        new = await Credentials.rotate(van_home, hq.address)
    async with Node(van_home, credentials=new) as van:
        assert van.address is not None
        await van.collection("cars").update("c1", {"n": 2})
        await van.collection("cars").insert({"_id": "c2"})
        async with Node(depot_home, credentials=depot_credentials) as depot:
            assert depot.address is not None
            assert await depot.connect(van.address) == new.node_id
            await observed(depot, {"_id": "c1", "n": 2}, {"_id": "c2"})
            await depot.collection("cars").insert({"_id": "c3"})
            await observed(van, {"_id": "c1", "n": 2}, {"_id": "c2"}, {"_id": "c3"})
            assert depot.standings()[old.node_id] == "retired"
            async with Node(credentials=Credentials(old.identity, old_chain, van_home)) as thief:
                with pytest.raises(MembershipRefused, match="has changed its key"):
                    await thief.connect(depot.address)


async def observed(node: Node, *documents: dict[str, object]) -> None:
    """Wait until these are the cars of a node."""
    async with asyncio.timeout(20), node.collection("cars").observe(sort=["_id"]) as changes:
        async for change in changes:
            if change.documents == list(documents):
                return


async def test_the_admin_with_the_key_of_the_mesh_needs_nobody(tmp_path: Path) -> None:
    home = tmp_path / "hq"
    old = Credentials.create(home)
    async with Node(home, credentials=old) as hq:
        van = await joined(hq, tmp_path / "van", "member")
    new = await Credentials.rotate(home)
    assert new.roles == old.roles
    async with Node(home, credentials=new) as hq, Node(tmp_path / "van", credentials=van) as node:
        assert hq.address is not None
        # Those whom it has admitted stay, and hear of it.
        assert await node.connect(hq.address) == new.node_id
        await node.settled(10)
        assert van.membership.retired == {old.node_id: 1}
        assert (await joined(hq, tmp_path / "late")).mesh_id == old.mesh_id


async def test_what_the_key_of_the_mesh_renews_still_ends_with_the_old_id(tmp_path: Path) -> None:
    home = tmp_path / "hq"
    old = Credentials.create(home)
    new = await Credentials.rotate(home)
    first = new.membership.chain[0]
    late = Environment(clock=lambda: first.not_after - RENEW_SECONDS + 60)
    async with Node(home, credentials=new, environment=late):
        again = new.membership.chain[0]
    assert again.not_after > first.not_after
    assert again.former == first.former == [(old.node_id, 2)]


async def test_a_rotation_that_fails_changes_nothing_and_can_be_repeated(
    tmp_path: Path, hq: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hq.address is not None
    home = tmp_path / "van"
    old = await joined(hq, home)
    with pytest.raises(CredentialsUnusable, match="address"):
        await Credentials.rotate(home)
    with pytest.raises(CredentialsUnusable, match="there are none"):
        await Credentials.rotate(tmp_path / "nobody", hq.address)
    with pytest.raises(InvalidAddress):
        await Credentials.rotate(home, "hq")
    with pytest.raises(PeerUnreachable):
        await Credentials.rotate(home, "wss://127.0.0.1:1")
    await joined(hq, tmp_path / "other")
    async with Node(tmp_path / "other", credentials=Credentials.load(tmp_path / "other")) as other:
        assert other.address is not None
        with pytest.raises(MembershipRefused, match="no admin"):
            await Credentials.rotate(home, other.address)
    assert Credentials.load(home).node_id == old.node_id

    # Its answer is lost: the admin gives it once more, and to no other key.
    def lost(self: Credentials) -> None:
        raise CredentialsUnusable(str(home), "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Credentials, "keep", lost)
        with pytest.raises(CredentialsUnusable, match="No space"):
            await Credentials.rotate(home, hq.address)
    assert Credentials.load(home).node_id == old.node_id
    (home / "identity.key.next").rename(tmp_path / "kept")
    with pytest.raises(MembershipRefused, match="has changed its key"):
        await Credentials.rotate(home, hq.address)
    (tmp_path / "kept").rename(home / "identity.key.next")

    # It dies right after the new certificate is there: the new key counts.
    with monkeypatch.context() as patched:
        patched.setattr(module, "_go_over", lambda path: os.stat("/nowhere"))
        with pytest.raises(FileNotFoundError):
            await Credentials.rotate(home, hq.address)
    new = Credentials.load(home)
    assert new.node_id != old.node_id
    assert sorted(path.name for path in home.iterdir()) == [
        "certificates.json", "identity.key", "retired.json", "tls.pem"
    ]  # fmt: skip
    async with Node(home, credentials=new) as van:
        assert await van.connect(hq.address) == hq.node_id


async def test_nobody_retires_another(tmp_path: Path, hq: Node) -> None:
    van, thief = await joined(hq, tmp_path / "van"), await joined(hq, tmp_path / "thief")
    assert hq._parts is not None
    membership = hq._parts.membership
    assert membership is not None
    for signer, chain in ((thief, van), (thief, thief)):
        fact = retired(signer.identity, chain.membership.chain, thief.identity.public_key, 2e9)
        fact = type(fact)(fact.mesh_id, van.node_id, *[getattr(fact, n) for n in fact.__struct_fields__[2:]])
        with pytest.raises(MembershipRefused):
            membership._membership.learn([fact])
    with pytest.raises(MeshError):
        await asyncio.wait_for(membership._succeeded(fact), 5)
