"""A gateway that makes up a large mesh, by the contract of the real one: many nodes, many documents."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from demo.fleet import HOST, Fleet
from demo.page import application, listening, serve
from demo.processes import Supervisor
from demo.scenarios import Scenarios

TICK_SECONDS = 0.2
UPDATED = 20
"""Documents, and receipts, that change in a tick."""


class Crowd:
    """What the made-up mesh is like after so many ticks. ``ordered``: of distributions."""

    def __init__(self, nodes: int, documents: int) -> None:
        self.ordered: list[str] = []
        self.nodes = [
            {
                "_id": f"{number:04d}" + "a" * 48,
                "name": f"node-{number}",
                "formations": [f"wing-{number % 5}"] if number else [],
                "capabilities": {"cpu_arch": "x86_64"},
                "hub": not number,
                "listen": f"ws://192.0.2.1:{number + 1}",
                "version": "1",
                "started_at": 1.8e9,
            }
            for number in range(nodes)
        ]
        self.documents = [self.document(number, 0) for number in range(documents)]

    def document(self, number: int, tick: int) -> dict[str, Any]:
        fields = {"place": f"wing {number % 7}", "count": tick, "temperature": 20 + (number + tick) % 9}
        return {"_id": f"sensor-{number:04d}", "title": f"Sensor {number}", "read_at": 1.8e9 + tick, **fields}

    def presence(self, tick: int) -> dict[str, Any]:
        peers = [
            {
                "node_id": node["_id"],
                "name": node["name"],
                "url": None,
                "since": 1.8e9,
                "rtt": 0.001 * (1 + (number + tick) % 40),
                "bytes_in": tick * 1000,
                "bytes_out": tick * 900,
            }
            for number, node in enumerate(self.nodes)
            if number and number % 10
        ]
        me = self.nodes[0]
        address = me["listen"]
        return {
            "node_id": me["_id"],
            "name": me["name"],
            "address": address,
            "online": True,
            "peers": peers,
            "dials": [],
        }

    def stats(self, tick: int) -> dict[str, Any]:
        names = ("document_disk", "blob_disk", "document", "blob")
        sizes = {f"{name}_bytes{way}": tick for name in names for way in ("", "_in", "_out")}
        return {"links": len(self.nodes) - 1, "documents": len(self.documents), "blobs": 1, **sizes}

    def listed(self, tick: int) -> dict[str, Any]:
        total, targets = 1_000_000, self.nodes[1:]
        receipts = {
            node["_id"]: {
                "node_id": node["_id"],
                "status": "transferring",
                "progress_bytes": min(total - 1, tick * 5000 + number * 100),
                "total_bytes": total,
                "started_at": 1.8e9,
                "completed_at": None,
                "error": None,
                "rate": 25000.0,
            }
            for number, node in enumerate(targets)
        }
        receipts[targets[0]["_id"]] |= {"status": "failed", "error": "the disk is full", "rate": 0.0}
        handle = {
            "distribution_id": "d1",
            "blob_hash": "ab" * 32,
            "scope": {"type": "all"},
            "priority": 2,
            "started_at": 1.8e9,
        }
        status = {
            "handle": handle,
            "total_targets": len(targets),
            "pending": 0,
            "completed": 0,
            "in_progress": len(targets) - 1,
            "failed": 1,
            "cancelled": 0,
            "node_statuses": receipts,
            "is_cancelled": False,
            "is_expired": False,
            "superseded_by": None,
        }
        return {"status": status, "name": "map.bin", "size_bytes": total, "publisher": self.nodes[0]["_id"]}

    def events(self, of: int, asked: dict[str, Any], tick: int) -> dict[str, Any]:
        """What a subscription is told at this tick; at 0: the snapshot."""
        kind = asked["kind"]
        if kind == "presence":
            return {"of": of, "presence": self.presence(tick)}
        if kind == "stats":
            return {"of": of, "stats": self.stats(tick)}
        if kind == "neighbours":
            ids = [str(node["_id"]) for node in self.nodes[1:]]
            links = [
                {"node_id": id, "rtt": 0.001 * (1 + (number + tick) % 9)} for number, id in enumerate(ids)
            ]
            return {
                "of": of,
                "neighbours": {id: [one for one in links if one["node_id"] != id] for id in ids[:9]},
            }
        if kind == "distributions":
            name = "changed" if tick else "distributions"
            return {"of": of, name: [self.listed(tick)], "removed": []}
        if tick == 0:
            return {"of": of, "documents": self.nodes if asked["collection"] == "nodes" else self.documents}
        if asked["collection"] == "nodes":
            return {"of": of, "inserted": [], "updated": [], "removed": []}
        numbers = [(tick * UPDATED + each) % len(self.documents) for each in range(UPDATED)]
        updated = [self.document(number, tick) for number in numbers]
        return {"of": of, "inserted": [], "updated": updated, "removed": []}

    def gateway(self) -> Starlette:
        async def live(request: Request) -> Response:
            asked = [json.loads(text) for text in request.query_params.getlist("subscribe")]
            return StreamingResponse(stream(asked), media_type="text/event-stream")

        async def stream(asked: list[dict[str, Any]]) -> AsyncIterator[bytes]:
            for tick in itertools.count():
                for of, one in enumerate(asked):
                    if tick % round(one.get("every", TICK_SECONDS) / TICK_SECONDS):
                        continue
                    name = "change" if tick else "snapshot"
                    yield f"event: {name}\ndata: {json.dumps(self.events(of, one, tick))}\n\n".encode()
                await asyncio.sleep(TICK_SECONDS)

        async def collections(request: Request) -> Response:
            return JSONResponse({"collections": {"sensors": len(self.documents), "nodes": len(self.nodes)}})

        async def unsynced(request: Request) -> Response:
            return JSONResponse({"collections": {"sensors": 3}})

        async def last_change(request: Request) -> Response:
            by = [node["_id"] for node in self.nodes[1:3]]
            return JSONResponse({"at": 1.8e9, "by": by, "unknown": False, "removed": False})

        async def order(request: Request) -> Response:
            id, what = request.path_params["id"], request.path_params["order"]
            self.ordered.append(f"{what} {id}")
            return JSONResponse({"distribution_id": id})

        anybody = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
        routes = [
            Route("/api/live", live),
            Route("/api/collections", collections),
            Route("/api/unsynced", unsynced),
            Route("/api/collections/{collection}/last-changes/{id}", last_change),
            Route("/api/distributions/{id}/{order}", order, methods=["POST"]),
        ]
        return Starlette(routes=routes, middleware=[anybody])


@contextmanager
def crowded_page(crowd: Crowd, folder: Path) -> Iterator[str]:
    """The page of a mesh like that, served by a thread; its address."""
    loop = asyncio.new_event_loop()
    ready: list[str] = []
    started, done = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            supervisor = await stack.enter_async_context(Supervisor(folder))
            fleet = Fleet(supervisor)
            scenarios = Scenarios(fleet, folder, lambda line: None, moment=0, file_bytes=1)
            stack.push_async_callback(fleet.close)
            me = supervisor.add("node-0", "node")
            me.node_id = str(crowd.nodes[0]["_id"])
            for app in (crowd.gateway(), application(fleet, scenarios)):
                sock = stack.enter_context(listening(0))
                ready.append(f"http://{HOST}:{sock.getsockname()[1]}")
                me.gateway = ready[0]
                await stack.enter_async_context(serve(app, sock))
            started.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert started.wait(10)
        yield ready[1]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(20)
        loop.close()
