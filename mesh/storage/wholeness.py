"""Whether the tables and indexes of the store are all there: somebody else may have dropped one."""

from __future__ import annotations

import logging
import sqlite3
from functools import cache

from sqlite_utils import Database

from mesh.errors import StoreCorrupt
from mesh.storage.schema import migrate

_log = logging.getLogger("mesh.storage")

_PARTS = "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL"


def make_whole(db: Database, path: str) -> None:
    """Bring the tables up to date, and make missing indexes anew.

    Raises:
        StoreCorrupt: a table is missing.
    """
    try:
        migrate(db)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # not for want of space or the like
            raise StoreCorrupt(path, f"its tables cannot be brought up to date: {error}") from error
        raise
    present = {name for name, _, _ in db.execute(_PARTS)}
    for name, (kind, sql) in _expected().items():
        if name in present:
            continue
        if kind == "table":
            raise StoreCorrupt(path, f"the table {name} is missing")
        _log.warning("the index %s of the store %s was missing: it is made anew", name, path)
        db.execute(sql)


@cache
def _expected() -> dict[str, tuple[str, str]]:
    fresh = Database(memory=True, execute_plugins=False)
    try:
        migrate(fresh)
        return {name: (kind, sql) for name, kind, sql in fresh.execute(_PARTS)}
    finally:
        fresh.close()
