from __future__ import annotations

from collections import deque
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.demand import FORGET, MAX_DEMANDS_PER_LINK, MAX_HOPS, REPEAT, Demands, Send
from mesh.core.wire import BlobAsk, BlobForget, BlobServed

BLOB = b"h" * 32
CHUNKS = b"c" * 32


class Mesh:
    """Demands of several nodes and the messages between them, delivered link by link in order."""

    def __init__(self, edges: list[tuple[str, str]], *, sealed: set[str] | None = None) -> None:
        self.now = 0.0
        self.sequence = 0
        self.sent = 0
        self.sealed = sealed or set()  # nodes that do not relay
        self.queues: dict[tuple[str, str], deque[object]] = {}
        self.nodes: dict[str, Demands] = {}
        for edge in edges:
            for name in edge:
                self.nodes.setdefault(name, Demands(name))
        for a, b in edges:
            self.connect(a, b)

    def connect(self, a: str, b: str) -> None:
        self.queues[a, b] = deque()
        self.queues[b, a] = deque()
        self.post(a, self.nodes[a].link_up(b))
        self.post(b, self.nodes[b].link_up(a))

    def cut(self, a: str, b: str) -> None:
        del self.queues[a, b], self.queues[b, a]
        self.post(a, self.nodes[a].link_down(b))
        self.post(b, self.nodes[b].link_down(a))

    def post(self, source: str, sends: list[Send]) -> None:
        for send in sends:
            self.sent += 1
            self.queues[source, send.link].append(send.message)

    def deliver(self, source: str, target: str) -> None:
        message, node = self.queues[source, target].popleft(), self.nodes[target]
        if isinstance(message, BlobAsk):
            relay = target not in self.sealed
            self.post(target, node.asked(source, message, relay=relay, now=self.now))
        elif isinstance(message, BlobForget):
            self.post(target, node.forgotten(source, message, self.now))
        else:
            assert isinstance(message, BlobServed)
            self.post(target, node.served(source, message))

    def settle(self, limit: int = 2000) -> None:
        for _ in range(limit):
            busy = [pair for pair, queue in self.queues.items() if queue]
            if not busy:
                return
            self.deliver(*busy[0])
        raise AssertionError("the flood does not end")

    def want(self, name: str, priority: int = 2) -> None:
        self.sequence += 1
        self.post(name, self.nodes[name].want(BLOB, 10, CHUNKS, priority, self.sequence, self.now))

    def pass_time(self, seconds: float, *, wide: bool = False) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 5)
            for name, node in self.nodes.items():
                sends, _, due = node.expire(self.now)
                self.post(name, sends)
                for hash in due:
                    self.sequence += 1
                    self.post(name, node.repeat(hash, self.sequence, self.now, wide=wide))
            self.settle()

    def serving(self) -> set[tuple[str, str]]:
        """(holder, served) pairs: who would send to whom."""
        return {(name, other) for name, node in self.nodes.items() for other in node.listeners(BLOB)}

    def idle(self) -> bool:
        return not any(node.blobs for node in self.nodes.values())


def test_a_demand_reaches_everybody_in_reach_and_goes_when_it_is_taken_back() -> None:
    mesh = Mesh([("o", "a"), ("a", "b"), ("b", "c")])
    mesh.want("o")
    mesh.settle()
    assert mesh.serving() == {("a", "o"), ("b", "a"), ("c", "b")}
    assert mesh.nodes["b"].relayed(BLOB) == {(10, CHUNKS): 2}
    assert mesh.nodes["o"].relayed(BLOB) == {}
    mesh.post("o", mesh.nodes["o"].unwant(BLOB))
    mesh.settle()
    assert mesh.idle()


def test_in_a_ring_everything_flows_on_a_tree() -> None:
    mesh = Mesh([("o", "a"), ("o", "b"), ("a", "z"), ("b", "z"), ("a", "b")])
    mesh.want("o")
    mesh.settle()
    served_by_z = {pair for pair in mesh.serving() if pair[0] == "z"}
    assert len(served_by_z) == 1
    assert {("a", "o"), ("b", "o")} <= mesh.serving()
    assert not {("a", "b"), ("b", "a")} & mesh.serving()
    mesh.pass_time(REPEAT, wide=True)
    assert {("z", "a"), ("z", "b")} <= mesh.serving()


def test_a_direct_neighbour_is_served_directly_even_if_a_detour_was_faster() -> None:
    mesh = Mesh([("o", "a"), ("a", "z"), ("o", "z")])
    mesh.want("o")
    mesh.deliver("o", "a")
    mesh.deliver("a", "z")
    mesh.settle()
    assert ("z", "o") in mesh.serving()
    assert ("z", "a") not in mesh.serving()


def test_a_relay_asks_for_the_others_when_one_of_its_origins_is_served_elsewhere() -> None:
    mesh = Mesh([("o1", "m"), ("o1", "x"), ("o2", "x"), ("x", "m")])
    mesh.want("o1")
    mesh.want("o2")
    mesh.settle()
    assert ("m", "x") in mesh.serving()  # for o2


def test_the_cost_of_a_link_does_not_grow_with_the_number_of_origins() -> None:
    mesh = Mesh([(f"o{number:02}", "hub") for number in range(50)] + [("hub", "publisher")])
    for number in range(50):
        mesh.want(f"o{number:02}")
    mesh.settle(20_000)
    mesh.sent = 0
    mesh.pass_time(REPEAT)
    assert mesh.sent <= 50 + 2 * 51  # every origin repeats, and the hub repeats one of them everywhere


