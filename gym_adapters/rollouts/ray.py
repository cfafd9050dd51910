"""Rollouts on other machines: Ray actors run them, one process hands them out and writes them down.

The actors are `gym_adapters.rollouts.ray_worker`. A rollout counts when its result has reached the
process that writes, so whatever a lost worker had under way is run again elsewhere, and nothing
else is.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gym_adapters import __version__
from gym_adapters.agents.tool_agent import AgentLimits
from gym_adapters.errors import EnvironmentFailure, InvalidConfig, UsageError
from gym_adapters.extras import require
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.reward import Outcome
from gym_adapters.rollout import Provenance, Rollout
from gym_adapters.rollouts.local_runner import Job, Part, Retries, unscored
from gym_adapters.rollouts.ray_cluster import join_cluster
from gym_adapters.rollouts.ray_worker import Done, Plan, PlannedPart, RemoteJob, RolloutWorker

__all__ = ["RayOptions", "RayRunner", "ray_runner"]

log = logging.getLogger(__name__)

# Seconds: for a worker to open its model and environments, and to close them.
OPEN_TIMEOUT = 900.0
CLOSE_TIMEOUT = 30.0
# Seconds between looks at the cluster while no worker is there.
LOOK = 10.0
# A rollout under which so many workers died is more likely their end than its victim.
MOST_LOSSES = 5


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How a run uses Ray.

    Attributes:
        workers: How many actors.
        address: Of a cluster, as for ``ray.init``; ``None`` starts one on this machine.
        cpus: What each actor takes of its node.
        gpus: The same; a worker that loads a model of its own may need one.
    """

    workers: int = 2
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidConfig(f"there must be at least 1 worker, not {self.workers}")


@dataclass(slots=True, eq=False)
class _Place:
    """One actor, and how much it has to do."""

    actor: Any
    in_flight: int = 0


@dataclass(slots=True, kw_only=True)
class RayRunner:
    """Hands jobs to the worker with the least to do, and again if that is lost.

    Attributes:
        ray: The package.
        parts: The environments.
        make: Starts an actor.
        model: Recorded for rollouts that came to nothing.
        seed: Seed of the run.
        on_retry: Told of each failed attempt that another one followed.
    """

    ray: Any
    parts: Sequence[Part]
    make: Callable[[], Any]
    model: str
    seed: int
    on_retry: Callable[[Rollout], None] | None = None
    _places: list[_Place] = field(default_factory=list)
    _opening: dict[asyncio.Task[None], Any] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _problem: Exception | None = None
    _telling: asyncio.Future[None] | None = None

    def prepare(self, job: Job) -> Callable[[], Awaitable[Rollout]]:
        """What runs `job` on a worker.

        Raises:
            UsageError: If workers said that no such job can be run.
        """
        if isinstance(self._problem, UsageError):
            raise self._problem
        return partial(self._run, job)

    async def compared(self, part: int, group: Sequence[Rollout]) -> list[Rollout]:
        """Attempts at one task, with the rewards that a worker gives by comparing them."""
        problem: Exception = EnvironmentFailure(
            f"{MOST_LOSSES} workers were lost while they compared a group"
        )
        for _ in range(MOST_LOSSES):
            place = await self._free()
            try:
                done: list[Rollout] = await place.actor.compared.remote(part, list(group))
            except Exception as error:  # noqa: BLE001 - one group never ends the run
                if self._is_loss(error):
                    self._lost(place, error)
                    continue
                problem = EnvironmentFailure(f"the worker failed: {error}")
                break
            return done
        return [
            rollout
            if rollout.outcome.reward is None
            else replace(rollout, outcome=Outcome.unscored(problem))
            for rollout in group
        ]

    def start_worker(self) -> None:
        """Start one more; it gets jobs once it is open."""
        actor = self.make()
        opening = asyncio.create_task(self._open(actor))
        self._opening[opening] = actor
        opening.add_done_callback(self._opened)

    async def watch(self, node: str) -> None:
        """End the run once the cluster's node of this process is gone: no worker starts any more.

        Args:
            node: Its id.
        """
        while self._problem is None:
            await asyncio.sleep(LOOK)
            if not self._places and await asyncio.to_thread(self._is_gone, node):
                self._problem = InvalidConfig(
                    "this machine's part of the Ray cluster is gone. "
                    "Fix: see why in its logs, then go on with --resume"
                )
                self._tell()

    def _is_gone(self, node: str) -> bool:
        try:
            nodes = self.ray.nodes()
        except Exception as error:  # noqa: BLE001 - a cluster that does not answer may come back
            log.warning("the Ray cluster does not answer: %s", error)
            return False
        return any(each["NodeID"] == node and not each["Alive"] for each in nodes)

    async def close(self) -> None:
        """Close every worker, and end it."""
        actors = [place.actor for place in self._places]
        late = dict(self._opening)
        for opening in late:
            opening.cancel()
        if late:
            await asyncio.wait(late)
        closings = [asyncio.ensure_future(actor.close.remote()) for actor in actors]
        if closings:
            done, _ = await asyncio.wait(closings, timeout=CLOSE_TIMEOUT)
            for closing in done:
                if not closing.cancelled() and closing.exception() is not None:
                    log.warning("a worker did not close cleanly: %s", closing.exception())
        for actor in (*actors, *late.values()):
            self.ray.kill(actor)

    async def _open(self, actor: Any) -> None:
        async with asyncio.timeout(OPEN_TIMEOUT):
            refused = await actor.open.remote()
        if refused:
            raise InvalidConfig(refused)
        async with self._changed:
            self._places.append(_Place(actor))
            self._changed.notify_all()

    def _opened(self, opening: asyncio.Task[None]) -> None:
        actor = self._opening.pop(opening)
        if opening.cancelled() or (error := opening.exception()) is None:
            return
        self.ray.kill(actor)
        if isinstance(error, UsageError):
            self._problem = error
        elif self._is_loss(error):
            log.warning("a worker was lost before it was open; another one is started")
            self.start_worker()
            return
        else:
            self._problem = EnvironmentFailure(f"a worker could not open: {error}")
        self._tell()

    def _tell(self) -> None:
        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._telling = asyncio.ensure_future(tell())

    async def _free(self) -> _Place:
        """The open worker with the least to do, once there is one."""
        async with self._changed:
            async with asyncio.timeout(OPEN_TIMEOUT):
                while not self._places:
                    if self._problem is not None:
                        raise self._problem
                    await self._changed.wait()
            return min(self._places, key=lambda place: place.in_flight)

    async def _run(self, job: Job) -> Rollout:
        remote = RemoteJob(
            job.part, job.task.to_row(), job.task_index, job.rollout_index, job.sampling
        )
        for _ in range(MOST_LOSSES):
            place = await self._free()
            place.in_flight += 1
            try:
                done: Done = await place.actor.run.remote(remote)
            except Exception as error:  # noqa: BLE001 - one rollout never ends the run
                if not self._is_loss(error):
                    return self._failed(job, f"the worker failed: {error}")
                self._lost(place, error)
                continue
            finally:
                place.in_flight -= 1
            if done.rollout is None:
                self._problem = InvalidConfig(done.refused)
                return self._failed(job, done.refused)
            if self.on_retry is not None:
                for attempt in done.failed:
                    self.on_retry(attempt)
            return done.rollout
        return self._failed(job, f"{MOST_LOSSES} workers were lost while they ran it")

    def _is_loss(self, error: BaseException) -> bool:
        errors = self.ray.exceptions
        return isinstance(
            error, (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError)
        ) or (isinstance(error, errors.RayError) and not isinstance(error, errors.RayTaskError))

    def _lost(self, place: _Place, error: Exception) -> None:
        if place not in self._places:
            return  # another rollout of the same worker has told already
        log.warning("a worker was lost (%s); its rollouts are run again", error)
        self._places.remove(place)
        self.ray.kill(place.actor)
        self.start_worker()

    def _failed(self, job: Job, said: str) -> Rollout:
        environment = self.parts[job.part].environment
        return unscored(
            job,
            EnvironmentFailure(said),
            Provenance(
                environment=environment.name,
                environment_version=environment.version,
                library_version=__version__,
                model=self.model,
                seed=self.seed,
            ),
        )


