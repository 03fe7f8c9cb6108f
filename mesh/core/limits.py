"""What others may take of this node, and what becomes of those who take more. Times are arguments.

Everything that a peer, or somebody who is none yet, can make a node hold or do is bounded:

    constant                                    value       what it bounds
    ------------------------------------------  ----------  -------------------------------------------------
    network.sockets.OPEN_SECONDS                10.0        TLS, and the request for a WebSocket, each
    network.sockets.MAX_OPENING                 256         connections before they are WebSockets
    network.sockets.MAX_REQUEST_BYTES           16384       what is taken in before
    network.sockets.MAX_ENTRANCE_BYTES          16777216    what is taken in of all of them before they have
                                                            proven a key; who sent most goes first
    network.introductions.HANDSHAKE_SECONDS     10.0        the proof of a key
    core.handshake.MAX_HANDSHAKE_BYTES          65536       what is taken in before it
    network.introductions.MAX_STRANGERS         256         connections before it; a newcomer drives out the
                                                            oldest from the address that has most of them
    core.limits.MAX_LINKS                       4096        links that others have dialled
    core.limits.MAX_LINKS_PER_ADDRESS           1024        those from one address
    network.peers.MAX_BULK_PER_PEER             8           bulk connections that one peer has dialled
    core.limits.MESSAGES_PER_SECOND             2000        small messages of one link; more wait, unread
    core.limits.MESSAGES_AT_ONCE                500         those after a pause
    core.frames.MAX_FRAME_BYTES                 262144      one frame
    core.frames.MAX_OPEN_FRAGMENTS              16          messages in pieces at once on one link
    core.frames.MAX_MESSAGE_BYTES               5242880     one message, decompressed; its pieces twice that
    core.frames.MAX_PLAIN_BYTES                 1048576     one of the kinds that need be no larger
    core.frames.MAX_SELECTORS_BYTES             262144      selectors in one message
    core.wire.MAX_ITEMS                         4096        documents in one message, or clocks in a version
    network.link.MAX_PENDING_BYTES              16777216    what waits to be sent to one peer, beside the last
                                                            word on each blob that it asks for
    collections.sessions.MAX_APPLYING           32          frames of documents that wait to be stored
    collections.sessions.MAX_APPLYING_BYTES     8388608     the same in bytes
    collections.sessions.MAX_ASKED              64          catch-ups that wait to be looked at
    core.sync_serving.MAX_CATCHUPS              4096        catch-ups that one peer has open
    core.sync_comparing.MAX_KEYS                262144      keys held to be compared with those of one peer;
                                                            one set is read at a time, and may be larger
    core.routes.MAX_ORIGINS                     16384       nodes for which one peer speaks
    core.ways.MAX_HOPS                          16          links that interest is passed on over
    core.rivals.MAX_RISES                       32          times that a node goes above what is said in its
                                                            name; then not for rivals.RISE_SECONDS
    node.clone_watch.MAX_ANSWERS                16          times that it puts its own document right at once;
                                                            then not for clone_watch.ANSWER_SECONDS
    core.interest.MAX_ENTRIES                   64          selectors of a collection; of more, it is all
    core.interest.MAX_BYTES                     98304       all selectors of a peer's interest; of more, the
                                                            collections with most are wanted whole
    core.interest.MAX_INTEREST_ENTRIES          16384       collections and selectors that one node wants
    core.interest.MAX_INTEREST_BYTES            67108864    memory for those of all nodes that one peer
                                                            speaks for, and for those of its catch-ups
    core.interest.MAX_COMPILED_BYTES            524288      selectors that are kept compiled, of all peers
    core.selector.MAX_SELECTOR_BYTES            8192        one selector
    core.wire.MAX_SEEN_LINKS                    1024        links that one peer tells of
    core.document.MAX_STATE_BYTES               4194304     one document with its history
    core.document.MAX_FIELDS                    20000       fields that a write may give it
    core.searching.MAX_CONFLICTS                1048576     steps to the order of what was written at once in
                                                            one place of a document
    membership.service.FACTS_PER_MESSAGE        100         revocations in one message
    core.update_reader.MAX_STRUCTS              500000      items in one update
    core.update_reader.MAX_NESTING              32          lists and objects within each other
    core.pieces.MAX_CUTTING                     67108864    values behind the places at which lists are cut
    core.pieces.MAX_CUTTING_TEXTS               17179869184 elements behind those at which texts are cut
    core.pieces.MAX_JOINING                     67108864    bytes that are copied to join what was cut
    core.pieces.MAX_MOVES                       1073741824  items moved in rows to cut some, part by part, ...
    core.pieces.MAX_JOINING_MOVES               268435456   ... and to join some
    core.roots.MAX_DEPTH                        32          collaborative types within each other
    core.versions.MAX_CLOCKS                    4096        stores that ever wrote one document
    core.records.MAX_RECORD_BYTES               65536       one signed record
    storage.lineage.RENEW_SECONDS               86400.0     between two changes of the store's identity that
                                                            peers cause, as if it were a restored backup
    storage.rows.MAX_QUARANTINE                 1000        refused changes that are remembered
    attachments.service.MAX_BLOB_BYTES          1099511627776  one blob
    attachments.requests.MAX_QUEUED             4096        chunks that one peer has asked for and not got
    core.demand.MAX_DEMANDS_PER_LINK            16384       blobs that one peer asks for
    gateway.http.HEAD_SECONDS                   10.0        for which one of a gateway's connections may be
                                                            without a request
    gateway.http.MAX_CONNECTIONS                1024        its connections; one more drives out such a one
    gateway.events.MAX_STREAMS                  512         event streams of a gateway
    gateway.outgoing.STALL_SECONDS              30.0        for which a client of it takes nothing, or does
                                                            not go on with what it sends
    gateway.outgoing.MAX_WAITING_BYTES          67108864    answers and events that wait for all of them
    gateway.shared.MAX_FOLLOWED_BYTES           134217728   results of queries that they follow
    gateway.yjs.MAX_UNSENT_BYTES                4194304     what waits for a Yjs client, beside one answer
    gateway.yjs.MAX_ALL_UNSENT_BYTES            67108864    what waits for all of them
    core.limits.LOG_LINES                       20          lines of log about one peer in ...
    core.limits.LOG_SECONDS                     60.0        ... so long; the last of them says so
    core.limits.STRIKES                         3           violations of the protocol in ...
    core.limits.STRIKE_SECONDS                  600.0       ... so long, and the peer is banned
    core.limits.FIRST_BAN_SECONDS               60.0        for so long; each ban is twice the last one ...
    core.limits.MAX_BAN_SECONDS                 3600.0      ... up to this

A violation ends the link, with the reason in its goodbye, and whoever dials again waits longer each time.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

K = TypeVar("K")

MAX_LINKS = 4096
"""Links that others have dialled."""

MAX_LINKS_PER_ADDRESS = 1024
"""Those of them from one address."""

MESSAGES_PER_SECOND = 2000
"""Small messages that are taken from one link in the long run. What is more waits where it is."""

MESSAGES_AT_ONCE = 500
"""Those after a pause."""

LOG_LINES = 20
"""Lines of log about one peer in ``LOG_SECONDS``."""

LOG_SECONDS = 60.0

STRIKES = 3
"""Violations of the protocol within ``STRIKE_SECONDS`` for which a peer is banned."""

STRIKE_SECONDS = 600.0

FIRST_BAN_SECONDS = 60.0

MAX_BAN_SECONDS = 3600.0

_IPV6_NETWORK_BITS = 64
"""Whoever has an IPv6 address has all that begin with so many bits of it."""

REMEMBERED = 4096
"""Offenders, and peers of which there were lines of log, that are remembered."""


class _Record(NamedTuple):
    strikes: tuple[float, ...] = ()
    bans: int = 0
    until: float = 0.0


class Bans:
    """Who has broken the protocol again and again, and for how long nothing more is taken from it."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def strike(self, who: str, now: float) -> float:
        """``who`` has broken the protocol; for how many seconds it is banned from now on, 0: it is not."""
        record = self._records.pop(who, _Record())
        strikes = (*(at for at in record.strikes if now - at < STRIKE_SECONDS), now)
        seconds = 0.0
        if len(strikes) >= STRIKES:
            bans = record.bans if now - record.until < MAX_BAN_SECONDS else 0
            seconds = min(MAX_BAN_SECONDS, FIRST_BAN_SECONDS * 2**bans)
            record = _Record((), min(bans + 1, 32), now + seconds)
        else:
            record = record._replace(strikes=strikes)
        self._records[who] = record
        if len(self._records) > REMEMBERED:
            self._records.popitem(last=False)
        return seconds

    def seconds(self, who: str, now: float) -> float:
        """For how long ``who`` is still banned; 0: it is not."""
        record = self._records.get(who)
        return max(0.0, record.until - now) if record is not None else 0.0


