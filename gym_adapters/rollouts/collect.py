"""Collecting rollouts: many episodes at once, streamed as they finish.

::

    async for rollout in collect("arithmetic_tools", tasks, "scripted:gold", num_repeats=8):
        print(rollout.task_id, rollout.reward)

Tasks are read as slots become free and rollouts are handed over as they finish, so memory is
bounded by `concurrency`, whatever the size of the data set. The attempts at one task start next to
each other, so groups finish early. A rollout that fails is handed over as unscored and ends
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Container,
    Iterable,
)
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gym_adapters import __version__
from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.episode import Episode, EpisodeLimits, open_episode_resources
from gym_adapters.errors import (
    Boundary,
    InvalidConfig,
    InvalidEnvironment,
    RolloutCancelled,
)
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.reward import Outcome
from gym_adapters.rollout import Provenance, Rollout
from gym_adapters.rollouts.groups import compared
from gym_adapters.rollouts.models import ModelSource, SharedModel, model_source
from gym_adapters.rollouts.row_sampling import RowSampling, Sampling, sampling_of
from gym_adapters.task import Task

__all__ = ["RETRIED", "Agent", "RolloutKey", "Tasks", "collect"]

log = logging.getLogger(__name__)

RolloutKey = tuple[str, int]
"""``(task_id, rollout_index)``: names a rollout within a run."""

Tasks = Iterable[Task] | AsyncIterable[Task]

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


async def collect(
    environment: EnvironmentEntry | type[Environment[Any]] | str,
    tasks: Tasks,
    model: ChatModel | ModelSource | str,
    *,
    num_repeats: int = 1,
    concurrency: int = 64,
    seed: int = 0,
    config: EnvironmentConfig | None = None,
    sampling: Sampling = None,
    episode_limits: EpisodeLimits | None = None,
    agent_limits: AgentLimits | None = None,
    agent: Agent | None = None,
    retries: int = 0,
    retry_pause: float = 1.0,
    on_retry: Callable[[Rollout], None] | None = None,
    skip: Container[RolloutKey] = frozenset(),
) -> AsyncGenerator[Rollout]:
    """Run `num_repeats` episodes of each task and yield each rollout when it is finished.

    Leaving the loop early, or cancelling it, cancels what is running and closes every episode. A
    consumer that is slow holds the episodes back: at most `concurrency` finished rollouts wait for
    it.

    Identical rows are one task attempted more often: the second occurrence goes on counting
    `rollout_index` where the first one stopped. To know them again, the id of each task is kept.

    An environment that compares (`Environment.compare`) gets each group when its last rollout ends,
    and its rollouts come out together.

    Args:
        environment: An entry of the registry, its name, or a class.
        tasks: What to attempt; read lazily.
        model: The policy. A source is used as it is and stays open; a spec (``"scripted:gold"``) is
            opened for this run.
        num_repeats: Attempts at each task.
        concurrency: Most episodes at once.
        seed: Seed of the environments' random numbers, and of sampling where `model` is a spec.
        config: Settings of the environment; by default its card's, or the class's.
        sampling: How to sample each turn; by default as each row asks, within the card's budget.
        episode_limits: Turns and times; by default the card's budget.
        agent_limits: Budgets of the agent loop.
        agent: What drives the episodes, in place of a `ToolAgent` with `agent_limits`.
        retries: How often a rollout that failed at a boundary of `RETRIED` is attempted again, each
            time with a fresh environment.
        retry_pause: Seconds before the first retry; doubled for each further one, with jitter.
        on_retry: Told of each failed rollout that is attempted again.
        skip: Keys of rollouts not to run, because they are there already.

    Raises:
        UsageError: If an argument can't be used, a row is invalid or there is no model for a task.
            What is running by then is finished and yielded first.
    """
    if min(num_repeats, concurrency) < 1 or retries < 0:
        raise InvalidConfig(
            f"num_repeats ({num_repeats}) and concurrency ({concurrency}) must be at least 1, "
            f"retries ({retries}) at least 0"
        )
    entry = _entry(environment)
    budget = entry.card.budget if entry.card is not None else None
    if sampling is None and budget is not None:
        sampling = RowSampling(default_max_tokens=budget.max_tokens_per_turn)
    if episode_limits is None and budget is not None:
        episode_limits = EpisodeLimits(max_turns=budget.max_turns)
    collection = _Collection(
        environment=entry.environment,
        config=config if config is not None else entry.config(),
        num_repeats=num_repeats,
        seed=seed,
        sampling=sampling,
        limits=episode_limits if episode_limits is not None else EpisodeLimits(),
        agent=agent if agent is not None else ToolAgent(agent_limits),
        retries=retries,
        retry_pause=retry_pause,
        on_retry=on_retry,
        skip=skip,
        slots=asyncio.Semaphore(concurrency),
        unread=asyncio.Semaphore(concurrency),
    )
    # One task owns everything that is opened, so that it is closed where it was opened, also when
    # this generator is finalised from somewhere else.
    runner = asyncio.create_task(collection.run(tasks, model))
    runner.add_done_callback(lambda _: collection.finished.put_nowait(None))
    try:
        while (rollout := await collection.finished.get()) is not None:
            yield rollout
            collection.unread.release()
        await runner
    finally:
        runner.cancel()
        await asyncio.wait([runner])
        if not runner.cancelled():
            runner.exception()  # whoever left early does not want it, nor a complaint about that


@dataclass(slots=True)
class _Group:
    """The attempts at one occurrence of a task, until all have ended."""

    size: int
    rollouts: list[Rollout] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Job:
    """One rollout to run."""

    task: Task
    task_index: int
    rollout_index: int
    model: ChatModel
    sampling: SamplingParams
    group: _Group | None


@dataclass(slots=True, kw_only=True)
class _Collection:
    """The settings of a run and what is under way."""

    environment: type[Environment[Any]]
    config: EnvironmentConfig
    num_repeats: int
    seed: int
    sampling: Sampling
    limits: EpisodeLimits
    agent: Agent
    retries: int
    retry_pause: float
    on_retry: Callable[[Rollout], None] | None
    skip: Container[RolloutKey]
    slots: asyncio.Semaphore
    # Finished rollouts that may wait for the consumer: the queue itself must never block its end.
    unread: asyncio.Semaphore
    finished: asyncio.Queue[Rollout | None] = field(default_factory=asyncio.Queue)
    resources: Any = None

    async def run(self, tasks: Tasks, model: ChatModel | ModelSource | str) -> None:
        """Run everything; a problem with a row is raised once what was running has ended."""
        async with AsyncExitStack() as stack:
            source = await _opened(model, self.seed, stack)
            self.resources = await stack.enter_async_context(
                open_episode_resources(self.environment, self.config)
            )
            problem: Exception | None = None
            try:
                async with (
                    asyncio.TaskGroup() as running,
                    aclosing(self._jobs(tasks, source)) as jobs,
                ):
                    try:
                        async for job in jobs:
                            await self.slots.acquire()
                            running.create_task(self._one(job))
                    except Exception as error:  # noqa: BLE001 - raised once the others ended
                        problem = error
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            if problem is not None:
                raise problem

    async def _jobs(self, tasks: Tasks, source: ModelSource) -> AsyncGenerator[_Job]:
        occurrences = _Occurrences()
        compares = self.environment.capabilities().compares
        task_index = -1
        async for task in _each(tasks):
            task_index += 1
            if not isinstance(task, self.environment.task_type):
                raise InvalidEnvironment(
                    f"{self.environment.name} works on {self.environment.task_type.__name__}, "
                    f"and task {task_index} is a {type(task).__name__}: make it with "
                    f"{self.environment.task_type.__name__}.from_row(row)"
                )
            first = occurrences.count(task.task_id) * self.num_repeats
            indexes = range(first, first + self.num_repeats)
            todo = [index for index in indexes if (task.task_id, index) not in self.skip]
            if compares and todo:
                todo = list(indexes)
            if not todo:
                # Nothing here waits, and cancellation must get a chance all the same.
                await asyncio.sleep(0)
                continue
            sampling = sampling_of(task, self.sampling)
            # All models of a group before its first job: a group is run whole or not at all.
            models = [source.for_rollout(self.environment, task, index) for index in todo]
            group = _Group(len(todo)) if compares else None
            for index, chat_model in zip(todo, models, strict=True):
                yield _Job(task, task_index, index, chat_model, sampling, group)

    async def _one(self, job: _Job) -> None:
        try:
            rollout = replace(await self._attempts(job), task_index=job.task_index)
            for finished in await self._group_of(job, rollout):
                await self.unread.acquire()
                self.finished.put_nowait(finished)
        finally:
            self.slots.release()

    async def _attempts(self, job: _Job) -> Rollout:
        attempt = 0
        while True:
            rollout = await self._attempt(job, attempt)
            failure = rollout.outcome.failure
            if failure is None or failure.boundary not in RETRIED or attempt >= self.retries:
                return rollout
            log.info(
                "rollout %s of task %s failed (%s: %s); attempt %d of %d follows",
                *(job.rollout_index, job.task.task_id, failure.boundary, failure.message),
                *(attempt + 2, self.retries + 1),
            )
            if self.on_retry is not None:
                self.on_retry(rollout)
            pause = min(self.retry_pause * 2**attempt, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            attempt += 1

    async def _attempt(self, job: _Job, attempt: int) -> Rollout:
        try:
            episode = Episode(
                self.environment,
                job.task,
                config=self.config,
                resources=self.resources,
                seed=self.seed,
                rollout_index=job.rollout_index,
                limits=self.limits,
            )
            name = f"{job.task.task_id}-{job.rollout_index}"
            return await self.agent.run(
                episode,
                job.model,
                sampling=job.sampling,
                # An engine must not take the retry for the attempt it may still be aborting.
                request_id=f"{name}-retry{attempt}" if attempt else name,
                seed=self.seed,
            )
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this rollout: something that it awaited was cancelled.
            stray = RolloutCancelled("something the rollout waited for was cancelled")
            stray.__cause__ = error
            return self._failed(job, stray)
        except Exception as error:  # noqa: BLE001 - one rollout never ends the run
            return self._failed(job, error)

    def _failed(self, job: _Job, error: Exception) -> Rollout:
        return Rollout(
            row=job.task.to_row(),
            task_id=job.task.task_id,
            rollout_index=job.rollout_index,
            prompt=job.task.input,
            output=(),
            tools=(),
            outcome=Outcome.unscored(error),
            provenance=Provenance(
                environment=self.environment.name,
                environment_version=self.environment.version,
                library_version=__version__,
                model=job.model.name,
                template_hash=job.model.template_hash,
                seed=self.seed,
            ),
        )

    async def _group_of(self, job: _Job, rollout: Rollout) -> list[Rollout]:
        """What is finished now: the rollout, or its whole group, or nothing yet."""
        if job.group is None:
            return [rollout]
        job.group.rollouts.append(rollout)
        if len(job.group.rollouts) < job.group.size:
            return []
        group = sorted(job.group.rollouts, key=lambda each: each.rollout_index)
        return await compared(self.environment, group, timeout=self.limits.verify_timeout)


class _Occurrences:
    """Counts how often each task id was seen; keeps the ids, and counts for those seen again."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._again: dict[str, int] = {}

    def count(self, task_id: str) -> int:
        """How often `task_id` was counted before this call."""
        if task_id not in self._seen:
            self._seen.add(task_id)
            return 0
        self._again[task_id] = self._again.get(task_id, 0) + 1
        return self._again[task_id]


def _entry(environment: EnvironmentEntry | type[Environment[Any]] | str) -> EnvironmentEntry:
    if isinstance(environment, str):
        return load_environment(environment)
    if isinstance(environment, EnvironmentEntry):
        return environment
    return EnvironmentEntry(environment.name, environment, None)


async def _opened(
    model: ChatModel | ModelSource | str, seed: int, stack: AsyncExitStack
) -> ModelSource:
    if isinstance(model, str):
        return await stack.enter_async_context(model_source(model, seed=seed))
    return model if isinstance(model, ModelSource) else SharedModel(model)


async def _each(tasks: Tasks) -> AsyncIterator[Task]:
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task
