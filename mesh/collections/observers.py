"""Observers: live results of queries over the local store."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from weakref import WeakSet

from mesh.core.audience import Audience
from mesh.core.changes import Change, Document, merge_changes, snapshot
from mesh.core.commits import Commit
from mesh.core.results import Result
from mesh.core.selector import Selector, Sort, required
from mesh.core.values import identical
from mesh.errors import InvalidSelector
from mesh.storage import finding
from mesh.storage.documents import DocumentStore
from mesh.storage.queries import compile_query
from mesh.storage.rows import Rows
from mesh.streams import Stream


class _Observed:
    """One observed query: what matches it, in order, and how that changes.

    What is committed while the snapshot is read is kept, and applied to it where it is newer.
    """

    stream: weakref.ref[Stream[Change]]
    """Where that is told."""

    def __init__(self, selector: Selector | None, sort: Sort | None, limit: int | None) -> None:
        self.query = compile_query(selector, sort)
        self.required = required(selector)
        self._limit = limit
        self.begin()

    def begin(self) -> None:
        """The snapshot is about to be read, or nothing is wanted any more."""
        self._matching: dict[str, Document] = {}
        self._result = Result([], self.query.key)
        self._window: dict[str, Document] = {}
        self._waiting: list[Commit] | None = []

    def start(self, found: list[Document], head: int) -> Change:
        """The snapshot, as of position ``head`` of the log, and what has been committed since."""
        waiting, self._waiting = self._waiting or [], None
        self._matching = {document["_id"]: document for document in found}
        self._result = Result(found, self.query.key)
        for commit in waiting:
            if commit.seq > head:
                self._take(commit, {})
        if self._limit is None:
            return snapshot(self._result.view()())
        shown = self._result.first(self._limit)
        self._window = {document["_id"]: document for document in shown}
        return snapshot(shown)

    def commit(self, commits: Iterable[Commit]) -> Change | None:
        """How the result has changed; ``None`` if it has not."""
        if self._waiting is not None:
            self._waiting.extend(commits)
            return None
        before: dict[str, Document | None] = {}
        for commit in commits:
            self._take(commit, before)
        if self._limit is not None:
            return self._moved_window(self._limit) if before else None
        inserted: list[Document] = []
        updated: list[Document] = []
        removed: list[str] = []
        for document_id, old in before.items():
            new = self._matching.get(document_id)
            if new is None:
                if old is not None:
                    removed.append(document_id)
            elif old is None:
                inserted.append(new)
            elif not identical(old, new):
                updated.append(new)
        if not inserted and not updated and not removed:
            return None
        inserted.sort(key=self.query.key)
        updated.sort(key=self.query.key)
        had = {document_id: old for document_id, old in before.items() if old is not None}
        return Change(self._result.view(), inserted, updated, removed, had)

    def _moved_window(self, limit: int) -> Change | None:
        old = self._window
        shown = {document["_id"]: document for document in self._result.first(limit)}
        self._window = shown
        inserted = [document for document_id, document in shown.items() if document_id not in old]
        updated = [
            document
            for document_id, document in shown.items()
            if (was := old.get(document_id)) is not None
            and was is not document
            and not identical(was, document)
        ]
        removed = [document_id for document_id in old if document_id not in shown]
        if not inserted and not updated and not removed:
            return None
        return Change(list(shown.values()), inserted, updated, removed, old)

    def _take(self, commit: Commit, before: dict[str, Document | None]) -> None:
        """Take in one commit, and note what it found if it is the first of its document."""
        document_id, after = commit.change.id, commit.after
        old = self._matching.get(document_id)
        if after is not None and self.query.matches(after):
            self._matching[document_id] = after
            if old is not None:
                self._result.remove(old)
            self._result.add(after)
        elif old is not None:
            del self._matching[document_id]
            self._result.remove(old)
        else:
            return
        before.setdefault(document_id, old)


class Observers:
    """The observers of one store.

    Streams are held weakly: an abandoned one costs nothing. Nor does one that has not been read yet: it is
    told of commits from its first read on.
    """

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._streams: WeakSet[Stream[Change]] = WeakSet()
        self._told: Audience[_Observed] = Audience()
        store.follow(self._committed)

    def observe(
        self,
        collection: str,
        selector: Selector | None = None,
        sort: Sort | None = None,
        limit: int | None = None,
    ) -> Stream[Change]:
        """A stream of the query's result: the snapshot, then every change, coalesced for a slow reader.

        Raises:
            InvalidSelector: the selector or the sort order is malformed, or ``limit`` is negative.
        """
        if limit is not None and limit < 0:
            raise InvalidSelector(f"limit cannot be negative: {limit}")
        observed = _Observed(selector, sort, limit)

        def job(rows: Rows) -> tuple[list[Document], int]:
            return finding.find(rows, collection, observed.query), finding.position(rows)

        async def start() -> None:
            observed.begin()
            self._told.add(observed, collection, observed.required)
            try:
                change = observed.start(*await self._store.read(job))
            except BaseException:
                stop()
                raise
            stream = observed.stream()
            assert stream is not None  # it is being read
            stream.push(change)

        def stop() -> None:
            self._told.remove(observed, collection, observed.required)
            observed.begin()

        stream: Stream[Change] = Stream(start=start, merge=merge_changes, on_close=stop)
        observed.stream = weakref.ref(stream, lambda _: stop())
        self._streams.add(stream)
        return stream

    def close(self) -> None:
        """End every stream."""
        for stream in list(self._streams):
            stream.finish()

    def _committed(self, commits: Sequence[Commit]) -> None:
        concerned: dict[_Observed, list[Commit]] = {}
        for commit in commits:
            for observed in self._told.concerned(commit.change.collection, commit.before, commit.after):
                concerned.setdefault(observed, []).append(commit)
        for observed, changed in concerned.items():
            change = observed.commit(changed)
            stream = observed.stream()
            if change is not None and stream is not None:
                stream.push(change)
