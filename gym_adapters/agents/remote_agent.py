"""Agents that are not ours: a program or a service, run within an episode.

The agent gets the task and two addresses. It asks its model at an OpenAI-compatible one, where the
exact tokens are kept, and calls the environment's tools at the other. When it is done, the
environment gives its verdict on what was said and done.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from gym_adapters import __version__
from gym_adapters.environment import Environment
from gym_adapters.episode import Episode
from gym_adapters.errors import InvalidConfig, ModelError, RolloutError, RolloutTimeout, Unsupported
from gym_adapters.extras import require
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import FunctionTool, Item, function_call
from gym_adapters.reward import StopReason
from gym_adapters.rollout import Provenance, Rollout, TokenUsage
from gym_adapters.segment import Segment

__all__ = ["AgentFailed", "AgentGateway", "AgentSession", "RemoteAgent"]

KEPT_OF_STDERR = 8_192
GRACE = 5.0

ToolCaller = Callable[[str, str], Awaitable[str]]
"""From a tool's name and the JSON text of its arguments to what the model reads."""


class AgentFailed(ModelError):
    """The agent's program or service failed."""


class AgentSession(Protocol):
    """One attempt as the gateway sees it."""

    @property
    def base_url(self) -> str:
        """OpenAI-compatible address of this session, up to and with ``/v1``."""
        ...

    @property
    def tools_url(self) -> str:
        """Address below which the tools are, each by its name."""
        ...

    @property
    def api_key(self) -> str:
        """What the gateway wants as a bearer token."""
        ...

    @property
    def output(self) -> Sequence[Item]:
        """What was said after the first prompt, in the order it happened."""
        ...

    @property
    def segments(self) -> Sequence[Segment]:
        """Exact tokens."""
        ...

    @property
    def usage(self) -> TokenUsage:
        """Tokens read and sampled, and model calls."""
        ...

    @property
    def stopped(self) -> StopReason | None:
        """Why the model takes no further turn, where it does not."""
        ...

    @property
    def failure(self) -> Exception | None:
        """The last call's failure; ``None`` where it succeeded."""
        ...

    def stop(self, reason: StopReason) -> None:
        """Refuse further model calls."""
        ...


class AgentGateway(Protocol):
    """Where an agent's model calls go (`gym_adapters.serving.gateway.Gateway`)."""

    def session(
        self,
        *,
        model: ChatModel,
        sampling: SamplingParams,
        request_id: str,
        max_turns: int,
        call_tool: ToolCaller,
    ) -> AbstractAsyncContextManager[AgentSession]:
        """A session for one attempt; leaving the block ends it."""
        ...


@dataclass(slots=True)
class _Tools:
    """Runs the calls of an agent in its episode."""

    episode: Episode
    failure: RolloutError | None = None
    session: AgentSession | None = None
    _ids: count[int] = field(default_factory=count)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def call(self, name: str, arguments: str) -> str:
        """The result, as the model reads it."""
        if self.episode.environment.parallel_tool_calls:
            return await self._call(name, arguments)
        async with self._lock:
            return await self._call(name, arguments)

    async def _call(self, name: str, arguments: str) -> str:
        try:
            call = function_call(name, arguments, f"agent_{next(self._ids)}")
            return await self.episode.call_tool(call)
        except RolloutError as error:
            self.failure = error
            raise
        finally:
            if self.session is not None and self.episode.environment.ended:
                self.session.stop(StopReason.ENVIRONMENT)


