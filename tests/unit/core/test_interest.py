"""Sets of entries: what they match, and what absorbs what."""

from __future__ import annotations

from time import process_time

import pytest

from mesh.core import interest
from mesh.core.interest import (
    EVERYTHING,
    MAX_COMPILED_BYTES,
    MAX_ENTRIES,
    MAX_INTEREST_ENTRIES,
    InterestSet,
    entry_digest,
)
from mesh.core.wire import InterestEntry

CARS = InterestEntry("cars")
RED = InterestEntry("cars", {"color": "red"})
BLUE = InterestEntry("cars", {"color": "blue"})


def entries(found: InterestSet) -> list[InterestEntry]:
    return list(found.entries.values())


# --- sets ---------------------------------------------------------------------------------------


def test_what_a_set_matches() -> None:
    some = InterestSet([RED, InterestEntry("maps")])
    assert some.matches("cars", {"color": "red"})
    assert not some.matches("cars", {"color": "blue"})
    assert some.matches("cars", None), "a removal concerns whoever may hold the document"
    assert some.matches("maps", {"any": 1})
    assert not some.matches("other", {})
    assert not some.matches("other", None)
    assert some.partial("cars")
    assert not some.partial("maps")
    assert "cars" in some
    assert "other" not in some
    assert some.collections == {"cars", "maps"}


def test_everything_absorbs_all() -> None:
    hub = InterestSet([RED, EVERYTHING, InterestEntry("maps")])
    assert entries(hub) == [EVERYTHING]
    assert hub.matches("whatever", {})
    assert "whatever" in hub
    assert hub.covers(RED)
    assert not hub.partial("cars")


def test_a_whole_collection_absorbs_its_parts() -> None:
    assert entries(InterestSet([RED, CARS, BLUE])) == [CARS]
    assert InterestSet([CARS]).covers(RED)
    assert not InterestSet([RED]).covers(BLUE)
    assert not InterestSet([RED]).covers(CARS)
    assert InterestSet([RED, BLUE]).covers(RED)


def test_too_many_collections_become_everything() -> None:
    parts = [InterestEntry(f"c{n}") for n in range(MAX_INTEREST_ENTRIES + 1)]
    assert len(InterestSet(parts[1:]).entries) == MAX_INTEREST_ENTRIES
    assert entries(InterestSet(parts)) == [EVERYTHING]
    parts = [InterestEntry("cars", {"n": n}) for n in range(MAX_INTEREST_ENTRIES + 1)]
    assert entries(InterestSet(parts)) == [CARS], "a whole collection is one entry"


def test_many_selectors_in_many_collections_are_bounded_at_once() -> None:
    parts = [InterestEntry(f"c{n}", {"n": n}) for n in range(MAX_INTEREST_ENTRIES)]
    start = process_time()
    wanted = InterestSet(parts)
    assert process_time() - start < 2  # it was 7 s
    assert len(wanted.entries) == MAX_INTEREST_ENTRIES
    assert wanted.entries == InterestSet(reversed(parts)).entries, "which are whole does not go by the order"


@pytest.mark.limit("core.interest.MAX_ENTRIES")
def test_too_many_parts_become_the_whole() -> None:
    parts = [InterestEntry("cars", {"n": n}) for n in range(MAX_ENTRIES + 1)]
    assert len(entries(InterestSet(parts[:-1]))) == MAX_ENTRIES
    assert entries(InterestSet(parts)) == [CARS]
    assert len(entries(InterestSet([*parts[:-1], *parts[:-1]]))) == MAX_ENTRIES, "the same one twice is one"


def test_a_digest_names_what_an_entry_says() -> None:
    assert entry_digest(InterestEntry("c", {"a": 1, "b": 2})) == entry_digest(
        InterestEntry("c", {"b": 2, "a": 1})
    )
    assert len({entry_digest(entry) for entry in (CARS, RED, BLUE, EVERYTHING)}) == 4


@pytest.mark.limit("core.interest.MAX_COMPILED_BYTES")
def test_selectors_that_nobody_wants_any_more_are_not_kept() -> None:
    """Each takes 170 kB compiled."""

    def wants(number: int) -> InterestSet:
        terms = [{f"f{n}": number} for n in range(250)]
        return InterestSet([InterestEntry("cars", {"$or": terms})])

    kept = interest._compiled
    for number in range(200):
        assert wants(number).matches("cars", {"f3": number})
        assert sum(map(len, (*kept._young, *kept._old))) <= MAX_COMPILED_BYTES
    assert 50 < len(kept._young) + len(kept._old) < 200