class LinesPerPeer(logging.Filter):
    """Of the lines of log about one peer, those that are not too many; the last of them says so.

    Whom a line is about is its first argument: a link, a node id, or an address.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: OrderedDict[str, deque[float]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; it may be changed."""
        if not isinstance(record.args, tuple) or not record.args:
            return True
        about = getattr(record.args[0], "node_id", None) or origin_of(str(record.args[0]))
        written = self._written.setdefault(about, deque(maxlen=LOG_LINES))
        if _full(written, record.created):
            return False
        written.append(record.created)
        if _full(written, record.created):
            record.msg = f"{record.msg} (more about it is left out for up to {LOG_SECONDS:g} s)"
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)
        return True

    def forget(self) -> None:
        """Nothing was written so far."""
        self._written.clear()


def _full(written: deque[float], now: float) -> bool:
    return len(written) == LOG_LINES and 0 <= now - written[0] < LOG_SECONDS


lines_per_peer = LinesPerPeer()


def peer_log(name: str) -> logging.Logger:
    """The logger called ``name``, which no peer can make write too much."""
    logger = logging.getLogger(name)
    logger.addFilter(lines_per_peer)
    return logger


def crowder(strangers: Mapping[K, str]) -> K:
    """Who has to go where there are too many: the first that came of those from the address that most came
    from. So who fills the room drives out itself, and whoever is quick gets in all the same.

    ``strangers``: their addresses, in the order in which they came.
    """
    ((crowded, _),) = Counter(strangers.values()).most_common(1)
    return next(stranger for stranger, address in strangers.items() if address == crowded)


def greediest(strangers: Mapping[K, tuple[str, int]]) -> K:
    """Who has to go where strangers have sent too much: who sent most of those from the address that most
    came from.

    ``strangers``: their addresses, and what they have sent.
    """
    sent: Counter[str] = Counter()
    for address, size in strangers.values():
        sent[address] += size
    ((greedy, _),) = sent.most_common(1)
    those = (stranger for stranger, (address, _) in strangers.items() if address == greedy)
    return max(those, key=lambda stranger: strangers[stranger][1])


def origin_of(remote: str) -> str:
    """What all connections from one place have in common, of the other end (``address:port``) of one: the
    IPv4 address, or the IPv6 network."""
    host = remote.rpartition(":")[0].strip("[]") or remote
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    plain = getattr(address, "ipv4_mapped", None) or address
    if plain.version == 4 or plain.is_loopback:
        return str(plain)
    return str(ipaddress.ip_network((plain, _IPV6_NETWORK_BITS), strict=False))
