"""`mesh doctor`: what is not as it should be with a node."""

from __future__ import annotations

import asyncio
import time

import click
import msgspec

from mesh.cli.output import Output
from mesh.cli.settings import Control, Settings, common_options
from mesh.cli.units import clean
from mesh.errors import NodeNotRunning
from mesh.node.doctor import Finding, examine, examine_running
from mesh.node.missing_blobs import MissingBlob
from mesh.node.presence import Presence

UNWELL = 1
"""Exit status: something was found."""


@click.command()
@common_options
@click.pass_context
def doctor(context: click.Context) -> int | None:
    """Look for what is wrong with the node on --home, or soon will be.

    Permissions, certificate, disk, and how many files it may open; if it runs, also its clock and its
    peers', whether another node has its identity, whether it listens in the clear, and whether it lacks a
    file that it distributes. Ends with 1 if there is something to do.
    """
    settings = context.ensure_object(Settings)
    running, found = asyncio.run(_running(settings))
    findings = [*examine(settings.home, time.time()), *found]
    lines = [
        f"{finding.subject}: {clean(finding.problem)}\n  {clean(finding.advice)}" for finding in findings
    ]
    what = (
        "nothing to do"
        if running
        else "nothing to do; the node does not run, so its links were not looked at"
    )
    Output(settings.json).result({"running": running, "findings": findings}, "\n".join(lines) or what)
    return UNWELL if findings else None


async def _running(settings: Settings) -> tuple[bool, list[Finding]]:
    try:
        async with Control(settings) as control:
            presence = Presence.from_dict(await control.call("node.presence"))
            missing = msgspec.convert(await control.call("node.missing_blobs"), list[MissingBlob])
            return True, examine_running(presence, missing)
    except NodeNotRunning:
        return False, []
