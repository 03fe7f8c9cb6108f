"""What is said of blobs travels together, in its order."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from mesh.attachments.letters import MAX_ITEMS, Item, Letters
from mesh.core.wire import BlobForget, BlobHave, BlobNews, BlobServed
from mesh.errors import ProtocolViolation
from mesh.network.link import Link
from mesh.network.peers import Peers


class Recorder:
    """Stands for the peers."""

    def __init__(self, **links: Any) -> None:
        self.links = links
        self.handlers: dict[type, Any] = {}

    def handle(self, kind: type, handler: Any) -> None:
        self.handlers[kind] = handler


class Sent:
    """Stands for a link."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)


async def test_what_is_said_in_one_turn_goes_together_and_large_maps_go_alone() -> None:
    a, b = Sent(), Sent()
    letters = Letters(cast("Peers", Recorder(a=a, b=b)))
    forgets: list[Item] = [BlobForget("o", bytes(32), number) for number in range(MAX_ITEMS + 1)]
    large = BlobHave(bytes(32), bytes(2000))
    for item in forgets:
        letters.say("a", item)
    letters.say("a", large)
    letters.say("a", forgets[0])
    letters.say("b", forgets[1])
    letters.say("gone", forgets[1])
    assert a.messages == []
    await asyncio.sleep(0)
    assert a.messages == [BlobNews(forgets[:MAX_ITEMS]), forgets[MAX_ITEMS], large, forgets[0]]
    assert b.messages == [forgets[1]]
    letters.say("a", forgets[2])
    letters.forget("a")
    letters.say("b", forgets[2])
    await asyncio.sleep(0)
    assert len(a.messages) == 4
    assert b.messages == [forgets[1], forgets[2]]


async def test_of_what_is_held_the_last_word_is_sent() -> None:
    """One demand is answered with up to 128 KiB, and a message has room for many."""
    a = Sent()
    letters = Letters(cast("Peers", Recorder(a=a)))
    served = BlobServed("o", bytes(32))
    for number in range(1000):
        letters.say("a", BlobHave(bytes(32), bytes([number % 256]) * 100_000))
    letters.say("a", served)
    letters.say("a", other := BlobHave(b"1" * 32, None))
    letters.say("a", last := BlobHave(bytes(32), b"\1"))
    await asyncio.sleep(0)
    assert a.messages == [BlobNews([served, other, last])]


def test_what_came_together_is_taken_apart() -> None:
    peers, link = Recorder(), cast("Link", Sent())
    letters = Letters(cast("Peers", peers))
    seen: list[Any] = []
    letters.on(BlobForget, lambda link, item: seen.append(item))
    letters.on(BlobHave, lambda link, item: seen.append(item))
    forget, have = BlobForget("o", bytes(32), 1), BlobHave(bytes(32), None)
    peers.handlers[BlobNews](link, BlobNews([forget, have, forget]))
    peers.handlers[BlobHave](link, have)
    assert seen == [forget, have, forget, have]


def test_more_items_than_anybody_sends_are_refused() -> None:
    """Each may cost a read of the store, and a message has room for a hundred thousand."""
    peers = Recorder()
    Letters(cast("Peers", peers))
    news = BlobNews([BlobForget("o", bytes(32), 1)] * (MAX_ITEMS + 1))
    with pytest.raises(ProtocolViolation, match="257 items"):
        peers.handlers[BlobNews](cast("Link", Sent()), news)
