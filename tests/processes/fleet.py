"""A publisher and two targets in processes of their own, and how a test speaks with them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mesh import DistributionScope, DistributionStatus, Nodes
from mesh.control.client import ControlClient
from tests.processes.mesh_process import MeshProcess
from tests.processes.test_crashes import free_port

WAIT_SECONDS = 45.0
UPLOAD_LIMIT = "2000000"


class Fleet:
    """``hq`` publishes, at 2 MB a second; ``van`` is of the north and ``truck`` of the south. Both dial it.

    Whoever a test stops is running again for the next one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hq = self.node("hq", "--listen", f"127.0.0.1:{free_port()}", "--upload-limit", UPLOAD_LIMIT)
        self.van = self.truck = self.hq
        self._numbers = itertools.count()

    def node(self, name: str, *options: str) -> MeshProcess:
        """A node that is not up yet."""
        return MeshProcess(self.root / name, "--name", name, *options)

    def edge(self, name: str, *options: str) -> MeshProcess:
        """A node, not up yet, that only dials ``hq``."""
        return self.node(name, "--listen", "none", "--peer", self.hq.address, *options)

    def distribute(
        self,
        content: bytes,
        scope: DistributionScope | None = None,
        *,
        by: MeshProcess | None = None,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Distribute a new file, to the van and the truck unless there is a ``scope``; the id."""
        scope = scope or Nodes([self.van.node_id, self.truck.node_id])
        folder = self.root / "sent" / f"{next(self._numbers)}"
        folder.mkdir(parents=True)
        path = folder / (name or f"{folder.name}.bin")
        path.write_bytes(content)
        made = call(by or self.hq, "distributions.create", path=str(path), scope=scope.to_dict(), **options)
        id: str = made["handle"]["distribution_id"]
        return id

    def status(self, id: str, at: MeshProcess | None = None) -> DistributionStatus:
        """What a node knows of it."""
        return DistributionStatus.from_dict(call(at or self.hq, "distributions.status", id=id)["status"])

    def finish(self, id: str, *, targets: int = 1, at: MeshProcess | None = None) -> DistributionStatus:
        """The last status: of a distribution that is over, or of which so many targets are."""

        def over(status: DistributionStatus) -> bool:
            ended = status.completed + status.failed + status.cancelled
            return status.is_cancelled or status.is_expired or ended >= targets

        return self.until(id, over, at=at)

    def begin(self, id: str) -> DistributionStatus:
        """The first status in which something has moved."""
        return self.until(id, lambda status: status.overall_progress > 0)

    def until(
        self, id: str, enough: Callable[[DistributionStatus], object], *, at: MeshProcess | None = None
    ) -> DistributionStatus:
        """The first status that is ``enough``; it follows until then."""

        async def follow() -> DistributionStatus:
            async with (
                asyncio.timeout(WAIT_SECONDS),
                ControlClient((at or self.hq).home) as client,
                client.stream("distributions.progress", {"id": id}) as items,
            ):
                async for item in items:
                    status = DistributionStatus.from_dict(item)
                    if enough(status):
                        return status
            raise AssertionError(f"it ended before: {status}")

        return asyncio.run(follow())


def call(process: MeshProcess, method: str, **params: Any) -> Any:
    """The result of a control method of a node."""

    async def ask() -> Any:
        async with asyncio.timeout(WAIT_SECONDS), ControlClient(process.home) as client:
            return await client.call(method, params)

    return asyncio.run(ask())


def inbox(process: MeshProcess) -> dict[str, bytes]:
    """What is visible in a node's inbox."""
    found = sorted((process.home / "inbox").glob("*"))
    return {path.name: path.read_bytes() for path in found if not path.name.startswith(".")}


@contextmanager
def fleet(root: Path) -> Iterator[Fleet]:
    """A fleet that is up."""
    made = Fleet(root)
    with made.hq:
        made.van = made.edge("van", "--formation", "north")
        made.truck = made.edge("truck", "--formation", "south", "--tag", "camera")
        with made.van, made.truck:
            yield made
