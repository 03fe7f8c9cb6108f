"""Made-up updates are refused or harmless: 20,000 every time, and as many more as one likes by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import updates


def test_20000_updates_do_no_harm() -> None:
    harmful: list[str] = []
    totals = updates.fuzz(20_000, 1, lambda how, update: harmful.append(f"{how}\n{update.hex()}"))
    assert not harmful
    assert totals["taken"] > 1000, "hardly any gets through the gate: little is tried"


@pytest.mark.parametrize("update", updates.saved(), ids=lambda update: update.hex()[:40])
def test_what_once_did_harm_does_none(update: bytes) -> None:
    updates.try_one(update)


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_no_update_that_can_be_found_does_harm(rng: random.Random) -> None:
    updates.try_one(updates.made(rng))
