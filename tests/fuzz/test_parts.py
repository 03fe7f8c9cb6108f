"""Made-up updates, taken in parts as if each were large, make what the library makes of them at once."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import conflicts, searching
from mesh.core.library import EMPTY_UPDATE, ROOT_NAME, contributed, joined, state_vector
from mesh.core.updates import clocks_of, read_update
from mesh.errors import InvalidDocument
from tests.fuzz import updates


def made_of(held: bytes, update: bytes) -> tuple[dict[int, int], Any, bool] | str:
    """What becomes of a document, and whether it is as much as when a client says it; or why not."""
    try:
        brought = read_update(update, ROOT_NAME)
        state, registers = joined(held, update, brought)
        said = contributed(held, update, brought)
    except InvalidDocument as error:
        return type(error).__name__
    assert said is None or said[2] == registers
    read_update(state, ROOT_NAME)
    return clocks_of(state_vector(state)), registers, said is None


@settings(max_examples=2000, deadline=None)
@given(st.integers(0, 2**64))
def test_in_parts_or_at_once_it_is_the_same(seed: int) -> None:
    rng = random.Random(seed)
    update = updates.made(rng)
    for held in (EMPTY_UPDATE, rng.choice(updates.HELD).update):
        at_once = made_of(held, update)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(searching, "_FEW", 0)
            patched.setattr(searching, "_PART", 0)
            patched.setattr(searching, "CUT_AT_ONCE", 0)
            patched.setattr(conflicts, "CUT_AT_ONCE", 0)
            patched.setattr(searching, "MAX_AT_ONCE", -1)
            patched.setattr(searching, "_states", [None] * 32)
            assert made_of(held, update) == at_once
