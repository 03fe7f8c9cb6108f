"""Renewed certificates, and whose revocation they do not escape."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from mesh.core.certificates import (
    MAX_CHAIN,
    MAX_FORMER,
    RENEW_SECONDS,
    VALID_SECONDS,
    Certificate,
    grant_of,
    issue,
    revoke,
    verify_chain,
)
from mesh.core.identity import Identity
from mesh.core.membership import Membership
from mesh.core.packed_chains import pack_chain
from mesh.core.renewal import OTHERS_RENEW_SECONDS, renewed, retired, succeeded
from mesh.errors import MembershipRefused

NOW = 1_800_000_000
ROOT, HQ, BAD, VAN, CAROL = (Identity(bytes([n]) * 32) for n in range(1, 6))
LATE = NOW + VALID_SECONDS - OTHERS_RENEW_SECONDS
FAR_LATER = LATE + VALID_SECONDS - OTHERS_RENEW_SECONDS


def admin(identity: Identity, at: float = NOW) -> list[Certificate]:
    return issue(ROOT, [], identity.public_key, grant_of("admin"), at)


def by(issuer: Identity, at: float = NOW) -> list[Certificate]:
    return issue(issuer, admin(issuer, at), VAN.public_key, grant_of("member"), at)


def void(chain: list[Certificate], *revoked: Identity) -> bool:
    knowing = Membership(chain)
    knowing.learn(revoke(CAROL, admin(CAROL), who.node_id, 1, NOW) for who in revoked)
    judgements: list[Callable[[], object]] = [
        lambda: knowing.admit(chain, VAN.public_key, chain[0].not_before),
        lambda: knowing.writer(VAN.public_key, pack_chain(chain)),
    ]
    codes = []
    for judge in judgements:
        try:
            judge()
            codes.append("")
        except MembershipRefused as error:
            codes.append(error.code)
    assert codes in (["", ""], ["revoked", "revoked"])
    return codes == ["revoked", "revoked"]


def test_renewals_by_another_do_not_hide_who_has_admitted_the_node() -> None:
    first = renewed(HQ, admin(HQ, LATE), by(BAD), LATE)
    assert not void(first)
    assert void(first, BAD)
    assert void(first, HQ)
    second = renewed(HQ, admin(HQ, FAR_LATER), first, FAR_LATER)
    assert void(second, BAD)
    assert second[0].former == [(BAD.node_id, 1)]


def test_the_list_is_signed() -> None:
    chain = renewed(HQ, admin(HQ, LATE), by(BAD), LATE)
    for changed in ([], [(HQ.node_id, 1)], [*chain[0].former, (HQ.node_id, 1)]):
        with pytest.raises(MembershipRefused, match="bad-certificate"):
            verify_chain(
                [msgspec.structs.replace(chain[0], former=changed), *chain[1:]], ROOT.node_id, LATE, {}
            )
    former = [(Identity(bytes([n]) * 32).node_id, 1) for n in range(1, MAX_FORMER + 2)]
    for wrong in (former, former[:2] * 2, [("x" * 5000, 1)]):
        with pytest.raises(MembershipRefused, match="stands on too many, or on what is no node"):
            issue(HQ, admin(HQ), VAN.public_key, grant_of("member"), NOW, former=wrong)


def test_who_is_renewed_by_its_own_admin_stands_on_nobody_else() -> None:
    early = NOW + VALID_SECONDS - RENEW_SECONDS
    assert renewed(HQ, admin(HQ), by(HQ), early)[0].former == []
    with pytest.raises(MembershipRefused, match="only the admin who made"):
        renewed(BAD, admin(BAD), by(HQ), early)


def test_a_renewal_leads_no_further_from_the_root_key_and_the_longest_chains_can_have_one() -> None:
    signer, chain = HQ, admin(HQ)
    for n in range(MAX_CHAIN - 1):
        above, above_key = chain, signer
        signer = Identity(bytes([50 + n]) * 32)
        chain = issue(above_key, above, signer.public_key, grant_of("admin"), NOW)
    assert len(renewed(above_key, above, chain, LATE)) == len(chain) == MAX_CHAIN
    assert len(renewed(BAD, admin(BAD, LATE), chain, LATE)) == 2
    for deeper in (admin(HQ), by(HQ), above):
        with pytest.raises(MembershipRefused, match="as close to the root key"):
            renewed(signer, chain, deeper, LATE)


def test_two_admins_renew_each_others_members_for_ever() -> None:
    at, chain = float(NOW), by(HQ)
    for year in range(1, 12):
        at += VALID_SECONDS - OTHERS_RENEW_SECONDS
        signer = (HQ, BAD)[year % 2]
        chain = renewed(signer, admin(signer, at), chain, at)
        assert (len(chain), len(chain[0].former)) == (2, 1)


def test_only_so_many_admins_are_remembered() -> None:
    at, chain = float(NOW), by(HQ)
    for n in range(MAX_FORMER):
        at += VALID_SECONDS
        signer = Identity(bytes([100 + n]) * 32)
        chain = renewed(signer, admin(signer, at), chain, at)
    at += VALID_SECONDS
    with pytest.raises(MembershipRefused, match="join anew by an invitation"):
        renewed(BAD, admin(BAD, at), chain, at)
    assert renewed(HQ, admin(HQ, at), chain, at)


# --- another key ------------------------------------------------------------------------------------


def test_who_takes_over_stands_on_the_former_node_and_whom_that_stood_on() -> None:
    chain = renewed(HQ, admin(HQ, LATE), by(BAD), LATE)
    fact = retired(VAN, chain, CAROL.public_key, LATE)
    new = succeeded(HQ, admin(HQ, LATE), fact, LATE)
    assert new[0].grant == chain[0].grant
    assert new[0].former == sorted([(BAD.node_id, 1), (VAN.node_id, 2)])
    knowing = Membership(new)
    assert knowing.learn([fact]) == [fact]
    assert knowing.admit(new, CAROL.public_key, LATE)
    with pytest.raises(MembershipRefused, match="changed its key"):
        knowing.admit(chain, VAN.public_key, LATE)
    assert knowing.writer(VAN.public_key, pack_chain(chain)), "what it has signed stands"
    assert knowing.next_epoch(VAN.node_id) == 2
    # Whoever knows of the old key only, revokes it to the same end.
    epoch = Membership(new).last_epoch(VAN.node_id, 0)
    knowing.learn([revoke(HQ, admin(HQ), VAN.node_id, max(epoch, 2), NOW)])
    for former, key in ((new, CAROL), (chain, VAN)):
        with pytest.raises(MembershipRefused, match="was revoked"):
            knowing.admit(former, key.public_key, LATE)


def test_a_node_retires_itself_only_once_and_only_itself() -> None:
    chain = by(HQ)
    first, other = (retired(VAN, chain, key.public_key, NOW) for key in (CAROL, BAD))
    knowing = Membership(chain)
    knowing.check_retirement(first, NOW)
    knowing.learn([first])
    knowing.check_retirement(first, NOW)
    with pytest.raises(MembershipRefused, match="changed its key"):
        knowing.check_retirement(other, NOW)
    assert knowing.learn([other]) == []
    for wrong in (
        retired(BAD, chain, CAROL.public_key, NOW),
        msgspec.structs.replace(first, successor=BAD.public_key),
        msgspec.structs.replace(first, successor=b""),
        retired(VAN, chain, b"short", NOW),
    ):
        with pytest.raises(MembershipRefused):
            Membership(chain).learn([wrong])
    early = msgspec.structs.replace(retired(VAN, chain, CAROL.public_key, NOW), epoch=7)
    early = msgspec.structs.replace(early, signature=VAN.sign(early.signed()))
    with pytest.raises(MembershipRefused, match="no admin"):
        Membership(chain).learn([early])


def test_revocations_and_retirements_count_in_the_digest_in_any_order() -> None:
    chain = by(HQ)
    facts = [retired(VAN, chain, CAROL.public_key, NOW), revoke(HQ, admin(HQ), BAD.node_id, 5, NOW)]
    a, b = Membership(chain), Membership(chain)
    a.learn(facts)
    b.learn(facts[:1])
    assert a.digest() != b.digest() != Membership(chain).digest()
    b.learn(facts[1:])
    assert a.digest() == b.digest()
