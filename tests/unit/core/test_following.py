"""The following side by itself: what it remembers of a peer's log, and what it lets the peer send."""

from __future__ import annotations

import pytest

from mesh.core.access import OPEN
from mesh.core.interest import InterestSet, entry_digest
from mesh.core.sync_effects import Effect, ReadPositions, SavePosition, Send, Standing
from mesh.core.sync_following import MAX_TOLD, Following
from mesh.core.wire import Change, Changes, InterestEntry, Resume, Resumed
from mesh.errors import ProtocolViolation

CARS, MAPS = InterestEntry("cars"), InterestEntry("maps")


def resumed(following: Following, number: int, *entries: InterestEntry, upto: int) -> None:
    """Catch-up ``number`` has begun, where the peer's log ends at ``upto``."""
    effects = following.positions_read([Standing(b"log", 5, False, list(entries))])
    assert effects == [Send(Resume(number, b"log", 5, False, list(entries)))]
    following.on_resumed(Resumed(number, b"log", upto, False))


def frame(following: Following, number: int, *, scan: int, upto: int) -> list[Effect]:
    made = Changes(number, scan, upto, [])
    following.on_changes(made)
    return [effect for effect in following.applied(made, []) if isinstance(effect, SavePosition)]


def test_what_happens_while_catching_up_is_held_as_well() -> None:
    following = Following(OPEN)
    following.wanting(InterestSet([CARS]))
    resumed(following, 1, CARS, upto=10)
    assert frame(following, 1, scan=0, upto=14) == []
    assert frame(following, 2, scan=1, upto=8) == [SavePosition(b"log", [entry_digest(CARS)], 8)]
    assert frame(following, 3, scan=1, upto=10) == [SavePosition(b"log", [entry_digest(CARS)], 14)]
    following.wanting(InterestSet([CARS, MAPS]))
    resumed(following, 2, MAPS, upto=20)
    assert frame(following, 4, scan=2, upto=20) == [SavePosition(b"log", [entry_digest(MAPS)], 20)]


def test_an_eviction_while_positions_are_read_makes_them_void() -> None:
    following = Following(OPEN)
    assert following.wanting(InterestSet([CARS, MAPS])) == [ReadPositions([CARS, MAPS])]
    following.evicted({"cars"})
    both = Standing(b"log", 5, False, [CARS, MAPS])
    assert following.positions_read([both]) == [Send(Resume(1, b"log", 5, False, [MAPS]))]
    assert following.ask_again({"maps"}) == []
    assert following.ask_again({"cars"}) == [ReadPositions([CARS])]
    following.wanting(InterestSet([MAPS]))
    following.evicted({"cars"})
    assert following.wanting(InterestSet([CARS, MAPS])) == [ReadPositions([CARS])]
    for number in (2, 3):
        assert following.positions_read([Standing(b"log", 5, False, [CARS])]) == [
            Send(Resume(number, b"", 0, False, [CARS]))
        ]


def test_a_peer_may_send_what_it_was_asked_for_until_it_hears_better() -> None:
    following = Following(OPEN)
    following.told([MAPS])
    following.wanting(InterestSet([CARS]))
    following.wanting(InterestSet())
    changes = [Change(name, "1", (0, 0), {}, {b"evilevil": 1}, b"\0\0") for name in ("cars", "maps", "other")]
    following.on_changes(Changes(1, 0, 1, changes[:2]))
    with pytest.raises(ProtocolViolation, match="asked for"):
        following.on_changes(Changes(2, 0, 2, changes[2:]))
    following.wanting(InterestSet([CARS]))
    following.told(InterestEntry(f"c{i}") for i in range(2 * MAX_TOLD))
    following.on_changes(Changes(2, 0, 2, changes[:1]))
    with pytest.raises(ProtocolViolation, match="asked for"):
        following.on_changes(Changes(3, 0, 3, changes[1:2]))
    assert len(following._told) == MAX_TOLD
