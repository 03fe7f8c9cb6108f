"""Every error that the mesh raises on purpose.

One root, :class:`MeshError`. A message says what happened, to what, and what to do next;
attributes carry what a caller needs to act on it without parsing the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class MeshError(Exception):
    """Root of every error the mesh raises."""


# --- life of a node ---------------------------------------------------------------------------


class NotStarted(MeshError):
    """The node is used before ``start()`` or after ``close()``."""


class InvalidNode(MeshError, ValueError):
    """A node is asked to be what it cannot."""


class DataDirInUse(MeshError):
    """Another node has the data directory open."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the data directory {path} is in use by a node that runs: "
            f"stop it (`mesh down --home {path}`), or use a directory of its own for another node"
        )
        self.path = path


class DataDirUnusable(MeshError):
    """The data directory cannot be created, read or written."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"the data directory {path} cannot be used: {reason}")
        self.path = path
        self.reason = reason


class StoreTooNew(MeshError):
    """The store was written by a newer version of the mesh."""

    def __init__(self, path: str, unknown: list[str]) -> None:
        super().__init__(
            f"the store {path} was written by a newer version of the mesh "
            f"(it has migrations this one does not know: {', '.join(unknown)}): "
            "upgrade it, or open another data directory. Nothing was changed"
        )
        self.path = path
        self.unknown = unknown


class StoreCorrupt(MeshError):
    """The store's file turns out to be damaged while it is in use."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the store {path} is damaged ({reason}): restart the node to rebuild it. What can still be read "
            "is carried over, the rest comes back from peers, and the damaged file is kept"
        )
        self.path = path
        self.reason = reason


# --- links ------------------------------------------------------------------------------------


class AddressInUse(MeshError):
    """The address to listen on is taken."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} is already in use: choose another port, or 0 for any free one")
        self.address = address


class InvalidAddress(MeshError):
    """An address to listen on or to dial is not understood."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address!r} is not a usable address: {reason}")
        self.address = address
        self.reason = reason


class PlaintextRefused(MeshError):
    """An open mesh (no credentials) is asked to leave the loopback interface."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"refusing to use {address} without credentials: an open mesh stays on loopback, "
            "where only this machine can reach it. Use 127.0.0.1 or [::1], or make it a member of a closed "
            "mesh (`mesh init`, `mesh join`)"
        )
        self.address = address


class PeerUnreachable(MeshError):
    """A peer could not be dialled."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot reach {url}: {reason}. Check the address and that the peer is running")
        self.url = url
        self.reason = reason


class LinkClosed(MeshError):
    """The connection with a peer has ended."""

    def __init__(self, reason: str, node_id: str | None = None) -> None:
        super().__init__(f"the link with {node_id or 'a peer'} is closed: {reason}")
        self.reason = reason
        self.node_id = node_id


class HandshakeFailed(MeshError):
    """The other side did not prove who it is, or speaks no protocol version that we do."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the handshake failed: {reason}")
        self.reason = reason


class MembershipRefused(HandshakeFailed):
    """A certificate, or the lack of one, keeps two nodes apart; ``code`` says why in one word."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class IdentityCloned(HandshakeFailed):
    """Two running nodes have the same identity: a data directory was copied, and both copies are in use."""

    ADVICE = (
        "Stop one of the two; a copy becomes a node of its own when the file identity.key is moved out of "
        "its data directory"
    )

    def __init__(self, problem: str) -> None:
        MeshError.__init__(self, f"{problem}. {self.ADVICE}")
        self.problem = problem
        self.reason = str(self)


class ProtocolViolation(MeshError):
    """A peer sent something that the protocol does not allow; its link is closed."""


class SettleTimeout(MeshError, TimeoutError):
    """``settled()`` ran out of time; ``waiting_for`` names what is still open."""

    def __init__(self, timeout: float, waiting_for: list[str]) -> None:
        super().__init__(f"not settled after {timeout:g} s; still waiting for: {'; '.join(waiting_for)}")
        self.timeout = timeout
        self.waiting_for = waiting_for