class RemoteAgent:
    """An `Agent` that is a command or a service. Give one of the two.

    A command reads the task as JSON on its stdin, finds the addresses in ``OPENAI_BASE_URL``,
    ``OPENAI_API_KEY`` and ``GYM_ADAPTERS_TOOLS_URL`` too, and is done when it exits with 0. A
    service gets the same JSON in a POST, and is done when it answers with success.

    The JSON has ``input`` (items), ``tools`` (declarations), ``model``, ``base_url``, ``api_key``
    and ``tools_url``: post a call's arguments to ``{tools_url}/{name}``, and give the model the
    body that comes back.

    Args:
        gateway: Where its model calls go.
        command: The program and its arguments; no shell is involved.
        url: The service.
        timeout: Seconds for an attempt; past it the rollout is unscored.
        environ: Further environment variables of the command.
    """

    def __init__(
        self,
        gateway: AgentGateway,
        *,
        command: Sequence[str] | None = None,
        url: str | None = None,
        timeout: float = 1800.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if (command is None) == (url is None) or command == []:
            raise InvalidConfig("a remote agent is a command or a url: give one of them")
        if url is not None and urlsplit(url).scheme not in ("http", "https"):
            raise InvalidConfig(f"an agent's url must start with http:// or https://, not {url!r}")
        self._gateway, self._url, self._timeout = gateway, url, timeout
        self._command = list(command or ())
        self._environ = dict(environ or {})

    async def run(
        self,
        episode: Episode,
        model: ChatModel,
        *,
        sampling: SamplingParams | None = None,
        request_id: str | None = None,
        seed: int | None = None,
    ) -> Rollout:
        """Run `episode` to its end with the agent, and close it; only cancellation raises."""
        began = time.perf_counter()
        name = request_id or f"{episode.task.task_id}-{episode.rollout_index}"
        session: AgentSession | None = None
        async with episode:
            step = await episode.start()
            if not step.done:
                try:
                    tools = _Tools(episode)
                    async with self._gateway.session(
                        model=model,
                        sampling=sampling if sampling is not None else SamplingParams(),
                        request_id=name,
                        max_turns=episode.limits.max_turns,
                        call_tool=tools.call,
                    ) as session:
                        tools.session = session
                        await self._attempt(episode, session, tools)
                except Exception as error:  # noqa: BLE001 - a bad rollout is data, not a crash
                    episode.fail(error)
        return _rollout(episode, model, session, time.perf_counter() - began, seed)

    def check(self, environment: type[Environment[Any]]) -> None:
        """Refuse an environment that it can't drive.

        Raises:
            Unsupported: If the environment replies to messages.
        """
        if environment.capabilities().replies:
            raise Unsupported(
                f"{environment.name} replies to messages, and a remote agent is given its task "
                "once. Fix: leave the agent out, and the library's own drives the episodes."
            )

    async def _attempt(self, episode: Episode, session: AgentSession, tools: _Tools) -> None:
        self.check(type(episode.environment))
        try:
            async with asyncio.timeout(self._timeout):
                await self._work(episode.prompt, episode.tools, session)
        except TimeoutError as error:
            raise RolloutTimeout(f"the agent was not done within {self._timeout:g} s") from error
        except AgentFailed as error:
            if tools.failure is not None:
                raise tools.failure from error
            if session.stopped is None:
                raise session.failure or error from error
        if tools.failure is not None:
            raise tools.failure
        if not session.usage.turns:
            raise AgentFailed("the agent ended without a model call")
        reason = session.stopped or StopReason.ANSWERED
        await episode.judge(session.output, reason, turns=session.usage.turns)

    async def _work(
        self, prompt: Sequence[Item], tools: Sequence[FunctionTool], session: AgentSession
    ) -> None:
        task = {
            "input": list(prompt),
            "tools": list(tools),
            "model": "policy",
            "base_url": session.base_url,
            "api_key": session.api_key,
            "tools_url": session.tools_url,
        }
        if self._url is not None:
            await _posted(self._url, orjson.dumps(task))
        else:
            await self._executed(orjson.dumps(task), session)

    async def _executed(self, task: bytes, session: AgentSession) -> None:
        around = {**os.environ, **self._environ}
        environ = {
            **around,
            **_past_proxies(session.base_url, around),
            "OPENAI_BASE_URL": session.base_url,
            "OPENAI_API_KEY": session.api_key,
            "GYM_ADAPTERS_TOOLS_URL": session.tools_url,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=environ,
                start_new_session=True,
            )
        except OSError as error:
            raise AgentFailed(
                f"the agent {self._command[0]!r} can't be started: {error}"
            ) from error
        stderr = asyncio.create_task(_tail(process))
        try:
            await _fed(process, task)
            code = await process.wait()
        except BaseException:
            stderr.cancel()
            raise
        finally:
            # Also after a good end: what it left running holds its stderr open.
            await _ended(process)
        tail = await stderr
        if code:
            raise AgentFailed(f"the agent {self._command[0]!r} ended with {code}: {tail}")


async def _fed(process: asyncio.subprocess.Process, task: bytes) -> None:
    if process.stdin is None:
        raise RuntimeError("the agent's stdin is a pipe")
    with suppress(ConnectionError):  # it may not want to read
        process.stdin.write(task)
        await process.stdin.drain()
    process.stdin.close()


async def _tail(process: asyncio.subprocess.Process) -> str:
    """The end of what the process writes on stderr."""
    if process.stderr is None:
        raise RuntimeError("the agent's stderr is a pipe")
    kept: deque[bytes] = deque()
    size = 0
    while piece := await process.stderr.read(4096):
        kept.append(piece)
        size += len(piece)
        while size - len(kept[0]) >= KEPT_OF_STDERR:
            size -= len(kept.popleft())
    return b"".join(kept)[-KEPT_OF_STDERR:].decode("utf-8", "replace").strip()


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End the process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await process.wait()


def _past_proxies(address: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep clients from asking a proxy for `address`, which serves no one else."""
    host = urlsplit(address).hostname or ""
    return {
        name: ",".join(filter(None, (environ.get(name), host))) for name in ("NO_PROXY", "no_proxy")
    }


async def _posted(url: str, task: bytes) -> None:
    aiohttp = require("aiohttp", "remote", "an agent at a url")
    headers = {"Content-Type": "application/json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client,
            client.post(url, data=task, headers=headers, allow_redirects=False) as answer,
        ):
            text = (await answer.content.read(KEPT_OF_STDERR)).decode("utf-8", "replace")
            if answer.status >= 300:
                raise AgentFailed(f"the agent at {url} answered {answer.status}: {text}")
    except aiohttp.ClientError as error:
        raise AgentFailed(f"the agent at {url} can't be reached: {error}") from error


def _rollout(
    episode: Episode,
    model: ChatModel,
    session: AgentSession | None,
    total: float,
    seed: int | None,
) -> Rollout:
    if episode.outcome is None:
        raise RuntimeError("the agent ended without an outcome")
    segments: tuple[Segment, ...] = tuple(session.segments) if session is not None else ()
    output: tuple[Any, ...] = tuple(session.output) if session is not None else ()
    versions = [span.weights_version for s in segments for span in s.spans if span.sampled]
    return Rollout(
        row=episode.task.to_row(),
        task_id=episode.task.task_id,
        rollout_index=episode.rollout_index,
        prompt=episode.prompt,
        output=output,
        tools=episode.tools,
        outcome=episode.outcome,
        segments=segments,
        timings=replace(episode.timings, total=total),
        usage=session.usage if session is not None else TokenUsage(),
        provenance=Provenance(
            environment=episode.environment.name,
            environment_version=episode.environment.version,
            library_version=__version__,
            model=model.name,
            template_hash=model.template_hash,
            weights_version=versions[-1] if versions else None,
            seed=seed,
        ),
    )
