"""kill -9, two hundred times, during writes: what was acknowledged is there, and nothing by half."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes.mesh_process import Lines, source_environment

pytestmark = pytest.mark.processes

LIVES = 25
STEPS = ("insert", "increment", "pair", "remove")


class Acks:
    """The last acknowledged step of each kind of write, by writer."""

    def __init__(self) -> None:
        self.count = 0
        self.steps: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(STEPS, 0))


class Writers:
    """``dying_writer.py``, and what its children say."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lines = Lines(process)

    def next(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.lines.next())
        return said

    def live_and_die(self, number: int, writers: int, acknowledgements: int) -> tuple[dict[str, Any], Acks]:
        """What a child found, and what it acknowledged until it was killed."""
        assert self._process.stdin is not None
        print(number, writers, file=self._process.stdin, flush=True)
        found = self.next()
        assert found["say"] == "found", found
        acks = Acks()
        while (said := self.next())["say"] == "ack":
            acks.steps[said["writer"]][said["op"]] = said["step"]
            acks.count += 1
            if acks.count == acknowledgements:
                os.kill(found["pid"], signal.SIGKILL)
        assert said["status"] == -signal.SIGKILL
        return found, acks


@contextmanager
def dying_writers(home: Path) -> Iterator[Writers]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.processes.dying_writer", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=source_environment(),
    )
    writers = Writers(process)
    try:
        yield writers
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        writers.lines.join()


def check_writer(found: dict[str, Any], writer: str, acked: dict[str, int]) -> None:
    """A writer asks for its next write when the last one is acknowledged, so at most one was under way: what
    is there is what was acknowledged, or one write more."""
    sums = [sum(range(n + 1)) for n in (acked["increment"], acked["increment"] + 1)]
    assert found["tallies"].get(writer, {}).get("sum", 0) in sums
    pairs = acked["pair"]
    for step in range(1, pairs + 2):
        sides = [f"{writer}.{step}.{side}" in found["pairs"] for side in ("left", "right")]
        assert sides in ([[True, True]] if step <= pairs else [[True, True], [False, False]]), step
    for step in range(1, acked["insert"] + 1):
        note = found["notes"].get(f"{writer}.{step}")
        if step % 2 and step <= acked["remove"]:
            assert note is None
        elif step % 2 == 0 or step < acked["insert"]:
            assert note == {"_id": f"{writer}.{step}", "step": step, "text": "x" * (step * 37 % 500)}
    assert f"{writer}.{acked['insert'] + 2}" not in found["notes"]


@pytest.mark.parametrize("seed", range(8))
def test_no_acknowledged_write_is_lost_and_no_transaction_is_done_by_half(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    expected: dict[str, dict[str, int]] = {}
    before: dict[str, Any] = {}
    with dying_writers(tmp_path / "node") as writers:
        for number in range(LIVES):
            found, acks = writers.live_and_die(
                number, writers=rng.choice([1, 1, 8, 30]), acknowledgements=rng.randrange(1, 90)
            )
            for writer, acked in expected.items():
                check_writer(found, writer, acked)
            for name in ("notes", "tallies", "pairs"):  # what one life has found no later one loses
                for document_id, document in before.get(name, {}).items():
                    assert found[name].get(document_id) == document
            # What this life found is all that there will be of the earlier ones.
            before, expected = found, dict(acks.steps)
