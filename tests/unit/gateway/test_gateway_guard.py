"""Who is let in."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
import websockets
from starlette.responses import PlainTextResponse
from websockets.exceptions import ConnectionClosed

from mesh import Node, PermissionDenied
from mesh.gateway import Gateway
from tests.unit.gateway.test_gateway_api import error_of

TOKEN = "correct-horse-battery-staple"
APP = "https://app.example.org"


def close_code(closed: ConnectionClosed) -> int:
    assert closed.rcvd is not None
    return closed.rcvd.code


@pytest.fixture
async def closed(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        Gateway(node, token=TOKEN, origins=[APP]) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "host, status",
    [
        ("127.0.0.1:8080", 200),
        ("LOCALHOST", 200),
        ("[::1]:80", 200),
        ("evil.example.org", 403),
        ("evil.example.org:8080", 403),
        ("127.0.0.1.evil.example.org", 403),
        ("", 403),
        ("[", 403),
    ],
)
async def test_a_name_that_others_made_point_here_is_refused(
    client: httpx.AsyncClient, host: str, status: int
) -> None:
    assert (await client.get("/api/node", headers={"host": host})).status_code == status


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"origin": "SELF"}, 200),
        ({"origin": "http://localhost:1"}, 403),
        ({"origin": APP}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://["}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, 200),
    ],
)
async def test_pages_of_others_are_refused(
    client: httpx.AsyncClient, gateway: Gateway, headers: dict[str, str], status: int
) -> None:
    headers = {name: value.replace("SELF", gateway.url) for name, value in headers.items()}
    assert (await client.get("/api/node", headers=headers)).status_code == status


async def test_a_form_of_another_site_writes_nothing(client: httpx.AsyncClient, node: Node) -> None:
    response = await client.post(
        "/api/collections/cars/documents", content=b"{}", headers={"origin": "http://evil.example.org"}
    )
    assert response.status_code == 403
    posted = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    response = await client.post("/api/collections/cars/documents", content=b"{}", headers=posted)
    assert response.status_code == 403
    assert await node.collection("cars").count() == 0


async def test_an_allowed_page_is_let_in(closed: httpx.AsyncClient) -> None:
    asked = await closed.options(
        "/api/collections/cars/documents/c1",
        headers={
            "origin": APP,
            "access-control-request-method": "PUT",
            "access-control-request-headers": "authorization",
        },
    )
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == APP
    answer = await closed.get("/api/node", headers={"origin": APP, "authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    asked = await closed.options(
        "/api/node", headers={"origin": "http://evil.org", "access-control-request-method": "PUT"}
    )
    assert "access-control-allow-origin" not in asked.headers


async def test_the_token(
    closed: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.DEBUG):
        for client in ("httpx", "httpcore", "websockets.client"):
            monkeypatch.setattr(logging.getLogger(client), "disabled", True)
        for path in ("/api/node", "/metrics", "/blobs/x", "/api/openapi.json"):
            refused = await closed.get(path)
            assert error_of(refused)[0] == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            for wrong in ("-", "x", TOKEN[:-1], TOKEN + "x", "ü"):
                headers = [(b"authorization", f"Bearer {wrong}".encode())]
                assert (await closed.get(path, headers=headers)).status_code == 401
                assert (await closed.get(path, params={"access_token": wrong})).status_code == 401
        assert (await closed.get("/healthz")).status_code == 200
        shown = {"authorization": f"bearer {TOKEN}"}
        assert (await closed.get("/api/node", headers=shown)).status_code == 200
        assert (await closed.get("/api/node", params={"access_token": TOKEN})).status_code == 200
        found = await closed.get(
            "/api/collections/cars/documents", params={"limit": "2", "access_token": TOKEN, "fields": "a b+c"}
        )
        assert found.status_code == 200

        url = f"{str(closed.base_url).replace('http', 'ws')}/yjs/notes/n1"
        async with websockets.connect(f"{url}?access_token={TOKEN}"):
            pass
        for query in ("", f"?access_token={TOKEN[:-1]}"):
            async with websockets.connect(url + query) as refused_client:
                with pytest.raises(ConnectionClosed) as refusal:
                    await refused_client.recv()
                assert close_code(refusal.value) == 4401
    assert TOKEN not in caplog.text


async def test_websockets_of_other_pages_are_refused(gateway: Gateway) -> None:
    url = f"{gateway.url.replace('http', 'ws')}/yjs/notes/n1"
    async with websockets.connect(url, additional_headers={"origin": "http://evil.example.org"}) as client:
        with pytest.raises(ConnectionClosed) as refusal:
            await client.recv()
        assert close_code(refusal.value) == 4403
    async with websockets.connect(url, additional_headers={"origin": gateway.url}):
        pass


async def test_off_loopback_a_token_is_needed(node: Node) -> None:
    for listen in ("0.0.0.0:0", "[::]:0", "192.0.2.1:80", "hq.example.org:80"):
        with pytest.raises(PermissionDenied, match="token"):
            Gateway(node, listen)
        Gateway(node, listen, TOKEN)
    for weak in ("", "short", "ü" * 20):
        with pytest.raises(PermissionDenied, match="characters"):
            Gateway(node, token=weak)


async def test_pages_of_the_application_need_no_token(node: Node) -> None:
    page = PlainTextResponse("hello")
    async with (
        Gateway(node, token=TOKEN, pages={"/": page}) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        assert (await client.get("/index.html")).text == "hello"
        assert (await client.get("/index.html", headers={"host": "evil.org"})).status_code == 403
        assert (await client.get("/api/node")).status_code == 401
