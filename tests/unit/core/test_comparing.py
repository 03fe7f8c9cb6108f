"""What a peer can make a node read and keep by asking it to compare."""

from __future__ import annotations

import pytest

from mesh.core import reconcile, sync_comparing
from mesh.core.access import OPEN
from mesh.core.interest import InterestSet
from mesh.core.reconcile import KeySet
from mesh.core.sync_effects import Effect, ReadKeys, Renew, Send
from mesh.core.sync_serving import Serving
from mesh.core.wire import Differences, InterestEntry, Pull, Resume, Resumed, Summaries
from mesh.errors import ProtocolViolation

ALL = InterestEntry("c")
SUMMARY = (0, 0, bytes((1 << reconcile.STEP_BITS) * reconcile.SHORT_BYTES))


def reads(effects: list[Effect]) -> list[int]:
    return [effect.number for effect in effects if isinstance(effect, ReadKeys)]


def compared(comparisons: int) -> tuple[Serving, list[int]]:
    """Asked to compare so often; the keys that are read at once."""
    made = Serving("peer", b"log", 10, access=OPEN)
    made.wanted(InterestSet([ALL]))
    asked = range(1, comparisons + 1)
    return made, [number for n in asked for number in reads(made.on_resume(Resume(n, b"", 0, False, [ALL])))]


def keys(count: int) -> KeySet:
    return KeySet((n, n, n) for n in range(1, count + 1))


def test_keys_are_read_for_one_comparison_at_a_time() -> None:
    made, read = compared(100)
    assert read == [1]
    for number in range(1, 100):
        assert reads(made.keys_read(number, keys(3))) == [number + 1]
    assert reads(made.keys_read(100, keys(3))) == []


@pytest.mark.limit("core.sync_comparing.MAX_KEYS")
def test_no_more_keys_are_read_while_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_comparing, "MAX_KEYS", 10)
    made, _ = compared(5)
    assert reads(made.keys_read(1, keys(9))) == [2]
    assert reads(made.keys_read(2, keys(9))) == []
    assert reads(made.on_pull(Pull(2, [], []))) == [3], "who ends one gets on"
    assert reads(made.keys_read(3, keys(9))) == []


def test_a_comparison_that_waits_is_answered_when_it_is_its_turn() -> None:
    made, _ = compared(2)
    made.on_summaries(Summaries(2, [SUMMARY]))
    made.keys_read(1, keys(3))
    [answer] = made.keys_read(2, keys(3))
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Differences)
    assert answer.message.number == 2


def test_few_digests_wait_for_keys() -> None:
    made, _ = compared(1)
    for _ in range(reconcile.FIRST_RANGES):
        made.on_summaries(Summaries(1, [SUMMARY]))
    with pytest.raises(ProtocolViolation, match="before any answer"):
        made.on_summaries(Summaries(1, [SUMMARY]))
    with pytest.raises(ProtocolViolation, match="0 summaries"):
        made.on_summaries(Summaries(1, []))


def test_no_more_is_pulled_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "MAX_PULLED", 3)
    made, _ = compared(2)
    made.keys_read(1, keys(5))
    made.on_pull(Pull(1, [0, 1, 2], [1, 2, 3]))
    made.on_pull(Pull(1, [3, 4], [4, 5, 6]))
    with pytest.raises(ProtocolViolation, match="more than there is"):
        made.on_pull(Pull(1, [0, 1, 2], []))
    made.keys_read(2, keys(5))
    made.on_pull(Pull(2, [], []))
    with pytest.raises(ProtocolViolation, match="once more"):
        made.on_pull(Pull(2, [], []))


@pytest.mark.parametrize("lie", [Resume(1, b"log", 99, False, [ALL]), Resume(1, b"other", 5, False, [ALL])])
def test_a_position_that_cannot_be_makes_another_of_a_log_that_may_have_lived_before_only(
    lie: Resume,
) -> None:
    made = Serving("peer", b"log", 10, logs={b"log"}, may_renew=lambda: True, access=OPEN)
    [renew] = made.on_resume(lie)
    assert isinstance(renew, Renew)
    made = Serving("peer", b"log", 10, logs={b"log"}, may_renew=lambda: False, access=OPEN)
    answer, *rest = made.on_resume(lie)
    assert answer == Send(Resumed(1, b"log", 10, reconcile=True))
    assert reads(rest) == [1]
