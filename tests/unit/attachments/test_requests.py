"""What downloaders asked for: what others were sent, whole or in pieces, goes after what nobody was."""

from __future__ import annotations

import asyncio

from mesh.attachments.requests import RequestQueue, SentBefore
from mesh.core.wire import ChunkCancel, ChunkGet, PieceGet

HASH = bytes(32)
PIECE = 1000


def send(queue: RequestQueue) -> int:
    """Send the next job; its chunk."""
    job = queue.peek()
    assert job is not None
    queue.begin(job)
    queue.pop()
    return job.index


def test_a_chunk_that_went_in_pieces_counts_once() -> None:
    before = SentBefore()
    slow, quick = RequestQueue(before), RequestQueue(before)
    for offset in range(0, 3 * PIECE, PIECE):
        slow.add(PieceGet(HASH, 0, offset, PIECE, 2))
    assert [send(slow) for _ in range(3)] == [0, 0, 0]
    assert before.count(HASH, 0) == 1
    quick.add(ChunkGet(HASH, 0, [0, 1], 2))
    assert [send(quick) for _ in range(2)] == [1, 0]


def test_pieces_of_a_chunk_and_the_whole_chunk_do_not_end_each_other() -> None:
    queue = RequestQueue(SentBefore())
    queue.add(PieceGet(HASH, 0, 0, PIECE, 2))
    queue.add(ChunkGet(HASH, 0, [0], 2))
    assert [send(queue) for _ in range(2)] == [0, 0]
    assert queue.peek() is None
    queue.add(PieceGet(HASH, 0, 0, PIECE, 2))
    queue.add(ChunkGet(HASH, 0, [0], 2))
    queue.add(ChunkCancel(HASH, [0]))
    assert send(queue) == 0
    assert queue.peek() is None


async def test_what_was_read_for_a_chunk_that_others_got_meanwhile_is_not_kept() -> None:
    before = SentBefore()
    one, other = RequestQueue(before), RequestQueue(before)
    one.add(ChunkGet(HASH, 0, [0, 1], 2))
    other.add(ChunkGet(HASH, 0, [0], 2))
    job = one.peek()
    assert job is not None
    job.answer = asyncio.create_task(asyncio.sleep(0, bytearray(9)))
    await job.answer
    assert send(other) == 0
    assert [send(one) for _ in range(2)] == [1, 0]
    assert job.answer is None


def test_a_downloader_that_asks_again_is_known() -> None:
    before = SentBefore()
    one, other = RequestQueue(before), RequestQueue(before)
    for queue in (one, other, one):
        queue.add(ChunkGet(HASH, 0, [3], 2))
    job = one.peek()
    assert job is not None
    assert not one.again(job)
    assert [send(one), send(other)] == [3, 3]
    assert one.again(job)
