"""Ways to show something that changes while a command waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from rich.live import Live

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class View(Protocol[T_contra]):
    """Shows how far something is, again and again."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def show(self, now: T_contra, /) -> None:
        """It is this far now."""


class Quiet(Generic[T]):
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, now: T, /) -> None:
        """See :class:`View`."""


class Redrawn(Quiet[T]):
    """Drawn by ``live``, in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)
