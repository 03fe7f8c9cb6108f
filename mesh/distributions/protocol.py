"""The five verbs and their company, as applications see them."""

from __future__ import annotations

from typing import Protocol

from mesh.core.scopes import AllNodes, DistributionScope
from mesh.core.status import DistributionHandle, DistributionStatus, TransferPriority
from mesh.core.tokens import BlobToken
from mesh.streams import Stream

_EVERYBODY = AllNodes()


class FileDistribution(Protocol):
    """Brings a blob to every node of a scope, and tells how far each of them is.

    A distribution is a document: it survives restarts of anyone, reaches nodes that are offline now,
    and every method takes its handle or its id; anything else is refused with ``InvalidDistribution``.
    """

    async def distribute(
        self,
        blob_token: BlobToken,
        scope: DistributionScope = _EVERYBODY,
        priority: TransferPriority = TransferPriority.NORMAL,
        *,
        expires_in: float | None = None,
        supersedes: DistributionHandle | str | None = None,
    ) -> DistributionHandle:
        """Publish: durable when this returns; targets fetch whenever they learn of it.

        Args:
            expires_in: seconds after which no further node begins. Each node judges by its own wall clock.
            supersedes: an earlier distribution of this node; whoever has not finished it never will.

        Raises:
            InvalidScope: the scope says nothing or is malformed.
            InvalidToken: the token cannot be true.
            InvalidDistribution: ``expires_in`` is not a positive number of seconds, or no peer could read it.
            UnknownDistribution, PermissionDenied: ``supersedes`` is not known here, or another node's.
        """

    async def dry_run(self, scope: DistributionScope) -> list[str]:
        """The ids of the nodes, known here, that would receive it now.

        Raises:
            InvalidScope: the scope says nothing or is malformed.
        """

    async def status(self, handle: DistributionHandle | str) -> DistributionStatus:
        """What is known here of a distribution.

        Raises:
            UnknownDistribution: it is not known here.
            InvalidScope: it came from a newer peer and its scope is not understood.
        """

    async def cancel(self, handle: DistributionHandle | str) -> None:
        """Nobody delivers it any more; who has completed it keeps it. May be repeated.

        Raises:
            UnknownDistribution: it is not known here.
            PermissionDenied: another node published it, and this one is no admin of a closed mesh.
        """

    async def retry(self, handle: DistributionHandle | str) -> None:
        """Let the targets that failed try again.

        Raises:
            UnknownDistribution: it is not known here.
            PermissionDenied: another node published it.
            InvalidDistribution: it is cancelled, superseded or expired.
        """

    async def wait_for_completion(
        self,
        handle: DistributionHandle | str,
        timeout: float,
        *,
        min_targets: int = 1,
        settle: float = 0.5,
    ) -> DistributionStatus:
        """The status once every target is terminal, there are ``min_targets``, and nothing has changed for
        ``settle`` seconds; or as soon as it is cancelled or expired. Zero targets is never complete.

        Raises:
            InvalidDistribution: ``min_targets`` is below 1, or a time is not a number of seconds.
            DistributionTimeout: not after ``timeout`` seconds; carries the last ``.status``.
            UnknownDistribution, InvalidScope: see :meth:`status`.
        """

    def subscribe_progress(self, handle: DistributionHandle | str) -> Stream[DistributionStatus]:
        """The present status, then every change (only the newest for slow readers).

        Ends after the terminal one: complete and settled, cancelled, or expired. The errors of
        :meth:`status` are raised by the first item.
        """

    async def handles(self) -> list[DistributionHandle]:
        """Every distribution that is known and understood here, the oldest first."""