def test_when_the_one_that_stands_for_all_leaves_another_takes_over() -> None:
    mesh = Mesh([("o1", "hub"), ("o2", "hub"), ("hub", "publisher")])
    mesh.want("o1")
    mesh.want("o2")
    mesh.settle()
    mesh.post("o1", mesh.nodes["o1"].unwant(BLOB))
    mesh.settle()
    assert ("publisher", "hub") in mesh.serving()
    assert mesh.nodes["hub"].asked_of(BLOB) == {"o1", "publisher"}
    mesh.cut("o2", "hub")
    mesh.settle()
    assert not mesh.nodes["publisher"].blobs


def test_who_holds_it_whole_asks_nobody_on_and_who_may_not_relay_neither() -> None:
    mesh = Mesh([("o", "a"), ("a", "b")])
    mesh.post("a", mesh.nodes["a"].set_whole(BLOB, True))
    mesh.want("o")
    mesh.settle()
    assert mesh.serving() == {("a", "o")}
    assert mesh.nodes["a"].relayed(BLOB) == {}
    mesh.post("a", mesh.nodes["a"].set_whole(BLOB, False))
    mesh.settle()
    assert ("b", "a") in mesh.serving()
    sealed = Mesh([("o", "a"), ("a", "b")], sealed={"a"})
    sealed.want("o")
    sealed.settle()
    assert sealed.serving() == {("a", "o")}
    assert sealed.nodes["a"].relayed(BLOB) == {}


def test_an_origin_whose_clock_was_set_back_is_heard_once_its_last_word_is_forgotten() -> None:
    node = Demands("b")
    node.link_up("a")
    ask = BlobAsk("a", 1000, BLOB, 1, CHUNKS, 2, 0, False)
    node.asked("a", ask, relay=True, now=0.0)
    node.forgotten("a", BlobForget("a", BLOB, 1000), 1.0)
    again = msgspec.structs.replace(ask, sequence=10)
    node.asked("a", again, relay=True, now=FORGET)
    assert not node.listeners(BLOB)
    node.asked("a", again, relay=True, now=FORGET + 1.0)  # nothing else was asked for, and so nothing expired
    assert node.listeners(BLOB) == {"a"}


def test_a_demand_ends_after_its_hops() -> None:
    names = [f"n{number:02}" for number in range(MAX_HOPS + 4)]
    mesh = Mesh(list(pairwise(names)))
    mesh.want(names[0])
    mesh.settle()
    assert mesh.nodes[names[MAX_HOPS + 1]].blobs
    assert not mesh.nodes[names[MAX_HOPS + 2]].blobs


@pytest.mark.limit("core.demand.MAX_DEMANDS_PER_LINK")
def test_a_link_may_bring_only_so_many_demands() -> None:
    node = Demands("me")
    node.link_up("l")
    for number in range(MAX_DEMANDS_PER_LINK + 10):
        ask = BlobAsk("o", 1, number.to_bytes(32, "big"), 1, CHUNKS, 2, 0, False)
        node.asked("l", ask, relay=True, now=0.0)
    assert len(node.blobs) == MAX_DEMANDS_PER_LINK
    node.link_down("l")
    assert not node.blobs


@pytest.mark.parametrize("how", ["taken back", "vanished"])
@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda e: e[0] < e[1]), min_size=1),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_no_graph_sustains_a_demand_and_every_reachable_holder_serves_somebody(
    how: str, edges: set[tuple[int, int]], wanting: list[int], rng: object
) -> None:
    mesh = Mesh([(f"n{a}", f"n{b}") for a, b in sorted(edges)])
    origins = sorted({f"n{number}" for number in wanting} & set(mesh.nodes))
    for name in origins:
        mesh.want(name)
    mesh.settle()
    mesh.pass_time(2 * REPEAT)
    # From every node in reach of an origin a chain of "serves" leads to that origin.
    serving = mesh.serving()
    fed = {name: {name} for name in origins}
    for reached in fed.values():
        while True:
            more = {holder for holder, other in serving if other in reached} - reached
            if not more:
                break
            reached |= more
    for name in origins:
        component = {name}
        while True:
            more = {b for a, b in mesh.queues if a in component} - component
            if not more:
                break
            component |= more
        assert fed[name] == component
    for name in origins:
        if how == "taken back":
            mesh.post(name, mesh.nodes[name].unwant(BLOB))
        else:
            for a, b in [pair for pair in mesh.queues if pair[0] == name]:
                if (a, b) in mesh.queues:
                    mesh.cut(a, b)
            mesh.nodes[name] = Demands(name)
    mesh.settle()
    if how == "vanished":
        mesh.pass_time(FORGET + 10)
    assert mesh.idle()


def test_tokens_of_one_blob_that_contradict_each_other_are_asked_for_side_by_side() -> None:
    mesh = Mesh([("liar", "a"), ("o", "a"), ("a", "b")])
    other = b"x" * 32
    mesh.post("liar", mesh.nodes["liar"].want(BLOB, 20, other, 2, 1, mesh.now))
    mesh.settle()
    mesh.want("o")
    mesh.settle()
    assert mesh.nodes["b"].relayed(BLOB) == {(20, other): 2, (10, CHUNKS): 2}
    mesh.post("liar", mesh.nodes["liar"].unwant(BLOB))
    mesh.settle()
    assert mesh.nodes["b"].relayed(BLOB) == {(10, CHUNKS): 2}
    mesh.post("o", mesh.nodes["o"].unwant(BLOB))
    mesh.settle()
    assert mesh.idle()
