"""Requests made from our own OpenAPI documents, right and wrong ones: no 500, and no hang."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("schemathesis", reason="needs schemathesis")
pytest.importorskip("transformers", reason="needs the extra tokens")

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from gym_adapters import Environment, EnvironmentEntry, Task, Transcript, tool
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.rollouts.models import SharedModel
from gym_adapters.serving.agent_server import AgentServer
from gym_adapters.serving.environment_app import environment_app
from gym_adapters.serving.gateway import Gateway
from gym_adapters.serving.http_server import bare_app, serving
from gym_adapters.serving.openapi import SESSION
from gym_adapters.serving.sessions import SessionLimits
from gym_adapters.testing import ScriptedGenerator
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer

TIMEOUT = 30


class Box(Environment[Task]):
    live = 0

    async def start(self) -> None:
        type(self).live += 1
        self.held = 0

    @tool
    async def put(self, things: list[str], deep: bool = False) -> int:
        """Put things into the box."""
        self.held += len(things)
        return self.held

    async def verify(self, transcript: Transcript) -> float:
        return float(self.held)

    async def close(self) -> None:
        type(self).live -= 1


def policy() -> TokenChatModel:
    tokenizer = tiny_tokenizer()
    said = tokenizer("done<|im_end|>", add_special_tokens=False)["input_ids"]
    return TokenChatModel(
        ScriptedGenerator(lambda *_: said),
        TemplateRenderer(tokenizer),
        output_parser(tokenizer),
        name="scripted",
    )


LIMITS = SessionLimits(max_sessions=50)


@asynccontextmanager
async def environments() -> AsyncIterator[Any]:
    entry = EnvironmentEntry("box", Box, None)
    async with environment_app([entry], sessions=LIMITS) as (app, servers):
        yield app, lambda: len(servers[0].sessions)


@asynccontextmanager
async def gateway() -> AsyncIterator[Any]:
    app = bare_app()
    async with Gateway(policy(), limits=LIMITS) as served:
        served.add_routes(app)
        yield app, lambda: len(served.sessions)


@asynccontextmanager
async def agent() -> AsyncIterator[Any]:
    app = bare_app()
    entry = EnvironmentEntry("box", Box, None)
    async with AgentServer(entry, SharedModel(policy())) as server:
        server.add_routes(app)
        yield app, lambda: server.under_way


@contextmanager
def running(opened: AbstractAsyncContextManager[Any]) -> Iterator[tuple[str, Callable[[], int]]]:
    """A server in a thread of its own; its address, and how many attempts it holds."""
    ready: Any = threading.Event()
    told: dict[str, Any] = {}

    async def serve() -> None:
        told["loop"], told["end"] = asyncio.get_running_loop(), asyncio.Event()
        async with opened as (app, held), serving(app) as url:
            told["url"], told["held"] = url, held
            ready.set()
            await told["end"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(TIMEOUT)
    try:
        yield told["url"], told["held"]
    finally:
        told["loop"].call_soon_threadsafe(told["end"].set)
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def no_server_error(status: int, body: bytes) -> None:
    assert status < 500 or status == 503, body
    if status >= 400 and status not in (404, 405):
        error = json.loads(body)["error"]
        assert {type(error["type"]), type(error["message"])} == {str}


@pytest.mark.parametrize("server", [environments, gateway, agent])
@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize(
    "examples", [6, pytest.param(100, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
)
def test_no_request_breaks_a_server(server: Any, mode: str, examples: int) -> None:
    Box.live = 0
    with running(server()) as (url, held), requests.Session() as http:
        schema = schemathesis.openapi.from_dict(http.get(f"{url}/openapi.json").json())
        operations = [result.ok() for result in schema.get_all_operations()]
        if mode == "negative":
            # One that takes nothing can't be asked wrongly.
            operations = [each for each in operations if each.body or each.headers]
        assert len(operations) >= 3
        row = {"responses_create_params": {"input": "fill it"}}
        opened = http.post(f"{url}/seed_session", json=row, timeout=TIMEOUT)
        for each in operations:
            kind = schemathesis.GenerationMode(mode)

            @given(case=each.as_strategy(generation_mode=kind), in_session=st.booleans())
            @settings(
                max_examples=examples,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def sent(case: Any, in_session: bool) -> None:
                if in_session and SESSION in opened.headers:
                    case.headers[SESSION] = opened.headers[SESSION]
                answer = case.call(base_url=url, session=http, timeout=TIMEOUT)
                no_server_error(answer.status_code, answer.content)

            sent()
        assert http.get(url, timeout=TIMEOUT).json() == {"status": "ok"}
        # Every attempt that is open belongs to a session that will expire.
        if server is environments:
            assert Box.live == held() <= LIMITS.max_sessions
        if server is agent:
            assert Box.live == held() == 0
    assert Box.live == 0


def test_the_documents_are_pages_too() -> None:
    with running(environments()) as (url, _):
        page = requests.get(f"{url}/docs", timeout=TIMEOUT).text
        document = requests.get(f"{url}/openapi.json", timeout=TIMEOUT).json()
    assert "<code>/put</code>" in page
    assert "http" not in page.replace(url, "")
    body = document["paths"]["/put"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == dict(Box.class_tools["put"].parameters)


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST /verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /put HTTP/1.1\r\nHost: x\r\nCookie: \xff=\x80;;=\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /put HTTP/1.1\r\nX-NeMo-Gym-Session-Token: \xff\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /\xff\xfe HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"POST /%00%ff HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_malformed_headers_are_refused_and_the_server_lives(raw: bytes) -> None:
    async with environments() as (app, held), serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(raw)
            writer.write_eof()
            async with asyncio.timeout(TIMEOUT):
                status = await reader.readline()
                await reader.read()
            writer.close()
            await writer.wait_closed()
            assert not status or 400 <= int(status.split()[1]) < 500
        assert held() == 0
