"""Coalesced changes take a reader to the same place as the changes themselves."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.changes import Change, merge_changes, snapshot

State = dict[str, int]
STATES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3))


def _between(before: State, after: State) -> Change:
    def documents(ids: list[str]) -> list[dict[str, Any]]:
        return [{"_id": i, "n": after[i]} for i in ids]

    return Change(
        documents(list(after)),
        inserted=documents([i for i in after if i not in before]),
        updated=documents([i for i in after if i in before and before[i] != after[i]]),
        removed=[i for i in before if i not in after],
        before={i: {"_id": i, "n": n} for i, n in before.items()},
    )


def _apply(state: State, change: Change) -> State:
    """As a strict reader does: nothing is inserted twice, and nothing unknown is updated or removed."""
    after = dict(state)
    for document_id in change.removed:
        del after[document_id]
    for document in change.inserted:
        assert document["_id"] not in after
        after[document["_id"]] = document["n"]
    for document in change.updated:
        assert document["_id"] in after
        after[document["_id"]] = document["n"]
    assert after == {document["_id"]: document["n"] for document in change.documents}
    return after


@given(STATES, st.lists(STATES, min_size=2, max_size=5))
def test_applying_merged_changes_is_applying_all_of_them(start: State, states: list[State]) -> None:
    merged: Change | None = None
    before = start
    for state in states:
        change = _between(before, state)
        merged = change if merged is None else merge_changes(merged, change)
        before = state
    if merged is None:
        assert states[-1] == start
    else:
        assert _apply(start, merged) == states[-1]
        assert all(start[document["_id"]] != document["n"] for document in merged.updated)


def test_what_came_and_went_is_not_told() -> None:
    merged = merge_changes(_between({"b": 1}, {"a": 1, "b": 2}), _between({"a": 1, "b": 2}, {"b": 2}))
    assert merged == Change([{"_id": "b", "n": 2}], updated=[{"_id": "b", "n": 2}])


def test_what_is_as_the_reader_has_it_is_not_told() -> None:
    for between in ({"a": 2}, {}):
        assert merge_changes(_between({"a": 1}, between), _between(between, {"a": 1})) is None
    assert merge_changes(_between({}, {"a": 1}), _between({"a": 1}, {})) is None


def test_an_empty_snapshot_is_told() -> None:
    first = snapshot([{"_id": "a", "n": 1}])
    assert merge_changes(first, _between({"a": 1}, {})) == Change([])


def test_what_went_and_came_back_is_updated() -> None:
    merged = merge_changes(_between({"a": 1}, {}), _between({}, {"a": 2}))
    assert merged is not None
    assert (merged.inserted, merged.updated, merged.removed) == ([], [{"_id": "a", "n": 2}], [])


def test_a_snapshot_inserts_everything() -> None:
    assert _apply({}, snapshot([{"_id": "a", "n": 1}])) == {"a": 1}


def test_the_result_is_put_together_when_it_is_asked_for() -> None:
    asked: list[int] = []

    def documents() -> list[dict[str, Any]]:
        asked.append(1)
        return [{"_id": "a"}]

    change = merge_changes(Change(documents), Change(documents, updated=[{"_id": "a"}]))
    assert not asked
    assert change is not None
    assert change.documents is change.documents
    assert asked == [1]


@given(STATES, STATES)
def test_a_change_is_the_same_as_json_and_back(before: State, after: State) -> None:
    change = _between(before, after)
    assert Change.from_dict(json.loads(json.dumps(change.to_dict()))) == change
    assert eval(repr(change), {"Change": Change}) == change
