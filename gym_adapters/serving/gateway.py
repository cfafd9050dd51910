"""A model gateway: OpenAI's two APIs over a `TokenGenerator`, keeping every session's tokens.

Agents that know nothing of tokens talk to ``/sessions/<name>/v1/...`` (or to ``/v1/...`` with the
header ``X-Session-Id``). What they amount to is handed over when the session ends.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from gym_adapters.agents.remote_agent import ToolCaller
from gym_adapters.errors import Unsupported
from gym_adapters.extras import require
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.serving.captured import CapturedConversation
from gym_adapters.serving.gateway_openapi import gateway_paths
from gym_adapters.serving.gateway_session import CapturedSession, GatewaySession
from gym_adapters.serving.http_errors import HttpError, json_object, json_response
from gym_adapters.serving.http_server import (
    HttpLimits,
    Listener,
    answering,
    bare_app,
    serving,
    until_disconnected,
)
from gym_adapters.serving.openai_answers import (
    Answer,
    chat_completion,
    chat_events,
    response_events,
    response_object,
)
from gym_adapters.serving.openai_requests import ModelRequest, chat_request, responses_request
from gym_adapters.serving.openapi import add_openapi
from gym_adapters.serving.sessions import SessionLimits, SessionStore
from gym_adapters.tools import error_result

require("fastapi", "serve", "the model gateway")

from fastapi import FastAPI, Request, Response  # noqa: E402 - after the check above
from fastapi.responses import StreamingResponse  # noqa: E402

__all__ = ["CapturedSession", "Gateway", "GatewaySession", "running_gateway", "token_model"]

log = logging.getLogger(__name__)
LONGEST_NAME = 200


HandOver = Callable[[CapturedSession], Awaitable[None]]


class Gateway:
    """Sessions and their endpoints. Use it as an async context manager: leaving ends all sessions.

    Args:
        model: The policy of sessions that agents open by using a new name; ``None`` lets only
            `session` open them.
        on_finished: Gets every session that ends, the expired ones too.
        limits: Bounds on sessions.
        fixed: Sampling that wins over what agents ask for.
        max_turns: Most model calls of a session.
    """

    def __init__(
        self,
        model: ChatModel | None = None,
        *,
        on_finished: HandOver | None = None,
        limits: SessionLimits | None = None,
        fixed: SamplingParams | None = None,
        max_turns: int | None = None,
    ) -> None:
        self._model = None if model is None else token_model(model)
        self._on_finished = on_finished
        self._fixed, self._max_turns = fixed, max_turns
        self.sessions: SessionStore[GatewaySession] = SessionStore(self._end, limits=limits)
        self._told: set[str] = set()
        self.address = ""
        self.api_key = "none"

    async def __aenter__(self) -> Gateway:
        await self.sessions.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sessions.__aexit__()

    @asynccontextmanager
    async def session(
        self,
        *,
        model: ChatModel,
        sampling: SamplingParams,
        request_id: str,
        max_turns: int,
        call_tool: ToolCaller,
    ) -> AsyncIterator[GatewaySession]:
        """A session of an attempt at a task; leaving the block ends it.

        Raises:
            Unsupported: If `model` keeps no tokens.
        """
        await self.sessions.make_room()
        name = secrets.token_urlsafe(24)
        session = GatewaySession(
            name,
            CapturedConversation(token_model(model), request_id),
            address=self.address,
            api_key=self.api_key,
            fixed=sampling,
            max_turns=max_turns,
            call_tool=call_tool,
        )
        self.sessions.add(session, name)
        try:
            async with self.sessions.using(name):
                yield session
        finally:
            await self.sessions.close(name)

    async def finish(self, name: str) -> CapturedSession:
        """End a session, and hand it over.

        Raises:
            HttpError: 404, if there is none.
        """
        async with self.sessions.using(name) as session:
            pass
        await self.sessions.close(name)
        return session.captured(expired=False)

    def add_routes(self, app: FastAPI) -> None:
        """Answer on `app`."""
        for prefix in ("", "/sessions/{session}"):
            app.add_route(f"{prefix}/v1/models", answering(self._models), methods=["GET"])
            chat, responses = answering(self._chat), answering(self._responses)
            app.add_route(f"{prefix}/v1/chat/completions", chat, methods=["POST"])
            app.add_route(f"{prefix}/v1/responses", responses, methods=["POST"])
        tool, finish = answering(self._tool), answering(self._finish)
        app.add_route("/sessions/{session}/tools/{tool}", tool, methods=["POST"])
        app.add_route("/sessions/{session}/finish", finish, methods=["POST"])
        add_openapi(app, "Model gateway", gateway_paths())

    async def _models(self, request: Request) -> Response:
        name = self._model.name if self._model is not None else "policy"
        model = {"id": name, "object": "model", "created": 0, "owned_by": "gym_adapters"}
        return json_response({"object": "list", "data": [model]})

    async def _chat(self, request: Request) -> Response:
        body = json_object(await request.body())
        async with self._using(request) as session:
            asked = chat_request(body, session.fixed)
            self._tell(asked)
            answer = await _answered(request, session, asked)
        if asked.stream:
            return _stream(chat_events(answer, usage=asked.stream_usage))
        return json_response(chat_completion(answer))

    async def _responses(self, request: Request) -> Response:
        body = json_object(await request.body())
        async with self._using(request) as session:
            asked = responses_request(body, session.fixed)
            self._tell(asked)
            answer = await _answered(request, session, asked)
        if asked.stream:
            return _stream(response_events(answer))
        return json_response(response_object(answer))

    def _tell(self, asked: ModelRequest) -> None:
        """Say once of each setting that agents ask for it in vain."""
        new = [name for name in asked.overridden if name not in self._told]
        if new:
            self._told.update(new)
            log.warning(
                "an agent asks for its own %s; the policy's settings win. Told once.",
                " and ".join(new),
            )

    async def _tool(self, request: Request) -> Response:
        async with self.sessions.using(request.path_params["session"]) as session:
            name, call = request.path_params["tool"], session.call_tool
            if call is None:
                raise HttpError(404, "unknown_tool", error_result("unknown_tool", name[:100]))
            text = await call(name, (await request.body()).decode("utf-8", "replace"))
        return Response(text.encode("utf-8", "replace"), media_type="text/plain")

    async def _finish(self, request: Request) -> Response:
        captured = await self.finish(request.path_params["session"])
        return json_response(captured.to_json())

    @asynccontextmanager
    async def _using(self, request: Request) -> AsyncIterator[GatewaySession]:
        name = request.path_params.get("session") or request.headers.get("x-session-id")
        if not name:
            raise HttpError(
                400,
                "invalid_request_error",
                "name a session: use /sessions/<name>/v1 as the base URL, or the header "
                "X-Session-Id",
            )
        if self.sessions.get(name) is None and self._model is not None:
            if len(name) > LONGEST_NAME:
                raise HttpError(400, "invalid_request_error", "the session's name is too long")
            await self.sessions.make_room()
            # Two first calls may both have waited for room.
            if self.sessions.get(name) is None:
                said = CapturedConversation(self._model, name)
                opened = GatewaySession(name, said, fixed=self._fixed, max_turns=self._max_turns)
                self.sessions.add(opened, name)
        async with self.sessions.using(name) as session:
            yield session

    async def _end(self, session: GatewaySession, expired: bool) -> None:
        if self._on_finished is None:
            return
        try:
            await self._on_finished(session.captured(expired=expired))
        except Exception:
            log.exception("handing a session over failed")


async def _answered(request: Request, session: GatewaySession, asked: ModelRequest) -> Answer:
    retry = request.headers.get("x-stainless-retry-count", "0")
    repeated = retry.isdigit() and int(retry) > 0
    turn = await until_disconnected(request, session.respond(asked, repeated=repeated))
    model = asked.model or session.conversation.model.name
    return Answer(turn, model, secrets.token_hex(12), tuple(dict(tool) for tool in asked.tools))


def _stream(events: Iterator[bytes]) -> Response:
    async def sent() -> AsyncIterator[bytes]:
        for event in events:
            yield event

    headers = {"cache-control": "no-store"}
    return StreamingResponse(sent(), media_type="text/event-stream", headers=headers)


def token_model(model: ChatModel) -> TokenChatModel:
    """`model` as one that keeps tokens.

    Raises:
        Unsupported: If it keeps none.
    """
    if not isinstance(model, TokenChatModel):
        raise Unsupported(
            f"{model.name} keeps no tokens, and a gateway is there to keep them: use a model "
            "that samples here (transformers:PATH, vllm:PATH or tiny)"
        )
    return model


@asynccontextmanager
async def running_gateway(
    model: ChatModel | None = None,
    listener: Listener | None = None,
    *,
    http_limits: HttpLimits | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """A gateway that is served while the block runs; ``gateway.address`` is where.

    Args:
        model: As for `Gateway`.
        listener: Where to listen; by default a free port of this machine.
        http_limits: Bounds on one request.
        options: The further arguments of `Gateway`.

    Raises:
        UsageError: If it can't be.
    """
    listener = listener if listener is not None else Listener()
    app = bare_app()
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(Gateway(model, **options))
        gateway.add_routes(app)
        gateway.address = await stack.enter_async_context(
            serving(app, listener, limits=http_limits)
        )
        gateway.api_key = listener.token or "none"
        yield gateway
