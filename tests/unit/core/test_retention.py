"""How long blobs stay, and which make room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.retention import CACHE_BYTES, GRACE_SECONDS, Grace, default_cache_bytes, evictions


def test_a_blob_is_due_when_nothing_has_happened_to_it_for_the_whole_time() -> None:
    grace = Grace()
    assert grace.next_due() is None
    grace.begin("a", 0.0)
    grace.begin("b", 1.0)
    grace.begin("a", 2.0)
    assert grace.next_due() == 1.0 + GRACE_SECONDS
    assert grace.take_due(GRACE_SECONDS) == []
    assert grace.take_due(1.0 + GRACE_SECONDS) == ["b"]
    assert "b" not in grace
    grace.end("a")
    assert grace.take_due(1e9) == []


@given(st.lists(st.tuples(st.floats(0, 1e4), st.sampled_from("abcde"), st.booleans()), max_size=40))
def test_due_is_what_was_last_begun_long_enough_ago(events: list[tuple[float, str, bool]]) -> None:
    grace, last = Grace(10.0), dict[str, float]()
    for at, hash, begins in sorted(events):
        due = grace.take_due(at)
        assert set(due) == {one for one, began in last.items() if began + 10.0 <= at}
        for one in due:
            del last[one]
        if begins:
            grace.begin(hash, at)
            last[hash] = at
        else:
            grace.end(hash)
            last.pop(hash, None)
    assert grace.next_due() == (min(last.values()) + 10.0 if last else None)


def test_the_least_recently_served_goes_first_and_what_is_referred_to_last() -> None:
    cached = [("a", 5), ("b", 5), ("c", 5), ("d", 5)]
    assert evictions(cached, 0, in_use=()) == []
    assert evictions(cached, 1, in_use=()) == [("a", 5)]
    assert evictions(cached, 6, in_use={"a"}) == [("b", 5), ("c", 5)]
    assert evictions(cached, 11, in_use={"a"}, referred={"b"}) == [("c", 5), ("d", 5), ("b", 5)]
    assert evictions(cached, 100, in_use={"a"}) == [("b", 5), ("c", 5), ("d", 5)]


def test_the_cache_takes_a_tenth_of_what_is_free_at_most() -> None:
    assert default_cache_bytes(1000) == 100
    assert default_cache_bytes(1 << 60) == CACHE_BYTES
