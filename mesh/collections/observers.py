"""Observers: live results of queries over the local store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakSet

from mesh.core.changes import Change, Document, merge_changes, snapshot
from mesh.core.commits import Commit
from mesh.core.selector import Selector, sort_key
from mesh.storage import finding
from mesh.storage.documents import DocumentStore
from mesh.storage.queries import compile_query
from mesh.storage.rows import Rows
from mesh.streams import Stream


class _Observed:
    """One observed query: its result, and what changes it.

    What is committed while the snapshot is read is kept, and applied to it where it is newer. Before that,
    nothing is: a stream that nobody reads costs nothing.
    """

    def __init__(
        self,
        collection: str,
        selector: Selector | None,
        sort: Sequence[str | Mapping[str, str]] | None,
        limit: int | None,
    ) -> None:
        self.collection = collection
        self.query = compile_query(selector)
        self._sort = sort_key(sort)
        self._limit = limit
        self._all: dict[str, Document] = {}
        self._shown: dict[str, Document] = {}
        self._waiting: list[Commit] | None = None
        self._live = False

    def begin(self) -> None:
        """The snapshot is about to be read."""
        self._live = True
        self._waiting = []

    def start(self, found: list[Document], head: int) -> Change:
        """The snapshot, as of position ``head`` of the log, and what has been committed since."""
        waiting, self._waiting = self._waiting or [], None
        self._all = {document["_id"]: document for document in found}
        for commit in waiting:
            if commit.seq > head:
                self._take(commit)
        ordered = self._ordered()
        self._shown = {document["_id"]: document for document in ordered}
        return snapshot(ordered)

    def commit(self, commits: Sequence[Commit]) -> Change | None:
        """How the result has changed; ``None`` if it has not."""
        if not self._live:
            return None
        if self._waiting is not None:
            self._waiting.extend(commits)
            return None
        touched = [self._take(commit) for commit in commits]
        if not any(touched):
            return None
        before = self._shown
        ordered = self._ordered()
        self._shown = {document["_id"]: document for document in ordered}
        inserted = [document for document in ordered if document["_id"] not in before]
        updated = [
            document
            for document in ordered
            if (old := before.get(document["_id"])) is not None and old is not document and old != document
        ]
        removed = [document_id for document_id in before if document_id not in self._shown]
        if not inserted and not updated and not removed:
            return None
        return Change(ordered, inserted, updated, removed)

    def _take(self, commit: Commit) -> bool:
        """Take in one commit; whether the result may differ."""
        document_id = commit.change.id
        if commit.after is not None and self.query.matches(commit.after):
            self._all[document_id] = commit.after
            return True
        return self._all.pop(document_id, None) is not None

    def _ordered(self) -> list[Document]:
        ordered = list(self._all.values())
        self._sort(ordered)
        return ordered if self._limit is None else ordered[: self._limit]


class Observers:
    """The observers of one store. They are held weakly: an abandoned stream costs nothing."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._streams: dict[str, WeakSet[Stream[Change]]] = {}
        store.follow(self._committed)

    def observe(
        self,
        collection: str,
        selector: Selector | None = None,
        sort: Sequence[str | Mapping[str, str]] | None = None,
        limit: int | None = None,
    ) -> Stream[Change]:
        """A stream of the query's result: the snapshot, then every change, coalesced for a slow reader.

        Raises:
            InvalidSelector: the selector or the sort order is malformed.
        """
        observed = _Observed(collection, selector, sort, limit)

        async def start() -> None:
            def job(rows: Rows) -> tuple[list[Document], int]:
                return finding.find(rows, collection, observed.query), rows.lineage.seq

            observed.begin()
            stream.push(observed.start(*await self._store.read(job)))

        stream: Stream[Change] = Stream(start=start, merge=merge_changes, source=observed)
        self._streams.setdefault(collection, WeakSet()).add(stream)
        return stream

    def close(self) -> None:
        """End every stream."""
        for streams in self._streams.values():
            for stream in list(streams):
                stream.finish()
        self._streams.clear()

    def _committed(self, commits: list[Commit]) -> None:
        by_collection: dict[str, list[Commit]] = {}
        for commit in commits:
            if commit.change.collection in self._streams:
                by_collection.setdefault(commit.change.collection, []).append(commit)
        for collection, changed in by_collection.items():
            for stream in list(self._streams[collection]):
                observed = stream.source
                assert isinstance(observed, _Observed)
                change = observed.commit(changed)
                if change is not None:
                    stream.push(change)
