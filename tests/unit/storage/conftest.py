from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.storage.blob_folder import FolderBlobs
from mesh.storage.worker import InlineWorker


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FolderBlobs]:
    """Blobs in a folder; a file with tests of another store has a fixture of its own."""
    made = FolderBlobs(tmp_path / "data", InlineWorker())
    await made.open()
    yield made
    await made.close()
