"""What travels to a Ray worker, and the worker itself.

A worker is an asynchronous collector: it opens the model and the environments' resources once and
runs many rollouts at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import UsageError
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.registry import load_environment
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.local_runner import Job, LocalRunner, Part, Retries, local_runner

__all__ = ["Done", "Plan", "PlannedPart", "RemoteJob", "RolloutWorker"]


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """A part, without what only this process can hold."""

    name: str
    config: Mapping[str, Any]
    limits: EpisodeLimits


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker is made of."""

    parts: Sequence[PlannedPart]
    model: str
    agent_limits: AgentLimits
    seed: int
    retries: Retries


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A job as it travels."""

    part: int
    row: Mapping[str, Any]
    task_index: int
    rollout_index: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a job: a rollout and the failed attempts before it, or why none can be run."""

    rollout: Rollout | None
    failed: Sequence[Rollout] = ()
    refused: str = ""


class RolloutWorker:
    """The actor. One task of it holds what is open, so that it is closed where it was opened."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._closing = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._runner: asyncio.Future[LocalRunner] | None = None
        self._running: set[asyncio.Task[Done]] = set()

    async def open(self) -> str:
        """Open everything; why it can't be, or nothing."""
        self._runner = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(self._runner))
        try:
            await self._runner
        except UsageError as error:
            return str(error)
        return ""

    async def run(self, job: RemoteJob) -> Done:
        """Run one job."""
        running = asyncio.create_task(self._run(job))
        self._running.add(running)
        try:
            return await running
        finally:
            self._running.discard(running)

    async def compared(self, part: int, group: Sequence[Rollout]) -> list[Rollout]:
        """Compare the attempts at one task of the part at index `part`."""
        if self._runner is None:
            raise RuntimeError("the worker is not open")
        return await (await self._runner).compared(part, group)

    async def close(self) -> None:
        """Cancel what runs, and close what is open."""
        for running in list(self._running):
            running.cancel()
        if self._running:
            await asyncio.wait(list(self._running))
        self._closing.set()
        if self._keeper is not None:
            await self._keeper

    async def _run(self, job: RemoteJob) -> Done:
        if self._runner is None:
            raise RuntimeError("open() comes first")
        failed: list[Rollout] = []
        runner = replace(await self._runner, on_retry=failed.append)
        task = runner.parts[job.part].environment.task_type.from_row(job.row)
        local = Job(job.part, task, job.task_index, job.rollout_index, job.sampling)
        try:
            start = runner.prepare(local)
        except UsageError as error:
            return Done(None, refused=str(error))
        return Done(await start(), failed)

    async def _keep(self, opened: asyncio.Future[LocalRunner]) -> None:
        try:
            plan = self._plan
            async with local_runner(
                [_part(each) for each in plan.parts],
                plan.model,
                agent=ToolAgent(plan.agent_limits),
                seed=plan.seed,
                retries=plan.retries,
            ) as runner:
                opened.set_result(runner)
                await self._closing.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)


def _part(planned: PlannedPart) -> Part:
    entry = load_environment(planned.name)
    config = entry.environment.Config.model_validate(planned.config)
    return Part(entry=entry, config=config, sampling=None, limits=planned.limits)
