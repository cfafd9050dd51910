"""Environments over HTTP, in the wire format of NeMo Gym's resources servers.

An attempt is a session: ``/seed_session`` opens it and sets its cookie, ``/<tool>`` calls a tool,
``/verify`` gives the verdict. ``/reset`` and ``/step`` drive an attempt the way gymnasium does.

An agent posts a call to ``/<name>`` with whatever name its model wrote. So within a session that
was seeded, only declared tools answer: the other paths are unknown tools there, and ``/verify``
answers for the row that the session was seeded with alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import (
    InvalidRow,
    Unsupported,
)
from gym_adapters.extras import require
from gym_adapters.items import item_text
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.reward import Reward
from gym_adapters.serving.aggregate import aggregate_metrics
from gym_adapters.serving.environment_answers import step_body, tool_response, verify_body
from gym_adapters.serving.environment_session import (
    EnvironmentSession,
    finish_reason_of,
    output_of,
    replayed,
)
from gym_adapters.serving.http_errors import (
    HttpError,
    json_object,
    json_response,
)
from gym_adapters.serving.http_server import answering, until_disconnected
from gym_adapters.serving.mcp_answers import mcp_answer
from gym_adapters.serving.served_environment import ServedEnvironment
from gym_adapters.serving.sessions import SessionLimits, SessionStore
from gym_adapters.task import Task
from gym_adapters.tools import error_result

require("fastapi", "serve", "serving environments")

from fastapi import FastAPI, Request, Response  # noqa: E402 - after the check above

__all__ = ["EnvironmentServer"]

SESSION_HEADER_SHOWN = "X-NeMo-Gym-Session-Token"
SESSION_HEADER = SESSION_HEADER_SHOWN.lower()
RESERVED = frozenset(
    {
        "seed_session",
        "verify",
        "aggregate_metrics",
        "reverify_mode",
        "close",
        "reset",
        "step",
        "mcp",
    }
)
VERDICT_KEYS = frozenset({"response", "reward", "reward_components", "gym_adapters"})


@dataclass(frozen=True, slots=True)
class _Verified:
    """The row and the response of a request for a verdict."""

    task: Task
    response: Mapping[str, Any]


class EnvironmentServer:
    """One environment. Use it as an async context manager: its resources are open within.

    Args:
        entry: The environment.
        config: Its settings; by default its card's.
        limits: Turns and times of an attempt.
        sessions: Bounds on attempts under way.
        seed: Seed of the environment's random numbers.
        prefix: Path in front of its endpoints, ``""`` or ``/name``.
        expose_tools_over_mcp: Whether ``/seed_session`` tells how to reach the tools over MCP; they
            can be reached either way.
    """

    def __init__(
        self,
        entry: EnvironmentEntry,
        *,
        config: EnvironmentConfig | None = None,
        limits: EpisodeLimits | None = None,
        sessions: SessionLimits | None = None,
        seed: int = 0,
        prefix: str = "",
        expose_tools_over_mcp: bool = False,
    ) -> None:
        self.served = ServedEnvironment(
            entry, config=config, limits=limits, seed=seed, reserved=RESERVED
        )
        self.entry, self.environment, self.prefix = entry, entry.environment, prefix
        # A name may be module:Class, and a cookie's name holds no colon.
        self.cookie = re.sub(r"[^\w.-]", "_", f"{self.environment.__name__}___{entry.name}")
        self.sessions: SessionStore[EnvironmentSession] = SessionStore(_close, limits=sessions)
        self._tells_mcp = expose_tools_over_mcp
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> EnvironmentServer:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.served)
            await stack.enter_async_context(self.sessions)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def add_routes(self, app: FastAPI) -> None:
        """Answer on `app`, below the prefix."""
        posts = {
            "seed_session": self._seed_session,
            "verify": self._verify,
            "aggregate_metrics": self._aggregate,
            "reset": self._reset,
            "step": self._step,
            "close": self._close_session,
            "mcp": self._mcp,
        }
        for path, handler in posts.items():
            app.add_route(f"{self.prefix}/{path}", answering(handler), methods=["POST"])
        mode = answering(self._reverify_mode)
        app.add_route(f"{self.prefix}/reverify_mode", mode, methods=["GET"])
        app.add_route(f"{self.prefix}/{{tool}}", answering(self._tool), methods=["POST"])

    # Endpoints.

    async def _seed_session(self, request: Request) -> Response:
        if self._seeded(request):
            return await self._tool(request)
        can = self.environment.capabilities()
        if can.replies:
            raise Unsupported(
                f"{self.entry.name} replies to messages: drive it by /reset and /step, or serve it "
                "with its agent (gym-adapters serve agent)"
            )
        row = json_object(await request.body())
        name, session = await self._open(request, row, "tools")
        told: dict[str, Any] = {}
        if can.own_prompt or can.own_tools:
            # What the model is to read and call is not what the row says.
            told = {"obs": list(session.episode.prompt), "tools": session.episode.tools}
        if self._tells_mcp:
            told["mcp"] = {
                "server_name": self.entry.name,
                "url_path": f"{self.prefix}/mcp",
                "transport": "http",
                "headers": {SESSION_HEADER_SHOWN: name},
            }
        return self._with_cookie(json_response(told), name)

    async def _tool(self, request: Request) -> Response:
        name = request.path_params.get("tool") or request.url.path.rpartition("/")[2]
        session_name = self._session_name(request)
        session = self.sessions.get(session_name)
        if session_name is None or session is None or session.style != "tools":
            raise HttpError(
                404, "unknown_session", "seed a session first, and send its cookie with each call"
            )
        if name in RESERVED or all(tool["name"] != name for tool in session.episode.tools):
            known = ", ".join(tool["name"] for tool in session.episode.tools) or "none"
            text = error_result("unknown_tool", f"no tool {name[:100]!r}; there are: {known}")
            return tool_response(text, status=404)
        arguments = (await request.body()).decode("utf-8", "replace")
        async with self.sessions.using(session_name):
            # Once begun, a tool runs to its end: its effect must not depend on who still listens.
            return tool_response(await session.call_tool(name, arguments))

    async def _verify(self, request: Request) -> Response:
        body = json_object(await request.body())
        session_name = self._session_name(request)
        session = self.sessions.get(session_name)
        if session is not None and "response" not in body:
            return await self._tool(request)
        asked = self._verified(body)
        if session_name is None:
            reward = await until_disconnected(request, self._verdict_by_replay(asked))
            return json_response(verify_body(body, reward))
        if session is None:
            raise HttpError(
                410, "unknown_session", "the session was closed, or has expired: seed a new one"
            )
        if _row_key(session.episode.task) != _row_key(asked.task):
            raise HttpError(409, "other_row", "the session was seeded with another row")
        async with self.sessions.using(session_name):
            reward = await session.verify(asked.response)
            self.sessions.finish(session_name)
        return json_response(verify_body(body, reward))

    async def _aggregate(self, request: Request) -> Response:
        if self._seeded(request):
            return await self._tool(request)
        responses = json_object(await request.body()).get("verify_responses")
        if not isinstance(responses, list) or not all(isinstance(r, dict) for r in responses):
            raise HttpError(422, "invalid_request", "verify_responses must be a list of objects")
        return json_response(aggregate_metrics(responses))

    async def _reverify_mode(self, request: Request) -> Response:
        """``stateless`` where the verdict needs row and response alone."""
        can = self.environment.capabilities()
        alone = self.environment.stateless_verify or not (can.uses_tools or can.replies)
        stateless = alone and not can.compares
        return json_response("stateless" if stateless else "unknown")

    async def _reset(self, request: Request) -> Response:
        if self._seeded(request):
            return await self._tool(request)
        row = json_object(await request.body())
        name, session = await self._open(request, row, "steps")
        episode = session.episode
        own = self.environment.capabilities().own_prompt
        observation = item_text(episode.prompt[-1]) if own and episode.prompt else None
        info = {"prompt": list(episode.prompt), "tools": episode.tools}
        answer = json_response({"observation": observation, "info": info})
        return self._with_cookie(answer, name)

    async def _step(self, request: Request) -> Response:
        if self._seeded(request):
            return await self._tool(request)
        body = json_object(await request.body())
        response = body.get("response")
        items = output_of(response)
        name = self._session_name(request)
        if name is None:
            raise HttpError(404, "unknown_session", "reset first, and send the cookie that it sets")
        async with self.sessions.using(name) as session, session.lock:
            if session.episode.outcome is not None:
                raise HttpError(409, "ended", "the episode has ended: reset for another one")
            reason = finish_reason_of(response if isinstance(response, Mapping) else {})
            step = await session.episode.advance(items, finish_reason=reason)
            if step.done:
                self.sessions.finish(name)
            return json_response(step_body(step))

    async def _close_session(self, request: Request) -> Response:
        # A model can make an agent post here, but knows neither body nor header that names it.
        body = json_object(await request.body())
        named = body.get("session_id") or request.headers.get(SESSION_HEADER)
        if named is None and self._seeded(request):
            return await self._tool(request)
        name = named if isinstance(named, str) else self._session_name(request)
        closed = name is not None and await self.sessions.close(name)
        return json_response({"closed": closed})

    async def _mcp(self, request: Request) -> Response:
        # The cookie is not enough: with it, an agent posts here what its model took for a tool.
        name = request.headers.get(SESSION_HEADER)
        if name is None:
            return await self._tool(request)
        async with self.sessions.using(name) as session:
            if session.style != "tools":
                raise HttpError(404, "unknown_session", "the session is driven by /step")
            answer = await mcp_answer(await request.body(), session, self.entry.name)
        return Response(status_code=202) if answer is None else json_response(answer)

    # What they share.

    def _session_name(self, request: Request) -> str | None:
        return request.headers.get(SESSION_HEADER) or request.cookies.get(self.cookie)

    def _seeded(self, request: Request) -> bool:
        """Whether the call comes from within an attempt whose tools are called by path."""
        session = self.sessions.get(self._session_name(request))
        return session is not None and session.style == "tools" and session.episode.outcome is None

    def _with_cookie(self, response: Response, name: str) -> Response:
        response.set_cookie(
            self.cookie,
            name,
            max_age=int(self.sessions.limits.idle_timeout) + 1,
            path=f"{self.prefix}/",
            httponly=True,
            samesite="lax",
        )
        response.headers[SESSION_HEADER] = name
        return response

    def _verified(self, body: Mapping[str, Any]) -> _Verified:
        row = {key: value for key, value in body.items() if key not in VERDICT_KEYS}
        response = body.get("response")
        if not isinstance(response, Mapping):
            raise InvalidRow(
                "there is no response.", field="response", fix="give the model's response."
            )
        output_of(response)
        return _Verified(self.served.task(row), response)

    async def _open(
        self, request: Request, row: Mapping[str, Any], style: Any
    ) -> tuple[str, EnvironmentSession]:
        await self.sessions.make_room()
        episode = self.served.episode(
            self.served.task(row), rollout_index=row.get("_ng_rollout_index")
        )
        session = EnvironmentSession(episode, style)
        added = False
        try:
            await until_disconnected(request, self.served.start(episode))
            name = self.sessions.add(session)
            added = True
            return name, session
        finally:
            if not added:
                await episode.close()

    async def _verdict_by_replay(self, asked: _Verified) -> Reward:
        """Without a session: a fresh attempt, in which the recorded tool calls are run again."""
        index = asked.task.to_row().get("_ng_rollout_index")
        async with self.served.episode(asked.task, rollout_index=index) as episode:
            await self.served.start(episode)
            await replayed(episode, output_of(asked.response))
            return await EnvironmentSession(episode, "tools").verify(asked.response)


async def _close(session: EnvironmentSession, expired: bool) -> None:
    await session.episode.close()


def _row_key(task: Task) -> tuple[dict[str, Any], list[tuple[object, str]]]:
    """What tells two rows apart: the environment's fields, and who says what at the start.

    Clients fill the other parameters of the prompt in with defaults, each in its own way.
    """
    fields = {
        key: value
        for key, value in task.to_row().items()
        if not key.startswith("_ng_") and key not in ("responses_create_params", "agent_ref")
    }
    return fields, [(item.get("role"), item_text(item)) for item in task.input]
