r"""NeMo Gym's resources servers as environments: a url, and rows in its format.

::

    gym-adapters collect gym_adapters.bridges.nemo_gym:NemoGymResources \
        --set url=http://127.0.0.1:8000 -i rows.jsonl -m transformers:./model

Seeding, tools and verdict go over HTTP, each request once: what has side effects is never repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import quote, urlsplit

import orjson
from pydantic import field_validator

from gym_adapters.bridges.bearer import bearer_headers
from gym_adapters.environment import Environment, EnvironmentConfig, Transcript
from gym_adapters.errors import (
    Boundary,
    EnvironmentFailure,
    InvalidConfig,
    InvalidRow,
    JudgeError,
    RolloutError,
    RolloutTimeout,
    SandboxError,
    ToolInfrastructureError,
    VerifierError,
)
from gym_adapters.extras import require
from gym_adapters.items import FunctionTool, Item, check_items, input_items, item_text
from gym_adapters.reward import Reward, StopReason
from gym_adapters.task import Task
from gym_adapters.tools import Tool

aiohttp = require("aiohttp", "remote", "NeMo Gym's servers")

__all__ = ["NemoGymConfig", "NemoGymResources", "response_object"]

SESSION_HEADER = "X-NeMo-Gym-Session-Token"
SHOWN = 500
# No name of a model's tool may reach these.
ENDPOINTS = frozenset({"seed_session", "verify", "aggregate_metrics", "reverify_mode", "close"})

_NAMED: Mapping[str, type[RolloutError]] = {
    Boundary.JUDGE.value: JudgeError,
    Boundary.SANDBOX.value: SandboxError,
    Boundary.TIMEOUT.value: RolloutTimeout,
    Boundary.ENVIRONMENT.value: EnvironmentFailure,
    Boundary.TOOL.value: ToolInfrastructureError,
}


class NemoGymConfig(EnvironmentConfig):
    """Where the server is.

    Attributes:
        url: Its address, with the path of the environment where it serves several.
        token_variable: Environment variable that holds its bearer token, if it wants one.
        timeout: Seconds for one request.
        max_connections: Most requests at once; the others wait.
        max_bytes: Most bytes of an answer.
    """

    url: str = "http://127.0.0.1:8000"
    token_variable: str | None = None
    timeout: float = 120.0
    max_connections: int = 256
    max_bytes: int = 64 * 1024 * 1024

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write it as http://host:port")
        return url.rstrip("/")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    cookies: Mapping[str, str]
    session: str | None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class NemoGymResources(Environment[Task]):
    """An environment behind a NeMo Gym resources server.

    Prompt and tools are the row's, unless the server gives others when it is seeded. What it
    answers to a call is what the model reads, its 4xx answers too; a 5xx ends the rollout as
    unscored.
    """

    Config = NemoGymConfig
    config: NemoGymConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Any]:
        """A pool of connections."""
        if not isinstance(config, NemoGymConfig):
            raise InvalidConfig(f"{cls.name} needs a NemoGymConfig")
        headers = {"Content-Type": "application/json", **bearer_headers(config.token_variable)}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_connections),
            timeout=aiohttp.ClientTimeout(total=config.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
        ) as client:
            yield client

    async def start(self) -> None:
        """Seed a session with the row."""
        self._cookies: dict[str, str] = {}
        self._session: str | None = None
        answer = await self._post("seed_session", self.task.to_row())
        if answer.status == 422:
            raise InvalidRow(f"the server refuses the row: {answer.text[:SHOWN]}")
        self._expect_success(answer, "seed_session", EnvironmentFailure)
        self._session = answer.session
        self._seeded = _object(answer.body)

    async def prompt(self) -> Sequence[Item]:
        """What the server says that the model reads first, or the row's input."""
        told = self._seeded.get("obs")
        if not isinstance(told, list) or not told:
            return self.task.input
        check_items(told, "obs")
        return input_items(told)

    def available_tools(self) -> Sequence[Tool]:
        """What the server declares when it is seeded, or the row.

        Raises:
            InvalidRow: If a tool has the name of an endpoint.
        """
        tools = []
        told = self._told_tools()
        for declared in told if isinstance(told, list) else self.task.tools or ():
            if not _is_declaration(declared):
                raise InvalidRow("the server's tools lack a name or parameters.", field="tools")
            if declared["name"] in ENDPOINTS or "/" in declared["name"]:
                raise InvalidRow(
                    f"no tool can be called {declared['name']!r} there.",
                    field="responses_create_params.tools",
                    fix="give it another name.",
                )
            call = partial(self._call, declared["name"])
            tools.append(Tool.from_declaration(cast("FunctionTool", declared), call))
        return tools

    def _told_tools(self) -> object:
        return self._seeded.get("tools")

    async def verify(self, transcript: Transcript) -> Reward:
        """The server's verdict."""
        cut = transcript.stop_reason is StopReason.LENGTH
        body = {**self.task.to_row(), "response": response_object(transcript.output, cut=cut)}
        answer = await self._post("verify", body)
        self._expect_success(answer, "verify", VerifierError)
        try:
            data = orjson.loads(answer.body)
            value = data["reward"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise VerifierError(f"{self.config.url}/verify gave no reward") from error
        own = data.get("gym_adapters")
        told = data.get("reward_components") or (
            own.get("components") if isinstance(own, dict) else None
        )
        info = own.get("info", {}) if isinstance(own, dict) else {}
        return Reward(value, told if isinstance(told, dict) else {}, info)

    async def close(self) -> None:
        """End the session, where the server can."""
        if getattr(self, "_session", None):
            await self._post("close", {})

    async def _call(self, name: str, /, **arguments: Any) -> str:
        answer = await self._post(quote(name, safe=""), arguments)
        if answer.status >= 500:
            self._expect_success(answer, name, ToolInfrastructureError)
        return answer.text

    async def _post(self, path: str, body: Mapping[str, Any]) -> _Answer:
        url = f"{self.config.url}/{path}"
        headers = {SESSION_HEADER: self._session} if self._session else {}
        try:
            async with self.resources.post(
                url,
                data=orjson.dumps(body),
                cookies=self._cookies,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                content = bytearray()
                async for piece in answer.content.iter_any():
                    content += piece
                    if len(content) > self.config.max_bytes:
                        raise EnvironmentFailure(f"{url} answers with too many bytes")
                cookies = {name: morsel.value for name, morsel in answer.cookies.items()}
                # Servers that keep their state in the cookie renew it with every answer.
                self._cookies.update(cookies)
                session = answer.headers.get(SESSION_HEADER)
                return _Answer(answer.status, bytes(content), cookies, session)
        except aiohttp.ClientError as error:
            raise EnvironmentFailure(f"{url}: {type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise RolloutTimeout(
                f"{url} did not answer within {self.config.timeout:g} s"
            ) from error

    def _expect_success(self, answer: _Answer, path: str, kind: type[RolloutError]) -> None:
        if answer.status < 300:
            return
        try:
            named = orjson.loads(answer.body)["error"]["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            named = None
        error = _NAMED.get(named, kind) if isinstance(named, str) else kind
        raise error(f"{self.config.url}/{path} answered {answer.status}: {answer.text[:SHOWN]}")


def _is_declaration(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("parameters"), Mapping)
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def response_object(output: Sequence[Item], *, cut: bool) -> dict[str, Any]:
    """The Responses object that a model gives, with all that the format requires.

    Args:
        output: Its items.
        cut: Whether its token budget cut it.
    """
    return {
        "id": "resp_gym_adapters",
        "object": "response",
        "created_at": 0,
        "model": "policy",
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [_output_item(item, at) for at, item in enumerate(output)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _output_item(item: Item, at: int) -> dict[str, Any]:
    """An item with what the Responses API requires of one that a model wrote."""
    if item["type"] == "message" and item["role"] == "assistant":
        part = {"type": "output_text", "text": item_text(item), "annotations": []}
        return {"id": f"msg_{at}", "status": "completed", **item, "content": [part]}
    if item["type"] == "reasoning":
        return {"id": f"rs_{at}", **item}
    return dict(item)
