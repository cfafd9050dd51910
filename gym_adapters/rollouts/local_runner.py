"""Running one rollout in this process: a fresh episode, a model, and further attempts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from gym_adapters import __version__
from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.episode import Episode, EpisodeLimits
from gym_adapters.errors import Boundary, InvalidConfig, RolloutCancelled, is_stray_cancellation
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.reward import Failure, Outcome
from gym_adapters.rollout import Provenance, Rollout
from gym_adapters.rollouts.groups import compared
from gym_adapters.rollouts.model_judge import open_run_resources
from gym_adapters.rollouts.models import ModelSource, SharedModel, SourceBase, model_source
from gym_adapters.rollouts.row_sampling import Sampling
from gym_adapters.task import Task

__all__ = [
    "LONGEST_PAUSE",
    "RETRIED",
    "Agent",
    "Job",
    "LocalRunner",
    "Part",
    "Retries",
    "Runner",
    "local_runner",
    "unscored",
]

log = logging.getLogger(__name__)

RETRIED = frozenset(
    {Boundary.MODEL, Boundary.TOOL, Boundary.JUDGE, Boundary.SANDBOX, Boundary.TIMEOUT}
)
"""Failures that may pass by themselves; one of the environment or the verifier is a bug."""

LONGEST_PAUSE = 30.0


class Agent(Protocol):
    """Drives one episode to its end and closes it (`gym_adapters.agents.tool_agent.ToolAgent`)."""

    async def run(
        self,
        episode: Episode,
        model: ChatModel,
        *,
        sampling: SamplingParams | None = None,
        request_id: str | None = None,
        seed: int | None = None,
    ) -> Rollout:
        """The finished rollout; only cancellation raises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One environment of a run.

    Attributes:
        entry: The environment.
        config: Its settings.
        sampling: How to sample each turn.
        limits: Turns and times of an episode.
    """

    entry: EnvironmentEntry
    config: EnvironmentConfig
    sampling: Sampling
    limits: EpisodeLimits

    @property
    def environment(self) -> type[Environment[Any]]:
        """Its class."""
        return self.entry.environment


@dataclass(frozen=True, slots=True)
class Job:
    """One rollout to run: attempt `rollout_index` at `task` of the part at index `part`."""

    part: int
    task: Task
    task_index: int
    rollout_index: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a rollout that failed at a boundary of `RETRIED` is attempted again.

    Attributes:
        count: Further attempts.
        pause: Seconds before the first; doubled for each further one, with jitter.
    """

    count: int = 0
    pause: float = 1.0


