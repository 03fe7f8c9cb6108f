"""What the certificates of two nodes let pass between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.access import ALL, OPEN, access_between, permits
from mesh.core.certificates import MEMBER, ROLES, Grant, grant_of, issue
from mesh.core.identity import Identity
from mesh.core.interest import EVERYTHING, InterestSet
from mesh.core.membership import Membership
from mesh.core.packed_chains import pack_chain, unpack_chain
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.wire import WITHDRAWN, Interest, InterestEntry
from mesh.errors import MembershipRefused

ROOT, ADMIN, VAN = (Identity(name.ljust(32, b".")) for name in (b"root", b"hq", b"van"))
GLOBS = st.lists(st.sampled_from(["*", "cars*", "cars", "cars-2", "map", "m*"]), max_size=3)
COLLECTIONS = ["cars", "cars-2", "map", "secret"]


@st.composite
def grants(draw: st.DrawFn) -> Grant:
    return grant_of(draw(st.sampled_from(list(ROLES))), draw(GLOBS), draw(GLOBS))


def may(patterns: list[str], collection: str) -> bool:
    return any(
        collection.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == collection
        for pattern in patterns
    )


@given(grants(), grants())
def test_both_ends_decide_alike(own: Grant, theirs: Grant) -> None:
    mine, other = access_between("a", own, "b", theirs), access_between("b", theirs, "a", own)
    assert (mine.sends, mine.takes) == (other.takes, other.sends)
    assert (mine.passes_on, mine.listens) == (other.listens, other.passes_on)
    for collection in COLLECTIONS:
        assert permits(mine.sends, collection) == (
            may(own.write, collection) and may(theirs.read, collection)
        )
        compared = permits(mine.takes, collection) and may(theirs.read, collection)
        assert permits(mine.compares, collection) == compared
        everything = InterestSet([EVERYTHING], mine.sends)
        named = InterestSet([InterestEntry(collection)], mine.sends)
        sent = permits(mine.sends, collection)
        assert (collection in everything) == (collection in named) == sent
        assert everything.matches(collection, {}) == named.matches(collection, {}) == sent
    assert all(permits(mine.sends, collection) for collection in OWNED_COLLECTIONS)


def test_between_nodes_with_all_rights_nothing_is_looked_up() -> None:
    access = access_between("a", grant_of("admin"), "b", grant_of(MEMBER))
    assert (access.sends, access.takes, access.compares) == (ALL, ALL, ALL)
    interest = InterestSet([EVERYTHING])
    assert interest.narrowed(access.sends) is interest
    assert OPEN.told(Interest("c", 2, 1, [EVERYTHING])) is not None


def test_interest_travels_as_far_as_rights_do() -> None:
    access = access_between("a", grant_of("relay"), "b", grant_of(MEMBER, ["cars"], ["cars"]))
    cars, secret = InterestEntry("cars"), InterestEntry("secret")
    assert access.told(Interest("c", 2, 1, [cars, secret])) == Interest("c", 2, 1, [cars])
    assert access.told(Interest("c", 2, 1, [secret])) == Interest("c", 0, WITHDRAWN, [])
    assert access.told(Interest("a", 2, 0, [secret])) == Interest("a", 2, 0, [])
    assert access.told(Interest("c", 2, WITHDRAWN, [])) == Interest("c", 2, WITHDRAWN, [])
    assert access.heard(Interest("c", 2, 1, [cars])) is None  # b is no relay: it speaks for itself only
    assert access.heard(Interest("b", 2, 0, [cars, secret])) == Interest("b", 2, 0, [cars])


def test_a_chain_is_packed_and_comes_back() -> None:
    above = issue(ROOT, [], ADMIN.public_key, grant_of("admin"), 1000)
    chain = issue(ADMIN, above, VAN.public_key, grant_of(MEMBER, ["cars*"]), 1000)
    packed = pack_chain(chain)
    assert unpack_chain(packed, ROOT.node_id, VAN.public_key) == chain
    assert len(packed) < 400
    membership = Membership(above)
    assert membership.writer(VAN.public_key, packed).grant.read == ["cars*"]
    for key, wrong in (
        (ADMIN.public_key, packed),
        (VAN.public_key, b""),
        (VAN.public_key, b"\x92\xc4\x00\x90"),
    ):
        with pytest.raises(MembershipRefused):
            membership.writer(key, wrong)
