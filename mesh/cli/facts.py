"""`mesh formations` and `mesh capabilities`: what the node says of itself, by which scopes match it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mesh.cli.settings import Control, common_options, controlled
from mesh.cli.units import clean, size

_OPTIONS = (
    click.option("--gpu-gb", type=click.FloatRange(min=0), help="GPU memory to declare."),
    click.option("--storage-mb", type=click.IntRange(min=0), help="Storage to declare, not what is free."),
    click.option("--cpu-arch", metavar="ARCH", help="Processor to declare, instead of this machine's."),
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="A capability; may be repeated."),
)


def capability_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that declare capabilities."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_capabilities(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that were given."""
    return {field: value for field, value in options.items() if value not in (None, ())}


@click.command()
@common_options
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--none", is_flag=True, help="Leave all of them.")
@controlled
async def formations(control: Control, names: tuple[str, ...], none: bool) -> None:
    """Belong to the formations NAME and no others, until the node stops.

    Without NAME: show them. Distributions for those that are joined begin, for those that are left stop.
    """
    if names and none:
        raise click.UsageError("give either names or --none")
    if names or none:
        await control.call("node.set_formations", {"formations": list(names)})
    found = (await _own(control))["formations"]
    control.output.result({"formations": found}, clean(", ".join(found)) or "no formations")


@click.command()
@common_options
@capability_options
@click.option("--detect", is_flag=True, help="Declare nothing any more.")
@controlled
async def capabilities(control: Control, /, detect: bool, **options: Any) -> None:
    """Declare capabilities, until the node stops.

    What is not given is detected. Without options: show them.
    """
    given = given_capabilities(options)
    if given and detect:
        raise click.UsageError("give either capabilities or --detect")
    if given or detect:
        await control.call("node.set_capabilities", {"declared": given})
    found = (await _own(control))["capabilities"]
    control.output.result({"capabilities": found}, clean(capabilities_text(found)) or "nothing is known")


def capabilities_text(capabilities: dict[str, Any]) -> str:
    """``x86_64, 4 GB GPU, 12 GB free, camera``: what is known of them."""
    parts = [capabilities.get("cpu_arch")]
    if capabilities.get("gpu_gb"):
        parts.append(f"{capabilities['gpu_gb']:g} GB GPU")
    if capabilities.get("storage_mb") is not None:
        parts.append(f"{size(capabilities['storage_mb'] * 1e6)} storage")
    return ", ".join(part for part in (*parts, *capabilities.get("tags", [])) if part)


async def _own(control: Control) -> dict[str, Any]:
    node_id = (await control.call("node.info"))["node_id"]
    members: list[dict[str, Any]] = await control.call("node.members")
    return next(member for member in members if member["_id"] == node_id)
