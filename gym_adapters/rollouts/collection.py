"""What runs a collection: tasks in, episodes at once, finished rollouts out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Container, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from gym_adapters import __version__
from gym_adapters.errors import InvalidEnvironment, RolloutTimeout
from gym_adapters.rollout import Provenance, Rollout
from gym_adapters.rollouts.local_runner import Job, Part, Runner, unscored
from gym_adapters.rollouts.row_sampling import sampling_of
from gym_adapters.task import Task

__all__ = ["STARTS_IN_A_PASS", "Collection", "RolloutKey"]

RolloutKey = tuple[str, int]
"""``(task_id, rollout_index)``: names a rollout within a run."""

STARTS_IN_A_PASS = 32
"""Most episodes that start in one pass of the event loop.

Starting takes longer than waiting for what is sent: a thousand starts in a row would keep the loop
from answers that have come, for longer than many an endpoint takes to answer.
"""


@dataclass(slots=True)
class _Group:
    """The attempts at one occurrence of a task, until all have ended.

    Attributes:
        size: How many.
        patience: Seconds that the first one to end waits for the others.
        judge: Gives them the rewards of `Environment.compare`.
        rollouts: Those that have ended.
    """

    size: int
    patience: float
    judge: Callable[[Sequence[Rollout]], Awaitable[list[Rollout]]]
    rollouts: list[Rollout] = field(default_factory=list)
    _end: float | None = None
    _clocks: list[asyncio.Timeout] = field(default_factory=list)

    @asynccontextmanager
    async def clock(self) -> AsyncIterator[None]:
        """Ends the block with `TimeoutError` once the group waits no more."""
        async with asyncio.timeout_at(self._end) as clock:
            self._clocks.append(clock)
            try:
                yield
            finally:
                self._clocks.remove(clock)

    def add(self, rollout: Rollout) -> bool:
        """Take one that has ended; whether it was the last."""
        self.rollouts.append(rollout)
        if self._end is None:
            self._end = asyncio.get_running_loop().time() + self.patience
            for clock in self._clocks:
                clock.reschedule(self._end)
        return len(self.rollouts) == self.size


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One rollout to run, and where it belongs."""

    job: Job
    start: Callable[[], Awaitable[Rollout]]
    group: _Group | None


@dataclass(slots=True, kw_only=True)
class Collection:
    """The settings of a run and what is under way."""

    parts: Sequence[Part]
    num_repeats: int
    skip: Container[RolloutKey]
    group_deadline: float
    slots: asyncio.Semaphore
    # Finished rollouts that may wait for the consumer: the queue itself must never block its end.
    unread: asyncio.Semaphore
    finished: asyncio.Queue[Rollout | None] = field(default_factory=asyncio.Queue)

    async def finished_since(self) -> list[Rollout]:
        """What has finished since this was asked before, once that is anything.

        Nothing at the end of the run: what ends it puts ``None`` into the queue.
        """
        batch: list[Rollout] = []
        rollout = await self.finished.get()
        while rollout is not None:
            batch.append(rollout)
            if self.finished.empty():
                return batch
            rollout = self.finished.get_nowait()
        if batch:
            self.finished.put_nowait(None)  # for the next call
        return batch

    async def run(
        self,
        tasks: AsyncGenerator[tuple[int, Task]],
        open_runner: Callable[[], AbstractAsyncContextManager[Runner]],
    ) -> None:
        """Run everything; a problem with a row is raised once what was running has ended."""
        async with open_runner() as runner:
            problem: Exception | None = None
            try:
                async with (
                    asyncio.TaskGroup() as running,
                    aclosing(self._jobs(tasks, runner)) as jobs,
                ):
                    try:
                        started = 0
                        async for job in jobs:
                            await self.slots.acquire()
                            running.create_task(self._one(job))
                            started += 1
                            if started % STARTS_IN_A_PASS == 0:
                                await asyncio.sleep(0)
                    except Exception as error:  # noqa: BLE001 - raised once the others ended
                        problem = error
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            if problem is not None:
                raise problem

    async def _jobs(
        self, tasks: AsyncGenerator[tuple[int, Task]], runner: Runner
    ) -> AsyncGenerator[_Prepared]:
        occurrences = _Occurrences()
        compares = [part.environment.capabilities().compares for part in self.parts]
        task_index = -1
        async with aclosing(tasks) as source:
            async for part, task in source:
                task_index += 1
                self._check(part, task, task_index)
                first = occurrences.count(task.task_id) * self.num_repeats
                indexes = range(first, first + self.num_repeats)
                todo = [index for index in indexes if (task.task_id, index) not in self.skip]
                if compares[part] and todo:
                    todo = list(indexes)
                if not todo:
                    # Nothing here waits, and cancellation must get a chance all the same.
                    await asyncio.sleep(0)
                    continue
                sampling = sampling_of(task, self.parts[part].sampling)
                jobs = [Job(part, task, task_index, index, sampling) for index in todo]
                # All of a group before its first job: a group is run whole or not at all.
                starts = [runner.prepare(job) for job in jobs]
                judge = partial(runner.compared, part)
                group = _Group(len(todo), self.group_deadline, judge) if compares[part] else None
                for job, start in zip(jobs, starts, strict=True):
                    yield _Prepared(job, start, group)

    def _check(self, part: int, task: Task, task_index: int) -> None:
        environment = self.parts[part].environment
        if not isinstance(task, environment.task_type):
            raise InvalidEnvironment(
                f"{environment.name} works on {environment.task_type.__name__}, "
                f"and task {task_index} is a {type(task).__name__}: make it with "
                f"{environment.task_type.__name__}.from_row(row)"
            )

    async def _one(self, prepared: _Prepared) -> None:
        try:
            rollout = await self._rollout(prepared)
            for finished in await self._group_of(prepared, rollout):
                await self.unread.acquire()
                self.finished.put_nowait(finished)
        finally:
            self.slots.release()

    async def _rollout(self, prepared: _Prepared) -> Rollout:
        group, job = prepared.group, prepared.job
        if group is None:
            return await prepared.start()
        try:
            async with group.clock():
                return await prepared.start()
        except TimeoutError:
            environment = self.parts[job.part].environment
            return unscored(
                job,
                RolloutTimeout(
                    f"its group was judged without it, {group.patience:g} s after the first of it"
                ),
                Provenance(
                    environment=environment.name,
                    environment_version=environment.version,
                    library_version=__version__,
                ),
            )

    async def _group_of(self, prepared: _Prepared, rollout: Rollout) -> list[Rollout]:
        """What is finished now: the rollout, or its whole group, or nothing yet."""
        if prepared.group is None:
            return [rollout]
        if not prepared.group.add(rollout):
            return []
        group = sorted(prepared.group.rollouts, key=lambda each: each.rollout_index)
        return await prepared.group.judge(group)


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
