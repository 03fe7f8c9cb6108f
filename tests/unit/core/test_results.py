"""Results stay in order whatever comes and goes, and a view is of the moment it was taken."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.results import CHUNK, Result
from mesh.core.selector import sort_key


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3) | st.none()), max_size=60),
    st.sampled_from([0, 1, CHUNK - 1, 2 * CHUNK + 7]),
)
def test_in_order_after_every_change(steps: list[tuple[int, int | None]], present: int) -> None:
    key = sort_key([{"n": "desc"}])
    held: dict[str, dict[str, Any]] = {f"x{i}": {"_id": f"x{i}", "n": i % 3} for i in range(present)}
    result = Result(sorted(held.values(), key=key), key)
    views = []
    for number, n in steps:
        document_id = f"x{number}"
        if document_id in held:
            result.remove(held.pop(document_id))
        if n is not None:
            held[document_id] = {"_id": document_id, "n": n}
            result.add(held[document_id])
        views.append((result.view(), sorted(held.values(), key=key)))
    assert all(view() == expected for view, expected in views)
    assert result.first(3) == sorted(held.values(), key=key)[:3]


def test_many_come_and_all_go() -> None:
    result = Result([], sort_key(None))
    documents = [{"_id": f"{i * 7919 % 2000:04}"} for i in range(2000)]
    for document in documents:
        result.add(document)
    assert result.view()() == sorted(documents, key=sort_key(None))
    for document in documents:
        result.remove(document)
    assert result.view()() == []


def test_a_document_that_a_reader_has_altered_still_goes() -> None:
    documents: list[dict[str, Any]] = [{"_id": str(i), "n": i} for i in range(5)]
    result = Result(documents, sort_key(["n"]))
    documents[1]["n"] = 99
    result.remove(documents[1])
    assert [document["_id"] for document in result.view()()] == ["0", "2", "3", "4"]
