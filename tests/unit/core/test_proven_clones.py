"""Processes with one identity, whose documents reach each other in any order, late and again: of those that
run, all but one stop; and one that is alone never does, however many lives it had."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.clones import Clones, Finding
from mesh.core.receipts import NodeRecord
from mesh.core.scopes import Capabilities

Rank = tuple[int, int]
Held = tuple[Rank, NodeRecord]

BLANK = NodeRecord("n", "n", [], Capabilities(), False, None, "0", 0.0)
NOTHING: Held = ((0, 0), BLANK)


@dataclass
class Process:
    """A node as far as its own document goes. ``held`` is on its disk, the rest in its memory."""

    held: Held
    started_at: float
    clones: Clones
    wrote: NodeRecord = BLANK
    stopped: bool = False


@dataclass
class Model:
    """``said``: every document that anybody has ever sent; some relay may hold it."""

    draws: count[int] = field(default_factory=count)
    said: list[Held] = field(default_factory=list)

    def draw(self) -> str:
        return f"{(next(self.draws) * 7919) % 10_007:05}"  # in no order

    def start(self, disk: Held, started_at: float) -> Process:
        process = Process(disk, started_at, Clones(self.draw()))
        (epoch, sequence), _ = disk
        self.write(process, (epoch, sequence + 1))
        return process

    def write(self, process: Process, rank: Rank | None = None, name: str = "n") -> None:
        clones = process.clones
        epoch, sequence = process.held[0]
        process.wrote = msgspec.structs.replace(
            BLANK,
            name=name,
            started_at=process.started_at,
            instance=clones.instance,
            answers=clones.answers,
        )
        process.held = (rank or (epoch, sequence + 1), process.wrote)
        self.said.append(process.held)

    def hear(self, process: Process, document: Held) -> Finding | None:
        """As :mod:`mesh.core.records` has it: the higher rank wins, of equal ones the same everywhere."""
        if process.stopped or _order(document) <= _order(process.held):
            return None
        process.held = document
        (epoch, _), record = document
        finding = process.clones.meet(record, process.started_at, self.draw())
        if finding.stops:
            process.stopped = True
        else:
            self.write(process, (epoch + 1, 1))
        return finding

    def converge(self, processes: list[Process]) -> None:
        for _ in range(100):
            newest = max(self.said, key=_order)
            if not [one for one in processes if self.hear(one, newest)]:
                return
        raise AssertionError("they answer each other for ever")


def _order(document: Held) -> tuple[Rank, bytes]:
    rank, record = document
    return rank, msgspec.json.encode(record)


PICKS = st.integers(0, 1 << 16)
STEPS = st.lists(
    st.tuples(st.sampled_from(["hear", "hear", "write", "answer all"]), PICKS, PICKS), max_size=40
)


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 9e9]), min_size=2, max_size=3), st.integers(0, 3), STEPS)
@settings(max_examples=200)
def test_of_those_that_run_one_goes_on(
    clocks: list[float], lives: int, steps: list[tuple[str, int, int]]
) -> None:
    """Copies of one disk, which has had earlier lives, some under a clock that was ahead."""
    model = Model()
    disk = NOTHING
    for life in range(lives):
        disk = model.start(disk, 5.0 * life).held
    if len(clocks) == 3:
        clocks = [clock + number / 10 for number, clock in enumerate(clocks)]  # for equal ones: the next test
    processes = [model.start(disk, clock) for clock in clocks]
    for kind, who, what in steps:
        process = processes[who % len(processes)]
        if kind == "hear":
            model.hear(process, model.said[what % len(model.said)])
        elif kind == "answer all":
            model.converge(processes[: who % len(processes) + 1])
        elif not process.stopped:
            model.write(process, name=str(what))
    model.converge(processes)
    going_on = [process for process in processes if not process.stopped]
    assert len(going_on) == 1
    if len(set(clocks)) == len(clocks):
        assert going_on[0].started_at == min(clocks)
    assert going_on[0].held[1] == going_on[0].wrote
    assert len(model.said) < lives + len(steps) + 100


@given(st.booleans(), STEPS)
@settings(max_examples=200)
def test_of_two_with_one_memory_one_goes_on_and_both_hear_of_it(
    writes: bool, steps: list[tuple[str, int, int]]
) -> None:
    model = Model()
    one = model.start(NOTHING, 1.0)
    if writes:
        model.write(one)
    processes = [one, deepcopy(one)]
    forked = [False, False]
    for kind, who, what in steps:
        process = processes[who % 2]
        if kind == "hear":
            finding = model.hear(process, model.said[what % len(model.said)])
            forked[who % 2] |= finding is not None and finding.forked
        elif kind == "write" and not process.stopped:
            model.write(process, name=f"{who % 2} {what}")
    model.write(next(process for process in processes if not process.stopped), name="last")
    for _ in range(20):
        for number, process in enumerate(processes):
            finding = model.hear(process, max(model.said, key=_order))
            forked[number] |= finding is not None and finding.forked
    assert [process.stopped for process in processes].count(True) == 1
    assert all(forked)


LIVES = st.lists(
    st.tuples(st.sampled_from(["newest", "hear", "write", "restart", "backup", "save", "revert"]), PICKS),
    max_size=60,
)


@given(st.booleans(), LIVES, st.lists(st.floats(0, 1e12), min_size=60, max_size=60))
@settings(max_examples=200)
def test_a_node_that_is_alone_never_stops(
    machine: bool, steps: list[tuple[str, int]], clocks: list[float]
) -> None:
    """Whatever it said in earlier lives, of which it may know nothing, comes back.

    ``machine``: it is a virtual one, and may be put back with what is in its memory. Else its clock jumps.
    """
    model = Model()
    now = count(1)
    alive = model.start(NOTHING, next(now))
    disks, machines = [NOTHING], [deepcopy(alive)]
    for (kind, what), clock in zip(steps, clocks, strict=False):
        if kind == "hear":
            model.hear(alive, model.said[what % len(model.said)])
        elif kind == "newest":
            model.hear(alive, max(model.said, key=_order))
        elif kind == "write":
            model.write(alive, name=str(what))
        elif kind == "save":
            disks.append(alive.held)
            machines.append(deepcopy(alive))
        elif kind == "revert" and machine:
            alive = deepcopy(machines[-1 - what % min(2, len(machines))])
        elif kind in ("restart", "backup"):
            disk = alive.held if kind == "restart" else disks[what % len(disks)]
            alive = model.start(disk, float(next(now)) if machine else clock)
        assert not alive.stopped
    model.converge([alive])
    assert not alive.stopped
    assert alive.held[1] == alive.wrote


def test_a_machine_that_is_put_back_again_and_again_finds_no_answer_to_itself() -> None:
    model = Model()
    saved = model.start(NOTHING, 1.0)
    for times in (1, 4):
        model.write(deepcopy(saved))
        for _ in range(times):
            alive = deepcopy(saved)
            assert model.hear(alive, max(model.said, key=_order)) == Finding(False, False, True)
        saved = alive  # it has asked once whether another process runs


def test_one_that_is_answered_by_who_has_gone_since_goes_on() -> None:
    """However late it was started by its own clock: only who answers when it is asked still runs."""
    model = Model()
    clone = model.start(NOTHING, 1.0)
    node = model.start(NOTHING, 9.0)
    model.write(node)
    assert model.hear(clone, node.held) == Finding(False, False, False)
    for _ in range(3):
        assert model.hear(node, max(model.said, key=_order)) in (Finding(False, False, False), None)
    assert not node.stopped
    assert model.hear(clone, node.held) == Finding(False, False, False), "it has been asked now, not before"
    assert model.hear(node, clone.held) == Finding(True, True, False), "it was not gone"


def test_an_older_version_says_no_instance_and_answers_none() -> None:
    clones = Clones("mine")
    for _ in range(5):
        assert clones.meet(BLANK, 1.0, "fresh") == Finding(False, False, False)
    assert clones.meet(msgspec.structs.replace(BLANK, answers="mine"), 1.0, "fresh") == Finding(
        False, False, False
    )
    assert (clones.instance, clones.answers) == ("mine", None)
