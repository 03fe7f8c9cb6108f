"""Control methods about documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from mesh.control.methods.table import METHODS, Text
from mesh.control.registry import Served

Selector = dict[str, Any] | None
Fields = Annotated[list[Text], Meta(min_length=1)]


@METHODS.add("collections.list")
async def collections(served: Served) -> dict[str, int]:
    """``Node.collections()``: how many documents each has."""
    return await served.node.collections()


@METHODS.add("documents.find")
async def find(
    served: Served,
    *,
    collection: Text,
    selector: Selector = None,
    sort: list[dict[str, Literal["asc", "desc"]]] | None = None,
    limit: Annotated[int, Meta(ge=0)] | None = None,
    fields: list[Text] | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """``Collection.find()``, a document at a time."""
    found = await served.node.collection(collection).find(selector, sort=sort, limit=limit, fields=fields)
    for document in found:
        yield document


@METHODS.add("documents.create_index")
async def create_index(served: Served, *, collection: Text, fields: Fields) -> None:
    """``Collection.create_index()``."""
    await served.node.collection(collection).create_index(*fields)


@METHODS.add("documents.drop_index")
async def drop_index(served: Served, *, collection: Text, fields: Fields) -> bool:
    """``Collection.drop_index()``."""
    return await served.node.collection(collection).drop_index(*fields)


@METHODS.add("documents.indexes")
async def indexes(served: Served, *, collection: Text) -> list[tuple[str, ...]]:
    """``Collection.indexes()``."""
    return await served.node.collection(collection).indexes()


@METHODS.add("documents.explain")
async def explain(
    served: Served,
    *,
    collection: Text,
    selector: Selector = None,
    sort: list[dict[str, Literal["asc", "desc"]]] | None = None,
) -> dict[str, Any]:
    """``Collection.explain()``."""
    return await served.node.collection(collection).explain(selector, sort=sort)


@METHODS.add("documents.observe")
async def observe(
    served: Served, *, collection: Text, selector: Selector = None
) -> AsyncIterator[dict[str, Any]]:
    """``Collection.observe()``, a document at a time: ``{"change": "present"}`` for what is there at
    first, then ``inserted``, ``updated`` and ``removed`` (which has only the ``_id``)."""
    async with served.node.collection(collection).observe(selector) as changes:
        first = await anext(changes)
        for document in first.documents:
            yield {"change": "present", "document": document}
        async for change in changes:
            for document in change.inserted:
                yield {"change": "inserted", "document": document}
            for document in change.updated:
                yield {"change": "updated", "document": document}
            for id in change.removed:
                yield {"change": "removed", "document": {"_id": id}}


@METHODS.add("documents.upsert")
async def upsert(served: Served, *, collection: Text, document: dict[str, Any]) -> str:
    """``Collection.upsert()``: the document's id."""
    return await served.node.collection(collection).upsert(document)


@METHODS.add("documents.remove")
async def remove(served: Served, *, collection: Text, id: Text) -> int:
    """``Collection.remove()`` of one document: how many were removed."""
    return await served.node.collection(collection).remove(id)


@METHODS.add("documents.subscribe")
async def subscribe(served: Served, *, collection: Text, selector: Selector = None) -> None:
    """``Collection.subscribe()``; remembered across restarts."""
    await served.node.collection(collection).subscribe(selector)


@METHODS.add("documents.unsubscribe")
async def unsubscribe(served: Served, *, collection: Text, selector: Selector = None) -> bool:
    """``Collection.unsubscribe()``."""
    return await served.node.collection(collection).unsubscribe(selector)


@METHODS.add("documents.subscriptions")
async def subscriptions(served: Served) -> list[dict[str, Any]]:
    """``Node.subscriptions()``."""
    found = await served.node.subscriptions()
    return [{"collection": one.collection, "selector": one.selector} for one in found]
