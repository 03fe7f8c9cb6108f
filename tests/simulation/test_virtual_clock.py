"""The clock that jumps."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.simulation.virtual_clock import DAY, Deadlock, VirtualTimeLimit, run_virtual, virtual


def test_weeks_pass_in_moments() -> None:
    async def main() -> float:
        await asyncio.sleep(21 * DAY)
        return asyncio.get_running_loop().time()

    started = time.perf_counter()
    assert run_virtual(main()) == pytest.approx(21 * DAY)
    assert time.perf_counter() - started < 5


def test_timers_fire_at_their_times_and_in_their_order() -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        fired: list[Any] = []
        for name, delay in (("c", 3.0), ("a", 0.001), ("b", 2.5)):
            loop.call_later(delay, lambda name=name: fired.append((name, loop.time())))  # type: ignore[misc]
        await asyncio.sleep(10)
        return fired

    assert run_virtual(main()) == [
        ("a", pytest.approx(0.001)),
        ("b", pytest.approx(2.5)),
        ("c", pytest.approx(3.0)),
    ]


def test_time_stands_still_while_something_is_ready() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


def test_timeouts_follow_the_virtual_clock() -> None:
    async def main() -> None:
        async with asyncio.timeout(3600):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run_virtual(main())


def test_a_deadlock_is_an_error_that_says_who_waits() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.sleep(5)
        await asyncio.create_task(wait_for_nobody(), name="the lonely one")

    with pytest.raises(Deadlock, match=r"at 5 virtual seconds .* the lonely one in .*wait"):
        run_virtual(main())


def test_a_deadlock_leaves_no_task_behind() -> None:
    ended: list[str] = []

    async def wait_for_nobody() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    async def main() -> None:
        await asyncio.gather(wait_for_nobody(), wait_for_nobody())

    with pytest.raises(Deadlock):
        run_virtual(main())
    assert ended == ["cleaned up"] * 2


def test_a_program_that_never_ends_runs_into_the_limit() -> None:
    async def main() -> None:
        ticks = 0
        while ticks < 1_000_000:
            ticks += 1
            await asyncio.sleep(60)

    with pytest.raises(VirtualTimeLimit, match="after 3600 virtual seconds"):
        run_virtual(main(), limit_virtual_seconds=3600)


@virtual
async def test_a_test_can_run_on_it_as_a_whole() -> None:
    await asyncio.sleep(DAY)
    assert asyncio.get_running_loop().time() == DAY


def test_errors_come_through() -> None:
    async def main() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_virtual(main())


def test_two_runs_are_the_same() -> None:
    async def main() -> list[Any]:
        trace: list[Any] = []

        async def walker(name: int) -> None:
            for step in range(5):
                await asyncio.sleep((name * 7 + step * 3) % 4 / 10)
                trace.append((name, asyncio.get_running_loop().time()))

        await asyncio.gather(*map(walker, range(20)))
        return trace

    assert run_virtual(main()) == run_virtual(main())
