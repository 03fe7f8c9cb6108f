"""Documents that move: every edge writes what its (invented) sensor reads, through its own node."""

from __future__ import annotations

import asyncio
import random
import time

from demo.processes import NodeProcess
from mesh.errors import NodeNotRunning

COLLECTION = "sensors"
INTERVAL_SECONDS = 1.5


async def write_readings(node: NodeProcess) -> None:
    """Update the sensor document of ``node`` until cancelled, or until the node is gone."""
    chance = random.Random(node.name)
    temperature, humidity = 18.0 + 6 * chance.random(), 40 + 20 * chance.random()
    try:
        async with node.control() as control:
            found = control.stream(
                "documents.find", {"collection": COLLECTION, "selector": {"_id": node.name}}
            )
            async with found as documents:
                held = [document async for document in documents]  # it may have been written before
            count = held[0]["readings"] if held else 0
            while True:
                temperature += chance.gauss(0, 0.15)
                humidity += chance.gauss(0, 0.4)
                count += 1
                document = {
                    "_id": node.name,
                    "formation": node.formation,
                    "temperature": round(temperature, 1),
                    "humidity": round(humidity),
                    "readings": count,
                    "read_at": time.time(),
                }
                await control.call("documents.upsert", {"collection": COLLECTION, "document": document})
                await asyncio.sleep(INTERVAL_SECONDS * (0.7 + 0.6 * chance.random()))
    except NodeNotRunning:
        return  # killed, as the story wants it: a node that is down reads no sensor
