"""Whatever its name, a field is found, sorted, shown, indexed, changed and removed by the same path."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.plans import plan_increment, plan_unset
from mesh.core.selector import compile_selector, lookup, projected, sort_key
from mesh.core.values import escape, path_of, pointer_of, split_path
from mesh.errors import InvalidIndex
from mesh.storage import finding, indexes
from mesh.storage.queries import compile_query
from tests.unit.edits import edit, plan_merge
from tests.unit.storage.test_queries import opened

NAMES = st.sampled_from(
    ["a", "a.b", ".", "", "/", "/a", "a/b", "~", "a~1b", "a\\", "\\.", "[0]", "o'c", 'q"', "n\n"]
)


@given(st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3), st.booleans())
@settings(max_examples=200, deadline=None)
def test_one_syntax_of_paths(keys: list[str], others: list[str], dotted: bool) -> None:
    path = path_of(keys) if dotted else "".join("/" + escape(key) for key in keys)
    fields: Any = 1
    for key in reversed(keys):
        fields = {key: fields}
    other: Any = 1
    for key in reversed(others):
        other = {key: other}
    first, second = {"_id": "1", **other}, {"_id": "2", **fields}
    with opened() as rows:
        for document in (first, second):
            edit(rows, "cars", document["_id"], partial(plan_merge, fields=document))
        try:
            indexes.create(rows, "cars", [path])
        except InvalidIndex:
            assert not path or not {'"', "'", "\\", "\n"}.isdisjoint("".join(keys))
        else:
            plan = indexes.explain(rows, "cars", compile_query({path: 1}))
            assert plan["exact"]
            assert [split_path(field) for field in plan["fields"]] == [tuple(keys)]
        both = [first, second]
        for selector in ({path: 1}, {path: {"$gt": 0}}, {"$not": {path: {"$exists": False}}}):
            matches = compile_selector(selector)
            found = finding.find(rows, "cars", compile_query(selector))
            assert second in found
            assert found == [document for document in both if matches(document)]
        descending = [{path: "desc"}]
        found = finding.find(rows, "cars", compile_query(None, descending), fields=[path])
        assert found == [projected(document, [path]) for document in sorted(both, key=sort_key(descending))]
        assert projected(second, [path]) == second
        pointer = pointer_of(path)
        edit(rows, "cars", "2", partial(plan_increment, pointer=pointer, by=2, clock="aa"))
        assert lookup(finding.get(rows, "cars", "2"), keys) == 3
        edit(rows, "cars", "2", partial(plan_unset, pointers=[pointer]))
        assert finding.find(rows, "cars", compile_query({"_id": "2", path: {"$exists": True}})) == []
