"""The tables of the store, as migrations of sqlite-utils."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from mesh.errors import StoreTooNew

migrations = Migrations("docmesh")


@migrations()
def m001_documents(db: Database) -> None:
    """Documents in the order of their last change, so that the table is the log."""
    db.table("documents").create(
        {
            "seq": int,
            "collection": str,
            "id": str,
            "json": str,
            "rank_major": int,
            "rank_minor": int,
            "vector": bytes,
            "state": bytes,
            "key_hash": int,
            "version_hash": int,
            "client_id": int,
            "source": str,
            "changed_at": float,
        },
        pk="seq",
        not_null={"collection", "id", "rank_major", "rank_minor", "vector", "state"},
    )
    db.table("documents").create_index(["collection", "id"], unique=True)


@migrations()
def m002_store(db: Database) -> None:
    """Who writes here (one row), how far peers' logs are held, and what this node subscribes to."""
    db.table("store").create(
        {"id": int, "log_id": bytes, "clock": bytes, "counter": int, "seq": int, "host": str}, pk="id"
    )
    db.table("positions").create(
        {"peer": str, "entry": bytes, "log_id": bytes, "upto": int}, pk=("peer", "entry")
    )
    db.table("subscriptions").create({"name": str, "collection": str, "selector": str}, pk="name")
    db.table("quarantine").create(
        {"collection": str, "id": str, "version": bytes, "peer": str, "reason": str, "at": float},
        pk=("collection", "id", "version"),
    )


def refuse_newer(db: Database, path: str) -> None:
    """Make sure that no newer version has written the store.

    Raises:
        StoreTooNew: a newer version of the mesh has been here. Nothing was changed.
    """
    known = {migration.name for migration in migrations.pending(db)}
    applied = {migration.name for migration in migrations.applied(db)}
    unknown = applied - known - {name for name in globals() if name.startswith("m0")}
    if unknown:
        raise StoreTooNew(path, sorted(unknown))


def migrate(db: Database) -> None:
    """Bring the tables up to date."""
    migrations.apply(db)
