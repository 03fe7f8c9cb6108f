"""Keys, node ids and signatures."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.identity import Identity, is_node_id, node_id_of, short_id, verify

KEYS = st.binary(min_size=32, max_size=32)


def test_the_first_vector_of_rfc_8032() -> None:
    identity = Identity(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert identity.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert identity.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065")


@given(KEYS)
def test_the_node_id_follows_from_the_public_key(private: bytes) -> None:
    identity = Identity(private)
    assert identity.node_id == node_id_of(identity.public_key)
    assert len(identity.node_id) == 52
    padded = identity.node_id.upper() + "===="
    assert base64.b32decode(padded) == hashlib.sha256(identity.public_key).digest()
    assert identity.node_id.startswith(short_id(identity.node_id))


@given(KEYS, KEYS, st.binary(), st.binary())
def test_a_signature_is_good_for_one_key_and_one_message(a: bytes, b: bytes, m: bytes, n: bytes) -> None:
    signer, other = Identity(a), Identity(b)
    signature = signer.sign(m)
    assert verify(signer.public_key, m, signature)
    assert verify(signer.public_key, n, signature) is (m == n)
    assert verify(other.public_key, m, signature) is (a == b)


@given(st.binary(), st.binary())
def test_rubbish_verifies_nothing(key: bytes, signature: bytes) -> None:
    assert not verify(key, b"message", signature)


@given(KEYS)
def test_no_secret_is_shown(private: bytes) -> None:
    identity = Identity(private)
    for text in (repr(identity), str(identity), f"{identity}"):
        assert text == f"<Identity {short_id(identity.node_id)}>"


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_private_key_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError):
        Identity(bytes(size))


def test_what_can_be_a_node_id() -> None:
    assert is_node_id("a7" * 26)
    assert not is_node_id("a" * 51)
    assert not is_node_id("a" * 53)
    assert not is_node_id("A" * 52)
    assert not is_node_id("1" * 52)
