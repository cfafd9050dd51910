r"""OpenEnv's servers as environments: an address, and rows that say how to reset.

::

    gym-adapters collect gym_adapters.bridges.openenv:OpenEnvTools \
        --set url=http://127.0.0.1:8000 -i rows.jsonl -m transformers:./model

An attempt is one WebSocket connection. `OpenEnvTools` has tools: those of a server that speaks MCP,
or one, ``step``, whose arguments are the server's action. `OpenEnvMessages` is for actions that are
text: what the model says is the action, and the observation is what it reads next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import orjson
from pydantic import Field, field_validator

from gym_adapters.bridges.bearer import bearer_headers
from gym_adapters.environment import Environment, EnvironmentConfig, Transcript
from gym_adapters.errors import (
    EnvironmentFailure,
    InvalidConfig,
    RolloutTimeout,
    ToolError,
    Unsupported,
    VerifierError,
)
from gym_adapters.extras import require
from gym_adapters.items import FunctionTool, Item, user_message
from gym_adapters.reward import Reward
from gym_adapters.task import Task
from gym_adapters.tools import Tool

aiohttp = require("aiohttp", "remote", "OpenEnv's servers")

__all__ = ["OpenEnvConfig", "OpenEnvMessages", "OpenEnvTask", "OpenEnvTools"]

SHOWN = 500
STEP = "step"
# What the model got wrong, and what it can mend.
MODELS_FAULT = frozenset({"VALIDATION_ERROR"})


class OpenEnvConfig(EnvironmentConfig):
    """Where the server is, and how to read it.

    Attributes:
        url: Its address.
        token_variable: Environment variable that holds its bearer token, if it wants one.
        timeout: Seconds for one message.
        max_bytes: Most bytes of a message.
        message_field: Field of the action that takes the model's text; by default the only one
            that an action must have.
        observation_field: Field of the observation that the model reads; by default all of them.
        reward: What a step's reward is: a part of the whole, or the whole so far.
    """

    url: str = "http://127.0.0.1:8000"
    token_variable: str | None = None
    timeout: float = Field(default=120.0, gt=0)
    max_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    message_field: str | None = None
    observation_field: str | None = None
    reward: Literal["sum", "last"] = "sum"

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write it as http://host:port")
        return url.rstrip("/")


class OpenEnvTask(Task):
    """A row; ``reset`` holds what the server's reset takes, ``seed`` among it."""

    reset: dict[str, Any] = Field(default_factory=dict)


