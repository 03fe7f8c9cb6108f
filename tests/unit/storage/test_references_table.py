"""Which documents refer to which blobs, as the store remembers it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.commits import Commit
from mesh.core.references import referred_blobs
from mesh.storage import finding, references, salvage, writes
from mesh.storage.documents import DocumentStore
from mesh.storage.rows import Rows
from mesh.storage.worker import InlineWorker
from tests.unit.edits import edit, plan_merge, plan_replace

A, B, C = "a" * 64, "b" * 64, "c" * 64


def token(hash: str) -> dict[str, Any]:
    return {"hash": hash, "size_bytes": 5, "chunks_hash": C}


def a_store(path: Path | None = None) -> DocumentStore:
    return DocumentStore(path, InlineWorker(), rng=random.Random(1), clock=lambda: 1.7e9)


@pytest.fixture
async def store() -> AsyncIterator[DocumentStore]:
    made = a_store()
    await made.open()
    yield made
    await made.close()


async def put(store: DocumentStore, collection: str, id: str, fields: dict[str, Any]) -> None:
    def job(rows: Rows) -> None:
        edit(rows, collection, id, lambda registers: plan_replace(registers, fields))

    await store.write(job)


async def referred(store: DocumentStore, *hashes: str) -> set[str]:
    return await store.read(lambda rows: references.referred(rows, hashes, besides="distributions"))


async def test_a_blob_is_referred_to_while_any_document_holds_its_token(store: DocumentStore) -> None:
    commits: list[Commit] = []
    store.follow(commits.extend)
    assert await referred(store, A, B) == set()
    await put(store, "cars", "1", {"photo": token(A), "more": [{"deep": token(B)}]})
    assert await referred(store, A, B, C) == {A, B}
    await put(store, "vans", "1", {"photo": token(A)})
    await put(store, "distributions", "1", {"token": token(C)})
    assert await referred(store, A, B, C) == {A, B}  # distributions do not count
    await put(store, "cars", "1", {"colour": "red", "photo": token(A)})
    assert await referred(store, A, B) == {A}
    await put(store, "cars", "1", {"colour": "blue", "photo": token(A)})
    await store.write(lambda rows: writes.remove(rows, "cars", ["1"]))
    assert await referred(store, A, B) == {A}
    await store.write(lambda rows: writes.evict(rows, "vans", ["1"]))
    assert await referred(store, A, B) == set()
    assert [set(commit.blobs) for commit in commits] == [{A, B}, {A}, {C}, {B}, set(), {A}, {A}]


async def test_what_is_rolled_back_was_never_referred_to(store: DocumentStore) -> None:
    def job(rows: Rows) -> None:
        edit(rows, "cars", "1", lambda registers: plan_merge(registers, {"photo": token(A)}))
        raise RuntimeError("after all")

    with pytest.raises(RuntimeError):
        await store.write(job)
    assert await referred(store, A) == set()
    transaction = await store.transaction()
    await transaction.write(
        lambda rows: edit(rows, "cars", "1", lambda registers: plan_merge(registers, {"photo": token(A)}))
    )
    await transaction.roll_back()
    assert await referred(store, A) == set()


async def test_many_blobs_are_asked_for_at_once(store: DocumentStore) -> None:
    hashes = [f"{number:064x}" for number in range(1201)]
    for start in range(0, 1200, 100):
        await put(store, "cars", str(start), {"all": [token(hash) for hash in hashes[start : start + 100]]})
    assert await referred(store, *hashes) == set(hashes[:1200])


ids = st.sampled_from("123")
contents = st.fixed_dictionaries(
    {}, optional={"x": st.sampled_from([1, token(A), [token(B)], {"y": token(A)}, "chunks_hash"])}
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ids, contents | st.none()), max_size=12))
async def test_the_table_says_what_the_documents_say(steps: list[tuple[str, dict[str, Any] | None]]) -> None:
    store = a_store()
    await store.open()
    expected: dict[str, set[str]] = {}
    for id, fields in steps:
        if fields is None:
            await store.write(partial(writes.remove, collection="cars", document_ids=[id]))
            expected.pop(id, None)
        else:
            await put(store, "cars", id, fields)
            expected[id] = referred_blobs(fields)
        assert await referred(store, A, B, C) == set().union(*expected.values())
    await store.close()


async def test_a_store_from_before_learns_of_its_references_and_a_rebuilt_one_too(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = a_store(path)
    await store.open()
    await put(store, "cars", "1", {"photo": token(A)})
    await put(store, "cars", "2", {"colour": "red"})
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE blob_references")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name LIKE 'm006%'")
    connection.close()
    store = a_store(path)
    await store.open()
    assert await referred(store, A) == {A}
    await store.close()
    salvage.rebuild(path, "for the test", random.Random(2), lambda: 1.7e9)
    store = a_store(path)
    await store.open()
    assert await store.read(lambda rows: finding.get(rows, "cars", "1")) is not None
    assert await referred(store, A) == {A}
    await store.close()
