"""Who is turned away."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from mesh.core.limits import MAX_LINKS, MAX_LINKS_PER_ADDRESS, Bans
from mesh.network.addresses import is_loopback

log = logging.getLogger("mesh.network")


class Guard:
    """What one node remembers of who comes in, by address or by node id."""

    def __init__(self) -> None:
        self._bans = Bans()
        self._links: Counter[str] = Counter()

    def banned(self, who: str, *, asking: bool = False) -> str:
        """Why nothing is taken from ``who`` (an address, or a node id); empty: it is.

        ``asking``: for a certificate. Who guesses at that is not let guess, and members behind the same
        address have theirs.
        """
        now = asyncio.get_running_loop().time()
        seconds = max(self._bans.seconds(one, now) for one in (who, *([_asking(who)] if asking else [])))
        return (
            f"banned: it broke the protocol again and again; try again in {seconds:.0f} s" if seconds else ""
        )

    def offended(self, who: str, *, asking: bool = False) -> None:
        """``who`` has broken the protocol; ``asking``: for a certificate."""
        # All that is on this machine has one address: what one program does is not held against the others.
        if is_loopback(who):
            return
        who = _asking(who) if asking else who
        seconds = self._bans.strike(who, asyncio.get_running_loop().time())
        if seconds:
            log.warning("%s is banned for %g s: it broke the protocol again and again", who, seconds)

    def full(self, address: str) -> str:
        """Why no more links come in from ``address``; empty: they do."""
        if self._links.total() >= MAX_LINKS or self._links[address] >= MAX_LINKS_PER_ADDRESS:
            return "too many links: this node takes no more"
        return ""

    def came(self, address: str) -> None:
        """A link has come in from ``address``."""
        self._links[address] += 1

    def went(self, address: str) -> None:
        """It has ended."""
        self._links[address] -= 1
        if not self._links[address]:
            del self._links[address]


def _asking(address: str) -> str:
    return f"{address}, where certificates are asked for,"
