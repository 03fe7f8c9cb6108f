"""Many tables on simulated links: whatever comes and goes, in the end every document finds its way."""

from __future__ import annotations

from collections import deque
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.interest import EVERYTHING
from mesh.core.routes import SOFT_STATE_SECONDS, InterestTable
from mesh.core.ways import MAX_HOPS, StandIn, Way
from mesh.core.wire import Interest, InterestEntry, Routes

CARS = InterestEntry("cars")
RED = InterestEntry("cars", {"color": "red"})
BLUE = InterestEntry("cars", {"color": "blue"})
MAPS = InterestEntry("maps")
WISHES = [[], [], [RED], [CARS], [RED, BLUE], [EVERYTHING], [MAPS], [RED, MAPS]]
DOCUMENTS = [("cars", {"color": "red"}), ("cars", {"color": "blue"}), ("cars", {}), ("maps", {})]


class Graph:
    """Tables that tell each other what changed, over links in order."""

    def __init__(self, count: int) -> None:
        self.names = [f"n{i:02}" for i in range(count)]
        self.tables = {name: InterestTable(name) for name in self.names}
        self.pipes: dict[tuple[str, str], deque[Interest | Routes]] = {}
        self.messages = 0
        self.now = 0.0
        for made in self.tables.values():
            made.set_own([], 2)

    def want(self, name: str, wanted: list[InterestEntry], sequence: int) -> None:
        self.tables[name].set_own(wanted, sequence)
        self.tell(name)

    def link(self, a: str, b: str) -> None:
        if a != b and (a, b) not in self.pipes:
            for one, other in ((a, b), (b, a)):
                self.pipes[one, other] = deque()
                self.tables[one].link_up(other)
            self.tell(a)
            self.tell(b)

    def unlink(self, a: str, b: str) -> None:
        if (a, b) in self.pipes:
            for one, other in ((a, b), (b, a)):
                del self.pipes[one, other]
                self.tables[one].link_down(other, self.now)
            self.tell(a)
            self.tell(b)

    def tell(self, name: str) -> None:
        for peer in sorted(self.tables[name].concerned):
            self.pipes[name, peer].extend(self.tables[name].tell(peer))

    def deliver(self, one: str, other: str) -> None:
        self.messages += 1
        message, made = self.pipes[one, other].popleft(), self.tables[other]
        if isinstance(message, Routes):
            made.routed(one, message)
        else:
            made.heard(one, message, self.now)
        self.tell(other)

    def run(self, limit: int = 20_000) -> int:
        """Until nothing is under way; how many messages that took."""
        before = self.messages
        while waiting := [link for link, pipe in self.pipes.items() if pipe]:
            for link in waiting:
                self.deliver(*link)
            assert self.messages - before < limit, "it goes round for ever"
        return self.messages - before

    def expire(self) -> None:
        """Let so much time pass that nobody stands in for anybody any more."""
        self.now += SOFT_STATE_SECONDS
        for name, made in self.tables.items():
            made.expire(self.now)
            self.tell(name)

    def distances(self, start: str) -> dict[str, int]:
        """Hops to everybody who can be reached."""
        found, edge = {start: 0}, deque([start])
        while edge:
            node = edge.popleft()
            for one, other in self.pipes:
                if one == node and other not in found:
                    found[other] = found[node] + 1
                    edge.append(other)
        return found

    def reached(self, start: str, collection: str, fields: dict[str, str]) -> set[str]:
        """Where a document gets that is written at ``start``."""
        found, edge = {start}, [start]
        while edge:
            node = edge.pop()
            for one, other in self.pipes:
                served = one == node and other not in found
                if served and self.tables[one].wanted_by(other).matches(collection, fields):
                    found.add(other)
                    edge.append(other)
        return found

    # --- what has to be true at rest --------------------------------------------------------------

    def check(self) -> None:
        self.check_both_ends_agree()
        self.check_ways_end()
        self.check_documents_arrive()

    def check_both_ends_agree(self) -> None:
        for one, other in self.pipes:
            asked, served = self.tables[one].wanted_from(other), self.tables[other].wanted_by(one)
            assert asked.entries.keys() == served.entries.keys(), (one, other)

    def check_ways_end(self) -> None:
        """At the origin if it is there, else at somebody who stands in for it."""
        for name, made in self.tables.items():
            reachable = self.distances(name)
            for origin in made._origins:
                node, hops = name, 0
                while isinstance(way := self.tables[node]._origins[origin].way, Way):
                    node, hops = way.via, hops + 1
                    assert hops <= MAX_HOPS + 1, f"no end to the way from {name} to {origin}"
                    if node == origin:
                        break
                else:
                    assert isinstance(way, StandIn)
                    assert way.expires > self.now
                    # (Behind somebody who absorbs its interest it does not hear of who stands in for it.)
                    absorbed = any(self.tables[other].own.entries for other in reachable if other != origin)
                    assert origin not in reachable or absorbed, (
                        f"{origin} is there, and {name} goes to {node}"
                    )

    def check_documents_arrive(self) -> None:
        for start in self.names:
            distances = self.distances(start)
            for collection, fields in DOCUMENTS:
                found = self.reached(start, collection, fields)
                for name, made in self.tables.items():
                    if made.own.matches(collection, fields) and name in distances:
                        assert name in found, f"{collection} {fields} from {start} does not get to {name}"


