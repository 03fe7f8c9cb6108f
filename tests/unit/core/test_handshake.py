"""The handshake, and what attackers may try in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import handshake as module
from mesh.core.certificates import (
    CLOSED_MESH,
    EXPIRED,
    FORGED,
    NOT_A_MEMBER,
    NOT_YET_VALID,
    OTHER_MESH,
    REVOKED,
    SKEW_SECONDS,
    VALID_SECONDS,
    Certificate,
    grant_of,
    issue,
    revoke,
)
from mesh.core.frames import FrameReader, frames_of
from mesh.core.handshake import MAX_HANDSHAKE_BYTES, NONCE_BYTES, Handshake
from mesh.core.identity import Identity
from mesh.core.membership import Membership
from mesh.core.wire import Ack, Hello, Proof
from mesh.errors import HandshakeFailed, MembershipRefused

ALICE, BOB, MALLORY, CAROL = (Identity(bytes([n]) * 32) for n in (1, 2, 3, 4))
NOW = 1_800_000_000


def _mesh(root: Identity) -> dict[Identity, list[Certificate]]:
    """The chains of a mesh in which Carol is the admin."""
    carols = issue(root, [], CAROL.public_key, grant_of("admin"), NOW)
    chains = {who: issue(CAROL, carols, who.public_key, grant_of("member"), NOW) for who in (ALICE, BOB)}
    return {CAROL: carols, **chains}


CHAINS = {colour: _mesh(Identity(colour.encode().ljust(32))) for colour in ("red", "blue")}


def member_dialling(identity: Identity = ALICE, mesh: str | None = "red", now: float = NOW) -> Handshake:
    return dialler(identity, membership=mesh and Membership(CHAINS[mesh][identity]), now=now)


def member_accepting(identity: Identity = BOB, mesh: str | None = "red", now: float = NOW) -> Handshake:
    return acceptor(identity, membership=mesh and Membership(CHAINS[mesh][identity]), now=now)


def dialler(identity: Identity = ALICE, nonce: int = 1, **kwargs: Any) -> Handshake:
    return Handshake(identity, dialler=True, nonce=bytes([nonce]) * NONCE_BYTES, **kwargs)


def acceptor(identity: Identity = BOB, nonce: int = 2, **kwargs: Any) -> Handshake:
    return Handshake(identity, dialler=False, nonce=bytes([nonce]) * NONCE_BYTES, **kwargs)


def shake(a: Handshake, b: Handshake) -> None:
    """Let a dialler and an acceptor talk until both are done."""
    (hello,) = a.start()
    assert b.start() == []
    their_hello, their_proof = b.receive(hello)
    assert a.receive(their_hello) == []
    (proof,) = a.receive(their_proof)
    assert b.receive(proof) == []


def refused(a: Handshake, b: Handshake) -> str:
    with pytest.raises(HandshakeFailed) as raised:
        shake(a, b)
    return raised.value.reason


def frame(message: Any) -> bytes:
    return next(frames_of(message, 0))


def message(data: bytes) -> Any:
    return FrameReader().feed(data)


# --- what works -----------------------------------------------------------------------------------


def test_both_sides_learn_who_the_other_is() -> None:
    a = dialler(name="Alice", listen="ws://a:1", features=["x", "y"])
    b = acceptor(name="Bob", features=["y", "z"])
    shake(a, b)
    assert a.peer is not None
    assert b.peer is not None
    assert a.peer.node_id == BOB.node_id
    assert a.peer.public_key == BOB.public_key
    assert (a.peer.name, a.peer.listen) == ("Bob", None)
    assert (b.peer.node_id, b.peer.name, b.peer.listen) == (ALICE.node_id, "Alice", "ws://a:1")
    assert a.peer.features == b.peer.features == {"y"}
    assert a.peer.protocol == b.peer.protocol == 1
    assert a.peer.purpose == b.peer.purpose == "link"


def test_the_acceptor_takes_over_the_purpose() -> None:
    a, b = dialler(purpose="bulk"), acceptor()
    shake(a, b)
    assert a.peer is not None
    assert b.peer is not None
    assert a.peer.purpose == b.peer.purpose == "bulk"


def test_an_expected_peer() -> None:
    shake(dialler(expect=BOB.node_id), acceptor(expect=ALICE.node_id))
    assert "was expected" in refused(dialler(expect=MALLORY.node_id), acceptor())


# --- what is refused ------------------------------------------------------------------------------


def test_oneself() -> None:
    assert "reached itself" in refused(dialler(ALICE), acceptor(ALICE))


@pytest.mark.parametrize(
    ("mine", "theirs", "code"),
    [
        (None, "red", NOT_A_MEMBER),
        ("red", None, CLOSED_MESH),
        ("red", "blue", OTHER_MESH),
    ],
)
def test_other_meshes(mine: str | None, theirs: str | None, code: str) -> None:
    with pytest.raises(MembershipRefused) as raised:
        shake(member_dialling(mesh=mine), member_accepting(mesh=theirs))
    assert raised.value.code == code
    assert raised.value.reason.startswith(f"{code}: ")
    shake(member_dialling(mesh=mine), member_accepting(mesh=mine))


def test_members_learn_what_the_other_may_do() -> None:
    a, b = member_dialling(), member_accepting()
    shake(a, b)
    assert a.peer is not None
    assert a.peer.member is not None
    assert b.peer is not None
    assert b.peer.member is not None
    assert (a.peer.member.node_id, b.peer.member.node_id) == (BOB.node_id, ALICE.node_id)
    assert a.peer.member.may_write("cars")
    assert not b.peer.member.has("admin")


def test_expired_revoked_and_borrowed_certificates() -> None:
    for late, code in ((NOW + 2 * VALID_SECONDS, EXPIRED), (NOW - 2 * SKEW_SECONDS, NOT_YET_VALID)):
        assert refused(member_dialling(), member_accepting(now=late)).startswith(f"{code}: ")
    knowing = member_accepting()
    assert knowing._membership is not None
    knowing._membership.learn([revoke(CAROL, CHAINS["red"][CAROL], ALICE.node_id, 1, NOW)])
    assert refused(member_dialling(), knowing).startswith(f"{REVOKED}: ")
    for chain in (CHAINS["red"][BOB], [], CHAINS["red"][CAROL][:1]):
        borrowed = member_dialling()
        borrowed._mine = msgspec.structs.replace(borrowed._mine, chain=chain)
        assert refused(borrowed, member_accepting()).startswith(f"{FORGED}: ")


def test_an_acceptor_is_judged_like_a_dialler() -> None:
    late = member_dialling(now=NOW + 2 * VALID_SECONDS)
    with pytest.raises(MembershipRefused, match=EXPIRED):
        shake(late, member_accepting())


def test_refused_peers() -> None:
    assert "are refused" in refused(dialler(), acceptor(refuse={ALICE.node_id}))
    assert "are refused" in refused(dialler(refuse={BOB.node_id}), acceptor())


@pytest.mark.parametrize(("versions", "behind"), [((2, 9), "this node"), ((0, 0), "the other side")])
def test_no_common_protocol(versions: tuple[int, int], behind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROTOCOL_MIN", versions[0])
    monkeypatch.setattr(module, "PROTOCOL_MAX", versions[1])
    foreign = dialler()
    monkeypatch.undo()
    assert f"upgrade {behind}" in refused(foreign, acceptor())


def test_the_highest_common_protocol_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROTOCOL_MAX", 7)
    newer = dialler()
    monkeypatch.undo()
    b = acceptor()
    shake(newer, b)
    assert newer.peer is not None
    assert b.peer is not None
    assert newer.peer.protocol == b.peer.protocol == 1


GOOD_HELLO = Hello(1, 1, [], MALLORY.public_key, bytes(NONCE_BYTES), "link", "", None, "")


@pytest.mark.parametrize(
    "change",
    [
        {"public_key": b""},
        {"public_key": bytes(33)},
        {"nonce": b""},
        {"nonce": bytes(NONCE_BYTES - 1)},
        {"purpose": "party"},
        {"name": "x" * 257},
        {"name": "\x1b[2J"},
        {"listen": "ws://a:1\n"},
        {"features": ["x"] * 65},
        {"features": ["\0"]},
        {"protocol_min": 5, "protocol_max": 2},
        {"revoked": bytes(33)},
    ],
)
def test_malformed_hellos(change: dict[str, Any]) -> None:
    assert acceptor().receive(frame(GOOD_HELLO))
    with pytest.raises(HandshakeFailed):
        acceptor().receive(frame(msgspec.structs.replace(GOOD_HELLO, **change)))


@pytest.mark.parametrize("unexpected", [Ack(1), Proof(bytes(64))])
def test_something_else_than_a_hello(unexpected: Any) -> None:
    for side in (dialler(), acceptor()):
        side.start()
        with pytest.raises(HandshakeFailed, match="did not say hello"):
            side.receive(frame(unexpected))


@pytest.mark.parametrize("unexpected", [Ack(1), GOOD_HELLO])
def test_something_else_than_a_proof(unexpected: Any) -> None:
    b = acceptor()
    b.receive(dialler().start()[0])
    with pytest.raises(HandshakeFailed, match="did not prove"):
        b.receive(frame(unexpected))


def test_the_end_is_the_end() -> None:
    a, b = dialler(), acceptor()
    shake(a, b)
    for side in (a, b):
        with pytest.raises(HandshakeFailed, match="over already"):
            side.receive(frame(GOOD_HELLO))
    failed = acceptor()
    for _ in range(2):
        with pytest.raises(HandshakeFailed):
            failed.receive(b"rubbish")


@given(st.binary(max_size=300))
def test_rubbish_fails_and_does_nothing_else(rubbish: bytes) -> None:
    for side in (dialler(), acceptor()):
        side.start()
        with pytest.raises(HandshakeFailed):
            side.receive(rubbish)
        assert side.peer is None


def test_a_frame_over_the_limit() -> None:
    with pytest.raises(HandshakeFailed, match="allowed"):
        acceptor().receive(b"\0" + bytes(MAX_HANDSHAKE_BYTES))


# --- attacks --------------------------------------------------------------------------------------


@given(st.data())
def test_no_mutation_of_any_byte_authenticates_a_wrong_peer(data: st.DataObject) -> None:
    """Somebody in the middle changes one message. Whoever still gets a peer, gets the true one, and
    agrees with it on every byte that was said."""
    victim = data.draw(st.sampled_from(["hello", "their_hello", "their_proof", "proof"]))
    if data.draw(st.booleans()):
        a, b = dialler(name="Alice", features=["x"]), acceptor(name="Bob")
    else:
        a, b = member_dialling(), member_accepting()

    def transmit(name: str, sent: bytes) -> bytes:
        if name != victim:
            return sent
        position = data.draw(st.integers(0, len(sent) - 1))
        other = data.draw(st.integers(0, 255).filter(lambda byte: byte != sent[position]))
        return sent[:position] + bytes([other]) + sent[position + 1 :]

    try:
        their_hello, their_proof = b.receive(transmit("hello", a.start()[0]))
        a.receive(transmit("their_hello", their_hello))
        (proof,) = a.receive(transmit("their_proof", their_proof))
        b.receive(transmit("proof", proof))
    except HandshakeFailed:
        pass
    if victim != "proof":
        assert a.peer is None
    assert b.peer is None


def flipped(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1 << at % 8]) + frame[at + 1 :]


def cut(frame: bytes, at: int) -> bytes:
    return frame[:at]


THOROUGH = bool(os.environ.get("MESH_TEST_THOROUGH"))


@pytest.mark.parametrize("victim", range(4))
def test_every_byte_of_every_message_counts_and_so_does_its_length(victim: int) -> None:
    """Of members: the hellos and the proofs, changed in one byte or cut short at any place."""

    def authenticated(change: Callable[[bytes], bytes]) -> tuple[bool, bool]:
        a, b = member_dialling(), member_accepting()
        said: list[bytes] = []

        def transmit(frame: bytes) -> bytes:
            said.append(frame)
            return change(frame) if len(said) == victim + 1 else frame

        try:
            their_hello, their_proof = b.receive(transmit(a.start()[0]))
            a.receive(transmit(their_hello))
            (proof,) = a.receive(transmit(their_proof))
            b.receive(transmit(proof))
        except HandshakeFailed:
            pass
        sizes.append(len(said[victim]))
        return a.peer is not None, b.peer is not None

    sizes: list[int] = []
    assert authenticated(lambda frame: frame) == (True, True)
    (size,) = sizes
    step = 1 if THOROUGH or size < 100 else 7
    expected = (victim == 3, False)  # the dialler is done before the acceptor has its proof
    for place in range(0, size, step):
        assert authenticated(partial(flipped, at=place)) == expected
        assert authenticated(partial(cut, at=place)) == expected
    assert authenticated(lambda frame: frame + b"\0") == expected


def test_a_proof_of_another_connection_is_worth_nothing() -> None:
    """Replay: everything that Alice said once, said again by Mallory."""
    a, b = dialler(), acceptor(nonce=2)
    (hello,) = a.start()
    their_hello, their_proof = b.receive(hello)
    a.receive(their_hello)
    (proof,) = a.receive(their_proof)
    again = acceptor(nonce=9)
    again.receive(hello)
    with pytest.raises(HandshakeFailed, match="does not hold the key"):
        again.receive(proof)
    # And everything that Bob said, to another dialler of Alice's.
    later = dialler(nonce=8)
    later.start()
    later.receive(their_hello)
    with pytest.raises(HandshakeFailed, match="does not hold the key"):
        later.receive(their_proof)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_both_sides_have_to_see_the_same_channel(seen: bytes, presented: bytes) -> None:
    """Somebody in the middle who speaks TLS with both presents a certificate of its own."""
    a, b = dialler(binding=seen), acceptor(binding=presented)
    if seen == presented:
        return shake(a, b)
    their_hello, their_proof = b.receive(a.start()[0])
    a.receive(their_hello)
    with pytest.raises(HandshakeFailed, match="does not hold the key"):
        a.receive(their_proof)
    proof = Proof(ALICE.sign(a._transcript(b"dialler\0")))
    with pytest.raises(HandshakeFailed, match="does not hold the key"):
        b.receive(frame(proof))
    assert a.peer is None
    return None


def test_a_proof_cannot_be_reflected() -> None:
    """Mallory has no key: whatever Alice says, she sends back."""
    a = dialler()
    (hello,) = a.start()
    with pytest.raises(HandshakeFailed, match="reached itself"):
        a.receive(hello)
    # With Bob's hello in front, she needs his proof, and has only the one that Bob made as an acceptor.
    b = acceptor()
    _, bobs_proof = b.receive(dialler().start()[0])
    with pytest.raises(HandshakeFailed, match="does not hold the key"):
        b.receive(bobs_proof)


def test_two_diallers_cannot_be_played_against_each_other() -> None:
    """Mallory passes the hellos of two diallers to each other: the roles are part of what is signed."""
    a, b = dialler(ALICE), dialler(BOB)
    (a_hello,), (b_hello,) = a.start(), b.start()
    a.receive(b_hello)
    b.receive(a_hello)
    a_proof = Proof(ALICE.sign(b._transcript(b"dialler\0")))
    with pytest.raises(HandshakeFailed, match="does not hold the key"):
        b.receive(frame(a_proof))


def test_mallory_cannot_pass_for_alice() -> None:
    b = acceptor()
    hello = message(dialler(ALICE).start()[0])
    mallory = dialler(MALLORY)
    mallory.start()
    claimed = frame(msgspec.structs.replace(hello, nonce=bytes(NONCE_BYTES)))
    their_hello, their_proof = b.receive(claimed)
    mallory.receive(their_hello)
    with pytest.raises(HandshakeFailed):  # Bob's proof is about Alice's hello, not about Mallory's
        mallory.receive(their_proof)
    with pytest.raises(HandshakeFailed, match="does not hold the key"):
        b.receive(frame(Proof(MALLORY.sign(b._transcript(b"dialler\0")))))


def test_a_man_in_the_middle_can_only_pass_on_what_is_said() -> None:
    """With a key of his own on both sides he is known as himself."""
    a, b = dialler(), acceptor()
    to_a, to_b = acceptor(MALLORY, 5), dialler(MALLORY, 6)
    shake(a, to_a)
    shake(to_b, b)
    assert a.peer is not None
    assert b.peer is not None
    assert a.peer.node_id == b.peer.node_id == MALLORY.node_id


@given(st.data())
def test_whoever_sits_between_members_and_passes_on_what_he_likes_authenticates_nobody(
    data: st.DataObject,
) -> None:
    """He ends the TLS of every connection himself, so that no two of them are bound to the same channel."""
    said: list[bytes] = []
    sides: list[Handshake] = []

    def side(make: Callable[..., Handshake], identity: Identity) -> Handshake:
        n = len(sides)
        membership = Membership(CHAINS["red"][identity])
        sides.append(make(identity, membership=membership, now=NOW, nonce=n, binding=bytes([n])))
        return sides[-1]

    def passed_on(frame: bytes) -> bytes:
        said.append(frame)
        return frame if data.draw(st.booleans()) else data.draw(st.sampled_from(said))

    for _ in range(data.draw(st.integers(1, 4))):
        a = side(dialler, data.draw(st.sampled_from([ALICE, BOB])))
        b = side(acceptor, data.draw(st.sampled_from([ALICE, BOB])))
        try:
            for answer in b.receive(passed_on(a.start()[0])):
                for proof in a.receive(passed_on(answer)):
                    b.receive(passed_on(proof))
        except HandshakeFailed:
            continue
    assert all(each.peer is None for each in sides)
