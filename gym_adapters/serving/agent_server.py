"""An agent with its environment over HTTP, as NeMo Gym's agent servers are: ``/run``.

The whole attempt happens here: environment, agent loop and policy. So nothing but the row goes in
and the verdict, with the policy's exact tokens, comes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import Episode, EpisodeLimits
from gym_adapters.errors import Boundary, InvalidConfig, InvalidRow, Unsupported
from gym_adapters.extras import require
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.collect import Agent
from gym_adapters.rollouts.model_judge import open_run_resources
from gym_adapters.rollouts.models import ModelSource
from gym_adapters.rollouts.row_sampling import RowSampling, Sampling, sampling_of
from gym_adapters.serving.aggregate import aggregate_metrics
from gym_adapters.serving.environment_session import http_error, verdict_of
from gym_adapters.serving.gateway_openapi import agent_paths
from gym_adapters.serving.http_errors import HttpError, json_object, json_response
from gym_adapters.serving.http_server import answering, until_disconnected
from gym_adapters.serving.openapi import add_openapi
from gym_adapters.serving.token_items import output_with_tokens
from gym_adapters.task import Task

require("fastapi", "serve", "serving an agent")

from fastapi import FastAPI, Request, Response  # noqa: E402 - after the check above

__all__ = ["AgentServer"]

VERDICTS = frozenset({Boundary.VERIFIER, Boundary.JUDGE})


class AgentServer:
    """One environment, one agent and one policy. Use it as an async context manager.

    Args:
        entry: The environment.
        source: The policy; opened by the caller.
        config: Settings of the environment; by default its card's.
        limits: Turns and times of an attempt.
        agent: What drives the attempts; by default a `ToolAgent`.
        sampling: How to sample; by default as each row asks, within the card's budget.
        concurrency: Most attempts at once; as many again wait, and further ones get 503.
        seed: Seed of the environment's random numbers.
    """

    def __init__(
        self,
        entry: EnvironmentEntry,
        source: ModelSource,
        *,
        config: EnvironmentConfig | None = None,
        limits: EpisodeLimits | None = None,
        agent: Agent | None = None,
        sampling: Sampling = None,
        concurrency: int = 256,
        seed: int = 0,
    ) -> None:
        if concurrency < 1:
            raise InvalidConfig(f"concurrency must be at least 1, not {concurrency}")
        if entry.environment.capabilities().compares:
            raise Unsupported(
                f"{entry.name} rewards attempts by comparing a group, and /run sees one attempt"
            )
        self.entry, self._source, self._seed = entry, source, seed
        self._config = config if config is not None else entry.config()
        budget = entry.card.budget if entry.card is not None else None
        turns = budget.max_turns if budget is not None else EpisodeLimits().max_turns
        self._limits = limits if limits is not None else EpisodeLimits(max_turns=turns)
        self._agent: Agent = agent if agent is not None else ToolAgent(AgentLimits())
        if sampling is None and budget is not None:
            sampling = RowSampling(default_max_tokens=budget.max_tokens_per_turn)
        self._sampling = sampling
        self._slots = asyncio.Semaphore(concurrency)
        self._most, self.under_way = 2 * concurrency, 0
        self._count = 0
        self._stack = AsyncExitStack()
        self._resources: Any = None

    async def __aenter__(self) -> AgentServer:
        self._resources = await self._stack.enter_async_context(
            open_run_resources(self.entry.environment, self._config)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def add_routes(self, app: FastAPI) -> None:
        """Answer on `app`."""
        app.add_route("/run", answering(self._run), methods=["POST"])
        app.add_route("/v1/responses", answering(self._responses), methods=["POST"])
        app.add_route("/aggregate_metrics", answering(_aggregate), methods=["POST"])
        add_openapi(app, f"Agent: {self.entry.name} with {self._source.name}", agent_paths())

    async def _run(self, request: Request) -> Response:
        row = json_object(await request.body())
        rollout = await until_disconnected(request, self._rollout(row))
        reward = verdict_of(rollout.outcome)
        answer = rollout.to_json()
        answer["response"]["output"] = output_with_tokens(rollout)
        # The tokens are on the items: once is enough.
        answer["gym_adapters"]["segments"] = []
        for key in ("_ng_task_index", "_ng_rollout_index"):
            answer[key] = row.get(key)
        total = sum(reward.components.values())
        if reward.components and abs(total - reward.value) <= 1e-6 * max(1.0, abs(reward.value)):
            answer["reward_components"] = dict(reward.components)
        return json_response(answer)

    async def _responses(self, request: Request) -> Response:
        params = json_object(await request.body())
        if params.get("stream"):
            raise HttpError(400, "invalid_request", "an agent answers whole, without stream")
        row = {"responses_create_params": params}
        rollout = await until_disconnected(request, self._rollout(row))
        failure = rollout.outcome.failure
        if failure is not None and failure.boundary not in VERDICTS:
            raise http_error(failure)
        response = rollout.to_json()["response"]
        return json_response({**response, "output": output_with_tokens(rollout)})

    async def _rollout(self, row: Mapping[str, Any]) -> Rollout:
        task: Task = self.entry.environment.task_type.from_row(row)
        index = row.get("_ng_rollout_index")
        if index is not None and (not isinstance(index, int) or isinstance(index, bool)):
            raise InvalidRow(
                f"it must be a whole number, not {index!r}.",
                field="_ng_rollout_index",
                fix="leave it out, or count the attempts from 0.",
            )
        if self.under_way >= self._most:
            raise HttpError(
                503, "busy", f"{self._most} attempts are under way", headers={"retry-after": "5"}
            )
        self.under_way += 1
        try:
            async with self._slots:
                return await self._attempt(task, index or 0)
        finally:
            self.under_way -= 1

    async def _attempt(self, task: Task, index: int) -> Rollout:
        self._count += 1
        episode = Episode(
            self.entry.environment,
            task,
            config=self._config,
            resources=self._resources,
            seed=self._seed,
            rollout_index=index,
            limits=self._limits,
        )
        return await self._agent.run(
            episode,
            self._source.for_rollout(self.entry.environment, task, index),
            sampling=sampling_of(task, self._sampling),
            # The same row may be under way twice: an engine must tell the two apart.
            request_id=f"{task.task_id}-{index}-{self._count}",
            seed=self._seed,
        )


async def _aggregate(request: Request) -> Response:
    responses = json_object(await request.body()).get("verify_responses")
    if not isinstance(responses, list) or not all(isinstance(each, dict) for each in responses):
        raise HttpError(422, "invalid_request", "verify_responses must be a list of objects")
    return json_response(aggregate_metrics(responses))
