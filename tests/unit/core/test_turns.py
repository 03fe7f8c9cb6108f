from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.tokens import CHUNK_BYTES
from mesh.core.turns import HOLD_SECONDS, Turns

NORMAL, CRITICAL = 2, 4


class Uploads:
    """Flows that always have more to send, each on a connection that takes it at once."""

    def __init__(self, node: float | None = None, link: float | None = None) -> None:
        self.turns = Turns()
        self.turns.set_limits(node, link, 0.0)
        self.now = 0.0
        self.priority: dict[str, int] = {}
        self.peer: dict[str, str] = {}
        self.left: dict[str, int] = {}
        self.sent: Counter[str] = Counter()
        self.log: list[tuple[float, str, int]] = []

    def add(self, flow: str, priority: int = NORMAL, peer: str | None = None) -> None:
        self.priority[flow], self.peer[flow], self.left[flow] = priority, peer or flow, CHUNK_BYTES
        self._wait(flow)

    def _wait(self, flow: str) -> None:
        size = min(self.turns.part_bytes(), self.left[flow])
        self.turns.wait(flow, self.peer[flow], self.priority[flow], size, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            flows, wake = self.turns.let_go(self.now)
            for flow in flows:
                self._sent(flow)
            if not flows:
                if wake is None or wake > end:
                    self.now = end
                    return
                assert wake > self.now, "it would spin"
                self.now = wake

    def _sent(self, name: Hashable) -> None:
        flow = str(name)
        size = min(self.turns.part_bytes(), self.left[flow])
        self.sent[flow] += size
        self.log.append((self.now, flow, size))
        self.left[flow] -= size
        ended = not self.left[flow]
        self.left[flow] = self.left[flow] or CHUNK_BYTES
        self.turns.sent(flow, self.now, ended=ended)
        self._wait(flow)


def test_equals_share_and_chunks_are_not_cut_up_for_it() -> None:
    uploads = Uploads(node=CHUNK_BYTES * 4)
    for flow in "abc":
        uploads.add(flow)
    uploads.run(30.0)
    assert max(uploads.sent.values()) - min(uploads.sent.values()) <= CHUNK_BYTES
    turns = [flow for _, flow, _ in uploads.log]
    changes = sum(one != other for one, other in pairwise(turns))
    assert changes <= sum(uploads.sent.values()) / CHUNK_BYTES + 1


def test_a_peer_with_many_connections_has_one_share() -> None:
    uploads = Uploads(node=CHUNK_BYTES * 4)
    for number in range(5):
        uploads.add(f"greedy{number}", peer="greedy")
    uploads.add("modest")
    uploads.run(30.0)
    assert uploads.sent["modest"] >= sum(uploads.sent.values()) / 2 - CHUNK_BYTES


def test_who_was_away_does_not_catch_up() -> None:
    uploads = Uploads(node=CHUNK_BYTES * 4)
    uploads.add("a")
    uploads.run(30.0)
    uploads.add("late")
    before = uploads.sent["a"]
    uploads.run(10.0)
    assert uploads.sent["a"] - before > 0.4 * 40 * CHUNK_BYTES


def test_the_critical_goes_first_from_the_next_part_on() -> None:
    uploads = Uploads(node=CHUNK_BYTES)
    for flow in "abc":
        uploads.add(flow)
    uploads.run(10.0)
    before = sum(uploads.sent[flow] for flow in "abc")
    uploads.add("urgent", CRITICAL)
    uploads.run(10.0)
    assert uploads.sent["urgent"] >= 10 * CHUNK_BYTES - uploads.turns.part_bytes()
    assert sum(uploads.sent[flow] for flow in "abc") == before


def test_without_caps_everybody_sends_at_once_unless_something_is_more_urgent() -> None:
    turns = Turns()
    for flow in "ab":
        turns.wait(flow, flow, NORMAL, CHUNK_BYTES, 0.0)
    assert set(turns.let_go(0.0)[0]) == {"a", "b"}
    turns.wait("urgent", "u", CRITICAL, CHUNK_BYTES, 0.0)
    turns.wait("a", "a", NORMAL, CHUNK_BYTES, 0.0)
    assert turns.let_go(0.0) == (["urgent"], HOLD_SECONDS)
    # Its connection takes nothing: nobody waits for it any longer.
    assert turns.let_go(HOLD_SECONDS) == (["a"], None)
    turns.sent("a", 1.0, ended=True)
    turns.wait("a", "a", NORMAL, CHUNK_BYTES, 1.0)
    turns.sent("urgent", 1.0, ended=True)
    assert turns.let_go(1.0)[0] == []
    turns.idle("urgent")
    assert turns.let_go(1.0) == (["a"], None)


def test_the_cap_of_one_link_does_not_hold_up_others() -> None:
    uploads = Uploads(node=CHUNK_BYTES * 10, link=CHUNK_BYTES)
    for flow in "abc":
        uploads.add(flow, CRITICAL if flow == "a" else NORMAL)
    uploads.run(10.0)
    for flow in "abc":
        assert 10 * CHUNK_BYTES * 0.9 <= uploads.sent[flow] <= 10 * CHUNK_BYTES * 1.1


@settings(max_examples=50, deadline=None)
@given(
    st.floats(8192, 1e8),
    st.none() | st.floats(8192, 1e8),
    st.lists(st.tuples(st.sampled_from("pqr"), st.integers(1, 4)), min_size=1, max_size=6),
)
def test_caps_hold_whatever_is_asked_for_and_nobody_with_the_highest_priority_starves(
    node: float, link: float | None, flows: list[tuple[str, int]]
) -> None:
    uploads = Uploads(node, link)
    for number, (peer, priority) in enumerate(flows):
        uploads.add(f"{peer}{number}", priority, peer)
    seconds = 3.0 * len(flows) + 3 * CHUNK_BYTES * len(flows) / min(node, link or node) / 50
    uploads.run(seconds)
    part = uploads.turns.part_bytes()
    burst = max(16 * 1024, node * 0.1)
    assert sum(uploads.sent.values()) <= burst + node * seconds * 1.001 + part + 1000
    by_peer: Counter[str] = Counter()
    for flow, sent in uploads.sent.items():
        by_peer[uploads.peer[flow]] += sent
    if link is not None:
        for sent in by_peer.values():
            assert sent <= max(16 * 1024, link * 0.1) + link * seconds * 1.001 + part + 1000
    top = max(priority for _, priority in flows)
    for peer in {peer for peer, priority in flows if priority == top}:
        assert by_peer[peer] > 0
