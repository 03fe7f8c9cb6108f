"""What a running node does for its mesh: invites, admits, revokes, and renews certificates.

Invariants:

1. A revocation is durable here before it is passed on, and a link with a revoked node is closed before that.
2. Revocations are the first thing that is said on a link, if the two ends know of different ones.
3. Whoever is admitted by an invitation has used it up durably first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random

from mesh.core.certificates import (
    ADMIN,
    EVERYTHING,
    FORGED,
    MAX_CHAIN,
    REVOKED,
    Certificate,
    Grant,
    Member,
    Revocation,
    grant_of,
    issue,
    revoke,
    role_of,
)
from mesh.core.enrolment import (
    MAX_ADDRESSES,
    MAX_TOKEN_CHARS,
    MAX_TTL_SECONDS,
    MAX_USES,
    SECRET_BYTES,
    Invitation,
    Invited,
    enrolled,
    read_request,
    secret_hash,
)
from mesh.core.identity import node_id_of, short_id
from mesh.core.limits import peer_log
from mesh.core.renewal import renewed, succeeded
from mesh.core.wire import Enrol, Enrolled, Renew, Revocations
from mesh.errors import (
    InvalidInvitation,
    MembershipRefused,
    MeshError,
    PermissionDenied,
    ProtocolViolation,
)
from mesh.membership.asking import offer_at, renew_at
from mesh.membership.credentials import Credentials
from mesh.network.link import Link
from mesh.network.peers import Peers
from mesh.network.transport import Transport
from mesh.storage import membership as jobs
from mesh.storage.documents import DocumentStore

CHECK_SECONDS = 3600.0
"""How often links are looked through for certificates that have ended, and this node's own is looked at."""

EXPIRED_CHECK_SECONDS = 60.0
"""How often a node whose certificate has expired asks for another at the addresses that it dials."""

FACTS_PER_MESSAGE = 100

RETIRED = "retired"
"""What the id is to a mesh by which a node went before it changed its key."""

log = peer_log(__name__)


