"""A foreign agent with a gateway of its own, for whoever takes an `Agent`: a trainer, say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gym_adapters.agents.remote_agent import AgentSession, RemoteAgent
from gym_adapters.environment import Environment
from gym_adapters.episode import Episode
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.rollout import Rollout
from gym_adapters.serving.gateway import Gateway, running_gateway

__all__ = ["GatewayAgent"]


class GatewayAgent:
    """A `RemoteAgent` whose gateway starts with its first episode, and ends with `aclose`.

    The gateway serves the model that each episode comes with: inside a trainer, the trainer's own
    engine. Use one object on one event loop.

    Args:
        command: The program and its arguments; or
        url: the service.
        timeout: Seconds for an attempt; past it the rollout is unscored.
        environ: Further environment variables of the command.

    Raises:
        InvalidConfig: If it is not a command or a url.
    """

    def __init__(
        self,
        *,
        command: Sequence[str] | None = None,
        url: str | None = None,
        timeout: float = 1800.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._gateway = _StartedGateway()
        self._agent = RemoteAgent(
            self._gateway, command=command, url=url, timeout=timeout, environ=environ
        )

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
        return await self._agent.run(
            episode, model, sampling=sampling, request_id=request_id, seed=seed
        )

    def check(self, environment: type[Environment[Any]]) -> None:
        """Refuse an environment that it can't drive: one that replies to messages.

        Raises:
            Unsupported: If it is such a one.
        """
        self._agent.check(environment)

    async def aclose(self) -> None:
        """End the gateway; the next episode starts another."""
        await self._gateway.aclose()


class _StartedGateway:
    """An `AgentGateway` that starts when its first session is opened."""

    def __init__(self) -> None:
        self._started: asyncio.Future[Gateway] | None = None
        self._ending: asyncio.Event | None = None
        self._serving: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def session(self, **attempt: Any) -> AsyncIterator[AgentSession]:
        loop = asyncio.get_running_loop()
        if self._started is None or self._started.get_loop() is not loop or _failed(self._started):
            # The first session starts it; those that come meanwhile wait for the same.
            self._started, self._ending = loop.create_future(), asyncio.Event()
            self._serving = loop.create_task(_serve(self._started, self._ending))
        # An attempt that is cancelled must not take the gateway from the others.
        gateway = await asyncio.shield(self._started)
        async with gateway.session(**attempt) as session:
            yield session

    async def aclose(self) -> None:
        serving, self._serving, self._started = self._serving, None, None
        if serving is not None and self._ending is not None:
            self._ending.set()
            await serving


async def _serve(started: asyncio.Future[Gateway], ending: asyncio.Event) -> None:
    # In a task of its own: the attempt that comes first may end before the others.
    try:
        async with running_gateway() as gateway:
            started.set_result(gateway)
            await ending.wait()
    except Exception as error:
        if started.done():
            raise
        started.set_exception(error)


def _failed(started: asyncio.Future[Gateway]) -> bool:
    return started.done() and (started.cancelled() or started.exception() is not None)
