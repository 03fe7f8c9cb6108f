"""Certificates, chains and revocations, and what forgers may try with them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.certificates import (
    ADMIN,
    EXPIRED,
    FORGED,
    MAX_CHAIN,
    MAX_EPOCH,
    NOT_YET_VALID,
    OTHER_MESH,
    REVOKED,
    SKEW_SECONDS,
    VALID_SECONDS,
    Certificate,
    Grant,
    Member,
    Revocation,
    grant_of,
    issue,
    revoke,
    verify_chain,
    verify_revocation,
)
from mesh.core.identity import Identity
from mesh.core.membership import Membership
from mesh.core.packed_chains import pack_chain
from mesh.errors import MembershipRefused

ROOT, HQ, DEPOT, VAN, MALLORY = (Identity(bytes([n]) * 32) for n in range(1, 6))
MESH = ROOT.node_id
NOW = 1_800_000_000

HQ_CHAIN = issue(ROOT, [], HQ.public_key, grant_of(ADMIN), NOW)
DEPOT_CHAIN = issue(HQ, HQ_CHAIN, DEPOT.public_key, grant_of(ADMIN, ["cars*"]), NOW + 10)
VAN_CHAIN = issue(DEPOT, DEPOT_CHAIN, VAN.public_key, grant_of("member", ["cars-7", "cars-8*"]), NOW + 20)


def verified(chain: list[Certificate], now: float = NOW + 100, **revoked: int) -> Member:
    return verify_chain(chain, MESH, now, revoked)


def refused(chain: list[Certificate], now: float = NOW + 100, revoked: dict[str, int] | None = None) -> str:
    with pytest.raises(MembershipRefused) as raised:
        verify_chain(chain, MESH, now, revoked or {})
    return raised.value.code


def forged(signer: Identity, above: list[Certificate], **fields: Any) -> list[Certificate]:
    """A chain by somebody who signs whatever is wanted."""
    certificate = Certificate(
        MESH, signer.public_key, VAN.public_key, 1, grant_of("member"), NOW + 30, NOW + 40_000
    )
    certificate = msgspec.structs.replace(certificate, **fields)
    signed = msgspec.structs.replace(certificate, signature=signer.sign(certificate.signed()))
    return [signed, *above]


def test_a_chain_says_who_a_node_is_and_what_it_may_do() -> None:
    member = verified(VAN_CHAIN)
    assert (member.node_id, member.public_key) == (VAN.node_id, VAN.public_key)
    assert member.has("member")
    assert not member.has("admin")
    assert member.may_read("cars-7")
    assert member.may_write("cars-88")
    assert not member.may_read("cars-70")
    assert not member.may_write("trucks")
    assert member.not_after == NOW + 20 + VALID_SECONDS
    assert verified(HQ_CHAIN).has("admin")


def test_the_collections_that_may_be_written_can_be_fewer() -> None:
    chain = issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member", ["cars", "map"], ["cars"]), NOW)
    member = verified(chain)
    assert member.may_read("map")
    assert not member.may_write("map")


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (NOW + 20 - SKEW_SECONDS - 1, NOT_YET_VALID),
        (NOW + 20 + VALID_SECONDS + 1, EXPIRED),
    ],
)
def test_the_time_has_to_be_right(now: float, code: str) -> None:
    assert refused(VAN_CHAIN, now) == code


def test_who_has_expired_can_still_be_told_from_a_stranger() -> None:
    late = NOW + 2 * VALID_SECONDS
    assert verify_chain(VAN_CHAIN, MESH, late, {}, expired_too=True).node_id == VAN.node_id
    for revoked in (VAN, DEPOT, HQ):
        with pytest.raises(MembershipRefused, match=REVOKED):
            verify_chain(VAN_CHAIN, MESH, late, {revoked.node_id: 1}, expired_too=True)


def test_a_member_outlives_the_certificate_of_its_admin() -> None:
    chain = issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member"), NOW + VALID_SECONDS)
    assert verified(chain, NOW + VALID_SECONDS + 1000).node_id == VAN.node_id
    with pytest.raises(MembershipRefused, match="not valid itself"):
        issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member"), NOW + VALID_SECONDS + 1)


def test_a_revoked_node_and_whom_it_admitted() -> None:
    assert refused(VAN_CHAIN, revoked={VAN.node_id: 1}) == REVOKED
    assert refused(VAN_CHAIN, revoked={DEPOT.node_id: 3}) == REVOKED
    again = issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member"), NOW, epoch=2)
    assert verify_chain(again, MESH, NOW, {VAN.node_id: 1}).epoch == 2


@pytest.mark.parametrize(
    ("chain", "code"),
    [
        ([], FORGED),
        (VAN_CHAIN[1:2], FORGED),
        (VAN_CHAIN[:1] + VAN_CHAIN[2:], FORGED),
        (VAN_CHAIN[::-1], FORGED),
        ([VAN_CHAIN[0], VAN_CHAIN[2], VAN_CHAIN[1]], FORGED),
        ([*VAN_CHAIN, VAN_CHAIN[-1]], FORGED),
        (VAN_CHAIN + DEPOT_CHAIN, FORGED),
        (forged(MALLORY, []), FORGED),
        (forged(MALLORY, HQ_CHAIN), FORGED),
        (forged(MALLORY, [], mesh_id=MALLORY.node_id), OTHER_MESH),
        (forged(VAN, VAN_CHAIN, public_key=MALLORY.public_key), FORGED),
        (forged(DEPOT, DEPOT_CHAIN), FORGED),  # all collections, and the depot has only some
        (forged(DEPOT, DEPOT_CHAIN, grant=Grant(["root"], [], [])), FORGED),
        (forged(DEPOT, DEPOT_CHAIN, grant=Grant([], ["cars*"], ["*"])), FORGED),
        (forged(HQ, HQ_CHAIN, not_after=NOW + 31 + VALID_SECONDS), FORGED),
        (forged(HQ, HQ_CHAIN, not_before=NOW - 1), FORGED),
        (forged(HQ, HQ_CHAIN, not_after=NOW), FORGED),
        (forged(HQ, HQ_CHAIN, epoch=0), FORGED),
        (forged(HQ, HQ_CHAIN, public_key=b""), FORGED),
        (forged(HQ, HQ_CHAIN, grant=Grant(["member", "admin"], [], [])), FORGED),
        (forged(HQ, HQ_CHAIN, grant=Grant([], ["a*b"], [])), FORGED),
        (forged(HQ, HQ_CHAIN, grant=Grant([], [f"c{n:02}" for n in range(33)], [])), FORGED),
    ],
)
def test_chains_that_prove_nothing(chain: list[Certificate], code: str) -> None:
    assert refused(chain) == code


def test_only_an_admin_issues_and_only_what_it_has() -> None:
    with pytest.raises(MembershipRefused, match="is no admin"):
        issue(VAN, VAN_CHAIN, MALLORY.public_key, grant_of("member", ["cars-7"]), NOW + 30)
    with pytest.raises(MembershipRefused, match="more than it has"):
        issue(DEPOT, DEPOT_CHAIN, MALLORY.public_key, grant_of("member", ["trucks"]), NOW + 30)
    chain, signer = HQ_CHAIN, HQ
    for n in range(MAX_CHAIN - 1):
        following = Identity(bytes([100 + n]) * 32)
        chain, signer = issue(signer, chain, following.public_key, grant_of(ADMIN), NOW), following
    with pytest.raises(MembershipRefused, match="a chain of"):
        issue(signer, chain, VAN.public_key, grant_of("member"), NOW)


@pytest.mark.parametrize("collections", [["a b"], ["*a"], [""], ["a/b"], ["x" * 130]])
def test_malformed_collections(collections: list[str]) -> None:
    with pytest.raises(ValueError):
        grant_of("member", collections)


def test_unknown_roles() -> None:
    with pytest.raises(ValueError, match="choose one of"):
        grant_of("king")


@given(st.data())
def test_whatever_is_changed_in_a_chain_voids_it(data: st.DataObject) -> None:
    encoded = bytearray(msgspec.msgpack.encode(VAN_CHAIN))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        chain = msgspec.msgpack.decode(bytes(encoded), type=list[Certificate])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    assert refused(chain) in (FORGED, OTHER_MESH)


PATTERNS = st.sampled_from(["*", "a*", "ab*", "ab", "abc", "b", "b*"])


@given(st.lists(PATTERNS, max_size=3), st.lists(PATTERNS, max_size=3), st.text("abc", min_size=1, max_size=4))
def test_what_is_granted_is_never_more_than_the_issuer_has(
    has: list[str], wanted: list[str], collection: str
) -> None:
    admin = issue(ROOT, [], HQ.public_key, grant_of(ADMIN, has), NOW)
    try:
        chain = issue(HQ, admin, VAN.public_key, grant_of("member", wanted), NOW)
    except MembershipRefused:
        return
    if verified(chain).may_read(collection):
        assert verified(admin).may_read(collection)


# --- revocations ----------------------------------------------------------------------------------


def test_what_an_admin_revokes_is_learned_once_and_in_any_order() -> None:
    first = revoke(HQ, HQ_CHAIN, VAN.node_id, 1, NOW + 50)
    later = revoke(DEPOT, DEPOT_CHAIN, VAN.node_id, 2, NOW + 60)
    other = revoke(HQ, HQ_CHAIN, DEPOT.node_id, 1, NOW + 70)
    a, b = Membership(HQ_CHAIN), Membership(HQ_CHAIN)
    assert a.learn([first, later, other]) == [first, later, other]
    assert b.learn([other, later, first]) == [other, later]
    assert a.revoked == b.revoked == {VAN.node_id: 2, DEPOT.node_id: 1}
    assert a.digest() == b.digest() != Membership(HQ_CHAIN).digest()
    assert b.learn(a.facts) == []
    assert a.next_epoch(VAN.node_id) == 3
    assert a.next_epoch(HQ.node_id) == 1


def test_the_epoch_of_a_revocation_is_above_all_that_was_seen_and_all_earlier_times() -> None:
    membership = Membership(HQ_CHAIN)
    assert membership.last_epoch(VAN.node_id, NOW + 0.5) == NOW
    high = issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member"), NOW, epoch=NOW + 1000)
    membership.admit(high, VAN.public_key, NOW)
    assert membership.last_epoch(VAN.node_id, NOW) == NOW + 1001
    membership = Membership(HQ_CHAIN)
    membership.writer(VAN.public_key, pack_chain(high))
    assert membership.last_epoch(VAN.node_id, NOW) == NOW + 1001
    # No certificate is out of reach.
    last = issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member"), NOW, epoch=MAX_EPOCH - 1)
    stands = issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member"), NOW, former=[(DEPOT.node_id, MAX_EPOCH)])
    for chain, who in ((last, VAN), (stands, DEPOT)):
        membership = Membership(HQ_CHAIN)
        membership.admit(chain, VAN.public_key, NOW)
        epoch = membership.last_epoch(who.node_id, NOW)
        membership.learn([revoke(HQ, HQ_CHAIN, who.node_id, epoch, NOW)])
        with pytest.raises(MembershipRefused, match="was revoked"):
            membership.admit(chain, VAN.public_key, NOW)
    for beyond in ({"epoch": MAX_EPOCH}, {"former": [(DEPOT.node_id, MAX_EPOCH + 1)]}):
        with pytest.raises(MembershipRefused, match="bad-certificate"):
            issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member"), NOW, **beyond)
    membership = Membership(HQ_CHAIN)
    membership.learn([revoke(HQ, HQ_CHAIN, VAN.node_id, NOW + 2000, NOW)])
    assert membership.last_epoch(VAN.node_id, NOW) == membership.next_epoch(VAN.node_id) == NOW + 2001


def test_who_is_no_admin_revokes_nobody() -> None:
    with pytest.raises(MembershipRefused, match="is no admin"):
        revoke(VAN, VAN_CHAIN, HQ.node_id, 1, NOW + 50)
    fact = revoke(HQ, HQ_CHAIN, VAN.node_id, 1, NOW + 50)
    changes: list[dict[str, Any]] = [
        {"node_id": DEPOT.node_id},
        {"node_id": "x"},
        {"epoch": 2},
        {"epoch": 0},
        {"at": NOW + 51},
        {"chain": DEPOT_CHAIN},
        {"chain": []},
        {"mesh_id": MALLORY.node_id},
        {"signature": b""},
    ]
    for change in changes:
        changed: Revocation = msgspec.structs.replace(fact, **change)
        with pytest.raises(MembershipRefused):
            verify_revocation(changed, MESH)
    mallorys = issue(MALLORY, [], MALLORY.public_key, grant_of(ADMIN), NOW)
    with pytest.raises(MembershipRefused, match=OTHER_MESH):
        Membership(HQ_CHAIN).learn([revoke(MALLORY, mallorys, HQ.node_id, 1, NOW)])


# --- what a node knows of its mesh ------------------------------------------------------------------


def test_a_chain_admits_its_own_key_only() -> None:
    membership = Membership(HQ_CHAIN)
    assert membership.admit(VAN_CHAIN, VAN.public_key, NOW).node_id == VAN.node_id
    with pytest.raises(MembershipRefused, match="another node's"):
        membership.admit(VAN_CHAIN, MALLORY.public_key, NOW)


def test_who_was_admitted_may_be_revoked_later() -> None:
    membership = Membership(HQ_CHAIN)
    member = membership.admit(VAN_CHAIN, VAN.public_key, NOW)
    membership.still(member, NOW)
    membership.learn([revoke(HQ, HQ_CHAIN, DEPOT.node_id, 1, NOW)])
    with pytest.raises(MembershipRefused, match="who admitted the node"):
        membership.still(member, NOW)


def test_a_packed_chain_has_one_form() -> None:
    membership = Membership(HQ_CHAIN)
    packed = pack_chain(VAN_CHAIN)
    assert membership.writer(VAN.public_key, packed).node_id == VAN.node_id
    padded = msgspec.msgpack.encode([*msgspec.msgpack.decode(packed), b"rides along"])
    with pytest.raises(MembershipRefused, match="not packed as"):
        membership.writer(VAN.public_key, padded)


def test_renewal() -> None:
    membership = Membership(VAN_CHAIN)
    assert not membership.renewal_due(NOW + 300 * 86_400)
    late = NOW + 340 * 86_400
    assert membership.renewal_due(late)
    assert not membership.expired(late)
    assert membership.expired(NOW + 366 * 86_400)
    newer = issue(HQ, HQ_CHAIN, VAN.public_key, grant_of("member"), late)
    assert membership.renewed(newer, late)
    assert not membership.renewed(VAN_CHAIN, NOW + 100)
    assert membership.chain == newer
    with pytest.raises(MembershipRefused):
        membership.renewed(HQ_CHAIN, late)


def test_one_name_alone_grants_that_and_not_its_letters() -> None:
    assert grant_of("member", "cars*", "vans*").read == ["cars*"]
    assert grant_of("member", "cars*", "vans*").write == ["vans*"]
