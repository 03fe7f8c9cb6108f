"""Writes Yjs items (update version 1) without the CRDT library: registers of a document's root map."""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from mesh.core.update_reader import ANY, MAX_CLIENT, MAX_CLOCK, Id

_KEY, _LEFT = 0x20, 0x80

_USED_UP = MAX_CLOCK // 2
"""Nobody writes that much: somebody has written in another's name, to leave it no clocks."""

_single = struct.Struct(">f")
_double = struct.Struct(">d")


class Delta:
    """An update in the making.

    Args:
        root: the name of the root map that holds the fields.
        clocks: up to where the items of each client are there already.
    """

    def __init__(self, root: bytes, clocks: Mapping[int, int]) -> None:
        self._root = root
        self._clocks = clocks
        self._items: dict[int, list[bytes]] = {}
        self._deletions: dict[int, list[bytes]] = {}

    def set(self, client: int, key: str, value: Any, over: Id | None) -> None:
        """Write a register on behalf of ``client``; ``over`` is the item that holds it now."""
        if over is None:
            head = _first_item(self._root, key)
        else:
            head = bytes((_LEFT | _KEY | ANY,)) + number(over[0]) + number(over[1]) + b"\1"
            self.delete(over)
        self._items.setdefault(client, []).append(head + any_value(value))

    def delete(self, element: Id) -> None:
        """Remove the register that ``element`` holds."""
        self._deletions.setdefault(element[0], []).append(number(element[1]) + b"\1")

    def encode(self) -> bytes:
        """The update."""
        parts = [number(len(self._items))]
        for client in sorted(self._items, reverse=True):
            items = self._items[client]
            parts += (number(len(items)), number(client), number(self._clocks.get(client, 0)), *items)
        parts.append(number(len(self._deletions)))
        for client, deletions in self._deletions.items():
            parts += (number(client), number(len(deletions)), *deletions)
        return b"".join(parts)


def written_once(root: bytes, registers: Mapping[str, Any], client: int) -> bytes:
    """The state of a document in which ``client`` has written ``registers``, and nobody anything else."""
    if not registers:
        return b"\0\0"
    parts = [b"\1" + number(len(registers)) + encode_number(client) + b"\0"]
    for key, value in registers.items():
        parts += (_first_item(root, key), any_value(value))
    parts.append(b"\0")
    return b"".join(parts)


@functools.lru_cache(1024)
def _first_item(root: bytes, key: str) -> bytes:
    """An item of one value, up to that, which is the first in its key."""
    name = key.encode()
    return bytes((_KEY | ANY, 1, len(root))) + root + number(len(name)) + name + b"\1"


def client_for(base: int, key: str) -> int:
    """A client id for one key, for whoever writes as ``base``.

    The overwritten values of a key that is written under an id of its own are one run, and take no more space
    however many there are.
    """
    digest = blake3(b"%d%s" % (base, key.encode())).digest(length=8)
    return int.from_bytes(digest, "big") % (MAX_CLIENT - 1) + 1


def unspent(client: int, clocks: Mapping[int, int]) -> int:
    """``client``, or another id in place of it if somebody has used up its clocks."""
    while clocks.get(client, 0) >= _USED_UP:
        client = client_for(client, "")
    return client


def any_value(value: Any) -> bytes:
    """A JSON value, as Yjs has it; numbers as the CRDT library writes them."""
    kind = type(value)
    if kind is str:
        text: bytes = value.encode()
        return b"w" + number(len(text)) + text
    if kind is int or kind is float:
        try:
            short = _single.pack(value)
        except OverflowError:
            short = b""
        return b"|" + short if short and _single.unpack(short)[0] == value else b"{" + _double.pack(value)
    if value is None:
        return b"~"
    if kind is bool:
        return b"x" if value else b"y"
    if kind is list:
        return b"".join([b"u", number(len(value)), *[any_value(item) for item in value]])
    parts = [b"v", number(len(value))]
    for key, item in value.items():
        name = key.encode()
        parts += (number(len(name)), name, any_value(item))
    return b"".join(parts)


def encode_number(n: int) -> bytes:
    """A whole number in as few bytes as it takes, seven bits each."""
    if n < 0x80:
        return bytes((n,))
    encoded = bytearray()
    while n >= 0x80:
        encoded.append(n & 0x7F | 0x80)
        n >>= 7
    encoded.append(n)
    return bytes(encoded)


number = functools.lru_cache(1024)(encode_number)
"""The same, for those that come again: lengths, and documents that are changed in turn."""
