"""Tokens and requests for certificates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.certificates import grant_of, issue
from mesh.core.enrolment import (
    SECRET_BYTES,
    Invitation,
    enrol,
    enrolled,
    read_answer,
    read_request,
    read_token,
    renew,
    succeed,
)
from mesh.core.handshake import MAX_HANDSHAKE_BYTES
from mesh.core.identity import Identity
from mesh.core.renewal import retired
from mesh.core.wire import Enrol, Renew
from mesh.errors import InvitationRefused

ROOT, HQ, VAN = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
INVITATION = Invitation(ROOT.node_id, ["wss://hq:7700"], bytes(32), b"s" * SECRET_BYTES)
CHAIN = issue(ROOT, [], VAN.public_key, grant_of("member"), 1_800_000_000)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=16), st.binary(max_size=64))
def test_a_token_says_what_was_put_in(addresses: list[str], secret: bytes) -> None:
    invitation = Invitation(ROOT.node_id, addresses, bytes(32), secret)
    assert read_token(f"  {invitation.token()}\n") == invitation


def test_a_token_fits_a_line_and_its_secret_is_not_shown() -> None:
    assert len(INVITATION.token()) < 200
    assert repr(INVITATION) == "<Invitation by way of wss://hq:7700>"


@given(st.data())
def test_a_token_that_was_mistyped_is_refused(data: st.DataObject) -> None:
    token = INVITATION.token()
    position = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != token[position] and not c.isspace()))
    try:
        # The last character has bits that stand for nothing.
        assert read_token(token[:position] + other + token[position + 1 :]) == INVITATION
        assert position == len(token) - 1
    except InvitationRefused:
        pass


@pytest.mark.parametrize("token", ["", "mesh1-", "mesh1-AAA", "mesh1-" + "A" * 5000, INVITATION.token()[:-9]])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(InvitationRefused):
        read_token(token)


def test_requests_are_good_on_their_channel_only() -> None:
    asked = read_request(enrol(VAN, INVITATION.secret, b"channel"), b"channel")
    assert isinstance(asked, Enrol)
    assert (asked.secret, asked.public_key) == (INVITATION.secret, VAN.public_key)
    again = read_request(renew(VAN, CHAIN, b"channel"), b"channel")
    assert isinstance(again, Renew)
    elsewhere = (enrol(VAN, INVITATION.secret, b"other"), renew(VAN, CHAIN, b"other"))
    for frame in (*elsewhere, renew(HQ, CHAIN, b"channel")):
        with pytest.raises(InvitationRefused, match="does not hold the key"):
            read_request(frame, b"channel")


@given(st.data())
def test_no_mutation_of_a_request_asks_for_something_else(data: st.DataObject) -> None:
    taken_over = succeed(VAN, HQ, retired(VAN, CHAIN, HQ.public_key, 1_800_000_000), b"x")
    frame = data.draw(
        st.sampled_from([enrol(VAN, INVITATION.secret, b"x"), renew(VAN, CHAIN, b"x"), taken_over])
    )
    position = data.draw(st.integers(0, len(frame) - 1))
    mutated = bytearray(frame)
    mutated[position] ^= data.draw(st.integers(1, 255))
    try:
        request = read_request(bytes(mutated), b"x")
    except InvitationRefused:
        return
    assert isinstance(request, Renew)  # whose chain is verified apart
    if request.retirement is None:
        assert request.chain[0].public_key == VAN.public_key
    else:
        assert request.retirement.successor == HQ.public_key
        assert request.retirement.chain[0].public_key == VAN.public_key


@given(st.binary(max_size=300))
def test_rubbish(rubbish: bytes) -> None:
    with pytest.raises(InvitationRefused):
        read_request(rubbish, b"")
    with pytest.raises(InvitationRefused):
        read_answer(rubbish)


def test_answers() -> None:
    assert read_answer(enrolled(CHAIN)) == CHAIN
    with pytest.raises(InvitationRefused):
        read_answer(renew(VAN, CHAIN, b""))
    with pytest.raises(InvitationRefused):
        read_request(bytes(MAX_HANDSHAKE_BYTES + 1), b"")
