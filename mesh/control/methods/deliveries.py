"""Control methods about what this node is asked to take (``receive="manual"``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from mesh.control.lookup import unique
from mesh.control.methods.table import METHODS, Text
from mesh.control.registry import Served
from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh import Delivery


@METHODS.add("deliveries.watch")
async def deliveries(served: Served) -> AsyncIterator[dict[str, Any]]:
    """``Node.deliveries()``: what waits for this node's decision, and what comes in later."""
    async with served.node.deliveries() as stream:
        async for delivery in stream:
            yield {
                "distribution_id": delivery.distribution_id,
                "publisher": delivery.publisher,
                "token": delivery.token,
                "priority": delivery.priority,
            }


@METHODS.add("deliveries.accept")
async def accept(served: Served, *, id: Text) -> dict[str, Any]:
    """``Delivery.accept()``: the whole distribution id, and where the file is in the inbox."""
    delivery = _delivery(served, id)
    try:
        path = await delivery.accept()
    except OSError as error:
        raise MeshError(f"{delivery.distribution_id} is not in the inbox: {error}") from error
    served.deliveries.pop(delivery.distribution_id, None)
    return {
        "distribution_id": delivery.distribution_id,
        "path": None if path is None else str(path.absolute()),
    }


@METHODS.add("deliveries.reject")
async def reject(served: Served, *, id: Text, reason: Text) -> str:
    """``Delivery.reject()``: the whole distribution id."""
    delivery = _delivery(served, id)
    await delivery.reject(reason)
    served.deliveries.pop(delivery.distribution_id, None)
    return delivery.distribution_id


def _delivery(served: Served, id: str) -> Delivery:
    whole = unique(id, served.deliveries, "delivery")
    if whole not in served.deliveries:
        raise MeshError(f"no delivery {id} waits for a decision here")
    return served.deliveries[whole]
