"""`mesh collections`, `query`, `index`, `upsert`, `remove`, `watch`, `subscribe` and the like: documents."""

from __future__ import annotations

import sys
from typing import Any

import click

from mesh.cli.output import Row, compact_json, print_json
from mesh.cli.parsing import parse_document, parse_fields, parse_selector, parse_sort, parsed
from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import clean
from mesh.errors import NodeNotRunning

MAX_COLUMNS = 8

_SIGNS = {
    "present": click.style("=", dim=True),
    "inserted": click.style("+", fg="green"),
    "updated": click.style("~", fg="yellow"),
    "removed": click.style("-", fg="red"),
}


@click.command()
@common_options
@controlled
async def collections(control: Control) -> None:
    """List the collections."""
    found: dict[str, int] = await control.call("collections.list")
    rows = [(str(count), name) for name, count in sorted(found.items())]
    control.output.table(found, (">documents", "collection"), rows, empty="no collections here")


@click.command()
@common_options
@click.argument("collection")
@click.argument("selector", required=False, callback=parsed(parse_selector))
@click.option("--sort", metavar="FIELDS", callback=parsed(parse_sort), help="Such as year:desc,name.")
@click.option("--limit", type=click.IntRange(min=0), help="At most so many documents.")
@click.option(
    "--fields", metavar="FIELDS", callback=parsed(parse_fields), help="Only these, separated by commas."
)
@click.option("--explain", is_flag=True, help="Say how they are found, and which index is used.")
@controlled
async def query(
    control: Control,
    collection: str,
    selector: dict[str, Any] | None,
    sort: list[dict[str, str]] | None,
    limit: int | None,
    fields: list[str] | None,
    explain: bool,
) -> None:
    """Print the documents that match SELECTOR.

    SELECTOR is JSON, such as '{"year": {"$gt": 2010}}'; without one, all of COLLECTION.
    """
    if explain:
        asked = {"collection": collection, "selector": selector, "sort": sort}
        _print_explained(control, await control.call("documents.explain", asked))
        return
    params = {
        "collection": collection,
        "selector": selector,
        "sort": sort,
        "limit": limit,
        "fields": fields,
    }
    async with control.stream("documents.find", params) as items:
        found = [document async for document in items]
    if control.output.as_json or control.output.is_terminal:
        columns, rows = _tabulate(found)
        control.output.table(found, columns, rows, empty=f"no such documents in {collection}")
        return
    for document in found:
        print_json(document)


def _print_explained(control: Control, explained: dict[str, Any]) -> None:
    used: dict[str, list[str]] = explained["indexes"]
    lines = [f"uses {clean(name)}: {clean(', '.join(fields))}" for name, fields in used.items()]
    if explained["scan"]:
        lines.append("goes through the whole collection")
    if not explained["exact"]:
        lines.append("compares each document that is found with the selector again")
    control.output.result(explained, "\n".join(lines))


@click.command()
@common_options
@click.argument("collection")
@click.argument("fields", nargs=-1)
@click.option("--drop", is_flag=True, help="Do without this index from now on; status 1 if there is none.")
@controlled
async def index(control: Control, collection: str, fields: tuple[str, ...], drop: bool) -> int:
    """Index FIELDS of COLLECTION, so that queries by them are fast.

    Several FIELDS make one index of all of them, the most selective first. Kept across restarts. Without
    FIELDS, list the indexes.
    """
    params = {"collection": collection, "fields": list(fields)}
    shown = f"{clean(collection)} by {clean(', '.join(fields))}"
    if not fields:
        if drop:
            raise click.UsageError("which index? Name its FIELDS, as `mesh index COLLECTION` lists them")
        found: list[list[str]] = await control.call("documents.indexes", {"collection": collection})
        rows = [(", ".join(named),) for named in found]
        control.output.table(found, ("fields",), rows, empty=f"no indexes of {clean(collection)}")
    elif drop:
        dropped: bool = await control.call("documents.drop_index", params)
        control.output.result(
            {"dropped": dropped}, f"no longer indexes {shown}" if dropped else f"no index of {shown}"
        )
        return 0 if dropped else 1
    else:
        await control.call("documents.create_index", params)
        control.output.result(params, f"indexed {shown}")
    return 0


