"""Who wants what, and how that travels: absorbed where it can be, and never kept alive by itself."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.interest import (
    EVERYTHING,
    MAX_ENTRIES,
    MAX_HOPS,
    MAX_ORIGINS,
    SOFT_STATE_SECONDS,
    InterestSet,
    InterestTable,
    entry_digest,
)
from mesh.core.wire import WITHDRAWN, Interest, InterestEntry
from mesh.errors import ProtocolViolation

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


# --- a table ------------------------------------------------------------------------------------


def said(origin: str, hops: int, *wanted: InterestEntry, sequence: int = 1) -> Interest:
    return Interest(origin, sequence, hops, list(wanted))


def table(node_id: str, *own: InterestEntry) -> InterestTable:
    made = InterestTable(node_id)
    made.set_own(own, 1)
    return made


def relayed(made: InterestTable, peer: str) -> dict[str, list[InterestEntry]]:
    first, *others = made.announcements(peer)
    assert first.hops == 0
    return {interest.origin: interest.entries for interest in others}


def test_own_interest_comes_first_even_if_there_is_none() -> None:
    assert table("me").announcements("peer") == [Interest("me", 1, 0, [])]
    assert table("me", RED).announcements("peer") == [Interest("me", 1, 0, [RED])]


def test_sequences_grow_even_if_the_clock_does_not() -> None:
    made = table("me")
    sequences = []
    for now in (100, 50, 50, 200):
        made.set_own([RED], now)
        sequences.append(made.announcements("peer")[0].sequence)
    assert sequences == sorted(set(sequences))


def test_interest_is_passed_on_but_not_back() -> None:
    made = table("me")
    assert made.heard("a", said("a", 0, RED))
    assert relayed(made, "b") == {"a": [RED]}
    assert relayed(made, "a") == {}
    assert made.announcements("b")[1].hops == 1
    assert made.wanted_by("a").covers(RED)
    assert made.wanted_from("b").covers(RED)
    assert not made.wanted_from("a").covers(RED)


def test_what_this_node_wants_itself_is_not_passed_on() -> None:
    made = table("me", CARS)
    made.heard("a", said("a", 0, RED, InterestEntry("maps")))
    assert relayed(made, "b") == {"a": [InterestEntry("maps")]}
    hub = table("hub", EVERYTHING)
    hub.heard("a", said("a", 0, RED, CARS))
    assert relayed(hub, "b") == {}


def test_neighbours_know_each_other() -> None:
    made = table("me")
    assert made.wanted_by("a").matches("nodes", {"_id": "me"})
    assert not made.wanted_by("a").matches("nodes", {"_id": "b"})
    assert made.wanted_from("a").matches("nodes", {"_id": "a"})


def test_the_shortest_way_of_the_newest_word_is_passed_on() -> None:
    made = table("me")
    made.heard("far", said("a", 5, RED))
    made.heard("near", said("a", 2, RED))
    assert made.announcements("x")[1].hops == 3
    made.heard("far", said("a", 5, BLUE, sequence=2))
    assert made.announcements("x")[1] == Interest("a", 2, 6, [BLUE])
    assert relayed(made, "far") == {}, "not back to where the best word came from"


def test_a_withdrawal_takes_back() -> None:
    made = table("me")
    made.heard("a", said("b", 3, RED))
    assert made.heard("a", Interest("b", 0, WITHDRAWN, []))
    assert relayed(made, "x") == {}
    assert not made.heard("a", Interest("b", 0, WITHDRAWN, [])), "there is nothing left to take back"
    made.heard("a", said("a", 0, RED))
    assert made.heard("a", said("a", 0, sequence=2))
    assert not made.wanted_by("a").covers(RED)


def test_what_a_peer_says_last_counts_whatever_its_number() -> None:
    """The peer asks to resume by what it said last: a clock set back must not end the link."""
    made = table("me")
    made.heard("a", said("b", 2, RED, sequence=9))
    assert made.heard("a", said("b", 2, BLUE, sequence=3))
    assert made.wanted_by("a").covers(BLUE)
    assert not made.wanted_by("a").covers(RED)


def test_the_same_word_again_changes_nothing() -> None:
    made = table("me")
    assert made.heard("a", said("a", 0, RED))
    assert not made.heard("a", said("a", 0, RED))


def test_hops_are_limited() -> None:
    made = table("me")
    made.heard("a", said("b", MAX_HOPS, RED))
    assert made.wanted_by("a").covers(RED)
    assert relayed(made, "x") == {}, "it goes no further"
    assert made.heard("a", said("b", MAX_HOPS + 1, RED)), "what has come too far is as good as taken back"
    assert not made.wanted_by("a").covers(RED)


def test_own_interest_that_comes_back_is_ignored() -> None:
    made = table("me", RED)
    assert not made.heard("a", said("me", 2, BLUE, sequence=99))
    assert not made.wanted_by("a").covers(BLUE)


@pytest.mark.parametrize("forged", [said("b", 0, RED), said("a", 1, RED)])
def test_forged_hops_are_a_violation(forged: Interest) -> None:
    with pytest.raises(ProtocolViolation):
        table("me").heard("a", forged)


@pytest.mark.parametrize("selector", [{"$where": 1}, {"a": {"$regex": "("}}, {"a": "x" * 9000}])
def test_a_selector_that_cannot_be_is_a_violation(selector: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        table("me").heard("a", said("a", 0, InterestEntry("cars", selector)))


def test_a_peer_speaks_for_a_bounded_number_of_origins() -> None:
    made = table("me")
    for i in range(MAX_ORIGINS):
        made.heard("a", said(f"o{i}", 1))
    with pytest.raises(ProtocolViolation):
        made.heard("a", said("one more", 1))
    made.heard("a", said("o1", 1, RED))


def test_interest_outlives_its_link_for_a_while() -> None:
    made = table("me")
    made.heard("a", said("a", 0, RED))
    made.heard("b", said("b", 0, BLUE))
    made.link_down("a", 100.0)
    assert made.next_expiry == 100.0 + SOFT_STATE_SECONDS
    assert not made.expire(100.0 + SOFT_STATE_SECONDS - 1)
    assert relayed(made, "x") == {"a": [RED], "b": [BLUE]}
    assert made.expire(100.0 + SOFT_STATE_SECONDS)
    assert relayed(made, "x") == {"b": [BLUE]}
    assert made.next_expiry is None


def test_a_link_that_comes_back_renews_what_is_said_again() -> None:
    made = table("me")
    made.heard("a", said("a", 0, RED))
    made.heard("a", said("c", 1, BLUE))
    made.link_down("a", 100.0)
    made.heard("a", said("a", 0, RED))
    assert made.expire(1e9)
    assert relayed(made, "x") == {"a": [RED]}


# --- many tables --------------------------------------------------------------------------------


class Graph:
    """Tables that tell each other what changed, over links in order."""

    def __init__(self, count: int) -> None:
        self.tables = {f"n{i}": InterestTable(f"n{i}") for i in range(count)}
        self.links: set[frozenset[str]] = set()
        self.announced: dict[tuple[str, str], dict[str, Interest]] = {}
        self.pipes: dict[tuple[str, str], deque[Interest]] = {}
        self.messages = 0

    def link(self, a: str, b: str) -> None:
        if a != b and frozenset((a, b)) not in self.links:
            self.links.add(frozenset((a, b)))
            for one, other in ((a, b), (b, a)):
                self.announced[one, other] = {}
                self.pipes[one, other] = deque()
                self.announce(one)

    def unlink(self, a: str, b: str) -> None:
        if frozenset((a, b)) in self.links:
            self.links.discard(frozenset((a, b)))
            for one, other in ((a, b), (b, a)):
                del self.announced[one, other], self.pipes[one, other]
                self.tables[one].link_down(other, 0.0)

    def announce(self, node: str) -> None:
        for (one, other), announced in self.announced.items():
            if one != node:
                continue
            current = {interest.origin: interest for interest in self.tables[node].announcements(other)}
            for origin, interest in current.items():
                if announced.get(origin) != interest:
                    self.pipes[one, other].append(interest)
            for origin in announced.keys() - current.keys():
                self.pipes[one, other].append(Interest(origin, 0, WITHDRAWN, []))
            self.announced[one, other] = current

    def run(self) -> None:
        limit = self.messages + 20_000
        while waiting := [link for link, pipe in self.pipes.items() if pipe]:
            for one, other in waiting:
                if self.pipes[one, other]:
                    self.messages += 1
                    assert self.messages < limit, "it goes round for ever"
                    if self.tables[other].heard(one, self.pipes[one, other].popleft()):
                        self.announce(other)

    def expire(self) -> None:
        for node, made in self.tables.items():
            if made.expire(1e9):
                self.announce(node)


def test_interest_crosses_sixteen_links_and_no_more() -> None:
    graph = Graph(20)
    graph.tables["n0"].set_own([RED], 1)
    for i in range(19):
        graph.link(f"n{i}", f"n{i + 1}")
    graph.run()
    reached = [i for i in range(1, 20) if graph.tables[f"n{i}"].wanted_by(f"n{i - 1}").covers(RED)]
    assert reached == list(range(1, MAX_HOPS + 2))


@settings(max_examples=60)
@given(st.data())
def test_both_ends_of_a_link_agree_and_nothing_outlives_its_origin(data: st.DataObject) -> None:
    graph = Graph(data.draw(st.integers(2, 6)))
    names = sorted(graph.tables)
    wanted = [[], [RED], [CARS], [RED, BLUE], [EVERYTHING], [InterestEntry("maps")]]
    for clock in range(data.draw(st.integers(1, 12))):
        one, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
        match data.draw(st.integers(0, 3)):
            case 0:
                graph.tables[one].set_own(
                    data.draw(st.sampled_from(wanted)), data.draw(st.integers(0, 5)) + clock
                )
                graph.announce(one)
            case 1:
                graph.unlink(one, other)
            case 2:
                graph.expire()
            case _:
                graph.link(one, other)
        if data.draw(st.booleans()):
            graph.run()
    graph.expire()
    graph.run()
    graph.expire()
    graph.run()
    for one, other in graph.pipes:
        asked, served = graph.tables[one].wanted_from(other), graph.tables[other].wanted_by(one)
        assert asked.entries.keys() == served.entries.keys()
    # The origins that are left are those that can be reached, and what is said of them is what they want now.
    for one, other in graph.pipes:
        for interest in graph.announced[one, other].values():
            own = graph.tables[interest.origin].own
            assert all(own.covers(entry) for entry in interest.entries)
            if interest.origin != one:
                assert connected(graph, interest.origin, one)


def connected(graph: Graph, one: str, other: str) -> bool:
    seen, edge = {one}, [one]
    while edge:
        node = edge.pop()
        for link in graph.links:
            if node in link and not link <= seen:
                seen |= link
                edge.extend(link - {node})
    return other in seen
