"""Sync sessions without links or event loops: every interleaving that hypothesis can think of ends in sync.

Two nodes with the real store functions over SQLite in memory. Messages, store jobs and their results wait in
queues, and each step says what happens next. Small pages, frames and windows make every limit matter.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import reconcile, sync_serving, sync_window
from mesh.core.access import OPEN
from mesh.core.interest import EVERYTHING, InterestSet, entry_digest
from mesh.core.sync_effects import (
    ApplyFrame,
    Effect,
    Push,
    ReadKeys,
    ReadLog,
    ReadPositions,
    ReadWanted,
    SavePosition,
    Send,
    Standing,
)
from mesh.core.sync_following import Following
from mesh.core.sync_serving import Serving
from mesh.core.versions import covers
from mesh.core.wire import (
    Ack,
    Barrier,
    BarrierReached,
    Changes,
    Differences,
    InterestEntry,
    Pull,
    Pulled,
    Resume,
    Resumed,
    Summaries,
    Version,
    Want,
)
from mesh.errors import InvalidDocument, ProtocolViolation
from mesh.storage import graves, replicas, writes
from mesh.storage.rows import Rows
from tests.unit.edits import edit, plan_merge
from tests.unit.tables import open_tables

THOROUGH = int(os.environ.get("MESH_TEST_THOROUGH", "1"))
"""How many times as much as usual is tried."""

RED = InterestEntry("c", {"color": "red"})
BLUE = InterestEntry("c", {"color": "blue"})
IMPOSSIBLE = InterestEntry("c", {"$where": 1})
ALL = InterestEntry("c")
OTHER = InterestEntry("d")
INTERESTS = [[], [RED], [BLUE], [ALL], [RED, BLUE], [OTHER], [RED, OTHER], [EVERYTHING]]


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_window, "PAGE", 3)
    monkeypatch.setattr(sync_window, "FRAME_BYTES", 250)
    monkeypatch.setattr(sync_window, "BULK_BYTES", 150)
    monkeypatch.setattr(sync_window, "WINDOW_FRAMES", 7)
    monkeypatch.setattr(sync_serving, "SILENT_LAG", 4)
    monkeypatch.setattr(reconcile, "LIST_UP_TO", 1)
    monkeypatch.setattr(reconcile, "MAX_SUMMARIES", 5)
    monkeypatch.setattr(reconcile, "MAX_PULLED", 3)
    monkeypatch.setattr(replicas, "SMALL_DOCUMENT_BYTES", 120)


def _nothing(session: Session) -> list[Effect]:
    return []


def _deliver(side: str, event: str, *results: Any) -> list[Effect]:
    *arguments, session = results
    effects: list[Effect] = getattr(getattr(session, side), event)(*arguments)
    return effects


class Session:
    """One node's end of one link."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.following = Following(OPEN)
        share = self.following.share if node.name == "a" else None
        self.serving = Serving(
            node.peer_name, node.rows.lineage.log_id, node.rows.lineage.seq, share, access=OPEN
        )
        self.out: deque[Any] = deque()
        self.bulk: deque[Any] = deque()  # overtakes, and is overtaken
        self.resumes: deque[Resume | Summaries] = deque()
        self.barriers: dict[int, tuple[dict[tuple[str, str], Version], list[InterestEntry]]] = {}
        self.next_barrier = 1

    def run(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message, bulk):
                    (self.bulk if bulk else self.out).append(message)
                case SavePosition():
                    self.node.unsaved.append((self, effect))
                case Push(number, positions):
                    self.run(self.serving.compared(number, positions))
                case _:
                    self.node.jobs.append((self, effect))
        assert len(self.serving._window._in_flight) <= sync_window.WINDOW_FRAMES
        assert self.serving._window._bytes_in_flight <= sync_window.WINDOW_BYTES

    def receive(self, message: Any) -> None:
        serving, following = self.serving, self.following
        match message:
            case InterestSet():
                self.run(serving.wanted(message))
            case Resume() | Summaries():
                self.resumes.append(message)
                self.answer_resumes()
            case Ack():
                self.run(serving.on_ack(message))
            case Pull():
                self.run(serving.on_pull(message))
            case Barrier():
                self.run(serving.on_barrier(message))
            case Changes():
                self.run(following.on_changes(message))
            case Resumed():
                self.run(following.on_resumed(message))
            case Differences():
                self.run(following.on_differences(message))
            case Pulled():
                self.run(following.on_pulled(message))
            case BarrierReached():
                self.reached(message.number)
            case _:
                raise AssertionError(message)

    def answer_resumes(self) -> None:
        while self.resumes:
            message = self.resumes[0]
            known = isinstance(message, Resume) and self.serving.knows(message)
            if self.following.reading_positions and not known:
                return
            self.resumes.popleft()
            on_it = self.serving.on_resume if isinstance(message, Resume) else self.serving.on_summaries
            self.run(on_it(message))  # type: ignore[arg-type]

    def reached(self, number: int) -> None:
        held_there, wanted = self.barriers.pop(number)
        if self.following.caught_up and wanted == self.node.wanted:
            for version in held_there.values():
                now = self.node.peer.rows.get(version.collection, version.id)
                if now is not None and InterestSet(wanted).matches(version.collection, now.document):
                    assert self.node.holds(version), "a barrier was answered too early"


