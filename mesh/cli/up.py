"""`mesh up`: a node in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from mesh import Credentials, InvalidNode, Node
from mesh.attachments.memory import tune_allocator
from mesh.cli.facts import capability_options, given_capabilities
from mesh.cli.new_home import undone_if_new
from mesh.cli.output import Output
from mesh.cli.parsing import parse_duration, parse_rate, parse_size, parsed
from mesh.cli.settings import Settings, common_options
from mesh.control.server import ControlServer
from mesh.control.socket_path import make_private
from mesh.network.transport import Connection
from mesh.network.websocket import WebSocketTransport
from mesh.node.probe import Probe, declaring
from mesh.storage.data_dir import CERTIFICATES

if TYPE_CHECKING:
    from mesh.gateway import Gateway

log = logging.getLogger(__name__)


@click.command()
@common_options
@click.option("--name", metavar="NAME", help="For people; the node's id is its identity.")
@click.option(
    "--listen",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Where peers connect; port 0 takes a free one. 'none': this node only dials.",
)
@click.option(
    "--peer", "peers", multiple=True, metavar="URL", help="Keep connected with it. May be repeated."
)
@click.option(
    "--formation", "formations", multiple=True, metavar="NAME", help="Belong to it. May be repeated."
)
@capability_options
@click.option(
    "--receive",
    type=click.Choice(["auto", "manual", "off"]),
    default="auto",
    show_default=True,
    help="What to do with distributions for this node.",
)
@click.option(
    "--inbox",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where files arrive. [default: HOME/inbox]",
)
@click.option(
    "--retention",
    default="30d",
    show_default=True,
    metavar="TIME",
    callback=parsed(parse_duration),
    help="How long distributions stay after they are over.",
)
@click.option("--hub", is_flag=True, help="Hold every collection, for nodes that are not always on.")
@click.option(
    "--upload-limit", metavar="RATE", callback=parsed(parse_rate), help="Send blobs no faster: 2MB/s."
)
@click.option(
    "--download-limit", metavar="RATE", callback=parsed(parse_rate), help="Fetch blobs no faster: 2MB/s."
)
@click.option(
    "--link-limit",
    metavar="RATE",
    callback=parsed(parse_rate),
    help="Exchange blobs with each peer no faster, either way.",
)
@click.option(
    "--cache",
    metavar="SIZE",
    callback=parsed(parse_size),
    help="Room for blobs kept for others only: 20GB. A larger blob is not passed on. "
    "[default: a tenth of what is free, up to 10 GiB]",
)
@click.option(
    "--gateway", metavar="HOST:PORT", help="Serve the node over HTTP there; port 0 takes a free one."
)
@click.option(
    "--gateway-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Let in who has the token in it; needed off loopback.",
)
@click.option(
    "--gateway-origin",
    "gateway_origins",
    multiple=True,
    metavar="URL",
    help="Pages of this origin may use the gateway. May be repeated.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.pass_context
def up(
    context: click.Context,
    /,
    *,
    name: str | None,
    listen: str,
    peers: tuple[str, ...],
    formations: tuple[str, ...],
    receive: Literal["auto", "manual", "off"],
    inbox: Path | None,
    retention: float,
    hub: bool,
    upload_limit: int | None,
    download_limit: int | None,
    link_limit: int | None,
    cache: int | None,
    gateway: str | None,
    gateway_token_file: Path | None,
    gateway_origins: tuple[str, ...],
    verbose: bool,
    **declared: Any,
) -> None:
    """Run a node, until Ctrl-C or `mesh down`.

    As a member of the mesh that --home has joined, if it has. Prints its id and address when it is ready;
    logs to stderr.
    """
    settings = context.ensure_object(Settings)
    tune_allocator()
    _raise_descriptors()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mesh").setLevel(logging.DEBUG if verbose else logging.INFO)
    if settings.home.exists():
        make_private(settings.home)
    else:
        asyncio.run(_check_addresses(None if listen == "none" else listen, peers))
    node = Node(
        settings.home,
        name=name,
        credentials=Credentials.load(settings.home) if (settings.home / CERTIFICATES).exists() else None,
        listen=None if listen == "none" else listen,
        peers=peers,
        formations=formations,
        capabilities=_probe(declared),
        receive=receive,
        inbox=inbox or settings.home / "inbox",
        retention=retention,
        hub=hub,
        upload_limit=upload_limit,
        download_limit=download_limit,
        link_limit=link_limit,
        cache_bytes=cache,
    )
    serving = None if gateway is None else _gateway(node, gateway, gateway_token_file, gateway_origins)
    asyncio.run(_serve(node, serving, settings))


def _raise_descriptors() -> None:
    """Open as many files as the system lets this process: every link takes one or two, and many a default
    is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS calls it unlimited, and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _gateway(node: Node, listen: str, token_file: Path | None, origins: tuple[str, ...]) -> Gateway:
    try:
        from mesh.gateway import Gateway
    except ModuleNotFoundError as error:
        raise click.UsageError(f"--gateway: {error}: install the extra `gateway`, which has it") from None
    token = None if token_file is None else token_file.read_text().strip()
    return Gateway(node, listen, token, origins=origins)


async def _check_addresses(listen: str | None, peers: tuple[str, ...]) -> None:
    """Fail as the node would, before anything is created for it.

    Raises:
        AddressInUse, InvalidAddress, PlaintextRefused: it could not listen or dial there.
    """
    transport = WebSocketTransport()
    for url in peers:
        transport.check(url)
    if listen is not None:
        listener = await transport.listen(listen, _turn_away)
        await listener.close()


async def _turn_away(connection: Connection) -> None:
    await connection.close("not ready yet")


async def _serve(node: Node, gateway: Gateway | None, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_on(number: signal.Signals) -> None:
        log.info("%s: closing", number.name)
        loop.remove_signal_handler(number)  # the same again ends the process at once
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_on, number)
    with undone_if_new(settings.home) as started:
        make_private(settings.home)
        await node.start()
        server = ControlServer(node, settings.home, shutdown=stop.set)
        try:
            await server.start()
            if gateway is not None:
                await gateway.start()
            started()
            gc.freeze()  # or it looks through all that is loaded now and then: everything stops for 20 ms
            _announce(node, gateway, settings)
            await stop.wait()
        finally:
            server.retire()
            if gateway is not None:
                await gateway.close()
            await node.close()
            await server.close()


def _announce(node: Node, gateway: Gateway | None, settings: Settings) -> None:
    ready: dict[str, Any] = {
        "node_id": node.node_id,
        "name": node.name,
        "address": node.address,
        "home": str(settings.home),
        "pid": os.getpid(),
    }
    where = f"listens on {node.address}" if node.address else "dials only"
    if gateway is not None:
        ready["gateway"] = gateway.url
        where += f", gateway on {gateway.url}"
    Output(settings.json).result(ready, f"node {node.node_id} ({node.name}) {where}, home {settings.home}")


def _probe(declared: dict[str, Any]) -> Probe | None:
    """What is declared, over what is detected; ``None``: nothing is declared."""
    given = given_capabilities(declared)
    try:
        return declaring(given) if given else None
    except InvalidNode as error:
        raise click.UsageError(str(error)) from None
