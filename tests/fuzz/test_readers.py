"""Whatever others send, what reads it takes it or raises its own error, soon and without much memory."""

from __future__ import annotations

import os
import random
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.readers import READERS, made, try_one

INPUTS = 200 * (100 if os.environ.get("MESH_TEST_THOROUGH") else 1)

MEMORY_KB = 64 * 1024


@pytest.mark.parametrize("name", READERS)
def test_what_is_valid_is_taken(name: str) -> None:
    if name != "handshake":  # which nobody can prove with what another one said
        assert all(try_one(READERS[name], data) for data in READERS[name].inputs)


@pytest.mark.parametrize("name", READERS)
def test_what_is_damaged_is_refused_as_it_should_be(name: str) -> None:
    reader, rng = READERS[name], random.Random(f"{name} {INPUTS}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(INPUTS):
        data = made(rng, reader)
        try:
            try_one(reader, data)
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__} for {data[:2000].hex()}") from error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KB


@settings(max_examples=INPUTS)
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200))
def test_what_is_anything_is_refused_as_it_should_be(name: str, data: bytes) -> None:
    try_one(READERS[name], data)