# --- documents --------------------------------------------------------------------------------


class InvalidDocument(MeshError):
    """A document or value cannot be stored. ``path`` is the JSON Pointer of the offending value."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path or 'the document'}: {reason}")
        self.path = path
        self.reason = reason


class DocumentTooLarge(InvalidDocument):
    """A document is over a limit; ``limit`` says which and how much."""

    def __init__(self, reason: str, limit: int, path: str = "") -> None:
        super().__init__(reason, path)
        self.limit = limit


class InvalidCollectionName(MeshError):
    """The name of a collection is not usable."""

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(f"{name!r} is not a collection name: {reason}")
        self.name = name


class InvalidSelector(MeshError):
    """A query selector is malformed; ``path`` says where."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"selector{' at ' + path if path else ''}: {reason}")
        self.path = path
        self.reason = reason


class InvalidIndex(MeshError):
    """An index cannot be declared."""

    def __init__(self, fields: Sequence[str], reason: str) -> None:
        super().__init__(f"no index on {', '.join(map(str, fields)) or 'no field'}: {reason}")
        self.fields = tuple(fields)
        self.reason = reason


class DocumentExists(MeshError):
    """``insert`` found the ``_id`` taken."""

    def __init__(self, collection: str, document_id: str) -> None:
        super().__init__(
            f"{collection}/{document_id} exists already: use upsert() to merge into it or replace()"
        )
        self.collection = collection
        self.document_id = document_id


class NestedTransaction(MeshError):
    """Inside of a transaction, something is asked for that would wait for its end."""

    def __init__(self) -> None:
        super().__init__(
            "inside of a transaction, use its own collections (`tx.collection(name)`): "
            "this would wait for its end for ever"
        )


class TransactionEnded(MeshError):
    """The transaction is over; ``reason`` says how that came. Unless it was committed, nothing of it was
    kept."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the transaction is over: {reason}. Begin another one")
        self.reason = reason


class DocumentNotFound(MeshError):
    """The document is not here (never arrived, or was removed)."""

    def __init__(self, collection: str, document_id: str) -> None:
        super().__init__(f"there is no {collection}/{document_id} here: insert() or upsert() creates it")
        self.collection = collection
        self.document_id = document_id


class PermissionDenied(MeshError):
    """This node may not do that."""


# --- membership -------------------------------------------------------------------------------


class CredentialsUnusable(MeshError):
    """The files that make a node a member of a mesh are missing, exist already, or are not safe to use."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"the credentials in {path} cannot be used: {reason}")
        self.path = path
        self.reason = reason


class InvalidInvitation(MeshError):
    """An invitation or a revocation is asked for that cannot be made."""


class InvitationRefused(MeshError):
    """A token does not make this node a member; ``reason`` says why not."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the invitation is of no use: {reason}. An admin makes another with `mesh invite`")
        self.reason = reason


# --- attachments ------------------------------------------------------------------------------


class SourceError(MeshError):
    """A file or stream cannot be added as an attachment."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"cannot add {source}: {reason}")
        self.source = source
        self.reason = reason


class SourceNotFound(SourceError):
    """The file does not exist."""


class SourceNotAFile(SourceError):
    """The path is a directory, a device or the like."""


class SourceUnreadable(SourceError):
    """The file exists but cannot be read."""


class SourceChanged(SourceError):
    """The file changed, shrank or vanished while it was being added."""


class InvalidMetadata(SourceError, TypeError):
    """The name, content type or custom metadata of an attachment are not text."""


class InvalidToken(MeshError):
    """A blob token is malformed or contradicts itself."""


class InvalidFetch(MeshError):
    """A blob is to be fetched within a time that is none."""


class BlobNotFound(MeshError):
    """The blob is not held here."""

    def __init__(self, hash: str) -> None:
        super().__init__(f"no blob {hash} is held here: fetch() gets it from the mesh")
        self.hash = hash


