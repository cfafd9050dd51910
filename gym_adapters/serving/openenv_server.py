"""Environments as OpenEnv servers: an attempt is one WebSocket connection.

An action is one of ``{"message": text}``, ``{"items": [...]}`` (a whole turn of Responses items),
and OpenEnv's own ``{"type": "list_tools"}`` and ``{"type": "call_tool", "tool_name": ...,
"arguments": ...}``. An observation has ``text`` and ``items``, what the model reads next. All of
the reward comes with the last step. A failed attempt is an error, and no reward.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import Episode, EpisodeLimits
from gym_adapters.errors import InvalidRow, UsageError
from gym_adapters.extras import require
from gym_adapters.items import Item, assistant_message, function_call, item_text
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.serving.environment_answers import step_body
from gym_adapters.serving.environment_session import output_of
from gym_adapters.serving.http_errors import HttpError, error_of, json_bytes, json_response
from gym_adapters.serving.http_server import bare_app
from gym_adapters.serving.served_environment import ServedEnvironment
from gym_adapters.serving.sessions import SessionCounts, SessionLimits

require("fastapi", "openenv", "an OpenEnv server")
require("websockets", "openenv", "an OpenEnv server")

from fastapi import FastAPI, Request, Response, WebSocket  # noqa: E402 - after the check above
from starlette.routing import WebSocketRoute  # noqa: E402
from starlette.websockets import WebSocketDisconnect, WebSocketState  # noqa: E402

__all__ = ["OpenEnvServer", "openenv_app"]

log = logging.getLogger(__name__)

ACTION_SCHEMA: Mapping[str, Any] = {
    "title": "Turn",
    "description": "A turn of the assistant: a message, a tool call, or several items.",
    "type": "object",
    "properties": {
        "message": {"type": "string", "description": "What the assistant says."},
        "items": {"type": "array", "items": {"type": "object"}, "description": "A whole turn."},
        "type": {"enum": ["list_tools", "call_tool"]},
        "tool_name": {"type": "string"},
        "arguments": {"type": "object"},
        "metadata": {"type": "object"},
    },
}
OBSERVATION_SCHEMA: Mapping[str, Any] = {
    "title": "Turn",
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "What the model reads next."},
        "items": {"type": "array", "items": {"type": "object"}},
        "tools": {"type": "array", "items": {"type": "object"}},
        "done": {"type": "boolean"},
        "reward": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
}
STATE_SCHEMA: Mapping[str, Any] = {
    "title": "State",
    "type": "object",
    "properties": {"episode_id": {"type": "string"}, "step_count": {"type": "integer"}},
}


class _Refused(Exception):
    """An answer of the type ``error``."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class OpenEnvServer:
    """One environment. Use it as an async context manager: its resources are open within.

    Args:
        entry: The environment.
        rows: Rows to attempt: a reset takes the next, or the one that ``seed`` points to, unless it
            brings a ``row`` of its own. By default the environment's examples.
        config: Settings; by default those of the card.
        limits: Turns and times of an attempt.
        sessions: Bounds on connections.
        seed: Seed of the environment's random numbers.

    Attributes:
        counts: Connections so far.
        under_way: Connections now.
    """

    def __init__(
        self,
        entry: EnvironmentEntry,
        *,
        rows: Sequence[Mapping[str, Any]] | None = None,
        config: EnvironmentConfig | None = None,
        limits: EpisodeLimits | None = None,
        sessions: SessionLimits | None = None,
        seed: int = 0,
    ) -> None:
        self.served = ServedEnvironment(entry, config=config, limits=limits, seed=seed)
        if rows is None:
            rows = [task.to_row() for task in entry.example_tasks()]
        self._rows, self._next = list(rows), 0
        self._limits = sessions if sessions is not None else SessionLimits()
        self.counts, self.under_way = SessionCounts(), 0

    async def __aenter__(self) -> OpenEnvServer:
        await self.served.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.served.__aexit__()

    def add_routes(self, app: FastAPI) -> None:
        """Answer on `app`."""
        entry = self.served.entry
        card = entry.card
        told: dict[str, Mapping[str, Any]] = {
            "/health": {"status": "healthy"},
            "/schema": {
                "action": ACTION_SCHEMA,
                "observation": OBSERVATION_SCHEMA,
                "state": STATE_SCHEMA,
            },
            "/metadata": {
                "name": entry.name,
                "description": card.description if card is not None else "",
                "version": self.served.environment.version,
            },
        }
        for path, body in told.items():
            app.add_route(path, _telling(body), methods=["GET"])
        app.router.routes.append(WebSocketRoute("/ws", self._connected))

    def next_row(self, seed: object) -> Mapping[str, Any]:
        """The row of a reset that brings none.

        Raises:
            InvalidRow: If there are no rows.
        """
        if not self._rows:
            raise InvalidRow("there is no row.", field="row", fix="reset with row={...}.")
        if isinstance(seed, int):
            return self._rows[seed % len(self._rows)]
        self._next += 1
        return self._rows[(self._next - 1) % len(self._rows)]

    async def _connected(self, socket: WebSocket) -> None:
        await socket.accept()
        if self.under_way >= self._limits.max_sessions:
            full = _Refused("CAPACITY_REACHED", f"there are {self.under_way} connections")
            await _send(socket, _error(full))
            await socket.close()
            return
        self.under_way += 1
        self.counts.opened += 1
        connection = _Connection(self)
        expired = False
        try:
            expired = await self._converse(socket, connection)
        except WebSocketDisconnect:
            pass
        finally:
            self.under_way -= 1
            if expired:
                self.counts.expired += 1
            else:
                self.counts.closed += 1
            await connection.close()
        if socket.client_state is WebSocketState.CONNECTED:
            await socket.close()

    async def _converse(self, socket: WebSocket, connection: _Connection) -> bool:
        """Answer until the client is done; gives whether it has said nothing for too long."""
        while True:
            try:
                async with asyncio.timeout(self._limits.idle_timeout):
                    message = await socket.receive()
            except TimeoutError:
                return True
            if message["type"] == "websocket.disconnect":
                return False
            answer = await connection.answer(message.get("text") or message.get("bytes") or "")
            if answer is None:
                return False
            await _send(socket, answer)


