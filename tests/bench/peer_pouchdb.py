"""PouchDB on the same documents: it is installed into a temporary folder, where npm is there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.bench.processes import ROOT, Process, Processes
from tests.bench.sample import selector_of, tasks
from tests.bench.works import QUERY_ROUNDS, Figures

INSTALL_SECONDS = 300

_SOURCES = ROOT / "tests" / "bench" / "pouchdb"


def install(folder: Path) -> str | None:
    """Put PouchDB into ``folder``; why it cannot be, or ``None``."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "npm and node are not both installed"
    for source in _SOURCES.iterdir():
        shutil.copy(source, folder)
    command = [npm, "install", "--no-audit", "--no-fund", "--silent"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"npm install took more than {INSTALL_SECONDS} s"
    except subprocess.CalledProcessError as error:
        return f"npm install failed: {error.stderr.decode().strip() or error.stdout.decode().strip()}"
    return None


def pouchdb(processes: Processes, installed: Path, folder: Path, count: int, works: set[str]) -> Figures:
    """W1 and W4, as :mod:`tests.bench.works` has them for ours."""
    path = folder / "documents.json"
    path.write_text(json.dumps(tasks(0, count)))

    def start(name: str) -> Process:
        (folder / name).mkdir()
        process = processes.run(["node", "worker.js"], installed)
        process("start", folder=str(folder / name))
        return process

    figures: Figures = {}
    a = start("pouch-a")
    figures["W4 batched"] = count / a("fill", path=str(path), count=count, together=500)
    if "W1" in works:
        b = start("pouch-b")
        url = a("listen")
        before = [process("usage")["cpu"] for process in (a, b)]
        figures["W1 time"] = b("sync", url=url)
        after = [process("usage") for process in (a, b)]
        assert b("count") == count
        figures["W1 cpu receiver"] = after[1]["cpu"] - before[1]
        figures["W1 cpu both"] = sum(usage["cpu"] for usage in after) - sum(before)
        figures["W1 memory"] = after[1]["peak"]
        with Processes() as extra:
            proxy = extra.start("proxy")
            start("pouch-c")("sync", url=proxy("start", url=url, delay=0.0))
            figures["W1 bytes"] = proxy("moved")
    if "W4" in works:
        singles = max(count // 5, 100)
        single = start("pouch-single")
        figures["W4 single"] = singles / single("fill", path=str(path), count=singles, together=1)
        figures["W4 query"] = a("query", selector=selector_of(count), rounds=QUERY_ROUNDS)
    return figures
