"""Workers, and what is asked of them together."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import NotStarted
from mesh.storage.worker import InlineWorker, Then, ThreadWorker, Together


class Counted(ThreadWorker):
    """Counts what it is asked for."""

    calls = 0

    def call(self, then: Then, function: Any, *args: Any) -> None:
        self.calls += 1
        super().call(then, function, *args)


def halve(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number // 2


async def test_what_is_asked_for_in_one_turn_is_one_call_and_each_gets_its_own() -> None:
    worker = Counted("test")
    together = Together(worker)
    first, bad, given_up, last = (together.run(halve, number) for number in (2, 3, 5, 4))
    given_up.cancel()
    assert (await first, await last) == (1, 2)
    with pytest.raises(ValueError, match="3"):
        await bad
    assert worker.calls == 1
    assert await together.run(halve, 8) == 4
    assert worker.calls == 2
    await worker.close()


async def test_a_worker_that_was_closed_meanwhile_says_so() -> None:
    worker = ThreadWorker("test")
    asked = Together(worker).run(halve, 2)
    await worker.close()
    with pytest.raises(NotStarted, match="closed"):
        await asked


async def test_without_a_thread() -> None:
    assert await Together(InlineWorker()).run(halve, 6) == 3