@asynccontextmanager
async def ray_runner(
    options: RayOptions,
    parts: Sequence[Part],
    model: str,
    *,
    agent_limits: AgentLimits,
    seed: int,
    retries: Retries,
    concurrency: int,
    on_retry: Callable[[Rollout], None] | None = None,
) -> AsyncIterator[RayRunner]:
    """A runner whose workers are starting.

    Args:
        options: How to use Ray.
        parts: The environments, which each worker finds by their names.
        model: A spec, opened by each worker.
        agent_limits: Budgets of the agent loop.
        seed: Seed of the run.
        retries: Further attempts.
        concurrency: Most rollouts at once, over all workers.
        on_retry: Told of each failed attempt that another one followed.

    Raises:
        MissingExtra: If Ray is not installed.
        InvalidConfig: If an environment has no name that other processes know.
    """
    # Nothing is reported to anybody, unless the user says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", "ray", "rollouts on Ray")
    plan = Plan(
        parts=[
            PlannedPart(_name_of(part.entry), part.config.model_dump(mode="json"), part.limits)
            for part in parts
        ],
        model=model,
        agent_limits=agent_limits,
        seed=seed,
        retries=retries,
    )
    ours = not ray.is_initialized()
    if ours:
        join_cluster(ray, options.address, options.workers * options.cpus)
    actor = ray.remote(RolloutWorker).options(
        num_cpus=options.cpus,
        num_gpus=options.gpus,
        # Closing must get through while all slots are taken.
        max_concurrency=concurrency + 8,
        scheduling_strategy="SPREAD",
    )
    runner = RayRunner(
        ray=ray,
        parts=parts,
        make=partial(actor.remote, plan),
        model=model,
        seed=seed,
        on_retry=on_retry,
    )
    watching = asyncio.create_task(runner.watch(ray.get_runtime_context().get_node_id()))
    try:
        for _ in range(options.workers):
            runner.start_worker()
        yield runner
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await runner.close()
        if ours:
            ray.shutdown()


def _name_of(entry: EnvironmentEntry) -> str:
    """What another process finds the environment by."""
    for name in (entry.name, str(entry.folder)):
        try:
            if load_environment(name).environment is entry.environment:
                return name
        except (UsageError, ImportError):
            continue
    raise InvalidConfig(
        f"workers can't find {entry.name}: give an environment's name, its folder, or module:Class"
    )
