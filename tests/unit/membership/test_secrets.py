"""No key, token or secret is in a log, in an error, or in what an object says of itself."""

from __future__ import annotations

import base64
import gc
import logging
import traceback
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import pytest

from mesh import Credentials, Node
from mesh.core.enrolment import SECRET_BYTES, enrol, read_request, read_token
from mesh.errors import MeshError


def forms(secret: bytes) -> set[str]:
    """How it would look."""
    encoded = {base64.b64encode(secret), base64.urlsafe_b64encode(secret), base64.b32encode(secret).lower()}
    return {secret.hex(), repr(secret)[2:-1], *(text.decode().rstrip("=") for text in encoded)}


def secrets_in(home: Path) -> set[str]:
    keys = [*home.glob("*.key"), *home.glob("*.key.next")]
    private, _, _ = (home / "tls.pem").read_text().partition("-----END PRIVATE KEY")
    return {private.splitlines()[1]}.union(*(forms(bytes.fromhex(key.read_text())) for key in keys))


async def said_by_failure(attempt: Awaitable[object]) -> str:
    with pytest.raises(MeshError) as raised:
        await attempt
    return "".join(traceback.format_exception(raised.value)) + repr(raised.value)


async def test_nothing_secret_is_logged_raised_or_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    homes = [tmp_path / name for name in ("hq", "van", "late")]
    credentials = [Credentials.create(homes[0])]
    said: list[str] = []
    async with Node(homes[0], credentials=credentials[0]) as hq:
        assert hq.address is not None
        token = await hq.invite()
        secret = read_token(token).secret
        credentials.append(await Credentials.join(homes[1], token))
        wrong = msgspec.structs.replace(read_token(token), secret=b"?" * SECRET_BYTES).token()
        for bad in (token, wrong, token[:-6], token + "x", " ".join(token)):
            said.append(await said_by_failure(Credentials.join(homes[2], bad)))
        hidden = set().union(forms(secret), {token, token[6:40]}, *map(secrets_in, homes))
        credentials.append(await Credentials.rotate(homes[1], hq.address))
        async with Node(homes[1], credentials=credentials[-1]) as van:
            await van.connect(hq.address)
            await van.settled(10)
            hidden.update(*map(secrets_in, homes))
            request = read_request(enrol(credentials[-1].identity, secret, b"x"), b"x")
            said.append(repr(request) + repr(read_token(token)) + repr(credentials))
            said += [
                repr(each) for each in gc.get_objects() if type(each).__module__.partition(".")[0] == "mesh"
            ]
            await hq.revoke(van.node_id)
        (homes[1] / "identity.key").write_text("5ec7e7" * 12)
        with pytest.raises(MeshError) as raised:
            Credentials.load(homes[1])
        said.append("".join(traceback.format_exception(raised.value)))
        hidden.add("5ec7e7")
    everything = caplog.text + "\n".join(said)
    assert len(said) > 50
    assert "is admitted by an invitation" in caplog.text
    assert {each for each in hidden if each in everything} == set()
