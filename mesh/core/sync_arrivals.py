"""What a frame may bring from a peer, and what the peer may be told of what is held here."""

from __future__ import annotations

import msgspec

from mesh.core.access import Access, Only, permits
from mesh.core.document import NEVER
from mesh.core.interest import EVERYTHING
from mesh.core.reconcile import KEY_BITS
from mesh.core.records import OWNED_COLLECTIONS
from mesh.core.sync_effects import Refuse, Standing
from mesh.core.values import check_collection
from mesh.core.versions import MAX_COUNTER
from mesh.core.wire import Changes, Grave, Want
from mesh.errors import InvalidCollectionName, ProtocolViolation


def permitted(frame: Changes, only: Only) -> tuple[Changes, Refuse | None]:
    """A frame without what its sender may not write, and what that was."""
    named = {change.collection for change in frame.changes}
    named |= {version.collection for version in (*frame.offers, *frame.notices)}
    named |= {grave.collection for grave in frame.graves}
    foreign = {name for name in named if not permits(only, name)}
    if not foreign:
        return frame, None
    kept = msgspec.structs.replace(
        frame,
        changes=[change for change in frame.changes if change.collection not in foreign],
        offers=[version for version in frame.offers if version.collection not in foreign],
        notices=[version for version in frame.notices if version.collection not in foreign],
        graves=[grave for grave in frame.graves if grave.collection not in foreign],
    )
    return kept, Refuse(_documents(frame) - _documents(kept), sorted(foreign))


def _documents(frame: Changes) -> int:
    return len(frame.changes) + len(frame.offers) + len(frame.notices) + len(frame.graves)


def check_grave(grave: Grave) -> None:
    """Refuse a grave that cannot be.

    Raises:
        ProtocolViolation: it cannot.
    """
    numbers = (grave.key >> KEY_BITS, grave.version >> KEY_BITS)
    counted = 0 <= grave.incarnation <= MAX_COUNTER and 0 <= grave.age <= MAX_COUNTER
    try:
        check_collection(grave.collection)
    except InvalidCollectionName as error:
        raise ProtocolViolation(f"told of a grave: {error}") from error
    if numbers != (0, 0) or not counted or grave.collection in OWNED_COLLECTIONS:
        raise ProtocolViolation(f"a grave that cannot be: {grave}")


def blank(want: Want) -> Want:
    """The same, and nothing of what is held."""
    return Want(want.collection, want.id, NEVER, {}, b"\0")


def unsaid(standing: Standing, access: Access) -> list[Standing]:
    """A standing, but of what the peer may not read as if nothing were held: it sends all of it."""
    shown = [entry for entry in standing.entries if permits(access.compares, entry.collection)]
    others = [entry for entry in standing.entries if not permits(access.compares, entry.collection)]
    return [
        Standing(standing.log_id, standing.after, standing.empty, shown),
        Standing(standing.log_id, standing.after, True, others),
    ]


def without(standing: Standing, evicted: set[str]) -> list[Standing]:
    """A standing, but for what has been evicted: of that, nothing is known."""
    touched = {EVERYTHING.collection, *evicted}
    held = [entry for entry in standing.entries if entry.collection not in touched]
    lost = [entry for entry in standing.entries if entry.collection in touched]
    return [
        Standing(standing.log_id, standing.after, standing.empty, held),
        Standing(b"", 0, False, lost),
    ]