def _tabulate(documents: list[dict[str, Any]]) -> tuple[list[str], list[Row]]:
    """A column per field, ``_id`` first; what does not fit is together in the last one."""
    names = list(dict.fromkeys(name for document in documents for name in document if name != "_id"))
    shown, rest = names[:MAX_COLUMNS], set(names[MAX_COLUMNS:])
    rows: list[Row] = []
    for document in documents:
        row = [str(document.get("_id", "")), *(_value(document, name) for name in shown)]
        if rest:
            row.append(compact_json({name: document[name] for name in document if name in rest}))
        rows.append(row)
    columns = ["_id", *(clean(name) for name in shown), *(["..."] if rest else [])]
    return columns, rows


def _value(document: dict[str, Any], name: str) -> str:
    value = document.get(name, "")
    return value if isinstance(value, str) else compact_json(value)


def _document(text: str) -> dict[str, Any]:
    return parse_document(sys.stdin.read() if text == "-" else text)


@click.command()
@common_options
@click.argument("collection")
@click.argument("document", callback=parsed(_document))
@controlled
async def upsert(control: Control, collection: str, document: dict[str, Any]) -> None:
    """Merge DOCUMENT into COLLECTION.

    DOCUMENT is JSON, or - to read it from stdin. Prints its _id; without one, a new one.
    """
    id = await control.call("documents.upsert", {"collection": collection, "document": document})
    control.output.result({"_id": id}, id)


@click.command()
@common_options
@click.argument("collection")
@click.argument("id")
@controlled
async def remove(control: Control, collection: str, id: str) -> int:
    """Remove a document, everywhere.

    Status 1 if there is none with this ID.
    """
    removed = await control.call("documents.remove", {"collection": collection, "id": id})
    control.output.result({"removed": removed}, f"removed {id}" if removed else f"no {id} in {collection}")
    return 0 if removed else 1


@click.command()
@common_options
@click.argument("collection")
@click.argument("selector", required=False, callback=parsed(parse_selector))
@controlled
async def watch(control: Control, collection: str, selector: dict[str, Any] | None) -> None:
    """Print documents and every change to them.

    A line each until Ctrl-C: = is there, + is new, ~ has changed, - is gone.
    """
    params = {"collection": collection, "selector": selector}
    async with control.stream("documents.observe", params) as items:
        async for item in items:
            if control.output.as_json:
                print_json(item)
            else:
                click.echo(f"{_SIGNS[item['change']]} {compact_json(item['document'])}")
    raise NodeNotRunning(str(control.home))


@click.command()
@common_options
@click.argument("collection")
@click.argument("selector", required=False, callback=parsed(parse_selector))
@controlled
async def subscribe(control: Control, collection: str, selector: dict[str, Any] | None) -> None:
    """Have peers sync COLLECTION to this node.

    The whole of it, or what matches SELECTOR. Remembered across restarts.
    """
    params = {"collection": collection, "selector": selector}
    await control.call("documents.subscribe", params)
    control.output.result(params, f"subscribed to {clean(collection)}")


@click.command()
@common_options
@click.argument("collection")
@click.argument("selector", required=False, callback=parsed(parse_selector))
@controlled
async def unsubscribe(control: Control, collection: str, selector: dict[str, Any] | None) -> int:
    """Undo `mesh subscribe`.

    With the same SELECTOR. What has arrived stays. Status 1 if there is no such subscription.
    """
    known: bool = await control.call(
        "documents.unsubscribe", {"collection": collection, "selector": selector}
    )
    shown = clean(collection) + (f" {compact_json(selector)}" if selector else "")
    control.output.result(
        {"unsubscribed": known}, f"unsubscribed from {shown}" if known else f"not subscribed to {shown}"
    )
    return 0 if known else 1


@click.command()
@common_options
@controlled
async def subscriptions(control: Control) -> None:
    """List what this node subscribes to."""
    found: list[dict[str, Any]] = await control.call("documents.subscriptions")
    rows = [(one["collection"], compact_json(one["selector"]) if one["selector"] else "all") for one in found]
    control.output.table(found, ("collection", "selector"), rows, empty="no subscriptions")
