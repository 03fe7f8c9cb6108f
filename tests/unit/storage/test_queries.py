"""The SQL that SQLite runs and the evaluator in core select the same documents."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mesh.core.selector import compile_selector
from mesh.errors import InvalidSelector
from mesh.storage.queries import compile_query

KEYS = st.sampled_from(["a", "b", "c.d", "c.e", "weird key", "o'clock", 'quo"te'])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-3, 3).map(lambda x: int(x) if x.is_integer() else x)
    | st.sampled_from(["", "a", "b", "é", "\U0001f600", "\uffff", "a\0b", "1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("de"), inner, max_size=2),
)
COMPARISONS = st.dictionaries(
    st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), SCALARS, min_size=1, max_size=2
)
LISTS = st.dictionaries(
    st.sampled_from(["$in", "$nin"]), st.lists(VALUES, max_size=3), min_size=1, max_size=2
)
CONDITIONS = st.recursive(
    VALUES
    | COMPARISONS
    | LISTS
    | st.booleans().map(lambda x: {"$exists": x})
    | st.sampled_from(["a", "^b", "é$"]).map(lambda x: {"$regex": x}),
    lambda inner: st.dictionaries(st.sampled_from(["$not", "$elemMatch"]), inner, min_size=1, max_size=1),
    max_leaves=4,
)
SELECTORS = st.recursive(
    st.dictionaries(KEYS, CONDITIONS, max_size=3),
    lambda inner: (
        st.tuples(st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, min_size=1, max_size=3)).map(
            lambda pair: {pair[0]: pair[1]}
        )
        | inner.map(lambda x: {"$not": x})
    ),
    max_leaves=4,
)
DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {"_id": st.text(max_size=3)},
        optional={
            "a": VALUES,
            "b": VALUES,
            "c": VALUES,
            "weird key": VALUES,
            "o'clock": VALUES,
            'quo"te': VALUES,
        },
    ),
    max_size=8,
)


@given(SELECTORS, DOCUMENTS)
@example({"a": {"$not": {"$gt": 1}}}, [{"_id": "x"}, {"_id": "y", "a": None}, {"_id": "z", "a": 2}])
@settings(max_examples=200, deadline=None)
def test_sql_and_evaluator_agree(selector: dict[str, Any], documents: list[dict[str, Any]]) -> None:
    try:
        matches = compile_selector(selector)
    except InvalidSelector:  # too deep, or a literal object that reads as an operator
        assume(False)
    condition = compile_query(selector).filter
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE documents(json TEXT)")
        for document in documents:
            connection.execute("INSERT INTO documents VALUES (?)", (msgspec.json.encode(document).decode(),))
        found = connection.execute(f"SELECT json FROM documents WHERE {condition.sql}", condition.parameters)
        selected = [msgspec.json.decode(json) for (json,) in found]
    finally:
        connection.close()
    wanted = [document for document in documents if matches(document)]
    if condition.exact:
        assert selected == wanted
    else:
        assert [document for document in selected if matches(document)] == wanted
