from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.chunks import ChunkMap
from mesh.core.fetching import (
    ENDGAME_AFTER,
    LIE_PAUSE,
    SILENCE,
    Action,
    Ask,
    Cancel,
    FetchPlan,
)
from mesh.core.picking import LIST, MAX_WINDOW, START_WINDOW
from mesh.core.rates import WINDOW_SECONDS
from mesh.core.tokens import CHUNK_BYTES


def map_of(count: int, indices: set[int]) -> ChunkMap:
    map_ = ChunkMap(count)
    for index in indices:
        map_.add(index)
    return map_


def plan_of(count: int, *, list_known: bool = True, seed: int = 0) -> FetchPlan:
    return FetchPlan(
        count * CHUNK_BYTES, ChunkMap(count), list_known=list_known, random=random.Random(seed), now=0.0
    )


def asks(actions: list[Action]) -> list[tuple[str, int]]:
    return [(action.peer, action.index) for action in actions if isinstance(action, Ask)]


def state_of(plan: FetchPlan, after: float = 0.0) -> tuple[str, list[str], str | None]:
    return plan.state(plan.now + after, "held back")


def test_a_single_source_is_asked_in_order_for_a_window_and_then_for_several_chunks_at_once() -> None:
    plan = plan_of(20)
    assert asks(plan.holder("a", None, 0.0)) == [("a", index) for index in range(START_WINDOW // CHUNK_BYTES)]
    assert asks(plan.arrived("a", 0, 0.1)) == []
    assert asks(plan.arrived("a", 1, 0.1)) == [("a", 8), ("a", 9)]
    assert state_of(plan) == ("transferring", ["a"], None)


def test_refusals_are_told_once_every_source_has_refused() -> None:
    plan = plan_of(2, list_known=False)
    plan.holder("a", None, 0.0)
    plan.holder("b", None, 0.0)
    assert asks(plan.refused("a", LIST, 0.1)) == [("b", LIST)]
    assert state_of(plan)[0] == "transferring"
    plan.refused("b", LIST, 0.2)
    state, asked, reason = state_of(plan)
    assert (state, asked) == ("waiting", [])
    assert reason is not None
    assert reason.endswith("not as the token says, or it is there no more: a, b")
    assert asks(plan.holder("a", None, 0.3)) == [("a", LIST)]
    assert state_of(plan)[0] == "transferring"


def test_two_sources_take_different_chunks_and_the_rarest_goes_first() -> None:
    plan = plan_of(64)
    plan.holder("whole", map_of(64, set()), 0.0)
    plan.holder("b", map_of(64, set(range(32))), 0.0)
    first = asks(plan.holder("whole", None, 0.0))
    assert len(first) == 8
    assert all(peer == "whole" and index >= 32 for peer, index in first)
    both = plan.requested("whole") | plan.requested("b")
    assert len(both) == len(plan.requested("whole")) + len(plan.requested("b")) == 16


def test_nothing_but_the_list_is_asked_for_before_the_list_is_known() -> None:
    plan = plan_of(3, list_known=False)
    assert asks(plan.holder("empty", ChunkMap(3), 0.0)) == []
    assert asks(plan.holder("a", None, 0.0)) == [("a", LIST)]
    assert asks(plan.holder("b", None, 0.0)) == []
    assert asks(plan.refused("a", LIST, 0.0)) == [("b", LIST)]
    assert len(asks(plan.arrived("b", LIST, 0.1))) == 3


def test_a_list_that_lies_drops_its_sender() -> None:
    plan = plan_of(3, list_known=False)
    plan.holder("liar", None, 0.0)
    assert plan.corrupt("liar", LIST, 0.1) == []
    assert plan.holder("liar", None, 0.2) == []
    state, _, reason = state_of(plan)
    assert state == "waiting"
    assert reason is not None
    assert "liar" in reason


def test_a_silent_source_is_replaced_and_counts_again_when_it_speaks() -> None:
    plan = plan_of(2)
    plan.holder("slow", None, 0.0)
    assert plan.wake_at() == SILENCE
    plan.tick(ENDGAME_AFTER)
    assert plan.wake_at() == SILENCE
    assert plan.tick(SILENCE) == []
    assert state_of(plan)[0] == "stalled"
    actions = plan.holder("other", None, SILENCE + 1)
    assert set(actions) == {Cancel("slow", 0), Cancel("slow", 1), Ask("other", 0), Ask("other", 1)}
    plan.arrived("slow", 0, SILENCE + 2)
    assert state_of(plan)[0] == "transferring"
    plan.arrived("other", 1, SILENCE + 2)
    assert plan.complete


def test_a_slow_source_that_is_alive_is_not_silent() -> None:
    plan = plan_of(1)
    plan.holder("slow", None, 0.0)
    plan.tick(SILENCE - 1)
    plan.alive("slow", 0, SILENCE - 1)
    plan.tick(SILENCE + 1)
    assert state_of(plan)[0] == "transferring"


def test_a_fetch_that_the_gate_holds_back_is_stalled_only_once_nothing_came_for_a_while() -> None:
    budget = [CHUNK_BYTES]

    def gate(peer: str, size: int) -> bool:
        budget[0] -= size
        return budget[0] >= 0

    plan = FetchPlan(
        9 * CHUNK_BYTES, ChunkMap(9), list_known=True, random=random.Random(0), now=0.0, gate=gate
    )
    assert asks(plan.holder("a", None, 0.0)) == [("a", 0)]
    plan.arrived("a", 0, 1.0)
    assert not plan.requested("a")
    assert plan.wake_at() == 1.0 + WINDOW_SECONDS
    assert state_of(plan, WINDOW_SECONDS - 0.01) == ("transferring", ["a"], None)
    assert state_of(plan, WINDOW_SECONDS) == ("stalled", [], "held back")
    budget[0] = CHUNK_BYTES
    assert asks(plan.tick(20.0)) == [("a", 1)]
    plan.alive("a", 1, 30.0)
    plan.give_way(30.0)
    assert state_of(plan, WINDOW_SECONDS - 0.01) == ("transferring", ["a"], None)
    assert state_of(plan, WINDOW_SECONDS) == ("stalled", [], "held back")


def test_holders_that_have_nothing_more_for_a_moment_are_sources_and_those_that_left_are_not() -> None:
    plan = plan_of(4)
    plan.holder("a", map_of(4, {0}), 0.0)
    plan.holder("b", map_of(4, {1}), 0.0)
    plan.arrived("a", 0, 1.0)
    plan.arrived("b", 1, 1.0)
    assert state_of(plan) == ("transferring", ["a", "b"], None)
    state, sources, reason = state_of(plan, WINDOW_SECONDS)
    assert (state, sources) == ("stalled", [])
    assert reason == "the holders known now hold none of the missing chunks, or do not answer"
    plan.gone("b", 1.0)
    assert state_of(plan) == ("transferring", ["a"], None)
    plan.holder("a", ChunkMap(4), 1.0)
    assert state_of(plan) == ("waiting", [], None)


def test_a_source_that_lies_costs_one_chunk_and_is_not_asked_again() -> None:
    plan = plan_of(4)
    plan.holder("liar", None, 0.0)
    plan.holder("honest", None, 0.0)
    actions = plan.corrupt("liar", 0, 0.1)
    assert set(asks(actions)) == {("honest", index) for index in range(4)}
    assert Cancel("liar", 1) in actions
    assert asks(plan.holder("liar", None, 0.2)) == []


def test_a_source_that_lied_is_asked_again_later_or_when_its_link_was_lost() -> None:
    plan = plan_of(1)
    plan.holder("a", None, 0.0)
    assert plan.corrupt("a", 0, 1.0) == []
    assert plan.wake_at() == 1.0 + LIE_PAUSE
    assert plan.tick(LIE_PAUSE) == []
    assert asks(plan.tick(1.0 + LIE_PAUSE)) == [("a", 0)]
    plan.corrupt("a", 0, 20.0)
    assert plan.wake_at() == 20.0 + 2 * LIE_PAUSE
    plan.gone("a", 21.0)
    assert asks(plan.holder("a", None, 22.0)) == [("a", 0)]
    plan.corrupt("a", 0, 23.0)
    assert plan.wake_at() == 23.0 + 4 * LIE_PAUSE, "lies are not forgotten with the link"


def test_a_broken_connection_is_tried_again_later_and_not_at_once() -> None:
    plan = plan_of(1)
    plan.holder("a", None, 0.0)
    assert plan.lost("a", 1.0) == []
    wake = plan.wake_at()
    assert wake is not None
    assert wake > 1.0
    assert asks(plan.tick(wake)) == [("a", 0)]
    plan.lost("a", wake)
    later = plan.wake_at()
    assert later is not None
    assert later - wake > wake - 1.0


def test_the_last_chunks_are_asked_of_an_idle_source_as_well_and_the_duplicate_is_cancelled() -> None:
    plan = plan_of(1)
    plan.holder("slow", None, 0.0)
    assert asks(plan.holder("fast", None, 0.0)) == []
    wake = plan.wake_at()
    assert wake == ENDGAME_AFTER
    assert asks(plan.tick(wake)) == [("fast", 0)]
    assert plan.arrived("fast", 0, 1.1) == [Cancel("slow", 0)]
    assert plan.complete


def test_an_idle_source_takes_over_what_another_has_not_come_to() -> None:
    plan = plan_of(12)
    plan.holder("busy", None, 0.0)
    plan.holder("idle", map_of(12, {6, 7}), 0.5)
    actions = plan.tick(ENDGAME_AFTER)
    assert actions == [Cancel("busy", 7), Ask("idle", 7)]
    plan.alive("busy", 6, ENDGAME_AFTER)
    actions = plan.arrived("idle", 7, ENDGAME_AFTER + 0.1)
    assert asks(actions) == [], "what has begun to come is left where it is"


def test_while_the_gate_is_closed_nothing_is_asked_for() -> None:
    room = 3

    def gate(peer: str, size: int) -> bool:
        nonlocal room
        room -= 1
        return room >= 0

    plan = FetchPlan(
        20 * CHUNK_BYTES, ChunkMap(20), list_known=True, random=random.Random(0), now=0.0, gate=gate
    )
    assert len(asks(plan.holder("a", None, 0.0))) == 3
    assert asks(plan.arrived("a", 0, 0.1)) == []
    room = 1
    assert asks(plan.tick(0.2)) == [("a", 3)]
    actions = plan.give_way(0.3)
    assert set(actions) == {Cancel("a", index) for index in (1, 2, 3)}
    room = 20
    assert asks(plan.tick(0.4)) == [("a", index) for index in range(1, 9)]


def test_a_list_that_takes_long_is_asked_of_another_too() -> None:
    plan = plan_of(4, list_known=False)
    plan.holder("slow", None, 0.0)
    plan.holder("other", None, 0.0)
    plan.alive("slow", LIST, SILENCE - 1)
    assert plan.wake_at() == SILENCE
    assert asks(plan.tick(SILENCE)) == [("other", LIST)]
    actions = plan.arrived("other", LIST, SILENCE + 0.1)
    assert Cancel("slow", LIST) in actions


def test_a_refused_chunk_is_asked_of_others() -> None:
    plan = plan_of(1)
    plan.holder("a", None, 0.0)
    plan.holder("b", None, 0.0)
    assert asks(plan.refused("a", 0, 0.1)) == [("b", 0)]
    assert asks(plan.refused("b", 0, 0.1)) == []
    assert state_of(plan)[0] == "waiting"


def test_what_turned_out_to_be_wrong_here_is_asked_for_again() -> None:
    plan = plan_of(1)
    plan.holder("a", None, 0.0)
    plan.arrived("a", 0, 0.1)
    assert plan.complete
    assert asks(plan.missing_again(0, 0.2)) == [("a", 0)]
    assert plan.held_bytes == 0


def test_the_window_follows_what_a_source_delivers_in_a_second() -> None:
    plan = plan_of(200)
    plan.holder("a", None, 0.0)
    for step in range(100):
        plan.arrived("a", step, 0.01 * (step + 1))
    fast = len(plan.requested("a"))
    assert START_WINDOW // CHUNK_BYTES < fast <= MAX_WINDOW // CHUNK_BYTES
    slow = plan_of(200)
    slow.holder("a", None, 0.0)
    for step in range(10):
        slow.arrived("a", step, step + 1.0)
    assert len(slow.requested("a")) == 2


class World:
    """A plan among peers of which any may be slow, lie, fall silent or go; checks the invariants."""

    def __init__(self, count: int, seed: int, *, list_known: bool) -> None:
        self.count = count
        self.plan = plan_of(count, list_known=list_known, seed=seed)
        self.now = 0.0
        self.have: dict[str, ChunkMap | None] = {}
        self.outstanding: dict[str, deque[int]] = {}
        self.dropped: dict[str, float] = {}
        self.came: dict[str, float] = {}

    def say(self, peer: str, have: ChunkMap | None) -> None:
        self.have[peer] = have
        self.outstanding.setdefault(peer, deque())
        self.do(self.plan.holder(peer, have, self.now))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            queue = self.outstanding.get(action.peer)
            if isinstance(action, Cancel):
                assert queue is not None
                assert action.index in queue
                queue.remove(action.index)
                continue
            assert queue is not None, "asked of a peer that is not there"
            assert self.now >= self.dropped.get(action.peer, 0.0)
            assert action.index not in queue, "asked twice of one peer at once"
            assert self.plan.wants(action.index)
            have = self.have[action.peer]
            if action.index == LIST:
                assert have is None or have
            else:
                assert self.plan.list_known
                assert have is None or action.index in have
            queue.append(action.index)
            assert sum(CHUNK_BYTES for index in queue if index != LIST) <= MAX_WINDOW
        for peer, queue in self.outstanding.items():
            assert self.plan.requested(peer) == set(queue)
        state, sources, reason = state_of(self.plan)
        assert (state == "transferring") == (bool(sources) and reason is None)
        for peer, came in self.came.items():
            if self.now < came + WINDOW_SECONDS and (self.have[peer] is None or self.have[peer]):
                assert state == "transferring"
                assert peer in sources

    def deliver(self, peer: str) -> None:
        if self.outstanding.get(peer):
            index = self.outstanding[peer].popleft()
            if index != LIST:
                self.came[peer] = self.now
            self.do(self.plan.arrived(peer, index, self.now))

    def lie(self, peer: str) -> None:
        if self.outstanding.get(peer):
            index = self.outstanding[peer][0]
            self.dropped[peer] = self.now + LIE_PAUSE
            self.came.pop(peer, None)
            actions = self.plan.corrupt(peer, index, self.now)
            self.outstanding[peer].remove(index)
            self.do(actions)

    def refuse(self, peer: str) -> None:
        if self.outstanding.get(peer):
            index = self.outstanding[peer].popleft()
            have = self.have[peer]
            if index != LIST:
                have = have.copy() if have is not None else map_of(self.count, set(range(self.count)))
                have.remove(index)
                self.have[peer] = have
            self.do(self.plan.refused(peer, index, self.now))

    def lose(self, peer: str, *, gone: bool) -> None:
        if peer in self.outstanding:
            self.outstanding[peer].clear()
            if gone:
                del self.outstanding[peer]
                self.dropped.pop(peer, None)
                self.came.pop(peer, None)
                self.do(self.plan.gone(peer, self.now))
            else:
                self.do(self.plan.lost(peer, self.now))


PEERS = ["p", "q", "r"]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.booleans(), st.integers(0, 10), st.data())
def test_any_schedule_with_one_honest_holder_completes(
    count: int, list_known: bool, seed: int, data: st.DataObject
) -> None:
    world = World(count, seed, list_known=list_known)
    for _ in range(data.draw(st.integers(0, 60))):
        peer = data.draw(st.sampled_from([*PEERS, "honest"]))
        event = data.draw(st.sampled_from(["say", "deliver", "lie", "refuse", "gone", "lost", "wait"]))
        if event == "say":
            have = data.draw(st.none() | st.sets(st.integers(0, count - 1)))
            world.say(peer, map_of(count, have) if have is not None else None)
        elif event == "deliver":
            world.deliver(peer)
        elif event == "lie" and peer != "honest":
            world.lie(peer)
        elif event == "refuse":
            world.refuse(peer)
        elif event in ("gone", "lost"):
            world.lose(peer, gone=event == "gone")
        elif event == "wait":
            world.now += data.draw(st.sampled_from([0.1, 1.0, SILENCE, 100.0]))
            world.do(world.plan.tick(world.now))
    world.say("honest", None)
    # From here on only the honest holder answers, however many others stay silent.
    for _ in range(20 * count + 60):
        if world.plan.complete:
            return
        if world.outstanding["honest"]:
            world.deliver("honest")
        else:
            wake = world.plan.wake_at()
            assert wake is not None, "the plan sleeps for ever although a holder is there"
            assert wake > world.now
            world.now = wake
            world.do(world.plan.tick(world.now))
    raise AssertionError(f"not complete: {state_of(world.plan)}")
