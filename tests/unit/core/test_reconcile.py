"""Two sets find what differs at a cost that follows the difference."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import reconcile
from mesh.core.frames import MAX_MESSAGE_BYTES, encode_message
from mesh.core.reconcile import KEY_BITS, KeySet, Range, answer, differing, first_ranges, summary
from mesh.core.versions import encode_vector, key_hash, version_hash
from mesh.core.wire import Differences

hashes = st.integers(0, (1 << KEY_BITS) - 1)


def hashed(pairs: dict[int, int]) -> dict[int, int]:
    """The version hashes of documents whose versions are numbered."""
    return {key: version_hash(key, (version, 0), b"") for key, version in sorted(pairs.items())}


def key_set(pairs: dict[int, int]) -> KeySet:
    return KeySet((key, version, position) for position, (key, version) in enumerate(hashed(pairs).items()))


def compared(mine: dict[int, int], theirs: dict[int, int]) -> tuple[list[int], list[int], int, int]:
    """The keys of what differs there and here, the rounds it took, and how many bytes travelled, about."""
    here, there = key_set(mine), key_set(theirs)
    found_there: list[int] = []
    found_here: list[int] = []
    rounds = cost = 0
    ranges = first_ranges(here)
    while ranges:
        rounds += 1
        asked = [summary(here, parent) for parent in ranges]
        ranges, listings = answer(there, asked)
        cost += sum(len(some.digests) + 4 for some in asked) + 4 * len(ranges)
        cost += sum(len(listing.versions) + 8 for listing in listings)
        found = differing(here, listings)
        found_there += [there.key(place) for place in found.theirs]
        found_here += [here.key(place) for place in found.mine]
    return sorted(found_there), sorted(found_here), rounds, cost


def in_theirs(mine: dict[int, int], theirs: dict[int, int]) -> list[int]:
    """The keys that the others hold, and in a version that is not held here."""
    return sorted(key for key in theirs if mine.get(key) != theirs[key])


def check(mine: dict[int, int], theirs: dict[int, int]) -> tuple[int, int]:
    there, here, rounds, cost = compared(mine, theirs)
    assert there == in_theirs(mine, theirs)
    assert here == in_theirs(theirs, mine)
    return rounds, cost


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
    check(mine, theirs)
    check(theirs, mine)


@given(st.lists(st.integers(0, 200), unique=True), st.lists(st.integers(0, 200), unique=True))
def test_keys_that_are_close_together_are_told_apart(mine: list[int], theirs: list[int]) -> None:
    check(dict.fromkeys(mine, 1), dict.fromkeys(theirs, 1))


def changed_versions(size: int, changed: int) -> tuple[dict[int, int], dict[int, int]]:
    """What two hold of whom one has changed some documents, and made as many new ones."""
    rng = random.Random(size * 100 + changed)
    mine = {rng.getrandbits(KEY_BITS): rng.getrandbits(KEY_BITS) for _ in range(size)}
    theirs = dict(mine)
    for key in rng.sample(sorted(mine), min(changed, size)):
        theirs[key] = rng.getrandbits(KEY_BITS)
    for _ in range(changed):
        theirs[rng.getrandbits(KEY_BITS)] = 1
    return mine, theirs


@pytest.mark.parametrize(
    ("size", "digests", "listing"),
    [
        (0, 100, 50),
        (1, 100, 50),
        (64, 100, 150),
        (65, 200, 400),
        (1000, 200, 500),
        (10_000, 2000, 300),
        (100_000, 6500, 650),
    ],
)
@pytest.mark.parametrize("changed", [0, 1, 20])
def test_one_round_finds_few_differences_at_a_cost_that_follows_them(
    size: int, digests: int, listing: int, changed: int
) -> None:
    """What is sent in any case, and what each difference adds, in bytes."""
    rounds, cost = check(*changed_versions(size, changed))
    assert rounds == 1
    assert cost <= digests + 2 * changed * listing


def test_sixteen_times_as_many_documents_take_a_round_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "FIRST_BITS", 2)
    monkeypatch.setattr(reconcile, "LIST_UP_TO", 16)
    for size, took in [(250, 1), (4000, 2), (64_000, 3)]:
        rounds, _ = check(*changed_versions(size, 20))
        assert rounds == took


def test_everything_against_nothing() -> None:
    rng = random.Random(1)
    mine = {rng.getrandbits(KEY_BITS): rng.getrandbits(KEY_BITS) for _ in range(20_000)}
    check(mine, {})
    check({}, mine)


@given(st.dictionaries(hashes, hashes, min_size=2, max_size=40), st.data())
def test_versions_that_change_places_are_noticed(pairs: dict[int, int], data: st.DataObject) -> None:
    one, two = data.draw(st.lists(st.sampled_from(sorted(pairs)), min_size=2, max_size=2, unique=True))
    swapped = pairs | {one: pairs[two], two: pairs[one]}
    check(pairs, swapped)


@given(st.dictionaries(hashes, hashes, max_size=100), st.integers(0, 5), st.data())
def test_a_digest_is_that_of_the_parts(pairs: dict[int, int], steps: int, data: st.DataObject) -> None:
    keys = key_set(pairs)
    bits = steps * reconcile.STEP_BITS
    within = Range(bits, data.draw(st.sampled_from([0, *pairs])) >> (KEY_BITS - bits))
    bounds = keys.bounds(within)
    parts = [keys.bounds(child) for child in within.children()]
    total = 0
    for part in parts:
        total ^= keys.digest(*part)
    assert total == keys.digest(*bounds)
    assert [part[0] for part in parts] == [bounds[0], *(part[1] for part in parts[:-1])]
    assert parts[-1][1] == bounds[1]
    inside = [key for key in sorted(pairs) if within.start <= key < within.end]
    assert [keys.key(place) for place in range(*bounds)] == inside
    assert (keys.digest(*bounds) == 0) == (not inside)


def test_positions() -> None:
    keys = KeySet([(3, 2, 50), (5, 1, 100)], others=[(7, 12)])
    assert [keys.position(place) for place in range(len(keys))] == [50, 100]
    assert keys.position_of(5) == 100
    assert keys.position_of(3) == 50
    assert keys.position_of(7) == 12
    assert keys.position_of(4) is None
    assert keys.position_of(1 << 62) is None


def test_hashes_fit_the_store() -> None:
    for i in range(1000):
        key = key_hash("c", str(i))
        assert 0 <= key < 1 << KEY_BITS
        assert 0 <= version_hash(key, (i, 0), encode_vector({b"12345678": i + 1})) < 1 << KEY_BITS
    assert key_hash("a", "bc") != key_hash("ab", "c")


def test_equal_vectors_have_equal_hashes_however_they_were_made() -> None:
    one, two = {b"a" * 8: 1, b"b" * 8: 2}, {b"b" * 8: 2, b"a" * 8: 1}
    assert version_hash(1, (0, 0), encode_vector(one)) == version_hash(1, (0, 0), encode_vector(two))
    assert version_hash(1, (0, 0), encode_vector(one)) != version_hash(1, (0, 1), encode_vector(one))
    assert version_hash(1, (0, 0), encode_vector(one)) != version_hash(2, (0, 0), encode_vector(one))


def test_comparing_large_sets_does_not_hold_up_the_loop() -> None:
    rng = random.Random(1)
    keys = KeySet(sorted((rng.getrandbits(KEY_BITS), 1, i) for i in range(100_000)))
    other = [summary(KeySet([]), parent) for parent in Range(0, 0).children()]
    started = time.perf_counter()
    answer(keys, other)
    for parent in Range(0, 0).children():
        summary(keys, parent)
    assert time.perf_counter() - started < 0.05


def test_the_longest_answer_is_given_and_read_in_time() -> None:
    first = reconcile.MAX_SUMMARIES.bit_length() - 1
    bits = first + reconcile.STEP_BITS + reconcile.LIST_UP_TO.bit_length() - 1
    keys = KeySet((n << (KEY_BITS - bits), n * n, n) for n in range(1 << bits))
    parents = [Range(first, prefix) for prefix in range(reconcile.MAX_SUMMARIES)]
    asked = [summary(KeySet([]), parent) for parent in parents]
    started = time.process_time()
    divide, listings = answer(keys, asked)
    answered = time.process_time()
    found = differing(keys, listings)
    read = time.process_time()
    assert not divide
    assert len(listings) == len(parents) << reconcile.STEP_BITS
    assert not found.theirs
    assert len(encode_message(Differences(1, [], [*listings]))) < MAX_MESSAGE_BYTES
    assert max(answered - started, read - answered) < 0.25
