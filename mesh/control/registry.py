"""The table of control methods: plain typed functions, called with validated parameters."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints
from weakref import WeakValueDictionary

import msgspec

from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh import Delivery, Node


@dataclass
class Served:
    """What the methods of one endpoint work on."""

    node: Node
    shutdown: Callable[[], None]
    """Asks the process to close the node; returns at once."""
    deliveries: WeakValueDictionary[str, Delivery] = field(default_factory=WeakValueDictionary)
    """What this node is asked to take (``receive="manual"``), by distribution id. The node holds each until
    it is decided, by whomever, or over; then it is gone from here too."""

    async def collect_deliveries(self) -> None:
        """Keep what the node offers, so that any client can decide about it; ends with the node."""
        async with self.node.deliveries() as stream:
            async for delivery in stream:
                self.deliveries[delivery.distribution_id] = delivery
                del delivery  # the next one may be long in coming


Function = Callable[..., Awaitable[Any] | AsyncIterator[Any]]
F = TypeVar("F", bound=Function)


class Method(msgspec.Struct, frozen=True):
    """One entry of the table."""

    function: Function
    params: type[msgspec.Struct]
    streams: bool

    def bind(self, served: Served, params: dict[str, Any]) -> Awaitable[Any] | AsyncIterator[Any]:
        """Call the function.

        Raises:
            MeshError: ``params`` are not what the function takes.
        """
        try:
            checked = msgspec.convert(params, self.params)
        except msgspec.ValidationError as error:
            raise MeshError(f"{self.params.__name__}: {error}") from error
        return self.function(served, **msgspec.structs.asdict(checked))


class MethodTable:
    """Methods by name. A function's keyword parameters and their types are what a client may send."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def add(self, name: str) -> Callable[[F], F]:
        """Register the decorated function: a coroutine function, or an async generator that streams."""

        def register(function: F) -> F:
            hints = get_type_hints(function, include_extras=True)
            fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
            for parameter in list(inspect.signature(function).parameters.values())[1:]:
                entry = (parameter.name, hints[parameter.name])
                required = parameter.default is inspect.Parameter.empty
                fields.append(entry if required else (*entry, parameter.default))
            params = msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True, frozen=True)
            self._methods[name] = Method(function, params, inspect.isasyncgenfunction(function))
            return function

        return register

    def __getitem__(self, name: str) -> Method:
        try:
            return self._methods[name]
        except KeyError:
            raise MeshError(
                f"this node has no control method {name!r}: it may be of another version than the client"
            ) from None
