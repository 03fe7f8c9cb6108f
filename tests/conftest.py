from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from mesh.core.limits import lines_per_peer

# How long an example takes depends on what else the machine does.
settings.register_profile("mesh", deadline=None)
# What lands is judged by the same examples every time; new ones are looked for everywhere else.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "mesh")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What tests log and print need not be text that can be encoded, but is passed between processes."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def every_test_has_a_log_of_its_own() -> Iterator[None]:
    lines_per_peer.forget()
    logger = logging.getLogger("mesh")
    level = logger.level
    yield
    logger.setLevel(level)  # commands that a test has run here may have changed it
