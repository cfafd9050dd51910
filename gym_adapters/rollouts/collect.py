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
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Container,
    Iterable,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from gym_adapters.agents.selective import check_agent
from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import InvalidConfig
from gym_adapters.generation.chat import ChatModel
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.collection import Collection, RolloutKey
from gym_adapters.rollouts.local_runner import (
    LONGEST_PAUSE,
    RETRIED,
    Agent,
    Part,
    Retries,
    Runner,
    local_runner,
)
from gym_adapters.rollouts.models import ModelSource
from gym_adapters.rollouts.row_sampling import RowSampling, Sampling
from gym_adapters.task import Task

__all__ = [
    "GROUP_DEADLINE",
    "LONGEST_PAUSE",
    "RETRIED",
    "Agent",
    "Tasks",
    "collect",
    "collect_batches",
]

GROUP_DEADLINE = 1800.0

Tasks = Iterable[Task] | AsyncIterable[Task]


def collect(
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
    group_deadline: float = GROUP_DEADLINE,
) -> AsyncGenerator[Rollout]:
    """Run `num_repeats` episodes of each task and yield each rollout when it is finished.

    Leaving the loop early, or cancelling it, cancels what is running and closes every episode. A
    consumer that is slow holds the episodes back: at most `concurrency` finished rollouts wait for
    it.

    Identical rows are one task attempted more often: the second occurrence goes on counting
    `rollout_index` where the first one stopped. To know them again, the id of each task is kept.

    An environment that compares (`Environment.compare`) gets each group when its last rollout ends,
    and its rollouts come out together. What has not ended `group_deadline` seconds after the first
    is stopped, fails with a timeout, and the others are compared without it.

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
        group_deadline: Seconds that a group which is compared waits for its last rollouts.

    Raises:
        Unsupported: If the agent can't drive the environment; at once.
        UsageError: If an argument can't be used, a row is invalid or there is no model for a task.
            What is running by then is finished and yielded first.
    """
    if min(num_repeats, concurrency) < 1 or retries < 0:
        raise InvalidConfig(
            f"num_repeats ({num_repeats}) and concurrency ({concurrency}) must be at least 1, "
            f"retries ({retries}) at least 0"
        )
    entry = _entry(environment)
    if isinstance(tasks, Task | str) or not isinstance(tasks, Iterable | AsyncIterable):
        raise InvalidConfig(
            f"tasks are a list, or any iterable, of tasks, not a {type(tasks).__name__}. "
            f"Fix: load_environment({entry.name!r}).read_tasks(path) reads a file of rows"
        )
    check_agent(agent, entry.environment)
    budget = entry.card.budget if entry.card is not None else None
    if sampling is None and budget is not None:
        sampling = RowSampling(default_max_tokens=budget.max_tokens_per_turn)
    if episode_limits is None and budget is not None:
        episode_limits = EpisodeLimits(max_turns=budget.max_turns)
    part = Part(
        entry=entry,
        config=config if config is not None else entry.config(),
        sampling=sampling,
        limits=episode_limits if episode_limits is not None else EpisodeLimits(),
    )

    def runner() -> AbstractAsyncContextManager[Runner]:
        return local_runner(
            [part],
            model,
            agent=agent if agent is not None else ToolAgent(agent_limits),
            seed=seed,
            retries=Retries(retries, retry_pause),
            on_retry=on_retry,
        )

    return _one_by_one(
        _running(
            [part],
            _of_one_part(tasks),
            runner,
            num_repeats=num_repeats,
            concurrency=concurrency,
            skip=skip,
            group_deadline=group_deadline,
        )
    )


async def collect_batches(
    parts: Sequence[Part],
    tasks: AsyncGenerator[tuple[int, Task]],
    runner: Callable[[], AbstractAsyncContextManager[Runner]],
    *,
    num_repeats: int = 1,
    concurrency: int = 64,
    skip: Container[RolloutKey] = frozenset(),
    group_deadline: float = GROUP_DEADLINE,
) -> AsyncGenerator[list[Rollout]]:
    """As `collect`, over several environments and wherever `runner` runs them.

    Each list holds what has finished since the last one was taken, and at least one rollout.

    Args:
        parts: The environments.
        tasks: Tasks, each with the index of its part.
        runner: Opens what runs the rollouts, for this run.
        num_repeats: Attempts at each task.
        concurrency: Most episodes at once.
        skip: Keys of rollouts not to run.
        group_deadline: Seconds that a group which is compared waits for its last rollouts.
    """
    under_way = _running(
        parts,
        tasks,
        runner,
        num_repeats=num_repeats,
        concurrency=concurrency,
        skip=skip,
        group_deadline=group_deadline,
    )
    async with under_way:
        while batch := await under_way.batch():
            yield batch


async def _one_by_one(under_way: _Running) -> AsyncGenerator[Rollout]:
    async with under_way:
        while batch := await under_way.batch():
            for rollout in batch:
                yield rollout


class _Running:
    """A collection under way; leaving the block ends it.

    No generator, as there must be one at most for each loop over rollouts: at its end an event loop
    closes all generators that it knows at once, and one inside another is then closed twice.
    """

    def __init__(
        self,
        collection: Collection,
        tasks: AsyncGenerator[tuple[int, Task]],
        runner: Callable[[], AbstractAsyncContextManager[Runner]],
    ) -> None:
        self._collection, self._tasks, self._runner, self._taken = collection, tasks, runner, 0

    async def batch(self) -> list[Rollout]:
        """What has finished; nothing at the end. Asking for more says that the last was read."""
        for _ in range(self._taken):
            self._collection.unread.release()
        batch = await self._collection.finished_since()
        self._taken = len(batch)
        if not batch:
            await self._task
        return batch

    async def __aenter__(self) -> Self:
        # One task owns everything that is opened, so that it is closed where it was opened, also
        # when the generator is finalised from somewhere else.
        self._task = asyncio.create_task(self._collection.run(self._tasks, self._runner))
        self._task.add_done_callback(lambda _: self._collection.finished.put_nowait(None))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # who left early does not want it, nor a complaint about that


def _running(
    parts: Sequence[Part],
    tasks: AsyncGenerator[tuple[int, Task]],
    runner: Callable[[], AbstractAsyncContextManager[Runner]],
    *,
    num_repeats: int,
    concurrency: int,
    skip: Container[RolloutKey],
    group_deadline: float,
) -> _Running:
    collection = Collection(
        parts=parts,
        num_repeats=num_repeats,
        skip=skip,
        group_deadline=group_deadline,
        slots=asyncio.Semaphore(concurrency),
        unread=asyncio.Semaphore(concurrency),
    )
    return _Running(collection, tasks, runner)


def _entry(environment: object) -> EnvironmentEntry:
    if isinstance(environment, str):
        return load_environment(environment)
    if isinstance(environment, EnvironmentEntry):
        return environment
    if isinstance(environment, type) and issubclass(environment, Environment):
        return EnvironmentEntry(environment.name, environment, None)
    raise InvalidConfig(
        "an environment is an entry of the registry, its name or a subclass of Environment, not a "
        f"{type(environment).__name__}"
    )


async def _of_one_part(tasks: Tasks) -> AsyncGenerator[tuple[int, Task]]:
    async for task in _each(tasks):
        yield 0, task


async def _each(tasks: Tasks) -> AsyncIterator[Task]:
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task
