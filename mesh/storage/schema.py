"""The tables of the store, as migrations of sqlite-utils."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from mesh.core.versions import version_hash
from mesh.errors import StoreTooNew
from mesh.storage.references import note_all_references

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


@migrations()
def m003_runs(db: Database) -> None:
    """Counters are positions. Which of them were given, and under which boot of the machine the store is open
    (NULL: it was closed in good order)."""
    db.table("store").transform(drop={"counter"})
    db.table("store").add_column("runs", str, not_null_default="[[],0]")
    db.table("store").add_column("boot", str)


@migrations()
def m003_comparison(db: Database) -> None:
    """What comparisons read comes before what may be long, and a version's hash covers its key. Which version
    of the mesh refused a change, so that a newer one asks for it again."""
    documents = db.table("documents")
    documents.transform(column_order=["seq", "collection", "id", "key_hash", "version_hash", "source"])
    for seq, key, major, minor, vector in db.execute(
        "SELECT seq, key_hash, rank_major, rank_minor, vector FROM documents"
    ).fetchall():
        hashed = version_hash(key, (major, minor), vector)
        db.execute("UPDATE documents SET version_hash = ? WHERE seq = ?", (hashed, seq))
    db.table("quarantine").add_column("refused_by", str)


@migrations()
def m004_unseen_texts(db: Database) -> None:
    """The few documents with a text that SQL cannot judge: see :data:`mesh.storage.queries.UNSEEN`."""
    db.execute("CREATE INDEX documents_unseen ON documents(collection) WHERE instr(json, '\\u0000') > 0")


@migrations()
def m005_graves(db: Database) -> None:
    """What is left of old tombstones, in the order of the log; and tombstones by their age."""
    db.table("graves").create(
        {
            "seq": int,
            "collection": str,
            "key_hash": int,
            "version_hash": int,
            "incarnation": int,
            "buried_at": float,
        },
        pk="seq",
        not_null={"collection", "key_hash", "version_hash", "incarnation", "buried_at"},
    )
    db.table("graves").create_index(["key_hash"], unique=True)
    db.execute("CREATE INDEX documents_removed ON documents(changed_at) WHERE json IS NULL")


@migrations()
def m006_blob_references(db: Database) -> None:
    """Which documents refer to which blobs: see :mod:`mesh.storage.references`."""
    db.table("blob_references").create(
        {"hash": str, "collection": str, "id": str}, pk=("hash", "collection", "id")
    )
    note_all_references(db.conn)


@migrations()
def m007_membership(db: Database) -> None:
    """Who was revoked, who may still be admitted, and who was by which invitation."""
    db.table("revocations").create({"node_id": str, "fact": bytes}, pk="node_id", not_null={"fact"})
    db.table("invitations").create(
        {"secret_hash": bytes, "body": bytes, "expires_at": float}, pk="secret_hash", not_null={"body"}
    )
    db.table("admissions").create({"secret_hash": bytes, "node_id": str}, pk=("secret_hash", "node_id"))


@migrations()
def m008_former_logs(db: Database) -> None:
    """Which logs the store has had before; NULL: that is not known of all."""
    db.table("store").add_column("former", bytes)


@migrations()
def m009_authors(db: Database) -> None:
    """Who made the last change of a document, and how far peers hold what was written here: see
    :mod:`mesh.storage.authors`."""
    db.table("documents").add_column("changed_by", bytes)
    db.table("confirmed").create({"collection": str, "upto": int}, pk="collection")


@migrations()
def m010_shares(db: Database) -> None:
    """What this store's shares of counters were before they grew: see :mod:`mesh.storage.shares`."""
    db.table("shares").create(
        {"collection": str, "id": str, "incarnation": int, "register": str, "run": int, "before": float},
        pk=("collection", "id", "incarnation", "register", "run"),
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
