"""Certificates that end in a closed mesh, and who makes the next ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from mesh import Credentials, MembershipRefused
from mesh.core.certificates import grant_of, issue
from mesh.core.wire import Enrolled
from mesh.membership.asking import offer_at, renew_at
from tests.simulation.test_membership import ROOT, admin, apart, error_of, key, linked, member
from tests.simulation.virtual_clock import DAY, run_virtual, virtual
from tests.simulation.world import EPOCH, World


@pytest.mark.parametrize("days", [340, 500])
def test_certificates_are_renewed_before_their_end_and_after_it(
    days: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        world = World(16, tmp_path)
        hq_credentials = admin()
        van_credentials = member("van", hq_credentials)
        spy_credentials = member("spy", hq_credentials)
        hq = await world.start("hq", credentials=hq_credentials)
        await hq.revoke(key("spy").node_id)
        await world.stop("hq")
        # The key of the mesh has renewed the admin's own.
        renewed = issue(ROOT, [], hq_credentials.identity.public_key, grant_of("admin"), EPOCH + days * DAY)
        hq = await world.restart("hq", skew=days * DAY, credentials=Credentials(key("hq"), renewed))
        van = await world.start("van", ["hq"], credentials=van_credentials, skew=days * DAY)
        spy = await world.start("spy", ["hq"], credentials=spy_credentials, skew=days * DAY)
        await linked(hq, van)
        await van.settled(60)
        assert van_credentials.expires_at >= EPOCH + (days + 364) * DAY
        await asyncio.sleep(120)
        assert not spy.presence().peers
        assert spy_credentials.expires_at < EPOCH + 366 * DAY
        await world.close()

    run_virtual(main())


@virtual
async def test_who_has_expired_and_only_listens_is_renewed_by_the_admin_that_dials_it() -> None:
    world = World(22)
    old = Credentials(key("hq"), issue(ROOT, [], key("hq").public_key, grant_of("admin"), EPOCH - 500 * DAY))
    renewed_hq = admin()
    credentials = {name: member(name, old, at=-500 * DAY) for name in ("van", "spy")}
    for name, made in credentials.items():
        await world.start(name, credentials=made)
    relay = await world.start("relay", ["van"], credentials=member("relay", renewed_hq))
    await asyncio.sleep(60)
    assert "expired: " in error_of(relay)
    assert credentials["van"].expires_at < EPOCH
    hq = await world.start("hq", credentials=renewed_hq)
    await hq.revoke(key("spy").node_id)
    with pytest.raises(MembershipRefused) as raised:
        await hq.connect("ws://van:7700")
    assert raised.value.code == "expired"
    await asyncio.sleep(1)
    assert await hq.connect("ws://van:7700") == key("van").node_id
    assert credentials["van"].expires_at > EPOCH + 364 * DAY
    for _ in range(2):
        with pytest.raises(MembershipRefused, match="revoked"):
            await hq.connect("ws://spy:7700")
        await asyncio.sleep(1)
    # What nobody needs is not taken: another's, or one without need.
    transport = world.network.transport("anybody")
    for chain in (renewed_hq.membership.chain, member("van", renewed_hq, at=DAY).membership.chain):
        with pytest.raises(MembershipRefused, match="no use for that certificate"):
            await offer_at(transport, "ws://van:7700", chain)
    with pytest.raises(MembershipRefused, match="no use for that certificate"):
        await offer_at(transport, "ws://spy:7700", member("van", renewed_hq).membership.chain)
    await world.close()


@virtual
async def test_who_a_bad_admin_has_admitted_does_not_stay_by_being_renewed_by_another() -> None:
    world = World(17)
    bad = admin("bad")
    spy = member("spy", bad, "admin")
    hq = await world.start("hq", credentials=admin())
    transport = world.network.transport("spy")
    with pytest.raises(MembershipRefused, match="only the admin who made the certificate"):
        await renew_at(transport, "ws://hq:7700", spy.identity, spy.membership.chain)
    ends_soon = msgspec.structs.replace(spy.membership.chain[0], not_after=int(EPOCH + DAY), signature=b"")
    ends_soon = msgspec.structs.replace(ends_soon, signature=bad.identity.sign(ends_soon.signed()))
    changed_over = await renew_at(transport, "ws://hq:7700", spy.identity, [ends_soon, *bad.membership.chain])
    assert changed_over[0].issuer == key("hq").public_key
    spy_node = await world.start("spy", ["hq"], credentials=Credentials(spy.identity, changed_over))
    await linked(hq, spy_node)
    await hq.revoke(bad.node_id)
    await apart(hq, spy_node)
    await asyncio.sleep(60)
    assert "who admitted the node, was revoked" in error_of(spy_node)
    with pytest.raises(MembershipRefused, match="revoked"):
        await renew_at(transport, "ws://hq:7700", spy.identity, changed_over)
    await world.close()


@virtual
async def test_a_certificate_that_nobody_has_asked_for_is_not_taken() -> None:
    world = World(19)
    hq_credentials, van_credentials = admin(), member("van", admin())
    hq = await world.start("hq", credentials=hq_credentials)
    van = await world.start("van", ["hq"], credentials=van_credentials)
    await linked(hq, van)
    before = van_credentials.membership.chain
    other = issue(hq_credentials.identity, hq_credentials.membership.chain, key("van").public_key,
                  grant_of("member", ["cars"]), EPOCH + DAY)  # fmt: skip
    world.link("hq", "van").send(Enrolled(other))
    await apart(hq, van)
    assert van_credentials.membership.chain == before
    await world.close()


@virtual
async def test_a_link_ends_with_the_certificate() -> None:
    world = World(18)
    old = Credentials(
        key("hq"), issue(ROOT, [], key("hq").public_key, grant_of("admin"), EPOCH - 364.9 * DAY)
    )
    depot = await world.start("depot", credentials=member("depot", admin()))
    van = await world.start("van", ["depot"], credentials=member("van", old, at=-364.9 * DAY))
    await linked(depot, van)
    await asyncio.sleep(0.1 * DAY)
    await apart(depot, van)
    await asyncio.sleep(60)
    assert "expired: " in error_of(van)
    await world.close()


@virtual
async def test_revoking_an_admin_that_was_renewed_ends_every_certificate_of_it() -> None:
    """Those from before and after, and whomever it has admitted before and after; for who was away, too."""
    world = World(23)
    skew = 340 * DAY
    hq_credentials = admin()
    depot_credentials = member("depot", hq_credentials, "admin")
    before = Credentials(key("depot"), depot_credentials.membership.chain)
    van_credentials = member("van", depot_credentials)
    away_credentials = member("away", hq_credentials)
    renewed = issue(ROOT, [], hq_credentials.identity.public_key, grant_of("admin"), EPOCH + skew)
    hq = await world.start("hq", skew=skew, credentials=Credentials(key("hq"), renewed))
    depot = await world.start("depot", ["hq"], skew=skew, credentials=depot_credentials)
    await linked(hq, depot)
    await depot.settled(60)
    assert depot_credentials.expires_at > before.expires_at
    late_credentials = member("late", depot_credentials, at=skew)
    others = [
        await world.start(name, ["hq"], skew=skew, credentials=credentials)
        for name, credentials in (("van", van_credentials), ("late", late_credentials))
    ]
    for other in others:
        await linked(hq, other)
    await hq.revoke(depot.node_id)
    for node in (depot, *others):
        await apart(hq, node)
    await world.stop("depot")
    away = await world.start("away", ["hq"], skew=skew, credentials=away_credentials)
    await linked(hq, away)
    await away.settled(60)
    for credentials in (before, depot_credentials):
        depot = await world.restart("depot", peers=(), credentials=credentials)
        for address in ("ws://hq:7700", "ws://away:7700"):
            with pytest.raises(MembershipRefused, match="revoked"):
                await depot.connect(address)
        await world.stop("depot")
    for other in others:
        with pytest.raises(MembershipRefused, match="revoked"):
            await other.connect("ws://away:7700")
    with pytest.raises(MembershipRefused, match="revoked"):
        await renew_at(
            world.network.transport("depot"), "ws://hq:7700", before.identity, before.membership.chain
        )
    await world.close()
