"""A server that starts and stops with a block, and what guards every request to it."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import urlsplit

from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.serving.http_errors import HttpError, error_of, error_response

require("fastapi", "serve", "serving")
require("uvicorn", "serve", "serving")

import uvicorn  # noqa: E402 - after the check that names the extra
from fastapi import FastAPI, Request, Response  # noqa: E402

__all__ = [
    "Guard",
    "HttpLimits",
    "Listener",
    "answering",
    "bare_app",
    "serving",
    "until_disconnected",
]

log = logging.getLogger(__name__)
access_log = logging.getLogger("gym_adapters.serving.access")

ResultT = TypeVar("ResultT")
Handler = Callable[[Request], Awaitable[Response]]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_VARIABLE = "GYM_ADAPTERS_SERVE_TOKEN"
CLIENT_CLOSED = 499


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on one request.

    Attributes:
        max_body: Most bytes of a request's body.
        body_timeout: Seconds for a client to send it.
    """

    max_body: int = 64 * 1024 * 1024
    body_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Where to listen.

    Attributes:
        host: Address of an interface; only loopback ones go without a token.
        port: 0 takes a free one.
        token: Clients must send it as ``Authorization: Bearer ...``; by default what the
            environment variable `TOKEN_VARIABLE` holds.

    Raises:
        InvalidConfig: If others could reach the server and there is no token.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(
        default_factory=lambda: os.environ.get(TOKEN_VARIABLE) or None, repr=False
    )

    def __post_init__(self) -> None:
        if self.token is None and not _is_loopback(self.host):
            raise InvalidConfig(
                f"{self.host} can be reached by others, so a token is needed: put one into the "
                f"environment variable {TOKEN_VARIABLE}, or listen on 127.0.0.1"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local(origin: bytes) -> bool:
    try:
        host = urlsplit(origin.decode("latin-1")).hostname
    except ValueError:
        return False
    return host is not None and _is_loopback(host)


class Guard:
    """Wraps an ASGI application: token, origin, size and time of bodies, and the access log.

    The log (logger ``gym_adapters.serving.access``) has method, path, status, milliseconds and
    bytes as fields of each record. Bodies, headers and the names of sessions are never logged.

    Args:
        app: What to guard.
        token: What clients must send; ``None`` for nothing.
        limits: Bounds on one request.
    """

    def __init__(
        self, app: AsgiApp, *, token: str | None = None, limits: HttpLimits | None = None
    ) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._limits = limits if limits is not None else HttpLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket connection."""
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        record = {"status": CLIENT_CLOSED, "bytes_out": 0, "bytes_in": 0}

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record["status"] = message["status"]
            record["bytes_out"] += len(message.get("body", b""))
            await send(message)

        try:
            self._check_token(scope)
            self._check_origin(scope)
            body = await self._body(scope, receive)
            if body is None:
                return
            record["bytes_in"] = len(body)
            await self._app(scope, _replaying(body, receive), counted)
        except HttpError as error:
            await error_response(error)(scope, receive, counted)
        finally:
            taken = (time.perf_counter() - began) * 1000
            _log_access(scope, record, taken)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        record = {"status": 101, "bytes_out": 0, "bytes_in": 0}
        try:
            self._check_token(scope)
            self._check_origin(scope)
            await self._app(scope, receive, send)
        except HttpError as error:
            # Before it is accepted, a connection that is closed is answered with 403.
            record["status"] = 403
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": error.kind})
        finally:
            _log_access({**scope, "method": "WS"}, record, (time.perf_counter() - began) * 1000)

    def _check_token(self, scope: Scope) -> None:
        if self._expected is None or (scope.get("method") == "GET" and scope["path"] == "/"):
            return
        given = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        if not hmac.compare_digest(given, self._expected):
            raise HttpError(
                401,
                "unauthorized",
                "send the server's token as Authorization: Bearer ...",
                headers={"www-authenticate": "Bearer", "connection": "close"},
            )

    def _check_origin(self, scope: Scope) -> None:
        """Without a token, pages of other sites must not reach what only this machine can."""
        origin = next((v for k, v in scope["headers"] if k == b"origin"), None)
        if self._expected is None and origin is not None and not _is_local(origin):
            raise HttpError(
                403,
                "foreign_origin",
                f"pages from elsewhere are served with a token only: set {TOKEN_VARIABLE}",
                headers={"connection": "close"},
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; ``None`` where the client went away."""
        too_large = HttpError(
            413,
            "too_large",
            f"a body may have {self._limits.max_body} bytes",
            headers={"connection": "close"},
        )
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self._limits.max_body:
            raise too_large
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > self._limits.max_body:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            raise HttpError(
                408,
                "timeout",
                f"the body did not arrive within {self._limits.body_timeout:g} s",
                headers={"connection": "close"},
            ) from None


def _replaying(body: bytes, receive: Receive) -> Receive:
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


def _log_access(scope: Scope, record: dict[str, int], taken: float) -> None:
    parts = scope["path"].split("/")
    # Who knows the name of a session can use it.
    path = "/".join("*" if before == "sessions" else part for before, part in _pairs(parts))
    access_log.info(
        "%s %s %d %.1f ms",
        *(scope["method"], path[:200], record["status"], taken),
        extra={"http": {"method": scope["method"], "path": path[:200], "ms": taken, **record}},
    )


def _pairs(parts: list[str]) -> Iterator[tuple[str, str]]:
    return zip(["", *parts], parts, strict=False)


def answering(handler: Handler) -> Handler:
    """`handler`, with what it raises made into an answer; only an unknown error is logged."""

    @wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            known = error_of(error)
            if known is None:
                log.exception("a request to %s failed", request.url.path[:200])
                known = HttpError(500, "internal", f"{type(error).__name__}, see the server's log")
            return error_response(known)

    return answer


async def until_disconnected(request: Request, work: Awaitable[ResultT]) -> ResultT:
    """What `work` gives; where the client goes away first, `work` is cancelled.

    Raises:
        HttpError: If the client went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HttpError(CLIENT_CLOSED, "client_closed", "the client went away")
        return task.result()
    finally:
        unfinished = [each for each in (task, gone) if not each.done()]
        for each in unfinished:
            each.cancel()
        if unfinished:
            await asyncio.wait(unfinished)


async def _disconnected(request: Request) -> None:
    await request.body()
    while (await request.receive())["type"] != "http.disconnect":
        pass


def bare_app() -> FastAPI:
    """An application without documentation pages, that answers ``GET /`` when it is alive."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def health(request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    app.add_route("/", health, methods=["GET"])
    return app


class _Server(uvicorn.Server):  # type: ignore[misc] # its types are not checked
    """Says when it listens, and leaves signals to the caller."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bound(listener: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    # The protocol must be named: asyncio switches delays (Nagle's) off for named TCP alone, and
    # every answer would wait 40 ms for the client's acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((listener.host, listener.port))
        bound.listen(2048)
    except BaseException:
        bound.close()
        raise
    return bound


@asynccontextmanager
async def serving(
    app: AsgiApp,
    listener: Listener | None = None,
    *,
    limits: HttpLimits | None = None,
    websockets: bool = False,
) -> AsyncIterator[str]:
    """Serve `app` while the block runs; yields its address, ``http://host:port``.

    Args:
        app: What to serve.
        listener: Where; by default a free port of this machine.
        limits: Bounds on one request.
        websockets: Whether it takes WebSocket connections, too.

    Raises:
        InvalidConfig: If nothing can listen there.
    """
    listener = listener if listener is not None else Listener()
    limits = limits if limits is not None else HttpLimits()
    guarded = Guard(app, token=listener.token, limits=limits)
    try:
        bound = _bound(listener)
    except OSError as error:
        raise InvalidConfig(f"can't listen on {listener.host}:{listener.port}: {error}") from error
    with bound:
        config = uvicorn.Config(
            guarded,
            lifespan="off",
            ws="websockets-sansio" if websockets else "none",
            ws_max_size=limits.max_body,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        )
        server = _Server(config)
        running = asyncio.create_task(server.serve(sockets=[bound]))
        listening = asyncio.create_task(server.listening.wait())
        try:
            await asyncio.wait((running, listening), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
                raise InvalidConfig(f"the server on {listener.host}:{listener.port} did not start")
            host = f"[{listener.host}]" if ":" in listener.host else listener.host
            yield f"http://{host}:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            listening.cancel()
            await asyncio.wait((running, listening))
