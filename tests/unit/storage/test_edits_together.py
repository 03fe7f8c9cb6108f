"""Edits that are committed together: the same comes of them as one by one, for less."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.commits import Commit
from mesh.core.plans import merge_registers, plan_increment, plan_unset, replace_registers
from mesh.core.registers import flatten
from mesh.errors import DocumentExists, DocumentNotFound, InvalidDocument, StorageFull
from mesh.storage import finding, writes
from mesh.storage.documents import DocumentStore
from mesh.storage.rows import Rows
from mesh.storage.worker import InlineWorker
from mesh.storage.writes import Edit, Increment

collections = st.sampled_from(["cars", "bikes"])
ids = st.sampled_from(["1", "2", "3"])
presence = st.sampled_from([None, True, False])
fields = st.dictionaries(st.sampled_from("ab"), st.integers(0, 2) | st.just({"c": 1}), max_size=2).map(
    flatten
)
edits = st.one_of(
    st.builds(
        Edit, collections, ids, st.sampled_from([merge_registers, replace_registers]), fields, presence
    ),
    st.builds(Edit, collections, ids, st.just(plan_unset), st.just(["/a"]), presence),
    st.builds(Increment, collections, ids, st.just(plan_increment), st.just(("/a", 2)), st.just(True)),
)
removals = st.tuples(collections, ids)


def a_store(path: Path | None = None) -> DocumentStore:
    return DocumentStore(path, InlineWorker(), rng=random.Random(1), clock=lambda: 1.7e9)


def job_of(step: Edit | tuple[str, str]) -> Callable[[Rows], Any]:
    return step if isinstance(step, Edit) else lambda rows: writes.remove(rows, step[0], [step[1]])


def document(collection: str, document_id: str) -> Callable[[Rows], dict[str, Any] | None]:
    return lambda rows: finding.get(rows, collection, document_id)


async def outcome(store: DocumentStore, step: Edit | tuple[str, str]) -> object:
    try:
        return await store.write(job_of(step))
    except (DocumentExists, DocumentNotFound, InvalidDocument) as error:
        return type(error)


@given(st.lists(st.lists(edits | removals, max_size=12), max_size=3))
def test_what_is_committed_together_is_as_if_it_were_not(groups: list[list[Edit | tuple[str, str]]]) -> None:
    async def main() -> None:
        together, apart = a_store(), a_store()
        told: dict[DocumentStore, list[Commit]] = {together: [], apart: []}
        for store, commits in told.items():
            await store.open()
            store.follow(commits.extend)
        for group in groups:
            found = await asyncio.gather(*[outcome(together, step) for step in group])
            assert found == [await outcome(apart, step) for step in group]
        told_of = [
            [(c.seq, c.change.collection, c.change.id, c.change.rank, c.before, c.after) for c in commits]
            for commits in told.values()
        ]
        assert told_of[0] == told_of[1]
        assert (together.head, together.documents) == (apart.head, apart.documents)
        for collection in ("cars", "bikes"):
            for id in "123":
                held = document(collection, id)
                assert await together.read(held) == await apart.read(held)
        for store in told:
            await store.close()

    asyncio.run(main())


async def test_one_that_does_not_fit_on_the_disk_fails_alone(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store.sqlite")
    await store.open()
    await store.write(lambda rows: rows.connection.execute("PRAGMA max_page_count = 100").fetchone())
    texts = {"1": "short", "2": "x" * 600_000, "3": "short"}
    results = await asyncio.gather(
        *[store.write(Edit("c", id, merge_registers, {"/text": text})) for id, text in texts.items()],
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [bool, StorageFull, bool]
    assert await store.read(lambda rows: finding.ids(rows, "c")) == ["1", "3"]
    await store.close()
