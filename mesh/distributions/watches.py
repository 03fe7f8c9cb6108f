"""Boards that are kept up to date while somebody follows a distribution."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from mesh.core.board import StatusBoard
from mesh.core.catalogue import Catalogue
from mesh.core.changes import Change, Document
from mesh.core.delivery import is_expired
from mesh.core.receipts import DistributionRecord, NodeRecord, Receipt
from mesh.core.scopes import nodes_selector
from mesh.core.status import DistributionStatus
from mesh.distributions.following import Followed
from mesh.distributions.ports import NODES, RECEIPTS, OwnedDocuments
from mesh.distributions.tasks import Tasks
from mesh.errors import InvalidDocument
from mesh.streams import Stream

logger = logging.getLogger("mesh.distributions")


def board_of(record: DistributionRecord, catalogue: Catalogue, now: float) -> StatusBoard:
    """A board that knows all about the distribution but its targets.

    Raises:
        InvalidScope: its scope is not understood here.
    """
    board = StatusBoard(record)
    update_board(board, record, catalogue, now)
    return board


def update_board(board: StatusBoard, record: DistributionRecord, catalogue: Catalogue, now: float) -> None:
    """Tell a board what its distribution is like now."""
    board.set_record(record)
    if (by := catalogue.superseded_by(record.distribution_id)) is not None:
        board.set_superseded(by)
    if is_expired(record, now):
        board.set_expired()


def put_receipt(board: StatusBoard, document: Document) -> None:
    """Show a receipt; one that makes no sense is told in the log and changes nothing."""
    try:
        board.put_receipt(Receipt.parse(document))
    except InvalidDocument as error:
        logger.warning("receipt %s is not counted: %s", document["_id"], error)


def put_node(board: StatusBoard, document: Document) -> None:
    """Show a node; one that makes no sense is told in the log and matches nothing."""
    try:
        board.put_node(NodeRecord.parse(document))
    except InvalidDocument as error:
        board.remove_node(document["_id"])
        logger.warning("node %s is not counted: %s", document["_id"], error)


class Watch(Followed):
    """One distribution that is followed, its board fed by observers."""

    def __init__(
        self,
        documents: OwnedDocuments,
        board: StatusBoard,
        record: DistributionRecord,
        idle: Callable[[], None],
    ) -> None:
        """
        Args:
            idle: called when the last follower is gone.
        """
        super().__init__(board)
        self.record = record
        self.is_ready = False
        self._idle = idle
        self._loaded = asyncio.Event()
        self._error: Exception | None = None
        self._waiting = 0
        self._tasks = Tasks()
        self._receipts = documents.observe(RECEIPTS, {"distribution_id": record.distribution_id})
        self._nodes = documents.observe(NODES, nodes_selector(record.parsed_scope()))

    def open(self) -> None:
        """Begin to observe; ready once all that is held is on the board."""
        self._tasks.spawn(self._observe(), f"watch distribution {self.record.distribution_id}")

    async def until_ready(self) -> None:
        """Wait until the board can be shown. Whoever waited must :meth:`follow` at once."""
        self._waiting += 1
        try:
            await self._loaded.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            self._waiting -= 1
            self._leave_if_idle()
            raise
        self._waiting -= 1

    async def close(self) -> None:
        """End every stream and stop observing."""
        self.finish()
        self._loaded.set()  # whoever still waits for the first status finds the service closed
        await self._tasks.close()
        await self._receipts.aclose()
        await self._nodes.aclose()

    def changed(self) -> None:
        """Show what is new, if anything is."""
        if self.is_ready:
            super().changed()

    def _left(self) -> None:
        self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if not self._followers and not self._waiting:
            self._idle()

    async def _observe(self) -> None:
        try:
            self._apply_receipts(await anext(self._receipts))
            self._apply_nodes(await anext(self._nodes))
        except Exception as error:
            self._error = error
            raise
        finally:
            self._loaded.set()
        self._shown = self.board.version
        self.is_ready = True
        self._tasks.spawn(self._read(self._receipts, self._apply_receipts), "watch receipts")
        self._tasks.spawn(self._read(self._nodes, self._apply_nodes), "watch nodes")

    async def _read(self, changes: Stream[Change], apply: Callable[[Change], None]) -> None:
        async for change in changes:
            apply(change)
            self.changed()

    def _apply_receipts(self, change: Change) -> None:
        for document in (*change.inserted, *change.updated):
            put_receipt(self.board, document)
        for receipt_id in change.removed:
            self.board.remove_receipt(receipt_id.partition(":")[2])

    def _apply_nodes(self, change: Change) -> None:
        for document in (*change.inserted, *change.updated):
            put_node(self.board, document)
        for node_id in change.removed:
            self.board.remove_node(node_id)


class Watches:
    """The distributions that are followed here, each by one watch, however many follow it."""

    def __init__(
        self,
        documents: OwnedDocuments,
        catalogue: Catalogue,
        lookup: Callable[[str], DistributionRecord],
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """
        Args:
            lookup: the distribution with an id; raises while the service is not running.
            changed: called when another distribution is followed, or one no longer is.
        """
        self._documents = documents
        self._catalogue = catalogue
        self._lookup = lookup
        self._clock = clock
        self._changed = changed
        self._watches: dict[str, Watch] = {}
        self._open: set[Watch] = set()
        self._tasks = Tasks()
        self._closed = False

    def __iter__(self) -> Iterator[Watch]:
        return iter(self._watches.values())

    async def close(self) -> None:
        """End every stream."""
        self._closed = True
        await self._tasks.close()
        for watch in self._open:
            await watch.close()

    def status(self, distribution_id: str) -> DistributionStatus | None:
        """The status of a distribution that is followed."""
        watch = self._watches.get(distribution_id)
        return watch.board.status() if watch is not None and watch.is_ready else None

    def update(self, record: DistributionRecord) -> None:
        """A distribution has changed, expired, or was replaced."""
        watch = self._watches.get(record.distribution_id)
        if watch is not None:
            update_board(watch.board, record, self._catalogue, self._clock())
            watch.changed()

    def end(self, distribution_id: str) -> None:
        """A distribution was removed: nobody follows it any more."""
        self._unwatch(distribution_id)

    async def watch(self, distribution_id: str) -> Watch:
        """The watch of a distribution, ready; whoever asked must :meth:`Watch.follow` at once."""
        record = self._lookup(distribution_id)
        watch = self._watches.get(distribution_id)
        if watch is None:
            board = board_of(record, self._catalogue, self._clock())
            watch = Watch(self._documents, board, record, lambda: self._unwatch(distribution_id))
            self._watches[distribution_id] = watch
            self._open.add(watch)
            watch.open()
            self._changed()
        await watch.until_ready()
        self._lookup(distribution_id)
        return watch

    def _unwatch(self, distribution_id: str) -> None:
        watch = self._watches.pop(distribution_id, None)
        if watch is not None and not self._closed:
            self._tasks.spawn(self._close(watch), f"stop watching {distribution_id}")

    async def _close(self, watch: Watch) -> None:
        await watch.close()
        self._open.discard(watch)
        self._changed()
