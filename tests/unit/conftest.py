from __future__ import annotations

import pytest

from tests.unit.fake_node import FakeNode


@pytest.fixture
def fake_node() -> FakeNode:
    return FakeNode()
