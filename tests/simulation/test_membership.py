"""Closed meshes: who gets in, who is cut, and who comes back."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mesh import Credentials, InvitationRefused, MembershipRefused, Node, PermissionDenied
from mesh.core.certificates import Certificate, grant_of, issue, revoke
from mesh.core.enrolment import SECRET_BYTES, Invitation, read_token, renew
from mesh.core.identity import Identity
from mesh.core.limits import STRIKES
from mesh.core.renewal import retired
from mesh.core.wire import Revocations
from mesh.errors import InvalidInvitation, LinkClosed
from mesh.membership.asking import enrol_by, succeed_at
from mesh.membership.service import FACTS_PER_MESSAGE
from mesh.network.introductions import HANDSHAKE_SECONDS
from mesh.network.transport import JOIN_PATH, MAX_STRANGER_BYTES
from tests.simulation.virtual_clock import run_virtual, virtual
from tests.simulation.world import EPOCH, World

ROOT = Identity(b"root".ljust(32))


def key(name: str) -> Identity:
    return Identity(name.encode().ljust(32, b"."))


def admin(name: str = "hq", root: Identity = ROOT) -> Credentials:
    return Credentials(key(name), issue(root, [], key(name).public_key, grant_of("admin"), EPOCH))


def member(name: str, by: Credentials, role: str = "member", at: float = 0.0) -> Credentials:
    chain = issue(by.identity, by.membership.chain, key(name).public_key, grant_of(role), EPOCH + at)
    return Credentials(key(name), chain)


async def linked(a: Node, b: Node, *, yes: bool = True) -> None:
    """Wait until two nodes have a link, or have none."""
    async with a.observe_presence() as stream:
        async for presence in stream:
            if any(peer.node_id == b.node_id for peer in presence.peers) is yes:
                return


async def apart(a: Node, b: Node) -> None:
    """Wait until two nodes have no link."""
    await linked(a, b, yes=False)


def error_of(node: Node) -> str:
    """Why the address that it dials is not reached."""
    (dial,) = node.presence().dials
    return dial.error or ""


# --- two meshes ---------------------------------------------------------------------------------------


@virtual
async def test_an_open_mesh_and_closed_ones_never_exchange_anything() -> None:
    world = World(1)
    hq = await world.start("hq", credentials=admin())
    other = await world.start("other", credentials=admin("other", Identity(b"blue".ljust(32))))
    open_ = await world.start("open")
    for node in (hq, other, open_):
        await node.collection("cars").subscribe()
        await node.collection("cars").insert({"_id": node.name})
    for a, b, code in (
        (hq, open_, "closed-mesh"),
        (open_, hq, "no-credentials"),
        (hq, other, "other-mesh"),
        (other, hq, "other-mesh"),
    ):
        assert b.address is not None
        with pytest.raises(MembershipRefused) as raised:
            await a.connect(b.address)
        assert raised.value.code == code
    for node in (hq, other, open_):
        assert await node.collection("cars").count() == 1
        assert len(await node.members()) == 1
    await world.close()


def test_an_open_mesh_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World(2)
        await world.start("open")
        await world.start("hq", credentials=admin())
        await world.close()

    run_virtual(main())
    said = [r.getMessage() for r in caplog.records if "no credentials" in r.getMessage()]
    assert said == ["open has no credentials: it is in an open mesh, which stays on this machine"]


# --- invitations --------------------------------------------------------------------------------------


async def join(
    world: World, name: str, invitation: Invitation | str, at: str | None = None
) -> list[Certificate]:
    """``at``: from which address, if not its own."""
    if isinstance(invitation, str):
        invitation = read_token(invitation)
    return await enrol_by(world.network.transport(at or name), key(name), invitation)


@virtual
async def test_who_was_invited_gets_in() -> None:
    world = World(3)
    hq = await world.start("hq", credentials=admin())
    chain = await join(world, "van", await hq.invite(role="publish", collections=["cars*"], write=["cars"]))
    credentials = Credentials(key("van"), chain)
    assert credentials.roles == {"member", "publish"}
    van = await world.start("van", ["hq"], credentials=credentials)
    await linked(hq, van)
    proven = world.link("hq", "van").member
    assert proven is not None
    assert proven.may_read("cars-2")
    assert not proven.may_write("cars-2")
    await van.collection("cars").subscribe()
    await hq.collection("cars").insert({"_id": "c1"})
    await van.settled(10)
    assert await van.collection("cars").count() == 1
    await world.close()


def test_fifty_at_once_with_one_use_admit_one(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(5, tmp_path)
        hq = await world.start("hq", credentials=admin())
        token = await hq.invite(uses=1)
        answers = await asyncio.gather(
            *(join(world, f"van{n}", token) for n in range(50)), return_exceptions=True
        )
        admitted = [n for n, answer in enumerate(answers) if isinstance(answer, list)]
        assert len(admitted) == 1
        reasons = {str(answer) for answer in answers if not isinstance(answer, list)}
        assert len(reasons) == 1
        assert "has been used already" in reasons.pop()
        # Neither a restart of the admin nor of the one who was admitted changes that.
        await world.stop("hq")
        await world.restart("hq")
        with pytest.raises(InvitationRefused):
            await join(world, "late", token)
        assert await join(world, f"van{admitted[0]}", token)
        await world.close()

    run_virtual(main())


@virtual
async def test_an_invitation_is_no_way_back_for_who_was_revoked() -> None:
    world = World(11)
    hq_credentials = admin()
    hq = await world.start("hq", credentials=hq_credentials)
    token = await hq.invite(uses=50)
    other = await hq.invite()
    await join(world, "van", token)
    attempts = [asyncio.create_task(join(world, "van", token, f"van{n}")) for n in range(5)]
    await hq.revoke(key("van").node_id)
    for outcome in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(outcome, list):
            assert outcome[0].epoch == 1
    with pytest.raises(InvitationRefused, match="not known there"):
        await join(world, "van", token)
    with pytest.raises(InvitationRefused, match="not known there"):
        await join(world, "accomplice", token)
    (again, *_) = await join(world, "van", other)
    assert again.epoch == hq_credentials.membership.revoked[key("van").node_id] + 1
    await world.close()


@virtual
async def test_an_invitation_ends() -> None:
    world = World(6)
    hq = await world.start("hq", credentials=admin())
    token = await hq.invite(uses=2, ttl=60.0)
    await join(world, "van1", token)
    await asyncio.sleep(61)
    with pytest.raises(InvitationRefused, match="time is over"):
        await join(world, "van2", token)
    await hq.invite()
    with pytest.raises(InvitationRefused, match="not known there"):
        await join(world, "van2", token)
    await world.close()


@virtual
async def test_who_guesses_secrets_is_banned_and_who_comes_late_is_not() -> None:
    """Nor are members that come from the same address."""
    world = World(4)
    hq = await world.start("hq", credentials=admin())
    guesser = Credentials(key("guesser"), await join(world, "guesser", await hq.invite()))
    invitation = read_token(await hq.invite())
    transport = world.network.transport("guesser")
    for n in range(STRIKES):
        guess = msgspec.structs.replace(invitation, secret=bytes([n]) * SECRET_BYTES)
        with pytest.raises(InvitationRefused, match="not known there"):
            await enrol_by(transport, key("guesser"), guess)
    with pytest.raises(InvitationRefused, match="banned: "):
        await enrol_by(transport, key("guesser"), invitation)
    await linked(hq, await world.start("guesser", ["hq"], credentials=guesser))
    assert await join(world, "van", invitation)
    for _ in range(2 * STRIKES):
        with pytest.raises(InvitationRefused, match="used already"):
            await join(world, "late", invitation)
    await world.close()


@virtual
async def test_what_nobody_can_be_invited_to() -> None:
    world = World(7)
    hq_credentials = admin()
    hq = await world.start("hq", credentials=hq_credentials)
    many = [f"wss://127.0.0.1:{port}" for port in range(1, 17)]
    wrongs: list[dict[str, Any]] = [
        {"role": "king"},
        {"role": ["member"]},
        {"uses": 0},
        {"uses": 1.5},
        {"ttl": 0},
        {"ttl": "1h"},
        {"collections": ["a b"]},
        {"collections": 5},
        {"addresses": many},
        {"addresses": 5},
        {"addresses": [["wss://hq:1"]]},
        {
            "addresses": [
                f"wss://{'x' * 60}.{'y' * 60}.{'z' * 63}.example.org:{port}" for port in range(1, 16)
            ]
        },
        {"uses": True},
        {"ttl": True},
        {"ttl": float("nan")},
    ]
    for wrong in wrongs:
        with pytest.raises(InvalidInvitation):
            await hq.invite(**wrong)
    van = await world.start("van", credentials=member("van", hq_credentials))
    for attempt in (van.invite(), van.revoke(hq.node_id)):
        with pytest.raises(PermissionDenied, match="only an admin"):
            await attempt
    open_ = await world.start("open")
    with pytest.raises(PermissionDenied, match="no credentials"):
        await open_.invite()
    for no_id in ("van", "\ud800", ""):
        with pytest.raises(InvalidInvitation, match="not the whole id"):
            await hq.revoke(no_id)
    with pytest.raises(InvalidInvitation, match="is text"):
        await hq.revoke(None)  # type: ignore[arg-type]
    await hq.pause()
    with pytest.raises(InvalidInvitation, match="accepts no connections"):
        await hq.invite()
    await world.close()


@virtual
async def test_a_secret_is_told_only_to_who_made_it() -> None:
    world = World(8)
    hq = await world.start("hq", credentials=admin())
    await world.start("mallory", credentials=admin("mallory", Identity(b"blue".ljust(32))))
    invitation = read_token(await hq.invite())
    pin_and_secret = (invitation.pin, invitation.secret)
    elsewhere = Invitation(invitation.mesh_id, ["ws://mallory:7700"], *pin_and_secret)
    with pytest.raises(InvitationRefused, match="nothing was told to it"):
        await join(world, "van", elsewhere)
    misled = Invitation(key("x").node_id, invitation.addresses, *pin_and_secret)
    with pytest.raises(MembershipRefused, match="another mesh"):
        await join(world, "van", misled)
    addresses = ["ws://nobody:1", *elsewhere.addresses, *invitation.addresses]
    both = Invitation(invitation.mesh_id, addresses, *pin_and_secret)
    with pytest.raises(InvitationRefused, match="used already"):  # by the one who was misled
        await join(world, "van2", both)
    assert await join(world, "van", both)
    await world.close()


@virtual
async def test_strangers_have_ten_seconds_and_64_kib() -> None:
    world = World(9)
    await world.start("hq", credentials=admin())
    transport = world.network.transport("silent")
    foreign = admin("van", Identity(b"blue".ljust(32)))
    loop = asyncio.get_running_loop()
    silent = await transport.dial("ws://hq:7700" + JOIN_PATH)
    started = loop.time()
    with pytest.raises(LinkClosed, match="too long"):
        await silent.receive()
    assert loop.time() - started <= HANDSHAKE_SECONDS + 0.1
    for rubbish, why in (
        (bytes(MAX_STRANGER_BYTES + 1), "closed"),
        (b"\0rubbish", "no request for a certificate"),
        (renew(key("van"), foreign.membership.chain, b"hq:7700"), "other-mesh"),
        (renew(key("van"), admin("van").membership.chain, b"another channel"), "does not hold the key"),
    ):
        transport = world.network.transport(f"stranger {len(rubbish)}")
        connection = await transport.dial("ws://hq:7700" + JOIN_PATH)
        await connection.send(rubbish)
        with pytest.raises(LinkClosed, match=why):
            await connection.receive()
    await world.close()


# --- revocations --------------------------------------------------------------------------------------


def test_a_revoked_node_is_cut_where_it_is_and_refused_where_it_comes(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(10, tmp_path, delay=0.1)
        hq_credentials = admin()
        hq = await world.start("hq", credentials=hq_credentials)
        relay = await world.start("relay", ["hq"], credentials=member("relay", hq_credentials, "relay"))
        van = await world.start("van", ["relay"], credentials=member("van", hq_credentials))
        away = await world.start("away", ["relay"], credentials=member("away", hq_credentials))
        for a, b in ((hq, relay), (relay, van), (relay, away)):
            await linked(a, b)
        await world.stop("away")
        loop = asyncio.get_running_loop()
        started = loop.time()
        await hq.revoke(van.node_id)
        await apart(relay, van)
        assert loop.time() - started < 5
        await asyncio.sleep(60)
        assert not van.presence().peers
        assert "revoked: " in error_of(van)
        # Who slept meanwhile learns it from the first one it meets, before anything else.
        away = await world.restart("away")
        await linked(away, relay)
        await relay.settled(20)
        assert away.address is not None
        with pytest.raises(MembershipRefused) as raised:
            await van.connect(away.address)
        assert raised.value.code == "revoked"
        # And everybody remembers, with nobody else up.
        await world.stop("hq")
        await world.stop("relay")
        await world.stop("away")
        away = await world.restart("away", peers=())
        with pytest.raises(MembershipRefused):
            await van.connect("ws://away:7700")
        await world.close()

    run_virtual(main())


@virtual
async def test_with_an_admin_go_those_it_admitted_and_a_new_invitation_lets_in_again() -> None:
    world = World(12)
    hq_credentials = admin()
    depot_credentials = member("depot", hq_credentials, "admin")
    hq = await world.start("hq", credentials=hq_credentials)
    depot = await world.start("depot", ["hq"], credentials=depot_credentials)
    van = await world.start("van", ["hq"], credentials=member("van", depot_credentials))
    await linked(hq, depot)
    await linked(hq, van)
    await hq.revoke(depot.node_id)
    await apart(hq, depot)
    await apart(hq, van)
    token = await hq.invite(uses=2)
    for name in ("depot", "van"):
        chain = await join(world, name, token)
        assert chain[0].epoch == hq_credentials.membership.next_epoch(key(name).node_id)
        await world.stop(name)
        node = await world.restart(name, credentials=Credentials(key(name), chain))
        await linked(hq, node)
    # Who hears of the old revocations only now, does not take them for the new memberships.
    late = await world.start("late", ["depot"], credentials=member("late", hq_credentials))
    await linked(late, world.nodes["depot"])
    link = world.link("late", "depot")
    await late.connect("ws://hq:7700")
    await late.settled(20)
    assert world.link("late", "depot") is link
    await hq.revoke(depot.node_id)
    await apart(hq, world.nodes["depot"])
    await apart(late, world.nodes["depot"])
    assert world.link("hq", "van")
    await world.close()


@virtual
async def test_a_revocation_ends_certificates_that_its_admin_has_not_seen() -> None:
    world = World(13)
    hq = await world.start("hq", credentials=admin())
    depot_credentials = admin("depot")
    depot = await world.start("depot", credentials=depot_credentials)
    van_id = key("van").node_id
    # The depot has revoked the van twice and let it in again, and the headquarters knows nothing of that.
    for _ in range(2):
        await depot.revoke(van_id)
        chain = await join(world, "van", await depot.invite())
    van = await world.start("van", ["depot"], credentials=Credentials(key("van"), chain))
    await linked(depot, van)
    await asyncio.sleep(10)
    await hq.revoke(van_id)
    await hq.connect("ws://depot:7700")
    await apart(depot, van)
    assert depot_credentials.membership.revoked[van_id] >= chain[0].epoch
    # An invitation by who does not know of it yet is no way back, either.
    await hq.disconnect(depot.node_id)
    await asyncio.sleep(10)
    await hq.revoke(van_id)
    chain = await join(world, "van", await depot.invite())
    await hq.connect("ws://depot:7700")
    await world.stop("van")
    van = await world.restart("van", credentials=Credentials(key("van"), chain))
    await asyncio.sleep(60)
    assert "revoked: " in error_of(van)
    await world.close()


@pytest.mark.limit("membership.service.FACTS_PER_MESSAGE")
@virtual
async def test_a_forged_revocation_costs_its_sender_the_link() -> None:
    world = World(14)
    hq_credentials = admin()
    hq = await world.start("hq", credentials=hq_credentials)
    van = await world.start("van", ["hq"], credentials=member("van", hq_credentials))
    await linked(hq, van)
    blue = admin("van", Identity(b"blue".ljust(32)))
    fact = revoke(blue.identity, blue.membership.chain, hq.node_id, 1, EPOCH)
    world.link("van", "hq").send(Revocations([fact]))
    await apart(hq, van)
    await linked(hq, van)  # the next link is without it
    assert hq_credentials.membership.revoked == {}
    # And so do more of them than are ever sent at once: each takes time to prove.
    world.link("van", "hq").send(Revocations([fact] * (FACTS_PER_MESSAGE + 1)))
    await apart(hq, van)
    await world.close()


@virtual
async def test_the_invitation_of_who_has_changed_its_key_ends_with_either_key() -> None:
    for revoked in ("van", "van2"):
        world = World(24)
        hq = await world.start("hq", credentials=admin())
        token = await hq.invite(uses=50)
        chain = await join(world, "van", token)
        transport = world.network.transport("van")
        fact = retired(key("van"), chain, key("van2").public_key, EPOCH)
        taken_over = await succeed_at(transport, "ws://hq:7700", key("van"), key("van2"), fact)
        assert taken_over[0].node_id == key("van2").node_id
        await hq.revoke(key(revoked).node_id)
        with pytest.raises(InvitationRefused, match="not known there"):
            await join(world, "accomplice", token)
        await world.close()


def test_secrets_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens: list[str] = []

    async def main() -> None:
        world = World(20)
        hq = await world.start("hq", credentials=admin())
        tokens.append(await hq.invite())
        await join(world, "van", tokens[0])
        with pytest.raises(InvitationRefused) as raised:
            await join(world, "van2", tokens[0])
        tokens.append(repr(raised.value))
        await world.close()

    run_virtual(main())
    secret = read_token(tokens[0]).secret
    for shown in (caplog.text, tokens[1]):
        assert tokens[0] not in shown
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
