"""The page with far more on it than the demo has: it stays fluent."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.demo.browsing import chromium, looking
from tests.demo.crowd import Crowd, crowded_page

pytestmark = pytest.mark.processes

NODES, DOCUMENTS = 100, 1000
WATCHED_MS = 4000
LONGEST_MS = 400
"""Twice what it takes alone: other tests run beside it."""

ATTEMPTS = 3
"""Other processes on the machine take time from the browser, never give it any: the best one counts."""


def test_a_thousand_documents_and_a_hundred_nodes_without_a_long_task(tmp_path: Path) -> None:
    longest: list[float] = []
    crowd = Crowd(NODES, DOCUMENTS)
    with crowded_page(crowd, tmp_path) as url, chromium() as browser:
        while len(longest) < ATTEMPTS and min(longest, default=LONGEST_MS + 1) > LONGEST_MS:
            with looking(browser, url, viewport={"width": 1360, "height": 900}) as page:
                expect(page.locator("#graph g.node")).to_have_count(NODES)
                expect(page.locator("#nodes > li")).to_have_count(NODES)
                expect(page.locator("#documents-count")).to_have_text("1,000 documents")
                page.locator("#graph g.node").last.focus()  # names show for what is pointed at
                page.keyboard.press("Enter")
                page.wait_for_timeout(WATCHED_MS)  # 20 documents and every receipt change five times a second
                page.locator("#table").evaluate("box => box.scrollTo(0, box.scrollHeight)")
                expect(page.get_by_role("button", name="sensor-0999")).to_be_visible()
                longest.append(max(page.evaluate("window.longTasks"), default=0))
                expect(page.locator(".receipts li")).to_have_count(30)
                expect(page.locator(".receipts .failed .said")).to_have_text("failed: the disk is full")
                for order, button in (("retry", "Retry the failed"), ("cancel", "Cancel")):
                    with page.expect_response(f"**/d1/{order}"):
                        page.locator(".distribution").get_by_role("button", name=button).click()
                page.get_by_role("button", name="69 more receipts").click()
                expect(page.locator(".receipts li")).to_have_count(NODES - 1)
    print(f"longest task: {longest} ms")
    assert crowd.ordered[:2] == ["retry d1", "cancel d1"]
    assert min(longest) <= LONGEST_MS, longest
