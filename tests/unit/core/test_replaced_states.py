"""Whole states that take the place of what is held come to what the CRDT library makes of the two."""

from __future__ import annotations

import random
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import document, library
from mesh.core.library import ROOT_NAME, registers_of
from mesh.core.live import LiveDocuments
from mesh.core.plans import merge_registers, plan_increment, plan_unset, replace_registers
from mesh.core.registers import unflatten
from mesh.core.updates import clocks_of, read_update
from mesh.core.versions import covers
from mesh.core.wire import Change

WRITES = ["merge", "unset", "replace", "increment"]
RARE = ["remove", "evict", "restart", "backup", "restore", "renew", "deliver"]
KINDS = st.sampled_from([*RARE, *WRITES * 2, *["whole", "difference"] * 5])
STEPS = st.lists(st.tuples(KINDS, st.integers(0, 2), st.integers(0, 1 << 16)), min_size=10, max_size=40)
START = [("merge", 0, 0), ("whole", 0, 0), ("whole", 0, 1)]
POINTERS = ["/a", "/b", "/c", "/o/x", "/o/y"]
VALUES = [1, 2.5, "text", None, True, [1, {"k": 2}]]


class Replica:
    """One copy of one document, as a store keeps it."""

    def __init__(self, number: int, ids: random.Random) -> None:
        self._ids = ids
        self._number = number
        self._lives = 0
        self._counter = 0
        self._client_id = self.draw()
        self._kept = LiveDocuments()
        self._begin()
        self.state = document.ABSENT
        self._saved = self.state, self._client_id

    def draw(self) -> int:
        return self._ids.getrandbits(52) + 1

    def _begin(self) -> None:
        self._lives += 1
        self._clock = bytes((self._number, self._lives)) * 4
        self._kept = LiveDocuments()

    def _tick(self) -> tuple[bytes, int]:
        self._counter += 1
        return self._clock, self._counter

    @property
    def fields(self) -> dict[str, Any] | None:
        alive = self.state.rank[0] >= 0 and not self.state.dead
        return unflatten(registers_of(self.state.update)) if alive else None

    @property
    def whole(self) -> Change:
        return Change("c", "i", self.state.rank, {}, self.state.vector, self.state.update)

    def held_by(self, other: Replica) -> bool:
        return other.state.rank >= self.state.rank and covers(other.state.vector, self.state.vector)

    def write(self, kind: str, what: int) -> Change | None:
        some = dict.fromkeys(POINTERS[what % 5 :][:2], VALUES[what % 6])
        if kind == "remove":
            change, merged = document.remove(self.state, *self._tick(), name=("c", "i"))
            self.state = merged.state
            return change
        plans = {
            "merge": lambda held: merge_registers(held, some),
            "replace": lambda held: replace_registers(held, some),
            "unset": lambda held: plan_unset(held, some),
            "increment": lambda held: plan_increment(held, "/n", what % 7 - 2, self._clock.hex()),
        }
        edited = document.edit(
            self.state,
            plans[kind],
            tick=self._tick,
            client_id=self._client_id,
            kept=self._kept,
            name=("c", "i"),
        )
        if edited is None:
            return None
        self.state = edited[1].state
        return edited[0]

    def take(self, change: Change) -> None:
        outcome = document.arrive(self.state, change, self._kept)
        if not isinstance(outcome, str):
            self.state = outcome.state
            assert outcome.fields == self.fields

    def send(self, other: Replica, *, whole: bool) -> None:
        held = other.state
        if whole or held.rank != self.state.rank or not held.vector or self.state.dead:
            other.take(self.whole)
            return
        lacking = library.difference(self.state.update, library.state_vector(held.update))
        other.take(Change("c", "i", held.rank, held.vector, self.state.vector, lacking))

    def evict(self) -> None:
        self._begin()
        self.state, self._client_id = document.ABSENT, self.draw()

    def restart(self) -> None:
        self._kept = LiveDocuments()

    def back_up(self) -> None:
        self._saved = self.state, self._client_id

    def restore(self, *, anew: bool) -> None:
        """From the backup, under a clock identity of its own; at once, or when it has been found out."""
        self._begin()
        self.state, former = self._saved
        self._client_id = self.draw()
        if anew and self.fields is not None:
            self._client_id = document.winning_id(former, self._client_id)
            _, merged = document.anew(
                self.state,
                *self._tick(),
                former=former,
                grown={},
                client_id=self._client_id,
                yielding_id=self.draw() % document.MAX_YIELDING_ID,
            )
            self.state = merged.state
        self.back_up()


class Mesh:
    """Three replicas, and the changes that were made."""

    def __init__(self) -> None:
        ids = random.Random(1)
        self.replicas = [Replica(number, ids) for number in range(1, 4)]
        self._changes: list[Change] = []

    def step(self, kind: str, who: int, what: int) -> None:
        one = self.replicas[who]
        other = self.replicas[(who + 1 + what % 2) % 3]
        known = one.state.rank[0] >= 0
        if kind in ("whole", "difference"):
            if known:
                one.send(other, whole=kind == "whole")
        elif kind == "deliver":
            if self._changes:
                one.take(self._changes[what % len(self._changes)])
        elif kind == "evict":
            if one.held_by(other):
                one.evict()
        elif kind == "restart":
            one.restart()
        elif kind == "backup":
            one.back_up()
        elif kind in ("restore", "renew"):
            one.restore(anew=kind == "renew")
        elif kind in ("merge", "increment") or one.fields is not None:
            change = one.write(kind, what)
            if change is not None:
                self._changes.append(change)

    def exchange(self) -> None:
        for _ in range(2):
            for one in self.replicas:
                for other in self.replicas:
                    if one is not other and one.state.rank[0] >= 0:
                        one.send(other, whole=True)

    @property
    def fields(self) -> list[Any]:
        return [one.fields for one in self.replicas]


def by_library(*state: object) -> None:
    """In place of what tells that it can be done without."""


def items(replica: Replica) -> Any:
    """What is there and what is deleted, as the library has it."""
    if replica.fields is None:
        return None
    update = library.load(replica.state.update)[0].get_update()
    gone = [
        (client, clock)
        for client, start, end in read_update(update, ROOT_NAME).deletions
        for clock in range(start, end)
    ]
    return clocks_of(library.state_vector(update)), sorted(gone)


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_replicas_are_the_same_as_if_the_library_had_merged_them(steps: list[tuple[str, int, int]]) -> None:
    quick, slow = Mesh(), Mesh()
    for step in [*START, *steps]:
        quick.step(*step)
        with (
            patch.object(document, "_includes", by_library),
            patch.object(document, "settled", lambda _: None),
        ):
            slow.step(*step)
        assert quick.fields == slow.fields
    quick.exchange()
    slow.exchange()
    assert quick.fields == slow.fields
    assert [items(one) for one in quick.replicas] == [items(one) for one in slow.replicas]
    assert [items(one) for one in quick.replicas] == [items(quick.replicas[0])] * 3
    assert all(one.state.vector == quick.replicas[0].state.vector for one in quick.replicas)
