"""`python -m demo`: a mesh on this machine, and a page to watch it; or a story in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
import webbrowser
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from demo.files import NoFile, checked_file, find_file
from demo.fleet import HOST, Fleet
from demo.processes import NodeFailed, Supervisor
from demo.scenarios import SCENARIOS, Scenarios
from demo.story import Story
from demo.terminal import Screen, silence
from mesh.cli.units import size
from mesh.errors import MeshError

PORT = 6374
"""M-E-S-H on a telephone's keys."""
COPIES = 10
"""Times the file is on the disk at worst: a blob and an inbox copy for each of five nodes."""

FILE_BYTES = 8_000_000
"""The largest file of a scenario is three times this."""
MOMENT_SECONDS = 4.0
"""How long a scenario lets people look."""

NOTICE_SECONDS = 1.0
"""How long after a lost connection the death of its node is waited for."""

T = TypeVar("T")


def arguments() -> argparse.Namespace:
    """The command line; ends the process with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Starts a mesh of five nodes on this machine and serves a page to watch and control it. "
        "With --once there is no page: it distributes a file, kills a node on the way and brings it back, "
        "and proves that every copy is the same.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="what --once distributes (default: a large file of Python's)"
    )
    parser.add_argument(
        "--once", action="store_true", help="no page; end with status 0 if everything completed"
    )
    parser.add_argument("--scenario", choices=SCENARIOS, help="play this when the page is up")
    parser.add_argument(
        "--pace",
        type=float,
        default=MOMENT_SECONDS,
        metavar="SECONDS",
        help=f"how long scenarios let people look (default: {MOMENT_SECONDS:g})",
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"where the page is, if it is free (default: {PORT})"
    )
    parser.add_argument("--dir", type=Path, help="keep the nodes here (default: a temporary directory)")
    given = parser.parse_args()
    if not 0 <= given.port <= 65535:
        parser.error(f"there is no port {given.port}")
    if not 0 <= given.pace <= 3600:
        parser.error(f"--pace is 0 to 3600 seconds, not {given.pace:g}")
    if given.file is not None and not given.once:
        parser.error("a FILE is for --once; drop it on the page instead")
    if given.once and (given.scenario or given.open):
        parser.error("--scenario and --open are for the page, and --once has none")
    try:
        if given.once:
            given.file = find_file() if given.file is None else checked_file(given.file)
    except NoFile as error:
        parser.error(str(error))
    return given


def main() -> int:
    """Run the demo; its exit status."""
    given = arguments()
    try:
        with directory(given.dir) as folder:
            largest = given.file.stat().st_size if given.once else 3 * FILE_BYTES
            needed, free = COPIES * largest, shutil.disk_usage(folder).free
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
            if given.once:
                status = 0 if await tell_story(supervisor, screen, given.file, stack) else 1
            else:
                await show_page(supervisor, screen, given, stack)
                status = 0
                await supervisor.died
    except asyncio.CancelledError:
        if not signals:
            raise
    return 128 + signals[0] if status is None else status


async def tell_story(
    supervisor: Supervisor, screen: Screen, file: Path, stack: contextlib.AsyncExitStack
) -> bool:
    """The story in the terminal; whether it ended well."""
    story = Story(supervisor, screen, file)
    stack.push_async_callback(story.close)
    screen.say(f"{file} is {size(file.stat().st_size)}")
    screen.say(f"starting five nodes, which live in {supervisor.directory}: some seconds")
    await unless(supervisor.died, story.start())
    return await unless(supervisor.died, story.run())


async def show_page(
    supervisor: Supervisor, screen: Screen, given: argparse.Namespace, stack: contextlib.AsyncExitStack
) -> None:
    """Start the mesh of the page, and serve it until ``stack`` is closed."""
    from demo.page import application, listening, serve  # here: --once needs nothing but the mesh itself

    sock = stack.enter_context(listening(given.port))
    port = sock.getsockname()[1]
    fleet = Fleet(supervisor, [f"http://{host}:{port}" for host in (HOST, "localhost")])
    scenarios = Scenarios(fleet, supervisor.directory, screen.say, moment=given.pace, file_bytes=FILE_BYTES)
    screen.say(f"starting five nodes, which live in {supervisor.directory}: some seconds")
    await unless(supervisor.died, fleet.start())
    await stack.enter_async_context(serve(application(fleet, scenarios), sock))
    stack.push_async_callback(fleet.close)
    stack.push_async_callback(scenarios.close)
    for node in fleet.nodes:
        screen.say(f"{node.name:<10} {node.formation or 'hub':<6} {node.address}  {node.gateway}", "dim")
    url = f"http://{HOST}:{port}/"
    screen.say("the mesh stays up until Ctrl-C")
    screen.say(f"watch and control it at {url}", "bold cyan")
    if given.open:
        await asyncio.to_thread(webbrowser.open, url)
    if given.scenario:
        scenarios.begin(given.scenario)


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
