from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mesh.core.tokens import CHUNK_BYTES
from mesh.storage.blob_sources import write_all


def test_what_is_written_at_once_does_not_keep_the_processor_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, sizes = random.Random(1).randbytes(CHUNK_BYTES), []

    def pwrite(fd: int, piece: memoryview, offset: int) -> int:
        sizes.append(len(piece))
        return write(fd, piece[: len(piece) - len(sizes) % 2], offset)  # now and then not all of it

    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    fd = os.open(tmp_path / "blob", os.O_WRONLY | os.O_CREAT)
    try:
        write_all(fd, data, 100)
    finally:
        os.close(fd)
    assert max(sizes) <= CHUNK_BYTES // 8
    assert (tmp_path / "blob").read_bytes() == bytes(100) + data