class MembershipService:
    """Keeps one node and its links in step with who is a member of its mesh."""

    def __init__(
        self,
        credentials: Credentials,
        store: DocumentStore,
        peers: Peers,
        transport: Transport,
        *,
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        self._credentials = credentials
        self._identity = credentials.identity
        self._membership = credentials.membership
        self._store = store
        self._peers = peers
        self._transport = transport
        self._random = random
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._asked: Counter[Link] = Counter()
        self._offers: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Take part in the links that come up from now on. Before others do: what is registered first, hears
        of a link first."""
        own = self._credentials.retirement()
        stored = await self._store.read(jobs.revocations)
        for fact in stored if own is None else [*stored, own]:
            try:
                self._membership.learn([fact])
            except MembershipRefused as error:
                log.warning("a revocation in the store is dropped: %s", error)
        self._peers.on_up(self._link_up)
        self._peers.on_down(self._link_down)
        self._peers.handle(Revocations, self._on_revocations)
        self._peers.handle(Renew, self._on_renew)
        self._peers.handle(Enrolled, self._on_enrolled)
        self._peers.on_join(self._answer)
        self._peers.on_expired(self._offer)
        self._renew_by_root()

    def watch(self) -> None:
        """Look after certificates from now on: links and addresses to dial are there."""
        self._check()

    async def close(self) -> None:
        """Stop. May be repeated."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._offers.values(), *([self._renewing] if self._renewing else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- what an admin does -----------------------------------------------------------------------

    async def invite(
        self,
        role: str,
        collections: Iterable[str] = EVERYTHING,
        write: Iterable[str] | None = None,
        uses: int = 1,
        ttl: float = 3600.0,
        addresses: Iterable[str] = (),
    ) -> str:
        """A token that admits so many nodes, for so many seconds; see :meth:`mesh.Node.invite`.

        Raises:
            PermissionDenied: this node may not grant that.
            InvalidInvitation: nobody may, or nobody could come by way of this node.
        """
        self._require_admin("invite")
        try:
            grant = grant_of(role, collections, write)
        except (TypeError, ValueError) as error:
            raise InvalidInvitation(str(error)) from error
        if type(uses) is not int or not 1 <= uses <= MAX_USES:
            raise InvalidInvitation(f"uses must be a whole number from 1 to {MAX_USES}, not {uses!r}")
        if type(ttl) not in (int, float) or not 0 < ttl <= MAX_TTL_SECONDS:
            raise InvalidInvitation(
                f"ttl must be more than 0 and at most {MAX_TTL_SECONDS} seconds, not {ttl!r}"
            )
        self._require_grant(grant)
        known = [self._peers.address] if self._peers.address else []
        try:
            given = [addresses] if isinstance(addresses, str) else list(addresses)
            reachable = list(dict.fromkeys([*given, *known]))
        except TypeError as error:
            raise InvalidInvitation(f"addresses are a list of URLs, not {addresses!r}") from error
        if not reachable or not self._peers.binding:
            raise InvalidInvitation(
                "this node accepts no connections, or does not know at which address it does, so that nobody "
                "can join by it: resume it, or start it with an address (`mesh up --listen HOST:PORT`)"
            )
        if len(reachable) > MAX_ADDRESSES:
            raise InvalidInvitation(f"a token holds at most {MAX_ADDRESSES} addresses, not {len(reachable)}")
        for address in reachable:
            self._transport.check(address)
        secret = self._random.randbytes(SECRET_BYTES)
        now = self._clock()
        invited = Invited(secret_hash(secret), grant, uses, now + ttl)
        token = Invitation(self._membership.mesh_id, reachable, self._peers.binding, secret).token()
        if len(token) > MAX_TOKEN_CHARS:
            raise InvalidInvitation(f"a token has at most {MAX_TOKEN_CHARS} characters: give fewer addresses")
        await self._store.write(lambda rows: jobs.remember_invitation(rows, invited, now))
        return token

    async def revoke(self, node_id: str) -> None:
        """Make sure that a node is no member any more, here at once and everywhere as the fact travels.

        Raises:
            PermissionDenied: this node is no admin, or is the one.
            InvalidInvitation: there can be no such node.
        """
        self._require_admin("revoke")
        if not isinstance(node_id, str):
            raise InvalidInvitation(f"the id of a node is text, not {node_id!r}")
        if node_id == self._identity.node_id:
            raise PermissionDenied("a node does not revoke itself: another admin can")
        now = self._clock()
        epoch = self._membership.last_epoch(node_id, now)
        try:
            fact = revoke(self._identity, self._membership.chain, node_id, epoch, now)
        except (MembershipRefused, ValueError) as error:
            raise InvalidInvitation(f"{node_id!r} is not the whole id of a node ({error})") from error
        await self._learn([fact], None)

    def standings(self) -> dict[str, str]:
        """What nodes are to this mesh, as far as it is known here: this node, those there are links with, and
        those that were revoked, or changed their key."""
        known = {link.node_id: link.member for link in self._peers.links.values()}
        grants = {node_id: member.grant for node_id, member in known.items() if member is not None}
        grants[self._identity.node_id] = self._membership.chain[0].grant
        roles = {node_id: role_of(grant) for node_id, grant in grants.items()}
        # Who is linked and was revoked, has been invited again.
        retired, revoked = self._membership.retired, self._membership.revoked
        return dict.fromkeys(retired, RETIRED) | dict.fromkeys(revoked, REVOKED) | roles

    def _require_admin(self, what: str) -> None:
        if ADMIN not in self._credentials.roles:
            raise PermissionDenied(
                f"only an admin of the mesh can {what}, and this node is none: `mesh init` makes the first, "
                "and `mesh invite --role admin` others"
            )

    def _require_grant(self, grant: Grant) -> None:
        own = self._membership.chain
        if not own[0].grant.covers(grant):
            raise PermissionDenied(
                "this node cannot grant more than its own certificate says: `mesh whoami` shows what that is"
            )
        if len(own) >= MAX_CHAIN:
            raise PermissionDenied(f"this node is {len(own)} steps from the root key: it can admit nobody")

    # --- who asks for a certificate ---------------------------------------------------------------

    async def _answer(self, frame: bytes, binding: bytes) -> bytes:
        request = read_request(frame, binding)
        if isinstance(request, Enrolled):
            return self._accept(request.chain)
        self._require_valid_admin()
        if isinstance(request, Renew) and request.retirement is not None:
            return enrolled(await self._succeeded(request.retirement))
        if isinstance(request, Renew):
            member = self._membership.admit(
                request.chain, request.chain[0].public_key, self._clock(), expired_too=True
            )
            return enrolled(self._renewed(member))
        return enrolled(await self._admit(request))

    async def _admit(self, request: Enrol) -> list[Certificate]:
        node_id, now = node_id_of(request.public_key), self._clock()
        hashed = secret_hash(request.secret)
        # Taken first: a node that is revoked meanwhile gets what is void already.
        epoch = self._membership.next_epoch(node_id)
        invited = await self._store.write(lambda rows: jobs.redeem(rows, hashed, node_id, now))
        log.info("%s is admitted by an invitation: %s", short_id(node_id), ", ".join(invited.grant.roles))
        return issue(
            self._identity, self._membership.chain, request.public_key, invited.grant, now, epoch=epoch
        )

    def _renewed(self, member: Member) -> list[Certificate]:
        chain = renewed(self._identity, self._membership.chain, member.chain, self._clock())
        log.info("the certificate of %s is renewed", short_id(member.node_id))
        return chain

    async def _succeeded(self, retirement: Revocation) -> list[Certificate]:
        now = self._clock()
        self._membership.check_retirement(retirement, now)
        chain = succeeded(
            self._identity,
            self._membership.chain,
            retirement,
            now,
            epoch=self._membership.next_epoch(node_id_of(retirement.successor)),
        )
        await self._learn([retirement], None)
        return chain

    def _require_valid_admin(self) -> None:
        """Raises MembershipRefused where what this node signs would be worth nothing."""
        own = self._membership.admit(self._membership.chain, self._identity.public_key, self._clock())
        if not own.has(ADMIN):
            raise MembershipRefused(FORGED, "the node that was asked is no admin and makes no certificates")

    async def _on_renew(self, link: Link, message: Renew) -> None:
        if link.member is None:
            raise ProtocolViolation("a request for a certificate by who has none")
        try:
            self._require_valid_admin()
            link.send(Enrolled(self._renewed(link.member)))
        except MembershipRefused as error:
            log.info("the certificate of %s is not renewed here: %s", link, error)

    async def _on_enrolled(self, link: Link, message: Enrolled) -> None:
        if not self._asked[link]:
            raise ProtocolViolation("a certificate that nobody has asked for")
        self._asked[link] -= 1
        self._adopt(message.chain)

    # --- who was dialled, and whose certificate has expired -----------------------------------------

    def _offer(self, url: str, chain: Sequence[Certificate]) -> None:
        """Renew it from here, as that node may be one that never dials."""
        if ADMIN in self._credentials.roles and url not in self._offers:
            task = asyncio.get_running_loop().create_task(self._renew_there(url, chain))
            self._offers[url] = task
            task.add_done_callback(lambda _: self._offers.pop(url))

    async def _renew_there(self, url: str, chain: Sequence[Certificate]) -> None:
        try:
            self._require_valid_admin()
            member = self._membership.admit(chain, chain[0].public_key, self._clock(), expired_too=True)
            await offer_at(self._transport, url, self._renewed(member))
        except MeshError as error:
            log.info("%s: the expired certificate there is not renewed: %s", url, error)
        else:
            self._peers.dialer.kick()

    def _accept(self, chain: list[Certificate]) -> bytes:
        """Raises MembershipRefused where there is no need of what is offered, or no use."""
        if not self._membership.renewal_due(self._clock()) or not self._adopt(chain):
            raise MembershipRefused(FORGED, "this node has no use for that certificate")
        return enrolled(chain)

    # --- this node's own certificate --------------------------------------------------------------

    def _adopt(self, chain: list[Certificate]) -> bool:
        try:
            if not self._membership.renewed(chain, self._clock()):
                return False
            self._credentials.keep()
        except MeshError as error:
            log.warning("a renewed certificate cannot be used: %s", error)
            return False
        log.info("this node's certificate has been renewed")
        return True

    def _renew_by_root(self) -> None:
        now = self._clock()
        if not self._membership.renewal_due(now) or (root := self._credentials.root()) is None:
            return
        try:
            chain = renewed(root, [], self._membership.chain, now)
        except MembershipRefused as error:
            log.info("the root.key that is here does not renew this node's certificate: %s", error)
        else:
            self._adopt(chain)

    def _check(self) -> None:
        """Look through the links and at this node's own certificate, now and again later."""
        now = self._clock()
        self._close_links(self._unfit())
        self._renew_by_root()
        if self._membership.renewal_due(now):
            asked = [self._ask(link) for link in self._peers.links.values()]
            if not any(asked) and (self._renewing is None or self._renewing.done()):
                self._renewing = asyncio.get_running_loop().create_task(self._renew_at_targets())
        expired = self._membership.expired(now)
        if expired:
            log.warning("this node's certificate has expired: nobody links with it until an admin renews it")
        self._timer = asyncio.get_running_loop().call_later(
            EXPIRED_CHECK_SECONDS if expired else CHECK_SECONDS, self._check
        )

    def _ask(self, link: Link) -> bool:
        """Ask the peer for this node's next certificate; whether it can make one."""
        if link.member is None or not link.member.has(ADMIN):
            return False
        self._asked[link] += 1
        link.send(Renew())
        return True

    async def _renew_at_targets(self) -> None:
        for target in self._peers.dialer.targets:
            try:
                chain = await renew_at(self._transport, target.url, self._identity, self._membership.chain)
            except MeshError as error:
                log.info("%s does not renew this node's certificate: %s", target.url, error)
            else:
                if self._adopt(chain):
                    self._peers.dialer.kick()
                    return

    # --- revocations ------------------------------------------------------------------------------

    def _link_up(self, link: Link) -> None:
        if link.revoked != self._membership.digest():
            self._tell(link, self._membership.facts)
        if self._membership.renewal_due(self._clock()):
            self._ask(link)

    def _link_down(self, link: Link, reason: str) -> None:
        del self._asked[link]

    def _tell(self, link: Link, facts: list[Revocation]) -> None:
        for start in range(0, len(facts), FACTS_PER_MESSAGE):
            link.send(Revocations(facts[start : start + FACTS_PER_MESSAGE]))

    async def _on_revocations(self, link: Link, message: Revocations) -> None:
        if len(message.facts) > FACTS_PER_MESSAGE:  # proving one takes time
            raise ProtocolViolation(f"more than {FACTS_PER_MESSAGE} revocations at once")
        await self._learn(message.facts, link)

    async def _learn(self, facts: list[Revocation], source: Link | None) -> None:
        failure: MembershipRefused | None = None
        new: list[Revocation] = []
        for fact in facts:
            try:
                new += self._membership.learn([fact])
            except MembershipRefused as error:
                failure = error
                break
        if new:
            gone = self._unfit()
            for fact in new:
                if fact.successor:
                    successor = short_id(node_id_of(fact.successor))
                    log.info("%s has changed its key, and is %s now", short_id(fact.node_id), successor)
                else:
                    by = short_id(fact.chain[0].node_id)
                    log.warning("%s was revoked, by %s", short_id(fact.node_id), by)
                if fact.node_id not in self._peers.links:  # else it is unfit, or was invited again
                    gone[fact.node_id] = f"{REVOKED}: {short_id(fact.node_id)} was revoked"
            self._close_links(gone)
            try:
                await self._store.write(lambda rows: jobs.remember_revocations(rows, new))
                for link in list(self._peers.links.values()):
                    if link is not source:
                        self._tell(link, new)
            finally:
                await asyncio.gather(*(self._peers.cut(node_id, why) for node_id, why in gone.items()))
        if failure is not None:
            raise ProtocolViolation(f"a revocation that proves nothing: {failure}")

    def _unfit(self) -> dict[str, str]:
        """The peers that would not be admitted any more, and why."""
        unfit = {}
        for link in self._peers.links.values():
            assert link.member is not None
            try:
                self._membership.still(link.member, self._clock())
            except MembershipRefused as error:
                unfit[link.node_id] = error.reason
        return unfit

    def _close_links(self, reasons: dict[str, str]) -> None:
        for node_id, reason in reasons.items():
            if (link := self._peers.links.get(node_id)) is not None:
                link.close(reason, drop=True)
