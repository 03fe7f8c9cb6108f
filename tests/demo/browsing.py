"""A headless browser for tests of the page, and what every page must not do."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

AXE = "axe-core@4.10.3"
ON_CI = os.environ.get("CI") == "true"
WAIT_MS = 20_000

LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((entry) => entry.duration)))
  .observe({ type: "longtask", buffered: true });
"""


def missing(what: str) -> None:
    """Skip, or fail where nothing may be missing."""
    if ON_CI:
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of the system."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        missing("there is no Chromium on this machine: apt-get install chromium")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@contextmanager
def looking(browser: Browser, url: str, *, unreachable: bool = False, **context: Any) -> Iterator[Page]:
    """A page at ``url``; fails afterwards if it talked to another host, or there was an error on it.

    ``unreachable``: that a gateway did not answer, which browsers put on the console, is no error.
    """
    told: list[str] = []
    hosts: set[str | None] = set()

    def console(message: ConsoleMessage) -> None:
        expected = unreachable and "Failed to load resource: net::ERR_" in message.text
        if message.type in ("error", "warning") and not expected:
            told.append(message.text)

    with browser.new_context(**context) as opened:
        opened.set_default_timeout(WAIT_MS)
        page = opened.new_page()
        page.add_init_script(LONG_TASKS)
        page.on("console", console)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.goto(url)
        page.locator("#nodes li").first.wait_for()
        yield page
    assert hosts == {"127.0.0.1"}
    assert told == []


def axe(folder: Path) -> str:
    """The source of axe-core, from npm."""
    npm = shutil.which("npm")
    if npm is None:
        missing("there is no npm on this machine, which brings axe-core: apt-get install npm")
    assert npm is not None
    packed = subprocess.run(
        [npm, "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    if packed.returncode:
        missing(f"npm does not bring {AXE}: {packed.stderr}")
    with tarfile.open(folder / packed.stdout.strip().splitlines()[-1]) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def faults(page: Page, source: str) -> list[str]:
    """What axe-core finds on the page that is serious or critical."""
    page.evaluate(source)
    found: Sequence[dict[str, Any]] = page.evaluate(
        "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"
    )
    return [
        f"{each['id']}: {node['html']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def drop_file(page: Page, path: Path) -> None:
    """Drag a file of the disk over the page, and let it go there."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
