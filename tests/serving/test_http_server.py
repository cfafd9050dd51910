from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from gym_adapters import InvalidConfig
from gym_adapters.serving.http_errors import json_bytes
from gym_adapters.serving.http_server import Listener, _bound, bare_app, serving
from gym_adapters.serving.sessions import SessionLimits, SessionStore


def test_the_listening_socket_names_its_protocol_so_that_answers_are_not_delayed() -> None:
    with _bound(Listener()) as bound:
        assert bound.proto == socket.IPPROTO_TCP


async def test_a_port_that_is_taken_is_one_clear_error() -> None:
    async with serving(bare_app()) as url:
        with pytest.raises(InvalidConfig, match="can't listen"):
            async with serving(bare_app(), Listener(port=int(url.rpartition(":")[2]))):
                pass


async def test_leaving_ends_the_server_also_with_a_client_connected() -> None:
    async with aiohttp.ClientSession() as client:
        async with serving(bare_app()) as url, client.get(url) as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_no_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GYM_ADAPTERS_SERVE_TOKEN", raising=False)
    assert Listener(host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_other_interfaces_do(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GYM_ADAPTERS_SERVE_TOKEN", raising=False)
    with pytest.raises(InvalidConfig, match="token"):
        Listener(host)


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/9.9\r\n\r\n", b"\x00\xff" * 100, b"POST /x HTTP/1.1\r\n"]
)
async def test_bytes_that_are_no_request_leave_the_server_answering(raw: bytes) -> None:
    async with serving(bare_app()) as url:
        port = int(url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        await writer.drain()
        writer.close()
        async with aiohttp.ClientSession() as client, client.get(url) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("value", [2**80, {"a": {1}}, float("nan"), "\ud800", {3: object}])
def test_whatever_a_verdict_holds_can_be_sent(value: Any) -> None:
    assert json_bytes({"value": value})


async def test_a_session_in_use_does_not_expire_and_each_is_closed_once() -> None:
    closed: list[tuple[str, bool]] = []
    now = 0.0

    async def close(value: str, expired: bool) -> None:
        closed.append((value, expired))

    store = SessionStore(close, limits=SessionLimits(idle_timeout=10), clock=lambda: now)
    one, _ = store.add("one"), store.add("two")
    async with store.using(one):
        now = 11.0
        await store.sweep()
        assert closed == [("two", True)]
    now = 20.0
    await store.sweep()
    assert len(store) == 1
    assert await store.close(one)
    assert not await store.close(one)
    assert closed == [("two", True), ("one", False)]
    assert (store.counts.opened, store.counts.expired, store.counts.closed) == (2, 1, 1)


@pytest.mark.parametrize(
    ("origin", "token", "status"),
    [
        (None, None, 200),
        ("http://127.0.0.1:9999", None, 200),
        ("http://localhost:3000", None, 200),
        ("http://[::1]:3000", None, 200),
        ("https://evil.example", None, 403),
        ("http://127.0.0.1.evil.example", None, 403),
        ("http://[", None, 403),
        ("null", None, 403),
        ("https://mine.example", "secret", 200),
    ],
)
async def test_pages_of_other_sites_reach_nothing_without_a_token(
    origin: str | None, token: str | None, status: int
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with (
        serving(bare_app(), Listener(token=token)) as url,
        aiohttp.ClientSession() as http,
        http.get(url, headers=headers) as answer,
    ):
        assert answer.status == status
