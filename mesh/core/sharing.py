"""One encoding of the changes that many peers get: only the numbers before them differ."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from mesh.core.commits import change_size
from mesh.core.frames import COMPRESS_FROM_BYTES, MAX_MESSAGE_BYTES, Encoded, encode_message
from mesh.core.sync_effects import Effect, Send
from mesh.core.wire import Change, Changes

_NO_LISTS = bytes(encode_message(Changes(0, 0, 0, []))).partition(b"\x90")
_LISTS = b"".join(_NO_LISTS[1:])
"""How a message ends whose lists, the first of them its changes, are all empty."""

_ZLIB_HEAD = b"\x78\x01"
_encode = msgspec.msgpack.Encoder().encode


class Sharing:
    """What is sent of some commits. Each list of changes is encoded and compressed once, whoever gets it.

    A message becomes a zlib stream of two parts (RFC 1950, RFC 1951): its own numbers in a stored block, and
    compressed blocks, which are shared, with the rest.
    """

    def __init__(self) -> None:
        self._known: list[tuple[Sequence[Change], bytes, bytes]] = []  # changes, the rest, compressed

    def share(self, effects: Sequence[Effect]) -> list[Effect]:
        """``effects``, where the messages that are worth it are encoded."""
        return [self._shared(effect) if isinstance(effect, Send) else effect for effect in effects]

    def _shared(self, effect: Send) -> Send:
        message = effect.message
        if (
            not isinstance(message, Changes)
            or message.offers
            or message.notices
            or message.gone
            or message.graves
            or not COMPRESS_FROM_BYTES <= sum(map(change_size, message.changes)) < MAX_MESSAGE_BYTES // 2
        ):
            return effect
        rest, compressed = self._rest(message.changes)
        own = encode_message(Changes(message.number, message.scan, message.upto, [])).removesuffix(_LISTS)
        size = len(own).to_bytes(2, "little")
        stored = b"\0" + size + bytes(byte ^ 0xFF for byte in size) + own
        checksum = zlib.adler32(rest, zlib.adler32(own)).to_bytes(4, "big")
        return Send(Encoded(_ZLIB_HEAD + stored + compressed + checksum), effect.bulk)

    def _rest(self, changes: Sequence[Change]) -> tuple[bytes, bytes]:
        for known, rest, compressed in self._known:
            if known == changes:
                return rest, compressed
        rest = _encode(changes) + _LISTS[1:]
        deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        compressed = deflate.compress(rest) + deflate.flush()
        self._known.append((changes, rest, compressed))
        return rest, compressed
