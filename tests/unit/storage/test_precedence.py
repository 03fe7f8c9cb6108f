from __future__ import annotations

import os
from pathlib import Path
from threading import Event, Thread

import pytest

from mesh.storage import precedence
from mesh.storage.precedence import Committing
from mesh.storage.write_back import WriteBack


def _write(path: Path, written: Event) -> Thread:
    """Write a piece of a blob on a thread of its own."""

    def write() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            os.write(fd, b"blob")
            WriteBack().wrote(fd, 0, 4)
            written.set()
        finally:
            os.close(fd)

    thread = Thread(target=write)
    thread.start()
    return thread


def test_a_blob_goes_to_the_disk_after_the_commit_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "PATIENCE_SECONDS", 30.0)
    written = Event()
    with Committing():
        thread = _write(tmp_path / "blob", written)
        assert not written.wait(0.05)
    assert written.wait(10)
    thread.join()


def test_a_commit_that_takes_long_does_not_stop_blobs(tmp_path: Path) -> None:
    written = Event()
    with Committing():
        thread = _write(tmp_path / "blob", written)
        assert written.wait(10)
    thread.join()
