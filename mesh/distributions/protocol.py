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

            token = await node.attachments.add("map.mbtiles")
            handle = await node.distributions.distribute(token, Formation("north"), TransferPriority.HIGH)

        Args:
            blob_token: what is distributed. This node, or whoever holds the blob, has to be up for targets to
                get it; a hub keeps it for them.
            scope: for whom: ``AllNodes()``, ``Formation(id)``, ``Nodes(ids)`` or ``Capable(...)``. Every node
                judges for itself whether it is meant, also one that joins later. Ids are whole node ids;
                ``await node.members()`` has them.
            priority: urgent transfers go first, equals share.
            expires_in: seconds after which who has not completed it fails. Each node judges by its own wall
                clock.
            supersedes: an earlier distribution of this node; whoever has not finished it never will.

        Raises:
            InvalidScope: the scope says nothing, is malformed, or has the name of a node instead of its id.
            InvalidToken: the token cannot be true.
            InvalidDistribution: ``expires_in`` is not a positive number of seconds, or no peer could read it.
            UnknownDistribution, PermissionDenied: ``supersedes`` is not known here, or another node's.
            PermissionDenied: in a closed mesh, this node's certificate lacks the role ``publish``.
        """

    async def dry_run(self, scope: DistributionScope) -> list[str]:
        """The ids of the nodes, known here, that would receive it now.

            if not await node.distributions.dry_run(Capable(min_gpu_gb=8)): ...

        Raises:
            InvalidScope: see :meth:`distribute`.
        """

    async def status(self, handle: DistributionHandle | str) -> DistributionStatus:
        """What is known here of a distribution: how far each target was when it was last heard of.

            status = await node.distributions.status(handle)
            for target in status.node_statuses.values():
                print(target.node_id, target.status, f"{target.progress_fraction:.0%}", target.error)

        Targets are the nodes known to match the scope, those it names, and those that have said how far they
        are: except for ``Nodes``, there may be more.

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
        """Let the targets that failed try again, also those that refused or rejected it.

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

            status = await node.distributions.wait_for_completion(handle, timeout=600, min_targets=3)
            print(status.is_success)

        Args:
            timeout: seconds. A target that is off does not end the wait.

        Raises:
            InvalidDistribution: ``min_targets`` is below 1, or a time is not a number of seconds.
            DistributionTimeout: not after ``timeout`` seconds; carries the last ``.status``.
            UnknownDistribution, InvalidScope: see :meth:`status`.
        """

    def subscribe_progress(self, handle: DistributionHandle | str) -> Stream[DistributionStatus]:
        """The present status, then every change (only the newest for slow readers).

            async for status in node.distributions.subscribe_progress(handle):
                print(f"{status.overall_progress:.0%}")

        Ends after the terminal one: complete and settled, cancelled, or expired. The errors of
        :meth:`status` are raised by the first item.
        """

    async def handles(self) -> list[DistributionHandle]:
        """Every distribution that is known and understood here, the oldest first."""
