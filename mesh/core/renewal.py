"""Renewals: the next certificate of a node, and what it stands on.

A node keeps its place in the mesh for as long as it is renewed, by whichever admin it meets. So that this
hides nothing, a renewed certificate names every admin on whom the earlier ones stood and the present chain
does not: revoking one of them reaches it as if it had never been renewed. And so that chains stay short, a
renewal never leads further from the root key than what it renews: those whom the root key has signed are
renewed by it alone, which also keeps admins from standing on those whom they have admitted.

A node changes its key in the same way: an admin signs for the new one what it would have renewed, and the old
one retires. The new membership stands on the old node's next epoch, which no retirement ends, but every
revocation of it: so revoking a node under its old id ends it under the new one, whoever has changed the key.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesh.core.certificates import (
    FORGED,
    MAX_FORMER,
    NOT_YET_VALID,
    RENEW_SECONDS,
    Certificate,
    Revocation,
    issue,
    stands_on,
)
from mesh.core.identity import Identity
from mesh.errors import MembershipRefused

OTHERS_RENEW_SECONDS = RENEW_SECONDS / 2
"""An admin renews a certificate that another has made when it has this much left, so that nodes do not come
to stand on more admins than need be."""


def renewed(
    issuer: Identity, above: Sequence[Certificate], old: Sequence[Certificate], now: float
) -> list[Certificate]:
    """The chain that follows the verified chain ``old``, for the same node and with the same grant.

    Args:
        issuer: the admin who signs, and ``above`` its own chain.

    Raises:
        MembershipRefused: this admin cannot make it, or not yet.
    """
    present = old[0]
    if present.issuer != issuer.public_key and now < present.not_after - OTHERS_RENEW_SECONDS:
        raise MembershipRefused(
            NOT_YET_VALID, "for now, only the admin who made the certificate can renew it"
        )
    _check_place(above, old)
    return issue(
        issuer,
        above,
        present.public_key,
        present.grant,
        now,
        epoch=present.epoch,
        former=_former(above, old),
    )


def retired(identity: Identity, chain: Sequence[Certificate], successor: bytes, now: float) -> Revocation:
    """The fact that the node with this identity goes by the public key ``successor`` from now on."""
    own = chain[0]
    fact = Revocation(
        own.mesh_id, own.node_id, own.epoch, max(int(now), own.not_before), list(chain), successor=successor
    )
    return msgspec.structs.replace(fact, signature=identity.sign(fact.signed()))


def succeeded(
    issuer: Identity, above: Sequence[Certificate], retirement: Revocation, now: float, *, epoch: int = 1
) -> list[Certificate]:
    """The chain of the successor of a node that retires, with the same grant.

    Args:
        issuer: the admin who signs, and ``above`` its own chain.

    Raises:
        MembershipRefused: this admin cannot make it.
    """
    old = retirement.chain
    _check_place(above, old)
    former = _former(above, old, (retirement.node_id, retirement.epoch + 1))
    return issue(issuer, above, retirement.successor, old[0].grant, now, epoch=epoch, former=former)


def _check_place(above: Sequence[Certificate], old: Sequence[Certificate]) -> None:
    if len(above) >= len(old):
        raise MembershipRefused(
            FORGED, "only an admin as close to the root key as the one who made the certificate can renew it"
        )


def _former(
    above: Sequence[Certificate], old: Sequence[Certificate], *more: tuple[str, int]
) -> list[tuple[str, int]]:
    """On whom ``old`` stands and ``above`` does not."""
    former = {*stands_on(old[1:]), *old[0].former, *more} - set(stands_on(above))
    if len(former) > MAX_FORMER:
        raise MembershipRefused(
            FORGED, f"{MAX_FORMER} other admins have made the certificate already: join anew by an invitation"
        )
    return sorted(former)