class _Connection:
    """One client: an attempt at a time."""

    def __init__(self, server: OpenEnvServer) -> None:
        self._server = server
        self._episode: Episode | None = None
        self._name, self._steps = "", 0

    async def close(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            await episode.close()

    async def answer(self, text: str | bytes) -> dict[str, Any] | None:
        """What to answer; ``None`` where the client says goodbye."""
        try:
            try:
                asked = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise _Refused("INVALID_JSON", f"Invalid JSON: {error}") from error
            kind = asked.get("type") if isinstance(asked, dict) else None
            if kind == "close":
                return None
            if kind == "state":
                state = {"episode_id": self._name or None, "step_count": self._steps}
                return {"type": "state", "data": state}
            if kind not in ("reset", "step"):
                raise _Refused("UNKNOWN_TYPE", f"Unknown message type: {str(kind)[:100]}")
            data = asked.get("data", {})
            if not isinstance(data, dict):
                raise _Refused("VALIDATION_ERROR", "data must be an object")
            told = await (self._reset(data) if kind == "reset" else self._step(data))
            return {"type": "observation", "data": told}
        except _Refused as error:
            return _error(error)
        except (InvalidRow, UsageError) as error:
            return _error(_Refused("VALIDATION_ERROR", str(error)))
        except Exception as error:
            known = error_of(error)
            if known is None:
                log.exception("a message of an OpenEnv client failed")
                known = HttpError(500, "internal", f"{type(error).__name__}, see the server's log")
            return _error(_Refused("EXECUTION_ERROR", f"{known.kind}: {known.message}"))

    async def _reset(self, data: Mapping[str, Any]) -> dict[str, Any]:
        await self.close()
        server, served, row = self._server, self._server.served, data.get("row")
        if row is None:
            row = server.next_row(data.get("seed"))
        if not isinstance(row, Mapping):
            raise _Refused("VALIDATION_ERROR", "row must be an object")
        episode = served.episode(served.task(row), rollout_index=row.get("_ng_rollout_index"))
        self._episode = episode
        step = await served.start(episode)
        named = data.get("episode_id")
        self._name = named if isinstance(named, str) else secrets.token_hex(8)
        self._steps = 0
        told = {"text": _text(step.items), "items": list(step.items), "tools": episode.tools}
        return {"observation": told, "reward": None, "done": False}

    async def _step(self, action: Mapping[str, Any]) -> dict[str, Any]:
        episode = self._episode
        if episode is None or episode.outcome is not None:
            raise _Refused("EXECUTION_ERROR", "the episode has ended, or not begun: reset")
        if action.get("type") == "list_tools":
            tools = [
                {
                    "name": each["name"],
                    "description": each["description"],
                    "input_schema": each["parameters"],
                }
                for each in episode.tools
            ]
            return {"observation": {"tools": tools}, "reward": None, "done": False}
        turn = _turn(action, self._steps)
        self._steps += 1
        step = await episode.advance(turn)
        told: dict[str, Any] = {"text": _text(step.items), "items": list(step.items)}
        if action.get("type") == "call_tool":
            told |= {"tool_name": action["tool_name"], "result": told["text"], "error": None}
        answer: dict[str, Any] = {"observation": told, "reward": None, "done": False}
        if step.done:
            whole = step_body(step)
            answer |= {"reward": whole["reward"], "done": True, "metadata": whole["info"]}
        return answer


def _turn(action: Mapping[str, Any], number: int) -> list[Item]:
    if action.get("type") == "call_tool":
        name, arguments = action.get("tool_name"), action.get("arguments") or {}
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise _Refused("VALIDATION_ERROR", "tool_name and arguments are needed")
        return [function_call(name, orjson.dumps(arguments).decode(), f"call_{number}")]
    if isinstance(action.get("message"), str):
        return [assistant_message(action["message"])]
    if "items" in action:
        return output_of({"output": action["items"]})
    raise _Refused("VALIDATION_ERROR", "an action is a message, items or a tool call")


def _text(items: Sequence[Item]) -> str:
    return "\n".join(
        item["output"] if item["type"] == "function_call_output" else item_text(item)
        for item in items
    )


def _error(error: _Refused) -> dict[str, Any]:
    return {"type": "error", "data": {"message": str(error), "code": error.code}}


async def _send(socket: WebSocket, answer: Mapping[str, Any]) -> None:
    await socket.send_text(json_bytes(answer).decode())


def _telling(body: Mapping[str, Any]) -> Any:
    async def tell(request: Request) -> Response:
        return json_response(body)

    return tell


@asynccontextmanager
async def openenv_app(
    entry: EnvironmentEntry, **options: Any
) -> AsyncIterator[tuple[FastAPI, OpenEnvServer]]:
    """The application that serves `entry`, with its resources open; serve it with WebSockets.

    Args:
        entry: The environment.
        options: The further arguments of `OpenEnvServer`.
    """
    app = bare_app()
    async with OpenEnvServer(entry, **options) as server:
        server.add_routes(app)
        yield app, server
