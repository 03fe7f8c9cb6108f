"""The page's application, fed by hand."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from demo.page import Feed, PageServer, State, application, listening
from mesh import Stream


def parsed(text: str) -> list[tuple[str, Any]]:
    """Server-sent events: their kinds and data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "data" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


class NoticingFeed(Feed):
    """Tells when somebody begins to look."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_at = asyncio.Event()

    def watch(self) -> Stream[State]:
        self.looked_at.set()
        return super().watch()


def client(feed: Feed, host: str = "127.0.0.1") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(application(feed)), base_url=f"http://{host}", timeout=10
    )


async def test_the_page_and_its_files_need_no_other_host() -> None:
    async with client(Feed()) as browser:
        page = await browser.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for name in ("page.js", "style.css"):
            assert f"/static/{name}" in page.text
            found = await browser.get(f"/static/{name}")
            assert found.status_code == 200
            assert not re.search(r"https?://|@import|url\(", found.text)


async def test_the_page_holds_what_is_known_when_it_is_asked_for() -> None:
    feed = Feed()
    async with client(feed) as browser:
        for name in ("a", "</script><b>&amp;"):
            feed.put("node/a", {"name": name})
            page = (await browser.get("/")).text
            held = re.findall(r'<script id="snapshot" type="application/json">(.*?)</script>', page)
            assert [json.loads(text) for text in held] == [{"node/a": {"name": name}}]
            assert page.endswith("</html>\n")


async def test_a_browser_gets_a_snapshot_and_then_what_changes() -> None:
    feed = NoticingFeed()
    feed.put("node/a", {"name": "a"})
    feed.put("node/b", {"name": "b"})
    stream = feed.watch()
    assert await anext(stream) == {"node/a": {"name": "a"}, "node/b": {"name": "b"}}
    feed.put("node/b", None)
    assert await anext(stream) == {"node/b": None}
    await stream.aclose()
    feed.looked_at.clear()
    async with client(feed) as browser:
        asking = asyncio.create_task(browser.get("/events"))
        await feed.looked_at.wait()
        feed.put("node/c", {"name": "c"})
        feed.close()
        events = parsed((await asking).text)
    assert events[0][0] == "snapshot"
    assert {kind for kind, _ in events[1:]} <= {"change"}
    merged: dict[str, Any] = {}
    for _, state in events:
        merged |= state
    assert merged == {"node/a": {"name": "a"}, "node/c": {"name": "c"}}
    assert feed.watchers == 0


async def test_a_slow_browser_gets_several_changes_as_one() -> None:
    feed = Feed()
    stream = feed.watch()
    await anext(stream)
    for count in range(1000):
        feed.put("presence", count)
        feed.put(f"document/{count % 2}", count)
    assert await anext(stream) == {"presence": 999, "document/0": 998, "document/1": 999}


async def test_another_host_name_is_refused() -> None:
    async with client(Feed(), "evil.example") as browser:
        assert (await browser.get("/events")).status_code == 400


async def test_a_feed_that_has_ended_gives_its_last_state_and_ends() -> None:
    feed = Feed()
    feed.put("node/a", 1)
    feed.close()
    async with client(feed) as browser:
        assert parsed((await browser.get("/events")).text) == [("snapshot", {"node/a": 1})]


@pytest.fixture
async def served() -> AsyncIterator[tuple[Feed, str]]:
    """A feed, and where it is really served."""
    feed = Feed()
    with listening(0) as sock:
        config = uvicorn.Config(application(feed), lifespan="off", ws="none", log_config=None)
        server = PageServer(config)
        running = asyncio.create_task(server.serve([sock]))
        yield feed, f"http://127.0.0.1:{sock.getsockname()[1]}"
        feed.close()
        server.should_exit = True
        await running


async def test_browsers_that_go_away_leave_nothing_behind(
    served: tuple[Feed, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, url = served
    gone = asyncio.Event()
    discard = feed._watchers.discard

    def left(stream: Any) -> None:
        discard(stream)
        if not feed.watchers:
            gone.set()

    monkeypatch.setattr(feed._watchers, "discard", left)
    for _ in range(3):
        async with (
            httpx.AsyncClient(base_url=url) as browser,
            browser.stream("GET", "/events") as one,
            browser.stream("GET", "/events") as other,
        ):
            await anext(one.aiter_lines())
            await anext(other.aiter_lines())
            assert feed.watchers == 2
        await asyncio.wait_for(gone.wait(), 5)
        gone.clear()
    assert feed.watchers == 0
