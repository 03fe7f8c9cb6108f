"""Tokens that say what is not so: a fetch fails where that can be proved, else it tells why it waits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from blake3 import blake3

from mesh.attachments import serving
from mesh.attachments.serving import LIST_PIECE_HASHES
from mesh.core.chunks import HASH_BYTES
from mesh.core.rates import Limits
from mesh.core.tokens import BlobToken
from mesh.errors import FetchFailed, FetchTimeout
from tests.unit.attachments.test_attachments import MIB, World, content, simulated


@pytest.mark.parametrize(
    ("size", "lie"),
    [
        (3 * MIB, {"chunks_hash": "0" * 64}),  # nobody can prove these: whoever holds the blob may lie
        (3 * MIB, {"chunks_hash": "0" * 64, "size_bytes": 3 * MIB - 7}),
        (3 * MIB, {"chunks_hash": "0" * 64, "size_bytes": 9 * MIB}),
        (3 * MIB, {"chunks_hash": "0" * 64, "size_bytes": 1 << 39}),
        (3 * MIB, {"hash": "0" * 64}),
        (3 * MIB, {"hash": "other"}),
        (3 * MIB, {"size_bytes": MIB - 3, "chunks_hash": "derived"}),
        (3 * MIB, {"size_bytes": 9, "chunks_hash": "derived"}),
        (MIB // 2, {"size_bytes": 9 * MIB, "chunks_hash": "0" * 64}),
    ],
)
def test_a_lie_in_a_token_that_nobody_can_prove_is_told_of(size: int, lie: dict[str, Any]) -> None:
    @simulated()
    async def fetch(world: World) -> None:
        await world.link("ba", "bc")
        token = await world["a"].add(content(size))
        other = await world["c"].add(content(3 * MIB, 5))
        world.nodes["b"].store._max_bytes = 1 << 40
        told = {"other": other.hash, "derived": blake3(bytes.fromhex(token.hash)).hexdigest()}
        wrong = msgspec.structs.replace(
            token, **{name: told.get(value, value) for name, value in lie.items()}
        )
        reason = "no source yet" if wrong.hash == "0" * 64 else "as the token says|if the token is right"
        with pytest.raises(FetchTimeout, match=f"waiting: .*({reason})"):
            await world["b"].fetch(wrong, timeout=100)
        assert world["b"].received_bytes < 10 * MIB
        await world["b"].fetch(token)

    fetch()


@pytest.mark.parametrize("hashes_per_message", [1, 2, LIST_PIECE_HASHES])
@pytest.mark.parametrize(
    ("size", "said"),
    [
        (2 * MIB, 2 * MIB + 1),
        (2 * MIB, 9 * MIB),
        (2 * MIB, 1 << 39),
        (5 * MIB + 5, 5 * MIB),
        (5 * MIB + 5, MIB + 1),
    ],
)
def test_a_wrong_number_of_chunks_fails_the_fetch(
    monkeypatch: pytest.MonkeyPatch, size: int, said: int, hashes_per_message: int
) -> None:
    monkeypatch.setattr(serving, "LIST_PIECE_HASHES", hashes_per_message)

    @simulated()
    async def fetch(world: World) -> None:
        await world.link("ba")
        token = await world["a"].add(content(size))
        world.nodes["b"].store._max_bytes = 1 << 40
        wrong = BlobToken(token.hash, said, token.chunks_hash)
        count = token.chunk_count
        with pytest.raises(FetchFailed, match=rf"it has {count} chunks, and the token says \d+:"):
            await world["b"].fetch(wrong, timeout=100)
        await world["b"].fetch(token)

    fetch()


@simulated()
async def test_a_list_that_never_ends_is_not_kept(world: World) -> None:
    await world.link("ba")
    token = await world["a"].add(content(2 * MIB))
    store = world.nodes["a"].store
    asked: list[str] = []

    async def endless(hash: str) -> bytes:
        asked.append(hash)
        return bytes(LIST_PIECE_HASHES * HASH_BYTES * (len(asked) + 1))

    store.chunk_list = endless  # type: ignore[method-assign]
    with pytest.raises(FetchTimeout, match="as the token says"):
        await world["b"].fetch(token, timeout=9)
    assert len(asked) < 40


@pytest.mark.parametrize("bytes_per_second", [None, 50_000])
@pytest.mark.parametrize(
    ("size", "said"),
    [
        (9, 10),
        (9, 8),
        (20_000, 19_999),
        (MIB // 2, MIB),
        (MIB // 2, MIB // 2 - 1),
        (MIB // 2, 400_000),
        (MIB // 2, 30_000),
        (MIB, MIB - 1),
        (2 * MIB + 9, 2 * MIB + 10),
        (2 * MIB + 9, 3 * MIB),
        (2 * MIB + 9, 2 * MIB + 8),
        (3 * MIB - 5, 2 * MIB + 1),
        (3 * MIB, 2 * MIB + MIB // 2),
    ],
)
def test_a_wrong_length_of_the_last_chunk_fails_the_fetch(
    size: int, said: int, bytes_per_second: int | None
) -> None:
    @simulated()
    async def fetch(world: World) -> None:
        await world.link("ba")
        token = await world["a"].add(content(size))
        world["a"].set_limits(Limits(upload=bytes_per_second))
        wrong = BlobToken(token.hash, said, token.chunks_hash)
        with pytest.raises(FetchFailed, match=r"its last chunk has \d+ bytes, and the token says"):
            await world["b"].fetch(wrong, timeout=100)
        assert not world["b"]._exchange._said._demands.blobs
        await world["b"].fetch(token)

    fetch()