class BlobCorrupt(BlobNotFound):
    """What was held of the blob was damaged on disk: it is not here whole any more; fetch it again."""

    def __init__(self, hash: str) -> None:
        MeshError.__init__(
            self,
            f"blob {hash} was damaged on this disk: fetch() gets what is damaged of it from the mesh again",
        )
        self.hash = hash


class LinkedFileChanged(BlobCorrupt):
    """The file that a blob was linked to changed or vanished: the blob was dropped."""

    def __init__(self, hash: str, path: str, reason: str) -> None:
        MeshError.__init__(
            self,
            f"blob {hash} was linked to {path}, which {reason}, and was dropped: add the file again, "
            "or fetch() the blob from the mesh",
        )
        self.hash = hash
        self.path = path


class BlobTooLarge(MeshError):
    """A blob is larger than this node is configured to hold."""

    def __init__(self, hash: str, size_bytes: int, limit: int) -> None:
        super().__init__(f"blob {hash} has {size_bytes} bytes, over the limit of {limit} bytes")
        self.hash = hash
        self.size_bytes = size_bytes
        self.limit = limit


class StorageFull(MeshError):
    """There is no room for the bytes of a blob or document; ``is_lasting``: nor can there ever be."""

    def __init__(
        self, path: str, needed: int, free: int, reserve: int = 0, *, capacity: int | None = None
    ) -> None:
        """
        Args:
            reserve: bytes of ``needed`` that are not for it: they stay free for documents.
            capacity: bytes that can be free at most, where that is known.
        """
        self.is_lasting = capacity is not None and needed > capacity
        kept = f", {reserve} of them to stay free for documents" if reserve else ""
        hint = (
            f"No more than {capacity} can be: use a larger disk"
            if self.is_lasting
            else "Free some space and retry"
        )
        super().__init__(f"no room in {path}: {needed} bytes needed{kept}, {free} free. {hint}")
        self.path = path
        self.needed = needed
        self.free = free
        self.reserve = reserve

    @property
    def missing(self) -> int:
        """How many bytes have to become free."""
        return self.needed - self.free


class FetchFailed(MeshError):
    """A blob could not be fetched, for a reason that waiting does not heal."""

    def __init__(self, hash: str, reason: str) -> None:
        super().__init__(f"cannot fetch {hash}: {reason}")
        self.hash = hash
        self.reason = reason


class FetchTimeout(MeshError, TimeoutError):
    """``fetch(timeout=...)`` ran out of time. What arrived is kept, and a later fetch goes on from there."""

    def __init__(self, hash: str, timeout: float, downloaded: int, total: int, state: str) -> None:
        super().__init__(
            f"{hash} not complete after {timeout:g} s ({state}, {downloaded} of {total} bytes): "
            "what arrived is kept; fetch again to go on"
        )
        self.hash = hash
        self.downloaded_bytes = downloaded
        self.total_bytes = total
        self.state = state


# --- distributions ----------------------------------------------------------------------------


class InvalidScope(MeshError):
    """A distribution scope is unknown or malformed."""


class InvalidDistribution(MeshError):
    """A distribution is asked to be or do something that it cannot, such as to expire in the past."""


class UnknownDistribution(MeshError):
    """No distribution with this id is known here."""

    def __init__(self, distribution_id: str) -> None:
        super().__init__(f"no distribution {distribution_id} is known here")
        self.distribution_id = distribution_id


class DistributionTimeout(MeshError, TimeoutError):
    """``wait_for_completion`` ran out of time; ``status`` is the last one known."""

    def __init__(self, distribution_id: str, timeout: float, status: Any) -> None:
        super().__init__(
            f"distribution {distribution_id} is not complete after {timeout:g} s: "
            f"{status.completed} of {status.total_targets} targets completed. It goes on in the background"
        )
        self.distribution_id = distribution_id
        self.timeout = timeout
        self.status = status


# --- control ----------------------------------------------------------------------------------


class NodeNotRunning(MeshError):
    """No node runs on this home, so there is nothing for the command to talk to."""

    def __init__(self, home: str) -> None:
        super().__init__(f"no node is running on {home}: start one with `mesh up --home {home}`")
        self.home = home
