from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlite_utils

from mesh.storage import schema


class _Forgettable(sqlite3.Connection):
    """Closed once nothing refers to it; Python 3.13 warns of those that are not."""

    def __del__(self) -> None:
        self.close()


def open_tables(path: Path | str = ":memory:") -> sqlite3.Connection:
    """The tables of a store, with no store around them."""
    # Any thread may be the one that finds it forgotten.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=_Forgettable)
    schema.migrate(sqlite_utils.Database(connection, execute_plugins=False))
    return connection
