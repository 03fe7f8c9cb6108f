"""Whoever a change concerns is found, and those who name another value of a field are not asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.audience import Audience
from mesh.core.selector import MISSING, compile_selector, required

VALUES: list[Any] = [None, True, 1, 1.5, "x", "y", [], ["x"], {}]
values = st.sampled_from(VALUES)
conditions = st.one_of(
    values,
    values.map(lambda value: {"$eq": value}),
    st.lists(values, max_size=3).map(lambda some: {"$in": some}),
    st.tuples(values, values).map(lambda both: {"$eq": both[0], "$ne": both[1]}),
    values.map(lambda value: {"$ne": value}),
    st.booleans().map(lambda there: {"$exists": there}),
    values.map(lambda value: {"b": value}),
)
selectors = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from(["_id", "a", "a.b", "/a/b", "c"]), conditions, max_size=3),
    conditions.map(lambda condition: {"$or": [{"a": condition}, {"c": 1}]}),
)
documents = st.none() | st.fixed_dictionaries(
    {"_id": st.sampled_from("xyz")},
    optional={"a": values | st.fixed_dictionaries({"b": values}), "c": values},
)


@given(st.lists(selectors, max_size=8), documents, documents)
def test_whoever_a_change_concerns_is_found(
    wanted: list[dict[str, Any] | None], before: dict[str, Any] | None, after: dict[str, Any] | None
) -> None:
    audience: Audience[int] = Audience()
    for who, selector in enumerate(wanted):
        audience.add(who, "c", required(selector))
        audience.add(who, "other", required(selector))
    found = set(audience.concerned("c", before, after))
    matchers = [compile_selector(selector) for selector in wanted]
    for document in (before, after):
        if document is not None:
            assert found >= {who for who, matches in enumerate(matchers) if matches(document)}
    for who, selector in enumerate(wanted):
        for collection in ("c", "other", "never"):
            audience.remove(who, collection, required(selector))
    assert not audience


@pytest.mark.parametrize(
    ("selector", "segments", "named"),
    [
        (None, (), (MISSING,)),
        ({"n": {"$gt": 1}}, (), (MISSING,)),
        ({"$and": [{"n": 1}]}, (), (MISSING,)),
        ({"n": [1]}, (), (MISSING,)),
        ({"n": {"b": 1}}, (), (MISSING,)),
        ({"n": {"$in": [1, [2]]}}, (), (MISSING,)),
        ({"n": 1}, ("n",), (1,)),
        ({"a.b": None}, ("a", "b"), (None,)),
        ({"n": {"$eq": "x", "$gt": "a"}}, ("n",), ("x",)),
        ({"n": {"$in": [1, 2]}, "m": 1}, ("n",), (1, 2)),
        ({"n": {"$in": []}}, ("n",), ()),
        ({"n": 1, "_id": "d"}, ("_id",), ("d",)),
    ],
)
def test_what_a_selector_requires(
    selector: dict[str, Any] | None, segments: tuple[str, ...], named: tuple[Any, ...]
) -> None:
    assert required(selector) == (segments, named)


def test_those_who_name_another_value_are_not_asked() -> None:
    audience: Audience[str] = Audience()
    for n in range(100):
        audience.add(f"of {n}", "c", required({"list": n, "done": False}))
        audience.add(f"for {n}", "c", required({"who": {"$in": [f"{n}", "all"]}}))
    assert list(audience.concerned("c", None, {"_id": "d", "list": 5})) == ["of 5"]
    assert list(audience.concerned("c", {"list": 5, "who": "7"}, {"list": 6})) == ["of 5", "of 6", "for 7"]
    assert list(audience.concerned("c", {"list": [5]}, {"who": {}})) == []
    assert len(list(audience.concerned("c", {"who": "all"}, None))) == 100
