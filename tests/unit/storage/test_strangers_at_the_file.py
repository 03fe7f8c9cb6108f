"""Somebody else at the store's file: what is noticed, and what is said about it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mesh.core.wire import Change, Changes
from mesh.errors import DataDirUnusable, MeshError
from mesh.storage import connection, file_watch, finding, replicas
from mesh.storage.documents import DocumentStore
from mesh.storage.rows import Rows
from mesh.storage.worker import ThreadWorker
from tests.unit.edits import edit, plan_merge


async def opened(path: Path, **options: Any) -> DocumentStore:
    workers = ThreadWorker("test-store"), ThreadWorker("test-store-read")
    store = DocumentStore(path, *workers, rng=random.Random(1), clock=lambda: 1.7e9, **options)
    await store.open()
    return store


def put(document_id: str, text: str = "") -> Callable[[Rows], bool]:
    return lambda rows: edit(rows, "c", document_id, partial(plan_merge, fields={"text": text}))


def count(rows: Rows) -> int:
    return finding.count(rows, "c")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


async def test_tools_read_what_is_committed_while_the_node_runs(path: Path) -> None:
    store = await opened(path)
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    sql = "select id, json from documents where collection = 'c'"
    for n in range(3):
        await store.write(put(str(n), "text"))
        assert reader.execute(f"{sql} and id = ?", (str(n),)).fetchall() == [
            (str(n), f'{{"_id":"{n}","text":"text"}}')
        ]
    reader.close()
    command = [sys.executable, "-m", "sqlite_utils", str(path), sql]
    said = await asyncio.to_thread(subprocess.run, command, stdout=subprocess.PIPE, check=True)
    assert [row["id"] for row in json.loads(said.stdout)] == ["0", "1", "2"]
    await store.write(put("3"))
    assert await store.read(count) == 4
    await store.close()


async def test_datasette_reads_what_is_committed_while_the_node_runs(path: Path) -> None:
    if find_spec("datasette") is None:
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up("Datasette is not installed: pip install -e '.[dev]'")
    store = await opened(path)
    await store.write(put("1", "text"))
    query = "/store/documents.json?_shape=array&_col=id&_col=json&collection=c"
    command = [sys.executable, "-m", "datasette", str(path), "--get", query]
    said = await asyncio.to_thread(subprocess.run, command, stdout=subprocess.PIPE, check=True)
    assert [(row["id"], row["json"]) for row in json.loads(said.stdout)] == [
        ("1", '{"_id":"1","text":"text"}')
    ]
    await store.write(put("2"))
    assert await store.read(count) == 2
    await store.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_nothing_is_acknowledged_into_a_file_that_is_gone(path: Path, *, replaced: bool) -> None:
    store = await opened(path)
    await store.write(put("before"))
    if replaced:
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        other.rename(path)
    else:
        path.unlink()
    frame = Changes(1, 0, 1, [Change("c", "theirs", (0, 0), {}, {b"1" * 8: 1}, b"\0\0")], [], [], [], [])
    jobs: list[Callable[[Rows], Any]] = [put("lost"), lambda rows: replicas.apply_frame(rows, "peer", frame)]
    for job in jobs:
        with pytest.raises(DataDirUnusable, match=r"was replaced by" if replaced else r"was removed"):
            await store.write(job)
    transaction = await store.transaction()
    await transaction.write(put("lost"))
    with pytest.raises(DataDirUnusable, match="start the node again"):
        await transaction.commit()
    assert await store.read(count) == 1
    await store.close()


async def test_a_foreign_writer_is_waited_for_then_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0)
    store = await opened(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(MeshError, match=r"another process has been writing .* end that process"):
        await store.write(put("1"))
    other.execute("ROLLBACK")
    other.close()
    await store.write(put("1"))
    await store.close()


async def test_a_file_that_may_not_grow(path: Path) -> None:
    store = await opened(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = path.with_name(path.name + "-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 4096, limits[1]))
    try:
        with pytest.raises(MeshError, match="ulimit"):
            await store.write(put("1", "x" * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    await store.write(put("1", "x" * 100_000))
    assert await store.read(count) == 1
    await store.close()


async def test_a_long_log_is_warned_of_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_watch, "LOG_BYTES", 6 << 20)
    monkeypatch.setattr(connection, "KEPT_LOG_BYTES", 1 << 16)
    store = await opened(path)
    log = path.with_name(path.name + "-wal")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM documents").fetchone()
    with caplog.at_level(logging.WARNING):
        for n in range(200):
            await store.write(put("1", f"{n}" * 20_000))
    assert caplog.text.count("another process keeps reading") == 1
    assert log.stat().st_size > 6 << 20
    other.execute("ROLLBACK")
    other.close()
    for n in range(50):
        await store.write(put("1", f"{n}" * 20_000))
    assert log.stat().st_size < 6 << 20
    await store.close()


async def test_an_index_that_was_dropped_is_made_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await (await opened(path)).close()
    other = sqlite3.connect(path)
    other.execute("DROP INDEX documents_unseen")
    other.execute("DROP INDEX idx_documents_collection_id")
    other.close()
    store = await opened(path)
    assert "documents_unseen" in caplog.text
    assert store.rebuilt is None
    await store.write(put("1"))
    assert await store.read(count) == 1
    await store.close()


@pytest.mark.parametrize(
    "table", ["documents", "store", "subscriptions", "blob_references", "_sqlite_migrations"]
)
async def test_a_table_that_was_dropped_has_the_store_rebuilt(path: Path, table: str) -> None:
    store = await opened(path)
    await store.write(put("1"))
    await store.close()
    other = sqlite3.connect(path)
    other.execute(f"DROP TABLE {table}")
    other.close()
    store = await opened(path)
    assert store.rebuilt is not None
    assert store.documents == (table != "documents")
    await store.write(put("2"))
    await store.close()