class _Server:
    """What all attempts share: a pool of connections, and the server's schema, read once."""

    def __init__(self, client: Any, config: OpenEnvConfig) -> None:
        self.client, self._config = client, config
        self._reading = asyncio.Lock()
        self._action: Mapping[str, Any] | None = None

    async def action(self) -> Mapping[str, Any]:
        """JSON schema of an action."""
        async with self._reading:
            if self._action is None:
                self._action = await self._read_action()
            return self._action

    async def _read_action(self) -> Mapping[str, Any]:
        url = f"{self._config.url}/schema"
        try:
            async with (
                asyncio.timeout(self._config.timeout),
                self.client.get(url, allow_redirects=False) as answer,
            ):
                told = orjson.loads(await answer.content.read(self._config.max_bytes))
                return cast("Mapping[str, Any]", dict(told["action"]))
        except (aiohttp.ClientError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EnvironmentFailure(f"{url} tells no action: {error!r}"[:SHOWN]) from error
        except TimeoutError as error:
            raise RolloutTimeout(f"{url} did not answer in time") from error


class OpenEnvTools(Environment[OpenEnvTask]):
    """An environment behind an OpenEnv server, acted in by calling tools.

    The model reads the row's input, and then the first observation. The reward is the sum of the
    steps' rewards; an episode that the server ends without any has none.
    """

    parallel_tool_calls = False
    Config = OpenEnvConfig
    config: OpenEnvConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Any]:
        """A pool of connections."""
        if not isinstance(config, OpenEnvConfig):
            raise InvalidConfig(f"{cls.name} needs an OpenEnvConfig")
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.timeout),
            headers=bearer_headers(config.token_variable),
        ) as client:
            yield _Server(client, config)

    async def start(self) -> None:
        """Connect, reset, and see what can be done."""
        self._rewards: list[float] = []
        self._over = False
        self._socket: Any = None
        self._action = await self.resources.action()
        url = f"{self.config.url}/ws"
        try:
            async with asyncio.timeout(self.config.timeout):
                self._socket = await self.resources.client.ws_connect(
                    url, max_msg_size=self.config.max_bytes
                )
        except aiohttp.ClientError as error:
            raise EnvironmentFailure(f"{url}: {type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise RolloutTimeout(f"{url} did not answer in time") from error
        told = {"seed": self.rng.getrandbits(31), **self.task.reset}
        self._first = self._seen(await self._ask("reset", told))
        self._declared = await self._tools()

    async def prompt(self) -> Sequence[Item]:
        """The row's input and the first observation."""
        text = self._text(self._first)
        return [*self.task.input, *([user_message(text)] if text else [])]

    def available_tools(self) -> Sequence[Tool]:
        """The server's tools, or its action as one."""
        return [
            Tool.from_declaration(declared, partial(self._call, declared["name"]))
            for declared in self._declared
        ]

    async def verify(self, transcript: Transcript) -> Reward:
        """The steps' rewards."""
        if not self._rewards and self._over:
            raise VerifierError(f"{self.config.url} ended the episode and gave no reward")
        rewards = self._rewards if self.config.reward == "sum" else self._rewards[-1:]
        return Reward(sum(rewards), info={"steps": len(self._rewards)})

    async def close(self) -> None:
        """Close the connection."""
        socket = getattr(self, "_socket", None)
        if socket is not None and not socket.closed:
            try:
                await socket.send_str('{"type": "close"}')
            finally:
                await socket.close()

    @property
    def _speaks_mcp(self) -> bool:
        properties = self._action.get("properties")
        kinds = properties.get("type") if isinstance(properties, Mapping) else None
        return isinstance(kinds, Mapping) and kinds.get("const") in ("call_tool", "list_tools")

    async def _tools(self) -> list[FunctionTool]:
        if not self._speaks_mcp:
            return [_as_tool(self._action)]
        listed = (await self._ask("step", {"type": "list_tools"})).get("observation")
        tools = listed.get("tools") if isinstance(listed, Mapping) else None
        if not isinstance(tools, list) or not all(map(_is_tool, tools)):
            raise EnvironmentFailure(f"{self.config.url} tells no tools: {str(listed)[:SHOWN]}")
        return [
            _declared(tool["name"], tool.get("description") or "", tool["input_schema"])
            for tool in tools
        ]

    async def _call(self, name: str, /, **arguments: Any) -> str:
        if not self._speaks_mcp:
            return self._text(await self._step(arguments))
        action = {"type": "call_tool", "tool_name": name, "arguments": arguments}
        observation = await self._step(action)
        problem = observation.get("error")
        if problem is not None:
            message = problem.get("message") if isinstance(problem, Mapping) else problem
            raise ToolError(str(message))
        return _result_text(observation.get("result"))

    async def _step(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        """The observation after `action`."""
        told = await self._ask("step", action)
        reward = told.get("reward")
        if isinstance(reward, int | float):
            self._rewards.append(float(reward))
        return self._seen(told)

    def _seen(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        observation = told.get("observation")
        if told.get("done"):
            self._over = True
            self.end_episode()
        return observation if isinstance(observation, Mapping) else {"observation": observation}

    def _text(self, observation: Mapping[str, Any]) -> str:
        field = self.config.observation_field
        if field is not None:
            return _plain(observation.get(field))
        told = {
            key: value
            for key, value in observation.items()
            if key not in ("metadata", "reward", "done") and value not in (None, "", [], {})
        }
        if not told:
            return ""
        return _plain(next(iter(told.values())) if len(told) == 1 else told)

    async def _ask(self, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the server answers to one message.

        Raises:
            ToolError: If the action is not one of the server's.
            EnvironmentFailure: If the server fails, or goes away.
            RolloutTimeout: If it takes too long.
        """
        try:
            async with asyncio.timeout(self.config.timeout):
                await self._socket.send_str(orjson.dumps({"type": kind, "data": data}).decode())
                answer = await self._socket.receive()
        except TimeoutError as error:
            raise RolloutTimeout(
                f"{self.config.url} did not answer within {self.config.timeout:g} s"
            ) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise EnvironmentFailure(f"{self.config.url} went away: {error!r}") from error
        if answer.type is not aiohttp.WSMsgType.TEXT:
            raise EnvironmentFailure(f"{self.config.url} went away: {answer.extra or answer.type}")
        try:
            told = orjson.loads(answer.data)
            data = told["data"]
            failed = told["type"] == "error"
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EnvironmentFailure(f"{self.config.url} said {answer.data[:SHOWN]}") from error
        if not isinstance(data, Mapping):
            raise EnvironmentFailure(f"{self.config.url} said {answer.data[:SHOWN]}")
        if failed and kind == STEP and data.get("code") in MODELS_FAULT:
            raise ToolError(orjson.dumps(data.get("errors") or data.get("message")).decode())
        if failed:
            raise EnvironmentFailure(f"{self.config.url} says: {str(data)[:SHOWN]}")
        return data


class OpenEnvMessages(OpenEnvTools):
    """The same for a server whose action is a text: the model's message."""

    def available_tools(self) -> Sequence[Tool]:
        """None: to speak is to act."""
        return []

    async def reply(self, message: str) -> str | None:
        """The observation that follows the action; one that the server refuses is told, too."""
        try:
            return self._text(await self._step({self._field: message})) or "."
        except ToolError as error:
            return str(error)

    async def _tools(self) -> list[FunctionTool]:
        self._field = self.config.message_field or _only_text_field(self._action)
        return []


def _only_text_field(action: Mapping[str, Any]) -> str:
    properties, required = action.get("properties"), action.get("required")
    if isinstance(properties, Mapping) and isinstance(required, list) and len(required) == 1:
        (field,) = required
        declared = properties.get(field)
        if isinstance(declared, Mapping) and declared.get("type") == "string":
            return str(field)
    raise Unsupported(
        "The server's action is not one text. Use OpenEnvTools, or name the field: "
        "--set message_field=..."
    )


def _declared(name: str, description: str, parameters: Mapping[str, Any]) -> FunctionTool:
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": dict(parameters),
        "strict": False,
    }


def _as_tool(action: Mapping[str, Any]) -> FunctionTool:
    """The action as a tool; what is not the model's to say is left out."""
    schema = dict(action)
    if isinstance(schema.get("properties"), Mapping):
        own = {key: value for key, value in schema["properties"].items() if key != "metadata"}
        schema["properties"] = own
    description = str(schema.pop("description", "") or "Take one step.")
    schema.pop("title", None)
    return _declared(STEP, description, schema)


def _is_tool(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("input_schema"), Mapping)
    )


def _plain(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _result_text(result: object) -> str:
    """A tool's result; of one in MCP's own shape, the text of its parts."""
    parts = result.get("content") if isinstance(result, Mapping) else None
    if isinstance(parts, list) and parts and all(isinstance(p, Mapping) for p in parts):
        texts = [part.get("text") for part in parts]
        if all(isinstance(text, str) for text in texts):
            return "\n".join(map(str, texts))
    return _plain(result)
