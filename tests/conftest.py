from __future__ import annotations

import os

import pytest
from hypothesis import settings

from mesh.core.limits import lines_per_peer

# How long an example takes depends on what else the machine does.
settings.register_profile("mesh", deadline=None)
# What lands is judged by the same examples every time; new ones are looked for everywhere else.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "mesh")


@pytest.fixture(autouse=True)
def every_test_has_a_log_of_its_own() -> None:
    lines_per_peer.forget()
