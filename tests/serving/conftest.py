from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

import aiohttp

from gym_adapters import Environment, EnvironmentEntry
from gym_adapters.serving.environment_app import environment_app
from gym_adapters.serving.environment_server import EnvironmentServer
from gym_adapters.serving.http_server import HttpLimits, Listener, serving


@dataclass
class Peer:
    """A client of a running server."""

    url: str
    http: aiohttp.ClientSession
    servers: list[EnvironmentServer]

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        async with self.http.post(f"{self.url}{path}", json=body, **options) as answer:
            text = await answer.text()
            self.last = answer
            is_json = answer.content_type == "application/json"
            return answer.status, await answer.json() if is_json else text


Serve = Callable[..., AbstractAsyncContextManager[Peer]]


@asynccontextmanager
async def served(
    *environments: type[Environment[Any]] | EnvironmentEntry,
    http_limits: HttpLimits | None = None,
    listener: Listener | None = None,
    cookies: bool = True,
    **options: Any,
) -> AsyncIterator[Peer]:
    entries = [
        each
        if isinstance(each, EnvironmentEntry)
        else EnvironmentEntry(each.name.lower(), each, None)
        for each in environments
    ]
    jar = aiohttp.CookieJar(unsafe=True) if cookies else aiohttp.DummyCookieJar()
    async with AsyncExitStack() as stack:
        app, servers = await stack.enter_async_context(environment_app(entries, **options))
        url = await stack.enter_async_context(serving(app, listener, limits=http_limits))
        http = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
        yield Peer(url, http, servers)


@pytest.fixture
def serve() -> Serve:
    return served
