"""What a node keeps of its mesh: revocations for ever, invitations while they last (jobs for the store)."""

from __future__ import annotations

import msgspec

from mesh.core import records
from mesh.core.certificates import Revocation
from mesh.core.enrolment import Invited
from mesh.core.identity import node_id_of
from mesh.core.membership import Membership
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.structs import UNREADABLE
from mesh.errors import InvitationRefused, ProtocolViolation
from mesh.storage.rows import Rows


def remember_revocations(rows: Rows, facts: list[Revocation]) -> None:
    """Keep them, each in place of an earlier one of the same node. The invitations by which who was revoked
    came are over: they may be known to who should not know them. What it has signed is void."""
    rows.connection.executemany(
        "DELETE FROM invitations WHERE secret_hash IN (SELECT secret_hash FROM admissions WHERE node_id = ?)",
        [(fact.node_id,) for fact in facts if not fact.successor],
    )
    rows.connection.executemany(  # to revoke one of the two keys later is to revoke who came by it
        "INSERT OR IGNORE INTO admissions(secret_hash, node_id) "
        "SELECT secret_hash, ? FROM admissions WHERE node_id = ?",
        [(node_id_of(fact.successor), fact.node_id) for fact in facts if fact.successor],
    )
    rows.connection.executemany(
        "INSERT OR REPLACE INTO revocations(node_id, fact) VALUES (?, ?)",
        [
            (fact.node_id + (" retired" if fact.successor else ""), msgspec.msgpack.encode(fact))
            for fact in facts
        ],
    )
    if rows.membership is not None:
        _drop_void(rows, rows.membership)


def _drop_void(rows: Rows, membership: Membership) -> None:
    """Forget the records of whom the mesh has revoked: who hears of them only now does not take them either,
    so that all nodes hold the same."""
    names = sorted(OWNED_COLLECTIONS)
    owned = f"collection IN ({','.join('?' * len(names))})"
    found = rows.connection.execute(f"SELECT collection, id, state FROM documents WHERE {owned}", names)
    void = [(name, id) for name, id, state in found if not records.stands(state, membership)]
    for collection, document_id in void:
        rows.drop(collection, document_id)


def revocations(rows: Rows) -> list[Revocation]:
    """All that are kept and can be read; nothing of them is verified."""
    facts = []
    for (fact,) in rows.connection.execute("SELECT fact FROM revocations ORDER BY node_id"):
        try:
            facts.append(msgspec.msgpack.decode(fact, type=Revocation))
        except (TypeError, *UNREADABLE):
            continue  # a damaged store was salvaged: peers know it, too
    return facts


def remember_invitation(rows: Rows, invited: Invited, now: float) -> None:
    """Keep an invitation, and forget those whose time is over."""
    over = "SELECT secret_hash FROM invitations WHERE expires_at <= ?"
    rows.connection.execute(f"DELETE FROM admissions WHERE secret_hash IN ({over})", (now,))
    rows.connection.execute("DELETE FROM invitations WHERE expires_at <= ?", (now,))
    rows.connection.execute(
        "INSERT INTO invitations(secret_hash, body, expires_at) VALUES (?, ?, ?)",
        (invited.secret_hash, msgspec.msgpack.encode(invited), invited.expires_at),
    )


def redeem(rows: Rows, secret_hash: bytes, node_id: str, now: float) -> Invited:
    """Admit a node by an invitation. Once more for the same node costs no use: its answer may have been lost.

    Raises:
        InvitationRefused: there is no such invitation, its time is over, others have used it up, or a node
            that came by it has been revoked since.
    """
    execute = rows.connection.execute
    row = execute("SELECT body FROM invitations WHERE secret_hash = ?", (secret_hash,)).fetchone()
    if row is None:
        guessed = ProtocolViolation("a secret of no invitation")
        raise InvitationRefused("its secret is not known there, or its time is over") from guessed
    invited = msgspec.msgpack.decode(row[0], type=Invited)
    if now >= invited.expires_at:
        raise InvitationRefused("its time is over")
    admitted = {
        known for (known,) in execute("SELECT node_id FROM admissions WHERE secret_hash = ?", (secret_hash,))
    }
    if node_id not in admitted:
        if len(admitted) >= invited.uses:
            raise InvitationRefused("it has been used already")
        execute("INSERT INTO admissions(secret_hash, node_id) VALUES (?, ?)", (secret_hash, node_id))
    return invited
