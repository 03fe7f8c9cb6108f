from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.chunks import (
    CHUNK_HEAD_BYTES,
    EMPTY_HASH,
    ChunkMap,
    chunk_length,
    chunk_matches,
    chunks_hash,
    derived_hashes,
    list_matches,
    pack_head,
    unpack_head,
)
from mesh.core.tokens import CHUNK_BYTES, BlobToken
from mesh.errors import InvalidToken, ProtocolViolation


def token_of(data: bytes) -> tuple[BlobToken, bytes]:
    hashes = b"".join(blake3(data[at : at + CHUNK_BYTES]).digest() for at in range(0, len(data), CHUNK_BYTES))
    return BlobToken(blake3(data).hexdigest(), len(data), blake3(hashes).hexdigest()), hashes


@given(st.integers(0, 70), st.data())
def test_a_map_holds_what_was_added_and_survives_its_bytes(count: int, data: st.DataObject) -> None:
    indices = data.draw(st.sets(st.integers(0, count - 1))) if count else set()
    map_ = ChunkMap(count)
    for index in indices:
        assert map_.add(index)
        assert not map_.add(index)
    assert set(map_) == indices
    assert list(map_.missing()) == [index for index in range(count) if index not in indices]
    assert len(map_) == len(indices)
    assert map_.complete == (len(indices) == count)
    assert ChunkMap.from_bytes(count, map_.to_bytes()) == map_
    assert -1 not in map_
    assert count not in map_


@given(st.integers(1, 40), st.data())
def test_union_and_difference_are_those_of_sets(count: int, data: st.DataObject) -> None:
    def draw() -> tuple[ChunkMap, set[int]]:
        indices = data.draw(st.sets(st.integers(0, count - 1)))
        map_ = ChunkMap(count)
        for index in indices:
            map_.add(index)
        return map_, indices

    (a, in_a), (b, in_b) = draw(), draw()
    assert set(a.union(b)) == in_a | in_b
    assert a.new_in(b) == sorted(in_b - in_a)
    for index in in_b:
        assert a.remove(index) == (index in in_a)
    assert set(a) == in_a - in_b


@pytest.mark.parametrize(
    ("count", "data"), [(8, b"\0\1"), (3, b"\x08"), (0, b"\1"), (9, b"\0\2"), (1, b"\0\0")]
)
def test_a_map_that_speaks_of_chunks_there_are_none_of_is_refused(count: int, data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        ChunkMap.from_bytes(count, data)


def test_adding_a_chunk_there_is_none_of_is_an_error() -> None:
    with pytest.raises(IndexError):
        ChunkMap(3).add(3)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5])
def test_lists_and_chunks_verify_against_the_token_and_nothing_else_does(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    token, hashes = token_of(data[:size])
    assert list_matches(token, hashes)
    assert not list_matches(token, hashes + bytes(32))
    assert sum(chunk_length(size, index) for index in range(token.chunk_count)) == size
    for index in range(token.chunk_count):
        chunk = data[index * CHUNK_BYTES : min(size, (index + 1) * CHUNK_BYTES)]
        assert chunk_matches(token, hashes, index, chunk)
        assert not chunk_matches(token, hashes, index, chunk + b"x")
        assert not chunk_matches(token, hashes, index, chunk[:-1] + bytes([chunk[-1] ^ 1]))
    assert not chunk_matches(token, hashes, token.chunk_count, b"")
    assert derived_hashes(token) == (hashes if token.chunk_count <= 1 else None)


def test_a_small_token_that_contradicts_itself_is_refused() -> None:
    token, _ = token_of(b"small")
    with pytest.raises(InvalidToken):
        derived_hashes(BlobToken(token.hash, 5, EMPTY_HASH))
    with pytest.raises(InvalidToken):
        derived_hashes(BlobToken(token.hash, 0, EMPTY_HASH))
    assert derived_hashes(BlobToken(EMPTY_HASH, 0, chunks_hash(b""))) == b""


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=1, max_size=40),
    st.integers(0, CHUNK_BYTES - 40),
)
def test_the_head_of_a_chunk_round_trips(blob: int, index: int, data: bytes, offset: int) -> None:
    message = bytearray(CHUNK_HEAD_BYTES) + data
    pack_head(message, blob, index, len(data), offset)
    assert unpack_head(bytes(message)) == (blob, index, offset)
    pack_head(message, blob, index, len(data), CHUNK_BYTES)
    with pytest.raises(ProtocolViolation):
        unpack_head(message)
    pack_head(message, blob, index, len(data), offset)
    for broken in (message[:-1], message + b"x", b"\0" + message[1:], message[:8], message[:16]):
        with pytest.raises(ProtocolViolation):
            unpack_head(broken)
