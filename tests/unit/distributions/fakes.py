"""The documents and blobs of a node in a world of fakes: they sync as the test says, and take time."""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from blake3 import blake3

from mesh.core.changes import Change, merge_changes, snapshot
from mesh.core.records import owner_of
from mesh.core.selector import Matcher, compile_selector
from mesh.core.status import TransferPriority
from mesh.core.tokens import BlobMetadata, BlobProgress, BlobToken
from mesh.errors import BlobNotFound
from mesh.streams import Stream

if TYPE_CHECKING:
    from tests.unit.distributions.world import World

CHUNK = 1 << 20

T = TypeVar("T")
Key = tuple[str, str]
Versioned = tuple[int, dict[str, Any]]


def token_of(content: bytes, name: str | None = "map.bin") -> BlobToken:
    """The token that the attachments service would make."""
    chunks = [content[i : i + CHUNK] for i in range(0, len(content), CHUNK)]
    return BlobToken(
        blake3(content).hexdigest(),
        len(content),
        blake3(b"".join(blake3(chunk).digest() for chunk in chunks)).hexdigest(),
        BlobMetadata(name=name),
    )


class _Observed:
    def __init__(self, matches: Matcher) -> None:
        self.matches = matches
        self.shown: dict[str, dict[str, Any]] | None = None


