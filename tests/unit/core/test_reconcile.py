"""Two sets find what differs at a cost that follows the difference."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import reconcile
from mesh.core.reconcile import KEY_BITS, WHOLE, KeySet, Range, Summary, answer, differing_keys, summaries
from mesh.core.versions import encode_vector, key_hash, version_hash

hashes = st.integers(0, (1 << KEY_BITS) - 1)


def key_set(pairs: dict[int, int]) -> KeySet:
    return KeySet((key, version, position) for position, (key, version) in enumerate(pairs.items()))


def compared(mine: dict[int, int], theirs: dict[int, int]) -> tuple[list[int], int, int]:
    """The keys found, the rounds it took, and how many numbers travelled."""
    here, there = key_set(mine), key_set(theirs)
    found: list[int] = []
    rounds = cost = 0
    ranges = [WHOLE]
    while ranges:
        rounds += 1
        asked: list[Summary] = summaries(here, ranges)
        divide, listings = answer(there, asked)
        cost += len(asked) + len(divide) + sum(len(pairs) + 1 for _, pairs in listings)
        found += differing_keys(here, listings)
        ranges = divide
    return sorted(found), rounds, cost


def differing(mine: dict[int, int], theirs: dict[int, int]) -> list[int]:
    return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))


@given(st.dictionaries(hashes, hashes, max_size=300), st.dictionaries(hashes, hashes, max_size=50), st.data())
def test_exactly_the_differing_keys_are_found(
    common: dict[int, int], extra: dict[int, int], data: st.DataObject
) -> None:
    theirs = dict(common)
    for key in data.draw(st.lists(st.sampled_from([*common, 0]), max_size=20)):
        if data.draw(st.booleans()):
            theirs.pop(key, None)
        else:
            theirs[key] = data.draw(hashes)
    mine = common | extra
    assert compared(mine, theirs)[0] == differing(mine, theirs)
    assert compared(theirs, mine)[0] == differing(mine, theirs)


@given(st.lists(st.integers(0, 200), unique=True), st.lists(st.integers(0, 200), unique=True))
def test_keys_that_are_close_together_are_told_apart(mine: list[int], theirs: list[int]) -> None:
    here, there = dict.fromkeys(mine, 1), dict.fromkeys(theirs, 1)
    assert compared(here, there)[0] == differing(here, there)


@pytest.mark.parametrize("size", [0, 1, 64, 65, 1000, 20_000])
@pytest.mark.parametrize("changed", [0, 1, 20])
def test_rounds_are_logarithmic_and_the_cost_follows_the_difference(size: int, changed: int) -> None:
    rng = random.Random(size * 100 + changed)
    mine = {rng.getrandbits(KEY_BITS): rng.getrandbits(KEY_BITS) for _ in range(size)}
    theirs = dict(mine)
    for key in rng.sample(sorted(mine), min(changed, size)):
        theirs[key] = rng.getrandbits(KEY_BITS)
    for _ in range(changed):
        theirs[rng.getrandbits(KEY_BITS)] = 1
    found, rounds, cost = compared(mine, theirs)
    assert found == differing(mine, theirs)
    assert rounds <= 3
    assert cost <= 256 + len(found) * (256 + 65 + 2)


def test_everything_against_nothing() -> None:
    rng = random.Random(1)
    mine = {rng.getrandbits(KEY_BITS): rng.getrandbits(KEY_BITS) for _ in range(20_000)}
    assert compared(mine, {})[0] == compared({}, mine)[0] == sorted(mine)


@given(st.dictionaries(hashes, hashes, min_size=2, max_size=40), st.data())
def test_versions_that_change_places_are_noticed(pairs: dict[int, int], data: st.DataObject) -> None:
    one, two = data.draw(st.lists(st.sampled_from(sorted(pairs)), min_size=2, max_size=2, unique=True))
    swapped = pairs | {one: pairs[two], two: pairs[one]}
    assert compared(pairs, swapped)[0] == differing(pairs, swapped)


@given(st.dictionaries(hashes, hashes, max_size=100), st.integers(1, 3), st.data())
def test_a_digest_is_that_of_the_parts(pairs: dict[int, int], depth: int, data: st.DataObject) -> None:
    keys = key_set(pairs)
    within = Range(depth, data.draw(st.sampled_from([0, *pairs])) >> (KEY_BITS - 8 * depth))
    parts = [keys.digest(child) for child in within.children()]
    total = 0
    for part in parts:
        total ^= part
    assert total == keys.digest(within)
    assert sum(map(keys.count, within.children())) == keys.count(within) == len(keys.pairs(within))
    inside = {key: version for key, version in pairs.items() if within.start <= key < within.end}
    assert dict(keys.pairs(within)) == inside
    assert (keys.digest(within) == 0) == (not inside)


def test_positions() -> None:
    keys = KeySet([(5, 1, 100), (3, 2, 50)])
    assert keys.position(5) == 100
    assert keys.position(3) == 50
    assert keys.position(4) is None
    assert keys.position(1 << 62) is None
    assert len(keys) == 2


def test_hashes_fit_the_store() -> None:
    for i in range(1000):
        key = key_hash("c", str(i))
        assert 0 <= key < 1 << KEY_BITS
        assert 0 <= version_hash((i, 0), encode_vector({b"12345678": i + 1})) < 1 << KEY_BITS
    assert key_hash("a", "bc") != key_hash("ab", "c")


def test_equal_vectors_have_equal_hashes_however_they_were_made() -> None:
    one, two = {b"a" * 8: 1, b"b" * 8: 2}, {b"b" * 8: 2, b"a" * 8: 1}
    assert version_hash((0, 0), encode_vector(one)) == version_hash((0, 0), encode_vector(two))
    assert version_hash((0, 0), encode_vector(one)) != version_hash((0, 1), encode_vector(one))


def test_comparing_large_sets_does_not_hold_up_the_loop() -> None:
    import time

    rng = random.Random(1)
    keys = KeySet((rng.getrandbits(KEY_BITS), 1, i) for i in range(100_000))
    started = time.perf_counter()
    reconcile.answer(keys, [(within, 0) for within in WHOLE.children()])
    assert time.perf_counter() - started < 0.05
