"""What a peer is told of origins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.told import Told
from mesh.core.wire import Interest, InterestEntry

ORIGINS, BYTES = 12, 6000
LARGEST = BYTES // 3
"""More than any of them takes."""


def interest(origin: str, collections: int) -> Interest:
    return Interest(origin, 2, 1, [InterestEntry(f"c{n}") for n in range(collections)])


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 30), st.integers(0, 6), st.booleans()), max_size=120
    )
)
def test_bounds_hold_and_nobody_keeps_another_below_his_share(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    told = Told(ORIGINS, BYTES)
    known: dict[str, tuple[str, Interest]] = {}
    for via, number, collections, gone in steps:
        origin = f"{via}{number}"
        known.pop(origin, None)
        if gone:
            told.remove(origin)
        else:
            said = interest(origin, collections)
            known[origin] = (via, said)
            before = told.origins()
            crowded_out = told.add(said, via)
            assert told.origins() == (
                before if crowded_out is None else (before | {origin}) - set(crowded_out)
            )
        assert len(told.origins()) <= ORIGINS
        assert told._bytes == sum(one.size for one in told._told.values()) <= BYTES
        assert sum(told._costs.values()) == sum(told._cost(one) for one in told._told.values())
    untold = [one for origin, one in known.items() if told.get(origin) != one[1]]
    for _ in range(200):
        changed = [told.add(said, via) is not None for via, said in untold if told.get(said.origin) != said]
        if not any(changed):
            break
    else:
        raise AssertionError("they take turns for ever")
    for via, said in untold:
        if told.get(said.origin) != said:
            assert max(told._costs.values()) <= told._costs.get(via, 0) + 2 * LARGEST


def test_a_newcomer_has_room_where_one_has_all_of_it() -> None:
    told = Told(ORIGINS, BYTES)
    assert [told.add(interest(f"l{n}", 0), "liar") for n in range(ORIGINS)] == [[]] * ORIGINS
    assert told.add(interest("more", 0), "liar") is None
    assert told.add(interest("a", 0), "honest") == ["l11"]
    for n in range(ORIGINS):
        told.add(interest(f"b{n}", 0), "other liar")
    assert "a" in told.origins()
    assert told.add(interest("b", 0), "honest")
    assert not told.has_room
    assert told.remove("a")
    assert told.has_room
