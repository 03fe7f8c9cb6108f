"""Processes that benchmarks measure: commands go in as JSON lines, results come out."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class Process:
    """A process that carries out commands, as the benchmark sees it."""

    def __init__(self, command: Sequence[str], folder: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str, **arguments: Any) -> None:
        """Start a command; its result is had with :meth:`answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The result of the oldest command that was not answered yet."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process of the benchmark has ended; what it said is above")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"a process of the benchmark failed:\n{answer['error']}")
        return answer["result"]

    def __call__(self, command: str, **arguments: Any) -> Any:
        self.ask(command, **arguments)
        return self.answer()

    def close(self) -> None:
        """Let it come to its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()
        self._process.wait()


class Processes:
    """Starts processes, and leaves none behind."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    def start(self, module: str) -> Process:
        """A process that runs a module of this folder."""
        return self.run([sys.executable, "-m", f"tests.bench.{module}"])

    def run(self, command: Sequence[str], folder: Path = ROOT) -> Process:
        """A process of any kind that takes commands in the same way."""
        process = Process(command, folder)
        self._started.append(process)
        return process

    def close(self, *processes: Process) -> None:
        """Let these come to their ends."""
        for process in processes:
            process.close()
            self._started.remove(process)

    def kill(self, process: Process) -> None:
        """End one now, whatever it does."""
        process.kill()
        self._started.remove(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.kill() if kind else process.close()


# --- inside such a process --------------------------------------------------------------------------


def run(worker: Any) -> None:
    """Carry out the commands on stdin with the methods of ``worker``, until stdin ends."""
    asyncio.run(_serve(worker))


async def _serve(worker: Any) -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command, arguments = json.loads(line)
        try:
            result = _usage() if command == "usage" else await getattr(worker, command)(**arguments)
            answer = {"result": result}
        except Exception:  # noqa: BLE001 - whatever it is, the benchmark shows it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    await worker.close()


def _usage() -> dict[str, float]:
    """CPU seconds so far; resident memory now and at its highest, in MB."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1 if sys.platform == "darwin" else 1024
    peak = usage.ru_maxrss * scale / 1e6
    now = peak
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return {"cpu": usage.ru_utime + usage.ru_stime, "rss": now, "peak": peak}
