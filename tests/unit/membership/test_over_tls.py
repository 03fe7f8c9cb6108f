"""Closed meshes over real sockets, and somebody in the middle of them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh import Credentials, CredentialsUnusable, HandshakeFailed, InvitationRefused, Node, PeerUnreachable
from mesh.core.enrolment import Invitation, read_token
from mesh.errors import LinkClosed, MeshError
from mesh.network.tls import Tls, make_certificate
from mesh.network.transport import BULK_PATH, Connection
from mesh.network.websocket import WebSocketTransport


async def joined(node: Node, home: Path, **grant: str) -> Credentials:
    return await Credentials.join(home, await node.invite(**grant))  # type: ignore[arg-type]


@asynccontextmanager
async def headquarters(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node(tmp_path / "hq", credentials=Credentials.create(tmp_path / "hq")) as hq:
        yield hq


class ManInTheMiddle:
    """Speaks TLS with both sides, under a certificate of its own, and passes on what they say."""

    def __init__(self, victim: str, certificate: Path) -> None:
        certificate.write_bytes(make_certificate())
        self._transport = WebSocketTransport(Tls(certificate))
        self._victim = victim
        self.passed_on: list[bytes] = []

    async def listen(self) -> str:
        self._listener = await self._transport.listen("127.0.0.1:0", self._accept)
        return self._listener.address

    async def close(self) -> None:
        await self._listener.close()

    async def _accept(self, dialler: Connection) -> None:
        acceptor = await self._transport.dial(self._victim + dialler.path.rstrip("/"))
        for connection in (dialler, acceptor):
            connection.trust()
        pumps = {asyncio.create_task(self._pump(a, b)) for a, b in ((dialler, acceptor), (acceptor, dialler))}
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for connection in (dialler, acceptor):
            await connection.close()
        await asyncio.wait(pumps)

    async def _pump(self, source: Connection, target: Connection) -> None:
        try:
            while True:
                message = await source.receive()
                self.passed_on.append(bytes(message))
                await target.send(message)
        except LinkClosed as error:
            await target.close(error.reason)


async def test_a_man_in_the_middle_authenticates_nobody(tmp_path: Path) -> None:
    async with headquarters(tmp_path) as hq:
        assert hq.address is not None
        van_credentials = await joined(hq, tmp_path / "van")
        mallory = ManInTheMiddle(hq.address, tmp_path / "tls")
        address = await mallory.listen()
        async with Node(credentials=van_credentials, listen=None) as van:
            with pytest.raises(HandshakeFailed, match="does not hold the key"):
                await van.connect(address)
            assert van._parts is not None
            with pytest.raises(HandshakeFailed, match="does not hold the key"):
                await van._parts.peers.dial_bulk_at(address, hq.node_id)
            # Both hellos and the acceptor's proof, twice: the dialler has never proven itself to it.
            assert len(mallory.passed_on) == 6
            assert not hq.presence().peers
            token = read_token(await hq.invite())
            misled = Invitation(token.mesh_id, [address], token.pin, token.secret)
            with pytest.raises(InvitationRefused, match="nothing was told to it"):
                await Credentials.join(tmp_path / "van2", misled.token())
            assert len(mallory.passed_on) == 6
            assert await van.connect(hq.address) == hq.node_id
        await mallory.close()


async def test_blobs_move_over_tls_connections_of_their_own(tmp_path: Path) -> None:
    async with headquarters(tmp_path) as hq:
        assert hq.address is not None
        credentials = await joined(hq, tmp_path / "van")
        async with Node(tmp_path / "van", credentials=credentials) as van:
            await van.connect(hq.address)
            content = bytes(range(256)) * 20_000
            token = await hq.attachments.add(content)
            await hq.collection("files").insert({"_id": "f", "token": token.to_dict()})
            assert await (await van.attachments.fetch(token, timeout=30)).read() == content
            assert van._parts is not None
            connection = await van._parts.peers.dial_bulk_at(hq.address, hq.node_id)
            assert connection.path == BULK_PATH
            assert connection.binding == hq._parts.peers.binding if hq._parts else False
            await connection.close()


async def test_a_member_comes_back_with_what_it_has_stored(tmp_path: Path) -> None:
    async with headquarters(tmp_path) as hq:
        assert hq.address is not None
        await joined(hq, tmp_path / "van", role="publish")
        credentials = Credentials.load(tmp_path / "van")
        assert credentials.roles == {"member", "publish"}
        assert sorted(path.name for path in (tmp_path / "van").iterdir()) == [
            "certificates.json", "identity.key", "tls.pem"
        ]  # fmt: skip
        async with Node(tmp_path / "van", credentials=credentials) as van:
            assert await van.connect(hq.address) == hq.node_id


async def test_a_failed_join_leaves_no_member_behind_and_can_be_repeated(tmp_path: Path) -> None:
    async with headquarters(tmp_path) as hq:
        token = await hq.invite()
        await hq.pause()
        with pytest.raises(PeerUnreachable):
            await Credentials.join(tmp_path / "van", token)
        with pytest.raises(MeshError):
            Credentials.load(tmp_path / "van")
        await hq.resume()
        assert (await Credentials.join(tmp_path / "van", token)).mesh_id == Credentials.load(
            tmp_path / "hq"
        ).mesh_id


async def test_who_was_revoked_joins_again_from_the_same_directory(tmp_path: Path) -> None:
    async with headquarters(tmp_path) as hq:
        assert hq.address is not None
        first = await joined(hq, tmp_path / "van")
        await hq.revoke(first.node_id)
        again = await joined(hq, tmp_path / "van")
        assert again.node_id == first.node_id
        async with Node(tmp_path / "van", credentials=again) as van:
            assert await van.connect(hq.address) == hq.node_id
            await van.settled(10)
            assert hq.standings() == {hq.node_id: "admin", van.node_id: "member"}
        Credentials.create(tmp_path / "other")
        with pytest.raises(CredentialsUnusable, match="a member of a mesh already"):
            await joined(hq, tmp_path / "other")


async def test_older_tls_is_refused(tmp_path: Path) -> None:
    async with headquarters(tmp_path) as hq:
        assert hq.address is not None
        host, port = hq.address.removeprefix("wss://").rsplit(":", 1)
        older = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        older.check_hostname, older.verify_mode = False, ssl.CERT_NONE
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError):
            await asyncio.open_connection(host, int(port), ssl=older)