class FakeDocuments:
    """One node's owned documents. What others wrote arrives if it is wanted, as the world lets it."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.held: dict[Key, Versioned] = {}
        self.arrived: dict[Key, float] = {}
        self.wants: dict[Key, Matcher] = {}
        self.selectors: dict[Key, dict[str, Any]] = {}
        self.writes: list[tuple[float, str, str, dict[str, Any]]] = []
        self.fail_writes: list[Exception] = []
        self.commit_seconds = 0.0
        self._streams: weakref.WeakKeyDictionary[Stream[Change], tuple[str, _Observed]]
        self._streams = weakref.WeakKeyDictionary()

    async def write(self, collection: str, document_id: str, body: dict[str, Any]) -> None:
        assert owner_of(collection, document_id, body) == self.node_id
        await asyncio.sleep(self.commit_seconds)
        if self.fail_writes:
            raise self.fail_writes.pop(0)
        sequence = self.held.get((collection, document_id), (0, {}))[0] + 1
        self.writes.append((asyncio.get_running_loop().time(), collection, document_id, body))
        self.receive((collection, document_id), (sequence, copy.deepcopy(body)))
        self.world.spread(self, (collection, document_id))

    async def find(self, collection: str, selector: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        matches = compile_selector(selector)
        return [d for d in self._documents(collection) if matches(d)]

    def observe(self, collection: str, selector: dict[str, Any] | None = None) -> Stream[Change]:
        observed = _Observed(compile_selector(selector))

        async def start() -> None:
            observed.shown = {d["_id"]: d for d in self._documents(collection) if observed.matches(d)}
            stream.push(snapshot(list(observed.shown.values())))

        stream: Stream[Change] = Stream(start=start, merge=merge_changes)
        self._streams[stream] = collection, observed
        return stream

    async def arrivals(self, collection: str, prefix: str) -> dict[str, float]:
        await asyncio.sleep(0)
        return {
            document_id: self.arrived[held_in, document_id]
            for held_in, document_id in self.held
            if held_in == collection and document_id.startswith(prefix)
        }

    async def forget(self, collection: str, ids: Iterable[str]) -> None:
        await asyncio.sleep(self.commit_seconds)
        for document_id in ids:
            self.held.pop((collection, document_id), None)
            for stream, (observed_in, observed) in list(self._streams.items()):
                shown = observed.shown if observed_in == collection else None
                if shown is not None and shown.pop(document_id, None) is not None:
                    stream.push(Change(list(shown.values()), removed=[document_id]))

    async def want(self, collection: str, name: str, selector: dict[str, Any] | None) -> None:
        if selector is None:
            del self.wants[collection, name]
            del self.selectors[collection, name]
            return
        self.selectors[collection, name] = selector
        self.wants[collection, name] = compile_selector(selector)
        self.world.catch_up(self)

    def is_wanted(self, key: Key, versioned: Versioned) -> bool:
        document = document_of(key[1], versioned)
        # What is held already is kept up to date when it leaves the selector, too.
        return (
            key[0] == "distributions"
            or key in self.held
            or any(
                collection == key[0] and matches(document) for (collection, _), matches in self.wants.items()
            )
        )

    def receive(self, key: Key, versioned: Versioned) -> None:
        """A document arrives; an older state than is held changes nothing."""
        held = self.held.get(key)
        if held is not None and held[0] >= versioned[0]:
            return
        self.held[key] = versioned
        self.arrived[key] = self.world.now()
        for stream, (collection, observed) in list(self._streams.items()):
            if collection == key[0] and observed.shown is not None:
                self._tell(stream, observed, document_of(key[1], versioned))

    def _tell(self, stream: Stream[Change], observed: _Observed, document: dict[str, Any]) -> None:
        assert observed.shown is not None
        document_id = document["_id"]
        was, matches = document_id in observed.shown, observed.matches(document)
        if matches:
            observed.shown[document_id] = document
        elif was:
            del observed.shown[document_id]
        else:
            return
        stream.push(
            Change(
                list(observed.shown.values()),
                inserted=[document] if matches and not was else [],
                updated=[document] if matches and was else [],
                removed=[] if matches else [document_id],
            )
        )

    def _documents(self, collection: str) -> Iterator[dict[str, Any]]:
        for (held_in, document_id), versioned in list(self.held.items()):
            if held_in == collection:
                yield document_of(document_id, versioned)


def document_of(document_id: str, versioned: Versioned) -> dict[str, Any]:
    return {**copy.deepcopy(versioned[1]), "_id": document_id}


class FakeHandle:
    """A blob that is here."""

    def __init__(self, content: bytes) -> None:
        self.content = content


class FakeBlobs:
    """One node's blobs. A transfer takes ``seconds``; it waits while nobody who is online holds the blob."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.held: dict[str, bytes] = {}
        self.seconds = 1.0
        self.steps = 4
        self.fetched: list[str] = []
        self.running: list[str] = []
        self.most_running = 0
        self.failures: list[Exception] = []
        self.discarded: list[str] = []
        self.exported = 0

    def add(self, content: bytes, name: str | None = "map.bin") -> BlobToken:
        token = token_of(content, name)
        self.held[token.hash] = content
        self.world.blobs_changed()
        return token

    async def fetch(
        self,
        token: BlobToken,
        *,
        priority: TransferPriority = TransferPriority.NORMAL,
        on_progress: Callable[[BlobProgress], None] | None = None,
        timeout: float | None = None,
        wait_for_room: bool = True,
    ) -> FakeHandle:
        def tell(state: Any, done: int, reason: str | None = None) -> None:
            if on_progress is not None:
                on_progress(BlobProgress(state, done, token.size_bytes, reason=reason))

        if token.hash in self.held:
            return FakeHandle(self.held[token.hash])
        self.fetched.append(token.hash)
        self.running.append(token.hash)
        self.most_running = max(self.most_running, len(self.running))
        try:
            if self.failures:
                raise self.failures.pop(0)
            content: bytes | None = None
            for step in range(self.steps):
                while (content := self.world.content(self, token.hash)) is None:
                    state = "stalled" if step else "waiting"
                    tell(state, step * token.size_bytes // self.steps, "nobody who is connected holds it")
                    await self.world.next_blob_change()
                tell("transferring", step * token.size_bytes // self.steps)
                await asyncio.sleep(self.seconds / self.steps)
            assert content is not None
            self.held[token.hash] = content
            self.world.blobs_changed()
            return FakeHandle(content)
        finally:
            self.running.remove(token.hash)

    async def exists(self, hash: str) -> bool:
        return hash in self.held

    async def export(self, hash: str, destination: Path) -> None:
        if hash not in self.held:
            raise BlobNotFound(hash)
        with destination.open("xb") as file:
            file.write(self.held[hash])
        self.exported += 1

    async def discard_partial(self, hash: str) -> None:
        self.discarded.append(hash)


async def export_for_ever(self: FakeBlobs, hash: str, destination: Path) -> None:
    """In place of :meth:`FakeBlobs.export`: a copy that does not come to its end."""
    destination.write_bytes(b"ma")
    await asyncio.sleep(100)
