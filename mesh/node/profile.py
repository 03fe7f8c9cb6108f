"""What a node says of itself: its own document, and the facts that scopes are matched against."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from mesh.collections.owned import OwnedDocuments
from mesh.core.clones import Clones, Finding
from mesh.core.receipts import NodeRecord
from mesh.core.scopes import Capabilities, NodeFacts
from mesh.core.values import identical
from mesh.errors import InvalidNode, MeshError
from mesh.node.checks import check_facts
from mesh.node.probe import Probe
from mesh.storage.worker import Worker

logger = logging.getLogger("mesh.node")

PROBE_SECONDS = 3600.0

NOTABLE_SHARE = 0.1
"""Free storage that has changed by less is not worth a new document."""


def is_notable(before: Capabilities, after: Capabilities) -> bool:
    """Whether others should hear that what was detected has changed."""
    if msgspec.structs.replace(after, storage_mb=before.storage_mb) != before:
        return True
    if before.storage_mb is None or after.storage_mb is None:
        return before.storage_mb != after.storage_mb
    return abs(after.storage_mb - before.storage_mb) > NOTABLE_SHARE * before.storage_mb


class Profile:
    """The node's own document, kept true.

    Args:
        record: what the document says, but for the facts, the address and the process that says it.
        worker: where probes run.
        new_instance: draws a name for this process.
    """

    def __init__(
        self,
        owned: OwnedDocuments,
        record: NodeRecord,
        worker: Worker,
        data_dir: Path | None,
        address: Callable[[], str | None],
        new_instance: Callable[[], str],
    ) -> None:
        self._owned = owned
        self._new_instance = new_instance
        self._clones = Clones(new_instance())
        self._record = msgspec.structs.replace(record, instance=self._clones.instance)
        self._worker = worker
        self._data_dir = data_dir
        self._address = address
        self._callbacks: tuple[Callable[[], None], ...] = ()
        self._source: Capabilities | Probe = record.capabilities
        self._published = False
        self._turn = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def node_id(self) -> str:
        """Whose document it is."""
        return self._record.node_id

    @property
    def facts(self) -> NodeFacts:
        """What scopes are matched against."""
        return self._record.facts

    def on_change(self, *callbacks: Callable[[], None]) -> None:
        """Call these when other scopes may match."""
        self._callbacks = callbacks

    async def take(self, source: Capabilities | Probe) -> None:
        """The capabilities are these, or what this finds out, from now on.

        Raises:
            InvalidNode: the probe fails, or finds what no node can be. Nothing has changed.
        """
        async with self._turn:
            capabilities = await self._capabilities(source)
            await self._say(msgspec.structs.replace(self._record, capabilities=capabilities))
            self._source = source

    async def set_formations(self, formations: list[str]) -> None:
        """The node belongs to these from now on.

        Raises:
            InvalidNode: one of them is no name.
        """
        check_facts(formations, None)
        async with self._turn:
            await self._say(msgspec.structs.replace(self._record, formations=formations))

    async def publish(self, now: float) -> None:
        """Write the document: the node is up, or back, since ``now``, where it listens."""
        async with self._turn:
            if self._published:
                await self._detect()
            self._record = msgspec.structs.replace(self._record, started_at=now)
            self._published = True
            await self._say(self._record)
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._probe_for_ever())]

    async def put_right(self) -> tuple[NodeRecord, Finding] | None:
        """If another process has written the document: what it says, and what follows from that. Then it is
        written again, unless this process has to stop, and says no more.

        Raises:
            MeshError: it cannot be written.
        """
        async with self._turn:
            document = await self._owned.get("nodes", self.node_id)
            if document is None or identical(document, {"_id": self.node_id, **self._record.body()}):
                return None
            said = NodeRecord.parse(document)
            finding = self._clones.meet(said, self._record.started_at, self._new_instance())
            self._published = not finding.stops
            self._record = msgspec.structs.replace(
                self._record, instance=self._clones.instance, answers=self._clones.answers
            )
            await self._say(self._record)
            return said, finding

    async def close(self) -> None:
        """Probe no more, and leave the document to itself."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _say(self, record: NodeRecord) -> None:
        before = self._record.facts
        record = msgspec.structs.replace(record, listen=self._address())
        if self._published:
            await self._owned.write("nodes", record.node_id, record.body())
        self._record = record
        if record.facts != before:
            for callback in self._callbacks:
                callback()

    async def _capabilities(self, source: Capabilities | Probe) -> Capabilities:
        check_facts([], source)
        if isinstance(source, Capabilities):
            return source
        try:
            found = await self._worker.run(source, self._data_dir)
        except Exception as error:
            raise InvalidNode(
                f"the probe of capabilities failed: declare them, or mend it ({error!r})"
            ) from error
        if not isinstance(found, Capabilities):
            raise InvalidNode(f"a probe of capabilities returns Capabilities(...), not {found!r}")
        check_facts([], found)
        return found

    async def _detect(self) -> None:
        """Take what the probe finds now, if that is news."""
        try:
            found = await self._capabilities(self._source)
            if is_notable(self._record.capabilities, found):
                await self._say(msgspec.structs.replace(self._record, capabilities=found))
        except MeshError as error:
            logger.warning("the capabilities stay as they were said: %s", error)

    async def _probe_for_ever(self) -> None:
        while True:
            await elapse(PROBE_SECONDS)
            async with self._turn:
                await self._detect()


async def elapse(seconds: float) -> None:
    """Return so much later."""
    loop = asyncio.get_running_loop()
    due: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, due.set_result, None)
    try:
        await due
    finally:
        timer.cancel()
