"""`python -m demo`: a mesh on this machine, in the terminal and on a page."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from demo.files import NoFile, checked_file, find_file
from demo.processes import NodeFailed, Supervisor
from demo.story import Story
from demo.terminal import Screen, silence
from mesh.cli.units import size
from mesh.errors import MeshError

PORT = 6374
"""M-E-S-H on a telephone's keys."""
COPIES = 10
"""Times the file is on the disk at worst: a blob and an inbox copy for each of five nodes."""

NOTICE_SECONDS = 1.0
"""How long after a lost connection the death of its node is waited for."""

T = TypeVar("T")


def arguments() -> argparse.Namespace:
    """The command line; ends the process with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Starts a mesh of five nodes on this machine, distributes a file, kills a node on the "
        "way and brings it back, and proves that every copy is the same. Then a page shows the mesh.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="what to distribute (default: a large file of Python's)"
    )
    parser.add_argument(
        "--once", action="store_true", help="no page; end with status 0 if everything completed"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"where the page is, if it is free (default: {PORT})"
    )
    parser.add_argument("--dir", type=Path, help="keep the nodes here (default: a temporary directory)")
    given = parser.parse_args()
    if not 0 <= given.port <= 65535:
        parser.error(f"there is no port {given.port}")
    try:
        given.file = find_file() if given.file is None else checked_file(given.file)
    except NoFile as error:
        parser.error(str(error))
    return given


def main() -> int:
    """Run the demo; its exit status."""
    given = arguments()
    try:
        with directory(given.dir) as folder:
            needed, free = COPIES * given.file.stat().st_size, shutil.disk_usage(folder).free
            if needed > free:
                raise NodeFailed(f"{folder} has {size(free)} free, and the demo may take {size(needed)}")
            return asyncio.run(run(given, folder))
    except (NodeFailed, MeshError, OSError, TimeoutError) as error:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"demo: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def directory(wanted: Path | None) -> Iterator[Path]:
    """Where the nodes live: ``wanted``, which stays, or a temporary directory, which does not."""
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="mesh-demo-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


async def run(given: argparse.Namespace, folder: Path) -> int:
    """The demo from the first process to the last; its exit status."""
    signals = stop_on_signals()
    status: int | None = None
    try:
        async with contextlib.AsyncExitStack() as stack:
            supervisor = await stack.enter_async_context(Supervisor(folder))
            screen = Screen()
            story = Story(supervisor, screen, given.file)
            stack.push_async_callback(story.close)
            screen.say(f"{given.file} is {size(given.file.stat().st_size)}; the nodes live in {folder}")
            await unless(supervisor.died, story.start())
            if not given.once:
                from demo.page import serve  # here: --once needs nothing but the mesh itself

                url = await stack.enter_async_context(serve(story.hub.home, given.port))
                screen.say(f"watch it at {url}", "bold cyan")
            status = 0 if await unless(supervisor.died, story.run()) else 1
            if not given.once:
                screen.say(f"the mesh stays up until Ctrl-C; watch it at {url}", "bold cyan")
                await supervisor.died
    except asyncio.CancelledError:
        if not signals:
            raise
    return 128 + signals[0] if status is None else status


def stop_on_signals() -> list[signal.Signals]:
    """Cancel the calling task on Ctrl-C, on SIGTERM, and when the terminal is closed; which it was."""
    loop, task, received = asyncio.get_running_loop(), asyncio.current_task(), list[signal.Signals]()
    assert task is not None

    def stop(number: signal.Signals) -> None:
        if number is signal.SIGHUP:  # nobody reads any more
            silence()
        if not received:  # once: closing the nodes is not to be interrupted
            task.cancel()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    return received


async def unless(failure: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; or the exception of ``failure``, if that is what ends it."""
    task = asyncio.create_task(work)
    try:
        both: list[asyncio.Future[Any]] = [task, failure]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and task.exception() is not None:
            # The end of a node shows first as a lost connection; that it died says more.
            await asyncio.wait({failure}, timeout=NOTICE_SECONDS)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if failure.done():
        failure.result()
    return task.result()


if __name__ == "__main__":
    sys.exit(main())
