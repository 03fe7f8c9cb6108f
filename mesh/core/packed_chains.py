"""Chains of certificates as they go into signed records: without what is known there, in one form only."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesh.core.certificates import NOT_A_MEMBER, Certificate, Grant, trimmed
from mesh.core.structs import UNREADABLE
from mesh.errors import MembershipRefused


class _Link(msgspec.Struct, array_like=True, frozen=True):
    public_key: bytes
    epoch: int
    grant: Grant
    not_before: int
    not_after: int
    signature: bytes
    former: list[tuple[str, int]] = []


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    root: bytes
    links: list[_Link]


def pack_chain(chain: Sequence[Certificate]) -> bytes:
    """A chain without what :func:`unpack_chain` is told: some 150 bytes for each certificate."""
    links = [
        trimmed((certificate.public_key if place else b"", *msgspec.structs.astuple(certificate)[3:]))
        for place, certificate in enumerate(chain)
    ]
    return msgspec.msgpack.encode([chain[-1].issuer, links])


def unpack_chain(packed: bytes, mesh_id: str, public_key: bytes) -> list[Certificate]:
    """The chain of who has ``public_key`` in a mesh; nothing of it is verified.

    Raises:
        MembershipRefused: it is none.
    """
    try:
        root, links = msgspec.structs.astuple(msgspec.msgpack.decode(packed, type=_Packed))
    except UNREADABLE as error:
        raise MembershipRefused(NOT_A_MEMBER, "there is no chain of certificates with it") from error
    if not links:
        return []
    keys = [public_key, *(link.public_key for link in links[1:])]
    issuers = [*keys[1:], root]
    return [
        Certificate(mesh_id, issuer, key, *msgspec.structs.astuple(link)[1:])
        for link, key, issuer in zip(links, keys, issuers, strict=True)
    ]
