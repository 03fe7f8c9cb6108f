"""The options that every command takes, before or after its name: ``--home`` and ``--json``."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from mesh.cli.output import Output
from mesh.control.client import ControlClient

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


@dataclass
class Settings:
    """What the common options say."""

    home: Path = field(default_factory=lambda: _absolute(os.environ.get("MESH_HOME") or "~/.mesh"))
    json: bool = False


class Control(ControlClient):
    """A client of the running node, and where a command prints what it learns."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.home)
        self.home = settings.home
        self.output = Output(as_json=settings.json)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Note the value of a common option; the one after the subcommand is looked at last, and wins."""
    settings = context.ensure_object(Settings)
    if value is not None:
        assert parameter.name is not None
        setattr(settings, parameter.name, value)


def common_options(function: F) -> F:
    """Give a command ``--home`` and ``--json``."""
    add_home = click.option(
        "--home",
        type=_absolute,
        metavar="DIR",
        callback=_keep,
        expose_value=False,
        is_eager=True,
        help="The node's directory. [env MESH_HOME; default ~/.mesh]",
    )
    add_json = click.option(
        "--json",
        is_flag=True,
        default=None,
        callback=_keep,
        expose_value=False,
        is_eager=True,
        help="Print JSON, and nothing else, on stdout.",
    )
    return add_home(add_json(function))


def controlled(
    function: Callable[Concatenate[Control, P], Awaitable[int | None]],
) -> Callable[P, int | None]:
    """Run a command's coroutine with a connection to the running node; what it returns is the exit status."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> int | None:
        settings = click.get_current_context().ensure_object(Settings)

        async def run() -> int | None:
            async with Control(settings) as control:
                return await function(control, *args, **kwargs)

        return asyncio.run(run())

    return command
