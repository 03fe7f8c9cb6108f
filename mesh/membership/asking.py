"""Asking an admin's node for a certificate, as one who is not, or no longer, admitted to links; and, as an
admin, offering it to such a one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh.core.certificates import REFUSALS, Certificate, Revocation, verify_chain
from mesh.core.enrolment import Invitation, enrol, enrolled, read_answer, renew, succeed
from mesh.core.identity import Identity
from mesh.errors import InvitationRefused, LinkClosed, MembershipRefused, MeshError, PeerUnreachable
from mesh.network.introductions import HANDSHAKE_SECONDS
from mesh.network.link import plain
from mesh.network.transport import JOIN_PATH, Transport


async def enrol_by(transport: Transport, identity: Identity, invitation: Invitation) -> list[Certificate]:
    """The first chain of a node that was invited.

    Raises:
        InvitationRefused, PeerUnreachable: what the last of the addresses came to.
    """

    def request(binding: bytes) -> bytes:
        if binding != invitation.pin:
            raise InvitationRefused("who answers there is not the node that made it: nothing was told to it")
        return enrol(identity, invitation.secret, binding)

    failure: MeshError | None = None
    for address in invitation.addresses:
        try:
            chain = await _ask(transport, address, request)
            issued = chain[0].not_before if chain else 0
            if verify_chain(chain, invitation.mesh_id, issued, {}).public_key == identity.public_key:
                return chain
            failure = InvitationRefused("the certificate that was answered is another node's")
        except MeshError as error:
            failure = error
    assert failure is not None
    raise failure


async def renew_at(
    transport: Transport, url: str, identity: Identity, chain: list[Certificate]
) -> list[Certificate]:
    """The next chain, from the node at ``url``; nothing of it is verified.

    Raises:
        InvitationRefused, PeerUnreachable: it gave none.
    """
    return await _ask(transport, url, lambda binding: renew(identity, chain, binding))


async def succeed_at(
    transport: Transport, url: str, identity: Identity, successor: Identity, retirement: Revocation
) -> list[Certificate]:
    """The chain of this node's next key, from the node at ``url``; nothing of it is verified.

    Raises:
        InvitationRefused, MembershipRefused, PeerUnreachable: it gave none.
    """
    return await _ask(transport, url, lambda binding: succeed(identity, successor, retirement, binding))


async def offer_at(transport: Transport, url: str, chain: list[Certificate]) -> None:
    """Give the node at ``url``, which may not be one to dial others, its next chain.

    Raises:
        InvitationRefused, MembershipRefused, PeerUnreachable: it was not taken.
    """
    await _ask(transport, url, lambda binding: enrolled(chain))


async def _ask(transport: Transport, url: str, request: Callable[[bytes], bytes]) -> list[Certificate]:
    try:
        connection = await transport.dial(url.rstrip("/") + JOIN_PATH)
    except PeerUnreachable as error:
        raise PeerUnreachable(url, f"{error.reason} (the admin's node has to be up)") from error
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await connection.send(request(connection.binding))
            return read_answer(bytes(await connection.receive()))
    except LinkClosed as error:
        raise _refusal(plain(error.reason)) from error
    except TimeoutError as error:
        raise PeerUnreachable(url, "it does not answer the request for a certificate") from error
    finally:
        await connection.close()


def _refusal(reason: str) -> MeshError:
    code, colon, rest = reason.partition(": ")
    return MembershipRefused(code, rest) if colon and code in REFUSALS else InvitationRefused(reason)
