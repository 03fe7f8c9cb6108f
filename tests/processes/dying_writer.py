"""A program that forks nodes which write until they are killed: a fork starts faster than an interpreter.

For every line ``ROUND WRITERS`` on stdin a child opens the node in the data directory, prints what it finds
there, then writes without end and prints every acknowledgement. When it is gone, ``gone`` is printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from mesh import Node


def say(word: str, **what: Any) -> None:
    """One line, in one write: a killed child leaves no half of one."""
    os.write(1, (json.dumps({"say": word, **what}) + "\n").encode())


async def live(home: str, round_number: int, writers: int) -> None:
    """One child's life."""
    async with Node(home, listen=None) as node:
        say("found", pid=os.getpid(), **await everything(node))
        await asyncio.gather(*[write(node, f"{round_number}.{writer}") for writer in range(writers)])


async def everything(node: Node) -> dict[str, Any]:
    """All that the node holds, by collection and id."""
    return {
        name: {document["_id"]: document for document in await node.collection(name).find()}
        for name in ("notes", "tallies", "pairs")
    }


async def write(node: Node, writer: str) -> None:
    """Write step by step, each acknowledged before the next is asked for."""
    notes, tallies = node.collection("notes"), node.collection("tallies")
    await tallies.upsert({"_id": writer})
    step = 0
    while True:
        step += 1
        await notes.insert({"_id": f"{writer}.{step}", "step": step, "text": "x" * (step * 37 % 500)})
        say("ack", op="insert", writer=writer, step=step)
        await tallies.increment(writer, "sum", step)
        say("ack", op="increment", writer=writer, step=step)
        async with node.transaction() as transaction:
            await transaction.collection("pairs").insert({"_id": f"{writer}.{step}.left"})
            await transaction.collection("pairs").insert({"_id": f"{writer}.{step}.right"})
        say("ack", op="pair", writer=writer, step=step)
        if step % 2:
            await notes.remove(f"{writer}.{step}")
            say("ack", op="remove", writer=writer, step=step)


def main() -> None:
    for line in sys.stdin:
        round_number, writers = map(int, line.split())
        child = os.fork()
        if child == 0:
            asyncio.run(live(sys.argv[1], round_number, writers))
        _, status = os.waitpid(child, 0)
        say("gone", status=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
