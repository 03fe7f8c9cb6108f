"""What is read to be compared with what a peer holds."""

from __future__ import annotations

import random
from functools import partial

import pytest

from mesh.core.interest import InterestSet
from mesh.core.versions import key_hash
from mesh.core.wire import InterestEntry
from mesh.storage import replicas
from mesh.storage.rows import Rows
from tests.unit.edits import edit, plan_merge
from tests.unit.tables import open_tables

MANY, FEW = 200, 5


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Two collections, written in turns; the one is nearly all that is held, the other next to nothing."""
    rows = Rows(open_tables(), random.Random(1), lambda: 1.7e9, "")
    for n in range(MANY):
        edit(rows, "many", f"m{n}", partial(plan_merge, fields={"n": n}))
        if n % (MANY // FEW) == 0:
            edit(rows, "few", f"f{n}", partial(plan_merge, fields={"n": n}))
    return rows


@pytest.mark.parametrize(("collection", "prefix", "step"), [("many", "m", 1), ("few", "f", MANY // FEW)])
def test_they_are_the_same_however_they_are_read(rows: Rows, collection: str, prefix: str, step: int) -> None:
    keys = replicas.key_set(rows, InterestSet([InterestEntry(collection)]))
    expected = sorted(key_hash(collection, f"{prefix}{n}") for n in range(0, MANY, step))
    assert [keys.key(i) for i in range(len(keys))] == expected

    half = replicas.key_set(rows, InterestSet([InterestEntry(collection, {"n": {"$lt": MANY // 2}})]))
    expected = sorted(key_hash(collection, f"{prefix}{n}") for n in range(0, MANY // 2, step))
    assert [half.key(i) for i in range(len(half))] == expected
    assert half.others == len(keys) - len(half)
    for i in range(len(half)):
        assert half.position(i) == keys.position_of(half.key(i))


@pytest.mark.parametrize(
    ("collection", "how"), [("many", "SCAN documents"), ("few", "SEARCH documents USING INDEX")]
)
def test_what_is_most_of_all_is_read_in_the_order_of_the_table(rows: Rows, collection: str, how: str) -> None:
    queries: list[str] = []
    rows.connection.set_trace_callback(queries.append)
    replicas.key_set(rows, InterestSet([InterestEntry(collection)]))
    rows.connection.set_trace_callback(None)
    plan = rows.connection.execute(f"EXPLAIN QUERY PLAN {queries[-1]}").fetchall()
    assert plan[0][3].startswith(how)