class Runner(Protocol):
    """Where rollouts are run."""

    def prepare(self, job: Job) -> Callable[[], Awaitable[Rollout]]:
        """What runs `job` and gives its rollout, failed or not.

        Raises:
            UsageError: If it can't be run, nor any like it.
        """
        ...

    async def compared(self, part: int, group: Sequence[Rollout]) -> list[Rollout]:
        """Attempts at one task of the part at index `part`, with the rewards of `compare`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRunner:
    """Runs jobs on this event loop.

    Attributes:
        parts: The environments.
        resources: What each of them opened.
        source: Where models come from.
        agent: What drives the episodes.
        seed: Seed of the run.
        retries: Further attempts.
        on_retry: Told at once of each failed attempt that another one follows.
    """

    parts: Sequence[Part]
    resources: Sequence[Any]
    source: ModelSource
    agent: Agent
    seed: int
    retries: Retries
    on_retry: Callable[[Rollout], None] | None = None

    def prepare(self, job: Job) -> Callable[[], Awaitable[Rollout]]:
        """What runs `job`: only cancellation, and an error of `on_retry`, raise from that.

        Raises:
            UsageError: If there is no model for it.
        """
        environment = self.parts[job.part].environment
        model = self.source.for_rollout(environment, job.task, job.rollout_index)
        return partial(self._run, job, model)

    async def compared(self, part: int, group: Sequence[Rollout]) -> list[Rollout]:
        """See `Runner.compared`; only cancellation raises."""
        run = self.parts[part]
        return await compared(
            run.environment,
            group,
            config=run.config,
            resources=self.resources[part],
            timeout=run.limits.verify_timeout,
        )

    async def _run(self, job: Job, model: ChatModel) -> Rollout:
        attempt = 0
        while True:
            rollout = await self._attempt(job, model, attempt)
            failure = rollout.outcome.failure
            if failure is None or not self._may_pass(failure) or attempt >= self.retries.count:
                if rollout.task_index == job.task_index:
                    return rollout
                return replace(rollout, task_index=job.task_index)
            log.info(
                "rollout %s of task %s failed (%s: %s); attempt %d of %d follows",
                *(job.rollout_index, job.task.task_id, failure.boundary, failure.message),
                *(attempt + 2, self.retries.count + 1),
            )
            if self.on_retry is not None:
                self.on_retry(rollout)
            pause = min(self.retries.pause * 2**attempt, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            attempt += 1

    def _may_pass(self, failure: Failure) -> bool:
        """Whether another attempt may go otherwise."""
        if failure.boundary is Boundary.MODEL and isinstance(self.source, SourceBase):
            return not self.source.says_the_same
        return failure.boundary in RETRIED

    async def _attempt(self, job: Job, model: ChatModel, attempt: int) -> Rollout:
        part = self.parts[job.part]
        try:
            episode = Episode(
                part.environment,
                job.task,
                config=part.config,
                resources=self.resources[job.part],
                seed=self.seed,
                rollout_index=job.rollout_index,
                task_index=job.task_index,
                limits=part.limits,
            )
            name = f"{job.task.task_id}-{job.rollout_index}"
            return await self.agent.run(
                episode,
                model,
                sampling=job.sampling,
                # An engine must not take the retry for the attempt it may still be aborting.
                request_id=f"{name}-retry{attempt}" if attempt else name,
                seed=self.seed,
            )
        except asyncio.CancelledError as error:
            if not is_stray_cancellation(error):
                raise
            stray = RolloutCancelled("something the rollout waited for was cancelled")
            stray.__cause__ = error
            return self._failed(job, model, stray)
        except Exception as error:  # noqa: BLE001 - one rollout never ends the run
            return self._failed(job, model, error)

    def _failed(self, job: Job, model: ChatModel, error: Exception) -> Rollout:
        environment = self.parts[job.part].environment
        return unscored(
            job,
            error,
            Provenance(
                environment=environment.name,
                environment_version=environment.version,
                library_version=__version__,
                model=model.name,
                template_hash=model.template_hash,
                seed=self.seed,
            ),
        )


@asynccontextmanager
async def local_runner(
    parts: Sequence[Part],
    model: ChatModel | ModelSource | str,
    *,
    agent: Agent,
    seed: int,
    retries: Retries,
    on_retry: Callable[[Rollout], None] | None = None,
) -> AsyncIterator[LocalRunner]:
    """A runner with its model and all resources open.

    Args:
        parts: The environments.
        model: A source is used as it is and stays open; a spec is opened.
        agent: What drives the episodes.
        seed: Seed of the run.
        retries: Further attempts.
        on_retry: Told of each failed attempt that another one follows.
    """
    async with AsyncExitStack() as stack:
        source = await _opened(model, seed, stack)
        resources = [
            await stack.enter_async_context(
                open_run_resources(part.environment, part.config, seed=seed)
            )
            for part in parts
        ]
        yield LocalRunner(
            parts=parts,
            resources=resources,
            source=source,
            agent=agent,
            seed=seed,
            retries=retries,
            on_retry=on_retry,
        )


async def _opened(
    model: ChatModel | ModelSource | str, seed: int, stack: AsyncExitStack
) -> ModelSource:
    if isinstance(model, str):
        return await stack.enter_async_context(model_source(model, seed=seed))
    if isinstance(model, ModelSource):
        return model
    if not hasattr(model, "open"):
        raise InvalidConfig(
            f"a model is a spec such as 'scripted:gold', a ChatModel or a ModelSource, not a "
            f"{type(model).__name__}"
        )
    return SharedModel(model)


def unscored(job: Job, error: Exception, provenance: Provenance) -> Rollout:
    """The rollout of a job that came to nothing."""
    return Rollout(
        row=job.task.to_row(),
        task_id=job.task.task_id,
        rollout_index=job.rollout_index,
        prompt=job.task.input,
        output=(),
        tools=(),
        outcome=Outcome.unscored(error),
        provenance=provenance,
        task_index=job.task_index,
    )