class Node:
    """A store, its worker's queue, and at most one session."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.peer_name = "b" if name == "a" else "a"
        self.rng = random.Random(seed)
        self.rows = Rows(open_tables(), self.rng, lambda: 0.0, "")
        self.rows.take_commits()
        self.wanted: list[InterestEntry] = []
        self.session: Session | None = None
        self.jobs: deque[tuple[Session | None, Any]] = deque()
        self.results: deque[Callable[[], None]] = deque()
        self.unsaved: deque[tuple[Session, SavePosition]] = deque()
        self.peer: Node

    # --- what the store holds -------------------------------------------------------------------

    def held(self) -> Iterator[tuple[int, Version, dict[str, Any] | None, str | None]]:
        for seq, collection, document_id in self.rows.connection.execute(
            "SELECT seq, collection, id FROM documents"
        ):
            row = self.rows.get(collection, document_id)
            assert row is not None
            version = Version(collection, document_id, row.state.rank, row.state.vector)
            yield seq, version, row.document, row.source

    def holds(self, version: Version) -> bool:
        row = self.rows.get(version.collection, version.id)
        if row is None or row.state.rank < version.rank:
            return False
        # What is written where a grave was says nothing of what was buried, but is of a later incarnation.
        superseded = row.buried or row.state.rank > version.rank
        return superseded or covers(row.state.vector, version.vector)

    # --- the worker -----------------------------------------------------------------------------

    def work(self) -> None:
        """Run the next job; its result waits to be delivered."""
        session, job = self.jobs.popleft()
        rows = self.rows
        deliver: Callable[[Session], list[Effect]] = _nothing
        match job:
            case ReadLog(after, until, limit, interest, back):
                sender = "" if back else self.peer_name
                page = replicas.read_log(rows, sender, after, until, limit, interest)
                deliver = partial(_deliver, "serving", "log_read", *page)
            case ReadWanted(wants, positions):
                deliver = partial(
                    _deliver, "serving", "wanted_read", replicas.read_wanted(rows, wants, positions)
                )
            case ReadPositions(entries):
                standings = replicas.read_standings(rows, self.peer_name, entries)
                deliver = partial(_deliver, "following", "positions_read", standings)
            case ReadKeys(number, mine, interest):
                keys = replicas.key_set(rows, interest)
                deliver = partial(_deliver, "following" if mine else "serving", "keys_read", number, keys)
            case ApplyFrame(frame):
                lacking = replicas.apply_frame(rows, self.peer_name, frame)
                deliver = partial(_deliver, "following", "applied", frame, lacking)
            case SavePosition(log_id, saved, upto):
                replicas.save_position(rows, self.peer_name, log_id, saved, upto)
            case _:
                job(rows)
        rows.finish()
        commits = rows.take_commits()
        self.check_positions()

        def result() -> None:
            if commits and self.session is not None:
                evicted = {commit.change.collection for commit in commits if commit.evicted}
                if evicted:
                    self.session.following.evicted(evicted)
                self.session.run(self.session.serving.committed(commits))
            if session is not None and session is self.session:
                session.run(deliver(session))
                session.answer_resumes()

        self.results.append(result)

    def save_positions(self) -> None:
        while self.unsaved:
            session, effect = self.unsaved.popleft()
            self.jobs.append((session, effect))

    def check_positions(self) -> None:
        """No position is ahead of what is held."""
        rows = self.rows.connection.execute("SELECT entry, log_id, upto FROM positions").fetchall()
        refused = self.rows.connection.execute("SELECT collection, id FROM quarantine").fetchall()
        entries = {entry_digest(e): e for wanted in INTERESTS for e in wanted}
        for digest, log_id, upto in rows:
            if log_id != self.peer.rows.lineage.log_id or digest not in entries:
                continue
            interest = InterestSet([entries[digest]])
            for seq, version, document, source in self.peer.held():
                sent = source != self.name and document is not None
                sent = sent and (version.collection, version.id) not in refused
                if seq <= upto and sent and interest.matches(version.collection, document):
                    assert self.holds(version), f"{self.name} is not at {upto} of {self.peer_name}'s log"

    # --- what happens to it ---------------------------------------------------------------------

    def want(self, wanted: list[InterestEntry]) -> None:
        self.wanted = wanted
        if self.session is not None:
            # Neighbours always want each other's node documents, so nobody wants nothing.
            interest = InterestSet([*wanted, InterestEntry("nodes", {"_id": self.peer_name})])
            self.session.out.append(interest)
            self.session.run(self.session.following.wanting(interest))

    def ask_barrier(self) -> None:
        session = self.session
        if session is not None:
            assert self.peer.session is not None
            told = (
                self.peer.session.serving._head
            )  # what is later has not been acknowledged to its writer yet
            there = {
                (version.collection, version.id): version
                for seq, version, document, _ in self.peer.held()
                if seq <= told
                and document is not None
                and InterestSet(self.wanted).matches(version.collection, document)
            }
            session.barriers[session.next_barrier] = (there, self.wanted)
            session.out.append(Barrier(session.next_barrier))
            session.next_barrier += 1

    def edit(self, collection: str, document_id: str, fields: dict[str, Any]) -> None:
        def job(rows: Rows) -> None:
            edit(rows, collection, document_id, lambda held: plan_merge(held, fields))

        self.jobs.append((None, job))

    def remove(self, collection: str, document_id: str) -> None:
        self.jobs.append((None, lambda rows: writes.remove(rows, collection, [document_id])))

    def bury(self) -> None:
        """All tombstones have lived their time."""
        self.jobs.append((None, lambda rows: graves.bury(rows, graves.TOMBSTONE_SECONDS)))

    def evict(self, collection: str, document_id: str) -> None:
        def job(rows: Rows) -> None:
            if collection not in InterestSet(self.wanted):
                writes.evict(rows, collection, [document_id])
                self.unsaved.clear()

        self.jobs.append((None, job))


class Pair:
    """Two nodes and the link between them."""

    def __init__(self) -> None:
        self.a, self.b = Node("a", 1), Node("b", 2)
        self.a.peer, self.b.peer = self.b, self.a
        self.nodes = [self.a, self.b]

    def link_up(self) -> None:
        if self.a.session is None:
            for node in self.nodes:
                node.session = Session(node)
            for node in self.nodes:
                node.want(node.wanted)

    def link_down(self, *, lose_positions: bool) -> None:
        for node in self.nodes:
            node.session = None
            if lose_positions:
                node.unsaved.clear()

    def moves(self) -> list[Callable[[], None]]:
        """What can happen by itself."""
        found: list[Callable[[], None]] = []
        for node in self.nodes:
            if node.jobs:
                found.append(node.work)
            if node.results:
                found.append(lambda node=node: node.results.popleft()())  # type: ignore[misc]
            for stream in (node.session.out, node.session.bulk) if node.session is not None else ():
                if stream:
                    found.append(lambda node=node, stream=stream: node.peer.session.receive(stream.popleft()))  # type: ignore[misc]
            if node.unsaved:
                found.append(node.save_positions)
        return found

    def run(self, choose: Callable[[int], int] = lambda count: 0, limit: int = 20_000) -> None:
        for _ in range(limit):
            moves = self.moves()
            if not moves:
                return
            moves[choose(len(moves))]()
        raise AssertionError("it goes on for ever")

    def check_in_sync(self) -> None:
        for node in self.nodes:
            session = node.session
            assert session is not None
            assert session.following.caught_up
            assert session.serving.idle
            assert not session.serving._window._in_flight
            assert session.serving._window._bytes_in_flight == 0
            assert not session.barriers, "a barrier was never answered"
            interest = InterestSet(node.wanted)
            for _, version, document, _ in node.peer.held():
                wanted = interest.matches(version.collection, document)
                if document is not None and wanted:
                    assert node.holds(version), f"{node.name} lacks {version}"
            for _, version, document, _ in node.held():
                # What has left the selector there has been told to who holds what it came from.
                row = node.peer.rows.get(version.collection, version.id)
                if (
                    row is not None
                    and document is not None
                    and interest.matches(version.collection, document)
                ):
                    theirs = Version(version.collection, version.id, row.state.rank, row.state.vector)
                    if node.peer.holds(version):
                        assert node.holds(theirs), f"{node.name} has not heard of {theirs}"


documents = st.tuples(st.sampled_from("ccd"), st.sampled_from("123456"))
fields = st.fixed_dictionaries(
    {},
    optional={
        "color": st.sampled_from(["red", "blue"]),
        "n": st.integers(0, 5),
        "big": st.sampled_from(["x" * 200, ""]),
    },
)


@settings(max_examples=40 * THOROUGH, deadline=None)
@given(st.data())
def test_every_interleaving_ends_in_sync(data: st.DataObject) -> None:
    pair = Pair()
    for node in pair.nodes:
        node.wanted = data.draw(st.sampled_from(INTERESTS), label=f"{node.name} wants")
        for _ in range(data.draw(st.integers(0, 8))):
            node.edit(*data.draw(documents), data.draw(fields))
    pair.run()
    for _ in range(data.draw(st.integers(1, 25), label="steps")):
        node = data.draw(st.sampled_from(pair.nodes))
        match data.draw(st.sampled_from("uuddwwwwwweebigmmmmm")):
            case "u":
                pair.link_up()
            case "d":
                pair.link_down(lose_positions=data.draw(st.booleans()))
            case "w":
                node.edit(*data.draw(documents), data.draw(fields))
            case "e":
                if data.draw(st.booleans()):
                    node.remove(*data.draw(documents))
                else:
                    node.evict(*data.draw(documents))
            case "b":
                node.ask_barrier()
            case "g":
                node.bury()
            case "i":
                node.want(data.draw(st.sampled_from(INTERESTS)))
            case _:
                for _ in range(data.draw(st.integers(1, 15))):
                    if moves := pair.moves():
                        moves[data.draw(st.integers(0, len(moves) - 1))]()
    pair.link_up()
    for node in pair.nodes:
        node.ask_barrier()
    rng = random.Random(data.draw(st.integers(0, 1000)))
    pair.run(rng.randrange)
    pair.check_in_sync()


@pytest.mark.parametrize("seed", range(8 * THOROUGH))
def test_long_random_runs_end_in_sync(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair()
    for node in pair.nodes:
        node.wanted = rng.choice(INTERESTS[1:])
    for _ in range(400):
        node = rng.choice(pair.nodes)
        document = (rng.choice("ccd"), str(rng.randrange(30)))
        new: dict[str, Any] = {"n": rng.random()}
        if rng.random() < 0.5:
            new["color"] = rng.choice(["red", "blue"])
        if rng.random() < 0.2:
            new["big"] = "x" * rng.randrange(300)
        match rng.choice("wwwwwwwwwwwrevbidug" + "m" * 20):
            case "w":
                node.edit(*document, new)
            case "r":
                node.remove(*document)
            case "e":
                node.evict(*document)
            case "b":
                node.ask_barrier()
            case "g":
                node.bury()
            case "i":
                node.want(rng.choice(INTERESTS))
            case "d":
                pair.link_down(lose_positions=rng.random() < 0.5)
            case "u":
                pair.link_up()
            case _:
                for _ in range(rng.randrange(1, 20)):
                    if moves := pair.moves():
                        moves[rng.randrange(len(moves))]()
    pair.link_up()
    for node in pair.nodes:
        node.ask_barrier()
    pair.run(rng.randrange)
    pair.check_in_sync()


# --- what it costs --------------------------------------------------------------------------------


def messages(pair: Pair) -> dict[str, int]:
    """Run to the end, and count what travels."""
    counts: dict[str, int] = {}
    while moves := pair.moves():
        for node in pair.nodes:
            if node.session is not None:
                for message in (*node.session.out, *node.session.bulk):
                    if isinstance(message, Changes) and not getattr(message, "_counted", False):
                        counts[str(id(message))] = len(message.changes)
        moves[0]()
    return {"documents": sum(counts.values()), "frames": len(counts)}


def synced(count: int) -> Pair:
    pair = Pair()
    pair.a.wanted = pair.b.wanted = [ALL]
    for i in range(count):
        pair.a.edit("c", str(i), {"n": i})
    pair.link_up()
    pair.run()
    pair.check_in_sync()
    return pair


def test_a_reconnect_sends_what_has_changed() -> None:
    pair = synced(50)
    pair.link_down(lose_positions=False)
    pair.a.edit("c", "1", {"n": 1000})
    pair.b.edit("c", "2", {"n": 2000})
    pair.b.remove("c", "3")
    pair.link_up()
    assert messages(pair)["documents"] == 3
    pair.check_in_sync()


def test_a_reconnect_without_positions_compares_and_sends_what_differs() -> None:
    pair = synced(50)
    pair.link_down(lose_positions=True)
    for node in pair.nodes:
        node.rows.connection.execute("DELETE FROM positions")
    pair.a.edit("c", "1", {"n": 1000})
    pair.b.edit("c", "2", {"n": 2000})
    pair.link_up()
    # Each side pulls both documents: it cannot know which of the two versions is the later one.
    assert messages(pair)["documents"] <= 4
    pair.check_in_sync()


def test_what_came_from_a_peer_does_not_go_back_to_it() -> None:
    pair = synced(0)
    pair.a.edit("c", "1", {"n": 1})
    assert messages(pair)["documents"] == 1


def test_a_document_edited_on_both_sides_while_one_is_still_catching_up_loses_nothing() -> None:
    """Its place in the log moves behind what is being caught up with, and its change came from the peer."""
    pair = synced(20)
    pair.link_down(lose_positions=False)
    pair.run()
    for i in range(20):
        pair.a.edit("c", str(i), {"a": i})
        pair.b.edit("c", str(i), {"b": i})
    pair.run()
    for seed in range(20):
        pair.link_up()
        pair.run(random.Random(seed).randrange)
        pair.check_in_sync()
        pair.link_down(lose_positions=False)
        for i in range(0, 20, 3):
            pair.a.edit("c", str(i), {"a": -seed * 100 - i})
            pair.b.edit("c", str(i), {"b": -seed * 100 - i})


def test_what_begins_to_match_by_a_merge_arrives_whole() -> None:
    pair = Pair()
    pair.a.wanted, pair.b.wanted = [ALL], [RED]
    pair.a.edit("c", "1", {"color": "blue", "mine": 1})
    pair.link_up()
    pair.run()
    assert pair.b.rows.get("c", "1") is None
    pair.b.edit("c", "1", {"color": "red", "theirs": 2})
    pair.run()
    pair.check_in_sync()
    row = pair.b.rows.get("c", "1")
    if row is not None and row.document is not None and row.document["color"] == "red":
        assert row.document["mine"] == 1


def test_evicted_documents_come_back_when_they_are_wanted_again() -> None:
    pair = synced(10)
    pair.b.want([])
    pair.run()
    for i in range(10):
        pair.b.evict("c", str(i))
    pair.run()
    assert not list(pair.b.held())
    pair.b.want([ALL])
    pair.run()
    pair.check_in_sync()
    assert len(list(pair.b.held())) == 10


def test_what_is_withdrawn_before_it_is_asked_for_is_not_asked_for() -> None:
    pair = synced(3)
    pair.b.want([ALL, OTHER])
    pair.b.want([ALL])
    pair.run()
    pair.check_in_sync()


def test_a_peer_that_never_acknowledges_costs_the_window_and_gets_the_rest_later() -> None:
    pair = synced(3)
    session = pair.a.session
    assert session is not None
    for i in range(300):
        pair.a.edit("c", str(i % 100), {"n": i, "text": "x" * 200})
        while pair.a.jobs or pair.a.results:
            if pair.a.jobs:
                pair.a.work()
            else:
                pair.a.results.popleft()()
        assert len(session.out) + len(session.bulk) <= sync_window.WINDOW_FRAMES
    assert not session.serving.idle
    assert pair.b.rows.get("c", "50") is None
    pair.run()
    pair.check_in_sync()


@pytest.mark.parametrize("count", [5, 50])
def test_strangers_compare_once(count: int) -> None:
    """Both pull what they lack out of one comparison."""
    pair = synced(count)
    pair.link_down(lose_positions=True)
    for node in pair.nodes:
        node.rows.connection.execute("DELETE FROM positions")
        node.edit("c", node.name, {"of": node.name})
    pair.run()
    pair.link_up()
    compared: set[tuple[str, int]] = set()
    while moves := pair.moves():
        for node in pair.nodes:
            for message in node.session.out if node.session is not None else ():
                if isinstance(message, Summaries):
                    compared.add((node.name, message.number))
        moves[0]()
    pair.check_in_sync()
    assert len(compared) == 1


def test_what_was_refused_is_asked_for_again_after_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.a.wanted = pair.b.wanted = [ALL]
    for i in range(10):
        pair.a.edit("c", str(i), {"n": i})

    def refuse_three(document_id: str) -> None:
        if document_id == "3":
            raise InvalidDocument("unheard of")

    with monkeypatch.context() as earlier:
        earlier.setattr(replicas, "check_id", refuse_three)
        pair.link_up()
        pair.run()
        pair.link_down(lose_positions=False)
    positions = pair.b.rows.connection.execute("SELECT * FROM positions").fetchall()
    assert positions  # what was refused does not hold up the rest
    pair.b.rows.retry_refused()  # a start of the same version
    assert pair.b.rows.connection.execute("SELECT * FROM positions").fetchall() == positions
    assert pair.b.rows.get("c", "3") is None
    pair.b.rows.connection.execute("UPDATE quarantine SET refused_by = 'earlier'")
    pair.b.rows.retry_refused()
    pair.link_up()
    assert messages(pair)["documents"] == 1
    pair.check_in_sync()
    assert pair.b.rows.connection.execute("SELECT * FROM quarantine").fetchall() == []


# --- what a peer must not do ------------------------------------------------------------------------


def serving() -> Serving:
    made = Serving("peer", b"log", 10, access=OPEN)
    made.wanted(InterestSet([ALL]))
    return made


def following() -> Following:
    made = Following(OPEN)
    made.wanting(InterestSet([ALL]))
    return made


def sharing() -> Serving:
    """Asked to resume what is compared for the other direction, too."""
    made = Serving("peer", b"log", 10, lambda number, interest: [ReadKeys(1, True, interest)], access=OPEN)
    made.wanted(InterestSet([ALL]))
    made.on_resume(Resume(1, b"", 0, False, [ALL]))
    return made


def agreed() -> Following:
    """Has agreed to compare for both directions."""
    made = following()
    made.positions_read([Standing(b"", 0, False, [ALL])])
    assert made.share(1, InterestSet([ALL]))
    return made


def test_nothing_is_said_to_be_held_of_what_a_peer_is_still_catching_up_with() -> None:
    cars, maps = InterestEntry("cars"), InterestEntry("maps")
    made = Serving("peer", b"log", 10, access=OPEN)

    def catch_up(number: int, entry: InterestEntry) -> None:
        made.wanted(InterestSet([*made.followed.entries.values(), entry]))
        made.on_resume(Resume(number, b"", 0, True, [entry]))

    catch_up(1, cars)
    assert (made.confirmed, made.followed.collections) == (0, set())
    made.log_read([], 10)
    made.on_ack(Ack(1))
    assert (made.confirmed, made.followed.collections) == (10, {"cars"})
    catch_up(2, maps)
    assert (made.confirmed, made.followed.collections) == (10, {"cars"})
    made.log_read([], 10)
    assert made.followed.collections == {"cars"}
    made.on_ack(Ack(2))
    assert made.followed.collections == {"cars", "maps"}
    made.on_resume(Resume(3, b"", 0, True, [cars]))  # it has evicted them
    assert made.followed.collections == {"maps"}


def violations() -> dict[str, Callable[[], object]]:
    resumed = serving()
    resumed.on_resume(Resume(1, b"", 0, False, [ALL]))
    fresh = following()
    return {
        "resume what cannot be": lambda: serving().on_resume(Resume(1, b"", 0, False, [IMPOSSIBLE])),
        "resume under no number": lambda: serving().on_resume(Resume(0, b"", 0, True, [ALL])),
        "resume twice": lambda: resumed.on_resume(Resume(1, b"", 0, False, [ALL])),
        "acknowledge nothing": lambda: serving().on_ack(Ack(5, [])),
        "compare unasked": lambda: serving().on_summaries(Summaries(1, [])),
        "compare no range": lambda: (
            resumed.keys_read(1, reconcile.KeySet([])),
            resumed.on_summaries(Summaries(1, [(3, 0, b"12345678" * 16)])),
        ),
        "compare without digests": lambda: (
            resumed.keys_read(1, reconcile.KeySet([])),
            resumed.on_summaries(Summaries(1, [(0, 0, b"")])),
        ),
        "compare too much": lambda: resumed.on_summaries(Summaries(1, [(0, 0, b"")] * 6)),
        "pull unasked": lambda: serving().on_pull(Pull(1, [], [])),
        "pull what is not listed": lambda: (
            resumed.keys_read(1, reconcile.KeySet([(1, 1, 1)])),
            resumed.on_pull(Pull(1, [1], [])),
        ),
        "compare what is compared here": lambda: sharing().on_summaries(Summaries(1, [])),
        "not compare what was agreed on": lambda: agreed().on_resumed(Resumed(1, b"log", 5, False)),
        "frames out of order": lambda: (
            fresh.on_changes(Changes(2, 0, 0, [])),
            fresh.on_changes(Changes(2, 0, 0, [])),
        ),
        "documents unasked": lambda: following().on_changes(
            Changes(1, 0, 0, [], [], [Version("other", "1", (0, 0), {})])
        ),
        "an answer unasked": lambda: following().on_resumed(Resumed(1, b"", 0, False)),
        "differences unasked": lambda: following().on_differences(Differences(1, [], [])),
        "an end unasked": lambda: following().on_pulled(Pulled(1, 0)),
    }


@pytest.mark.parametrize("name", violations())
def test_violations_are_noticed(name: str) -> None:
    with pytest.raises(ProtocolViolation):
        violations()[name]()


def test_more_wants_than_documents_are_a_violation() -> None:
    pair = synced(0)
    pair.a.edit("c", "1", {"n": 1})
    pair.a.work()
    pair.a.results.popleft()()
    session = pair.a.session
    assert session is not None
    [frame] = (*session.out, *session.bulk)
    want = Want("c", "1", (-1, 0), {}, b"\0")
    with pytest.raises(ProtocolViolation):
        session.serving.on_ack(Ack(frame.number, [want] * 2))


def test_an_early_end_of_a_comparison_is_a_violation() -> None:
    made = following()
    made.positions_read([Standing(b"", 0, False, [ALL])])
    made.on_resumed(Resumed(1, b"log", 5, True))
    with pytest.raises(ProtocolViolation):
        made.on_resumed(Resumed(1, b"log", 5, True))
    with pytest.raises(ProtocolViolation):
        made.on_pulled(Pulled(1, 0))
    made.keys_read(1, reconcile.KeySet([]))
    with pytest.raises(ProtocolViolation):
        made.on_differences(Differences(1, [(2, 0)], []))
