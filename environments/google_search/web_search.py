"""Search by Google's Custom Search API, and pages of the open web.

Source: https://developers.google.com/custom-search/v1/reference/rest/v1/cse/list
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import orjson

from gym_adapters import ToolError, ToolInfrastructureError, UsageError
from gym_adapters.extras import require

from .search_provider import SearchHit

if TYPE_CHECKING:
    import aiohttp

__all__ = ["WebSearch", "open_web_search"]

API = "https://www.googleapis.com/customsearch/v1"
SEARCH_TIMEOUT, PAGE_TIMEOUT = 10.0, 20.0
LARGEST_PAGE = 5 * 1024 * 1024
MOST_REDIRECTS = 5
CACHED = 4096
ResultT = TypeVar("ResultT")


class Cache(Generic[ResultT]):
    """Results by key, the least recently used going first; equal requests wait for one answer."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._found: OrderedDict[str, asyncio.Task[ResultT]] = OrderedDict()

    async def get(self, key: str, make: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """The result under `key`, made where it is not there; failures are not kept."""
        task = self._found.get(key)
        if task is None:
            task = asyncio.ensure_future(_awaited(make))
            self._found[key] = task
            while len(self._found) > self._size:
                self._found.popitem(last=False)
        self._found.move_to_end(key)
        try:
            # Shielded: one rollout's cancellation must not fail another that waits for the same.
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            raise
        except Exception:
            self._found.pop(key, None)
            raise


async def _awaited(make: Callable[[], Awaitable[ResultT]]) -> ResultT:
    return await make()


class WebSearch:
    """A `SearchProvider` over the web. Make it by `open_web_search`, use it in ``async with``.

    Args:
        session: Sends the requests; closed at the end of the block.
        key: The API's key. It goes into requests, and nowhere else.
        engine: Id of the search engine (``cx``).
        text_of: Gives the text of an HTML page; ``None`` where it has none.
        api: Address of the API.
        allow_private: Let pages come from private addresses too; for tests.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        key: str,
        engine: str,
        text_of: Callable[[str], str | None],
        api: str = API,
        allow_private: bool = False,
    ) -> None:
        self._session = session
        self._key, self._engine, self._api = key, engine, api
        self._text_of = text_of
        self._allow_private = allow_private
        self._searches: Cache[list[SearchHit]] = Cache(CACHED)
        self._pages: Cache[str] = Cache(CACHED)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def search(self, query: str) -> list[SearchHit]:
        """At most ten results of the search engine."""
        return await self._searches.get(query, lambda: self._search(query))

    async def browse(self, url: str) -> str:
        """The text of a page; addresses in private networks are refused, also after redirects."""
        return await self._pages.get(url, lambda: self._browse(url))

    async def _search(self, query: str) -> list[SearchHit]:
        import aiohttp

        parameters = {"key": self._key, "cx": self._engine, "q": query[:2000]}
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT):
                async with self._session.get(self._api, params=parameters) as response:
                    status, body = response.status, await response.read()
        except TimeoutError as error:
            raise ToolInfrastructureError("the search API did not answer in time") from error
        except (OSError, aiohttp.ClientError) as error:
            # Its message may hold the address, and the address the key.
            raise ToolInfrastructureError(f"no search API: {type(error).__name__}") from None
        if status != 200:
            raise ToolInfrastructureError(f"the search API answered with status {status}")
        try:
            items = orjson.loads(body).get("items", [])
            return [
                SearchHit(item["title"], item["link"], item.get("snippet", "")) for item in items
            ]
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ToolInfrastructureError("the search API's answer is not readable") from error

    async def _browse(self, url: str) -> str:
        import aiohttp

        try:
            async with asyncio.timeout(PAGE_TIMEOUT):
                html = await self._page(url)
        except TimeoutError as error:
            raise ToolError("the page did not come in time") from error
        except (OSError, ValueError, aiohttp.ClientError) as error:
            raise ToolError(f"the page can't be had: {type(error).__name__}") from error
        text = await asyncio.to_thread(self._text_of, html)
        if not text:
            raise ToolError("the page holds no text")
        return text

    async def _page(self, url: str) -> str:
        for _ in range(MOST_REDIRECTS + 1):
            await self._check(url)
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.headers.get("Location", ""))
                    continue
                if response.status != 200:
                    raise ToolError(f"the page's server answered with status {response.status}")
                body = await response.content.read(LARGEST_PAGE)
                while len(body) < LARGEST_PAGE and not response.content.at_eof():
                    body += await response.content.read(LARGEST_PAGE - len(body))
                return body.decode(response.charset or "utf-8", errors="replace")
        raise ToolError("the page redirects too often")

    async def _check(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ToolError("an address starts with http:// or https:// and names a host")
        if self._allow_private:
            return
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
        if not all(ipaddress.ip_address(entry[4][0]).is_global for entry in found):
            raise ToolError("this address is not on the public web")


def open_web_search(*, key_variable: str, engine_variable: str) -> WebSearch:
    """A `WebSearch` whose key and engine come from environment variables.

    Raises:
        MissingExtra: If aiohttp or trafilatura is not installed.
        UsageError: If a variable is not set.
    """
    require("aiohttp", "search", "web search")
    trafilatura = require("trafilatura", "search", "web search")
    import aiohttp

    values = []
    for variable in (key_variable, engine_variable):
        if not os.environ.get(variable):
            raise UsageError(f"web search needs the environment variable {variable}")
        values.append(os.environ[variable])

    def text_of(html: str) -> str | None:
        text: str | None = trafilatura.extract(html)
        return text

    connector = aiohttp.TCPConnector(limit=32, resolver=_public_resolver())
    session = aiohttp.ClientSession(connector=connector, trust_env=False)
    return WebSearch(session, key=values[0], engine=values[1], text_of=text_of)


def _public_resolver() -> aiohttp.abc.AbstractResolver:
    """Resolves names to public addresses only: a name may resolve otherwise the second time."""
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult

    class PublicResolver(AbstractResolver):
        def __init__(self) -> None:
            self._inner = aiohttp.ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            found = await self._inner.resolve(host, port, family)
            if not all(ipaddress.ip_address(entry["host"]).is_global for entry in found):
                raise OSError(f"{host} is not on the public web")
            return found

        async def close(self) -> None:
            await self._inner.close()

    return PublicResolver()
