"""The document store: what this node holds, in one SQLite file, durable before it is acknowledged."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mesh.core.commits import Commit
from mesh.core.membership import Membership
from mesh.core.numbering import Numbering
from mesh.errors import StoreCorrupt
from mesh.storage import finding, lineage, salvage, shares
from mesh.storage.connection import NamedErrors
from mesh.storage.database import IN_MEMORY, Database
from mesh.storage.rows import Rows, Snapshot
from mesh.storage.salvage import Rebuilt
from mesh.storage.transactions import OpenTransaction
from mesh.storage.worker import Worker

_log = logging.getLogger("mesh.storage")

R = TypeVar("R")

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode


class DocumentStore:
    """The store of one node.

    Jobs are functions of a :class:`~mesh.storage.rows.Rows`: see :mod:`mesh.storage.writes` for local writes
    and :mod:`mesh.storage.replicas` for sync.

    Args:
        path: the SQLite file; ``None`` keeps everything in memory.
        worker: where the file is written; closed with the store.
        reader: where it is read, at the same time; closed with the store. ``None``, and always in memory:
            reads and writes take turns.
        membership: of a closed mesh, whose members alone write records.
        lost: the file should be there and hold something, but does not: that is said when it has been made.
        rng: draws identities.
        clock: wall clock, in seconds since the epoch.
    """

    def __init__(
        self,
        path: Path | None,
        worker: Worker,
        reader: Worker | None = None,
        *,
        lost: bool = False,
        membership: Membership | None = None,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self.path = path
        self._lost = lost
        self._membership = membership
        self._rng = rng
        self._clock = clock
        self._workers = [worker] if reader is None else [worker, reader]
        self._database: Database[Rows] = Database(
            IN_MEMORY if path is None else str(path),
            worker,
            self._begin,
            self._committed,
            None if path is None or reader is None else (reader, partial(Snapshot, clock=clock)),
        )
        self._refused = (0, 0)  # by the link they came by, and by who made them
        self._followers: list[Callable[[list[Commit]], None]] = []
        self.log_id = b""
        self.positions_era = 0
        self.head = 0
        self.written = 0
        """The position of the last local write, or of the log's end when the store was opened."""
        self.numbering = Numbering()
        self.logs: frozenset[bytes] | None = None
        self._renewable = 0.0
        self.documents = 0
        """How many documents are held, removed ones not counted."""
        self.rebuilt: Rebuilt | None = None
        """What became of the file if it was damaged, or not there any more, when it was opened."""

    @property
    def refused(self) -> int:
        """Documents of peers that were dropped since the start: who made or sent them had no right to."""
        return sum(self._refused)

    @property
    def may_renew(self) -> bool:
        """Whether a peer may make this store take itself for a backup that was put back."""
        return self._clock() >= self._renewable

    def refuse(self, documents: int) -> None:
        """So many more were dropped."""
        self._refused = (self._refused[0] + documents, self._refused[1])

    def follow(self, follower: Callable[[list[Commit]], None]) -> Callable[[], None]:
        """Call ``follower``, on the event loop, with everything that is committed from now on, and with
        nothing when ``log_id`` has changed, until what this gives is called."""
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    async def open(self) -> None:
        """Open or create the file. A damaged one is rebuilt, and kept aside: see ``rebuilt``.

        Raises:
            StoreTooNew, StorageFull, DataDirUnusable: see there.
        """
        try:
            try:
                await self._database.open()
            except StoreCorrupt as damage:
                self.rebuilt = await self._workers[0].run(self._rebuild, damage)
                await self._database.open()
        except BaseException:
            await self._close_workers()
            raise
        if self._lost and self.path is not None and self.rebuilt is None:
            self.rebuilt = salvage.begin_again(self.path, self._clock)
            await self._database.write(lambda rows: rows.lineage.forget_former())
        (
            self.log_id,
            self.positions_era,
            self.head,
            self.numbering,
            self.logs,
            self._renewable,
            self.documents,
        ) = await self._database.write(
            lambda rows: (
                rows.lineage.log_id,
                rows.lineage.positions_era,
                rows.lineage.seq,
                rows.lineage.numbering,
                rows.lineage.logs,
                rows.lineage.renewable,
                sum(finding.collections(rows).values()),
            )
        )
        self.written = self.head

    async def close(self) -> None:
        """Finish what was asked for and close the file. May be repeated."""
        await self._database.close()
        await self._close_workers()

    async def _close_workers(self) -> None:
        for worker in self._workers:
            await worker.close()

    def disk_bytes(self) -> int:
        """What the file and its write-ahead log take on the disk; 0 in memory."""
        if self.path is None:
            return 0
        log = self.path.with_name(self.path.name + "-wal")
        return sum(path.stat().st_size for path in (self.path, log) if path.exists())

    async def write(self, job: Callable[[Rows], R], *, bulk: bool = False) -> R:
        """The result of ``job``, durable when this returns; atomic by itself. ``bulk``: what others ask for
        goes first."""
        return await self.submit(job, bulk=bulk)

    def submit(self, job: Callable[[Rows], R], *, bulk: bool = False) -> asyncio.Future[R]:
        """As :meth:`write`, and asked for at once: no task has to wait for it."""
        return self._database.write(job, bulk=bulk)

    async def read(self, job: Callable[[Rows], R]) -> R:
        """The result of ``job``, which only reads, and has no use for the lineage."""
        return await self._database.read(job)

    async def transaction(self) -> OpenTransaction[Rows]:
        """Begin a transaction; it has to be committed or rolled back.

        Raises:
            NestedTransaction: one is open around here.
        """
        return await self._database.transaction()

    def end_transactions(self) -> None:
        """Roll back the transaction that is open, and let none begin: the store is about to be closed."""
        self._database.end_transactions()

    def _rebuild(self, damage: StoreCorrupt) -> Rebuilt:
        assert self.path is not None
        with NamedErrors(str(self.path)):
            return salvage.rebuild(self.path, damage.reason, self._rng, self._clock)

    def _begin(self, connection: Any) -> Rows:
        place = ("", "") if self.path is None else (lineage.host_of(self.path), lineage.boot_id())
        rows = Rows(connection, self._rng, self._clock, *place)
        rows.membership = self._membership
        rows.retry_refused()
        shares.forget_old(rows)
        return rows

    def _committed(self, rows: Rows) -> None:
        commits = rows.take_commits()
        self._refused = (self._refused[0], rows.refused)
        renewed = self.log_id != rows.lineage.log_id
        self.positions_era = rows.lineage.positions_era
        if renewed:
            self.log_id = rows.lineage.log_id
            self.numbering = rows.lineage.numbering
            self.logs = rows.lineage.logs
            self._renewable = rows.lineage.renewable
        if commits or renewed:
            self.head = rows.lineage.seq
            self.written = next((c.seq for c in reversed(commits) if c.source is None), self.written)
            self.documents += sum((c.after is not None) - (c.before is not None) for c in commits)
            for follower in list(self._followers):
                try:
                    follower(commits)
                except Exception:  # noqa: BLE001 - whatever it is, it is logged
                    # The commit stands: neither its writer nor the other followers may suffer.
                    _log.exception("a follower of the store failed")


# --- remembered subscriptions -------------------------------------------------------------------


def subscriptions(rows: Rows) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, collection, selector) of every remembered subscription."""
    return [
        (name, collection, _decode_json(selector))
        for name, collection, selector in rows.connection.execute(
            "SELECT name, collection, selector FROM subscriptions ORDER BY name"
        )
    ]


def remember_subscription(rows: Rows, name: str, collection: str, selector: Mapping[str, Any]) -> None:
    """Keep a subscription across restarts."""
    rows.connection.execute(
        "INSERT OR REPLACE INTO subscriptions(name, collection, selector) VALUES (?, ?, ?)",
        (name, collection, msgspec.json.encode(selector).decode()),
    )


def forget_subscription(rows: Rows, name: str) -> None:
    """Forget a subscription."""
    rows.connection.execute("DELETE FROM subscriptions WHERE name = ?", (name,))