def line(count: int) -> Graph:
    graph = Graph(count)
    for one, other in pairwise(graph.names):
        graph.link(one, other)
    return graph


def test_interest_crosses_sixteen_links_and_no_more() -> None:
    graph = line(20)
    graph.want("n00", [RED], 4)
    graph.run()
    served = [graph.tables[b].wanted_by(a).covers(RED) for a, b in pairwise(graph.names)]
    assert served == [True] * (MAX_HOPS + 1) + [False] * 2


@pytest.mark.parametrize("hub", [False, True])
@pytest.mark.parametrize("count", [6, 16])
def test_a_clique_takes_one_way_to_each_and_an_end_costs_a_bounded_number_of_messages(
    count: int, hub: bool
) -> None:
    graph = Graph(count)
    for one, other in combinations(graph.names, 2):
        graph.link(one, other)
    graph.run()
    graph.want("n00", [RED], 4)
    graph.run()
    for name in graph.names[1:]:
        assert graph.reached(name, "cars", {"color": "red"}) == {name, "n00"}
    if hub:
        graph.want("n01", [EVERYTHING], 4)
        graph.run()
    for other in graph.names[1:]:
        graph.unlink("n00", other)
    links = len(graph.pipes)
    assert graph.run() <= 4 * links
    graph.expire()
    assert graph.run() <= 2 * MAX_HOPS * links
    assert not any("n00" in made._origins for made in graph.tables.values())


def test_a_node_that_comes_and_goes_at_the_edge_is_heard_of_by_its_neighbour_only() -> None:
    graph = line(10)
    graph.want("n00", [RED], 4)
    graph.run()
    for _ in range(3):
        graph.unlink("n08", "n09")
        assert graph.run() <= 24  # n09 is an origin, too
        graph.link("n08", "n09")
        graph.run()
        graph.check()
    graph.unlink("n08", "n09")
    graph.run()
    graph.link("n08", "n09")
    of_the_reader = [m for m in graph.pipes["n09", "n08"] if isinstance(m, Interest) and m.origin == "n00"]
    assert not of_the_reader


def test_relays_forget_what_nobody_wants_any_more() -> None:
    graph = line(9)
    graph.want("n08", [RED], 4)
    graph.run()
    assert graph.reached("n00", "cars", {"color": "red"}) == set(graph.names)
    graph.want("n08", [], 6)
    graph.run()
    assert graph.reached("n00", "cars", {"color": "red"}) == {"n00"}
    graph.want("n08", [RED], 8)
    graph.run()
    graph.unlink("n07", "n08")
    graph.run()
    assert graph.reached("n00", "cars", {"color": "red"}) == set(graph.names[:8]), "it waits at the end"
    graph.expire()
    graph.run()
    assert graph.reached("n00", "cars", {"color": "red"}) == {"n00"}


def test_nobody_goes_on_by_a_way_to_somebody_who_wants_nothing_and_is_gone() -> None:
    graph = Graph(3)
    graph.want("n00", [RED], 2)
    graph.want("n01", [RED], 4)
    for one, other in (("n00", "n01"), ("n00", "n02"), ("n01", "n02")):
        graph.link(one, other)
        graph.run()
    graph.want("n00", [], 10)
    graph.run()
    for one, other in (("n00", "n01"), ("n00", "n02")):
        graph.unlink(one, other)
        graph.run()
        graph.check()


def test_who_stands_in_without_a_word_speaks_up_when_a_peer_knows_an_older_way() -> None:
    graph = Graph(5)
    graph.link("n01", "n04")
    graph.want("n04", [RED], 2)
    graph.link("n00", "n03")
    graph.link("n00", "n04")
    graph.run()
    graph.want("n03", [RED], 8)
    graph.run()
    for one, other in (("n00", "n03"), ("n00", "n04")):
        graph.unlink(one, other)
        graph.run()
        graph.check()
    graph.link("n01", "n03")
    graph.run()
    graph.check()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_at_rest_every_document_finds_its_way_and_what_is_gone_is_forgotten(data: st.DataObject) -> None:
    graph = Graph(data.draw(st.integers(2, 8)))
    names = st.sampled_from(graph.names)
    for clock in range(data.draw(st.integers(1, 25))):
        match data.draw(st.integers(0, 7)):
            case 0 | 1:
                sequence = data.draw(st.integers(0, 10)) + 2 * clock
                graph.want(data.draw(names), data.draw(st.sampled_from(WISHES)), sequence)
            case 2:
                graph.unlink(data.draw(names), data.draw(names))
            case 3 if graph.pipes:
                graph.unlink(*data.draw(st.sampled_from(sorted(graph.pipes))))
            case 4:
                for _ in range(data.draw(st.integers(0, 20))):
                    if not (waiting := sorted(link for link, pipe in graph.pipes.items() if pipe)):
                        break
                    graph.deliver(*data.draw(st.sampled_from(waiting)))
            case 5 if data.draw(st.booleans()):
                graph.expire()
            case _:
                graph.link(data.draw(names), data.draw(names))
        if data.draw(st.integers(0, 3)) == 0:
            graph.run()
            graph.check()
    graph.run()
    graph.check()
    graph.expire()
    graph.run()
    graph.check()
    for name, made in graph.tables.items():
        assert made.next_expiry is None
        assert made._origins.keys() <= graph.distances(name).keys() - {name}
