"""A run: collecting rollouts into a folder, with metrics, so that it can be stopped and resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gym_adapters.agents.tool_agent import AgentLimits, ToolAgent
from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import InvalidConfig
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.blend import task_stream
from gym_adapters.rollouts.collect import GROUP_DEADLINE, collect_batches
from gym_adapters.rollouts.collection import RolloutKey
from gym_adapters.rollouts.compressed import Compression
from gym_adapters.rollouts.local_runner import Part, Retries, Runner, local_runner
from gym_adapters.rollouts.manifest import Manifest, git_state
from gym_adapters.rollouts.metrics import Metrics, RolloutMetrics
from gym_adapters.rollouts.models import ModelSource, model_source
from gym_adapters.rollouts.ray import RayOptions, ray_runner
from gym_adapters.rollouts.row_sampling import RowSampling
from gym_adapters.rollouts.run_folder import OnExisting, RunFolder
from gym_adapters.task import Task

__all__ = ["Observer", "RunPart", "RunSettings", "run"]

SESSIONS_TO_TRY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPart:
    """One environment of a run.

    Attributes:
        entry: The environment.
        config: Its settings.
        tasks: Gives its tasks, the same each time.
        input: Where they come from, in words or as a path; recorded.
        sampling: How to sample.
        episode_limits: Budgets of an episode.
        pass_threshold: A rollout passes with at least this reward.
        weight: Its share of the tasks that are attempted at a time.
    """

    entry: EnvironmentEntry
    config: EnvironmentConfig
    tasks: Callable[[], Iterable[Task]]
    input: str = ""
    sampling: RowSampling = field(default_factory=RowSampling)
    episode_limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    pass_threshold: float = 1.0
    weight: float = 1.0

    @property
    def name(self) -> str:
        """What rollouts call the environment."""
        return self.entry.environment.name

    @property
    def compares(self) -> bool:
        """Whether its rewards are relative to a group."""
        return self.entry.environment.capabilities().compares


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """All that a run is made of.

    Attributes:
        entry: The environment.
        config: Its settings.
        model: Model spec (`gym_adapters.rollouts.models`).
        tasks: Gives the tasks, the same each time.
        input: Where they come from, in words or as a path; recorded.
        output: Folder to write; ``None`` writes nothing.
        on_existing: What to do if `output` holds a run.
        num_repeats: Attempts at each task.
        concurrency: Most episodes at once.
        seed: Seed of the run.
        sampling: How to sample.
        episode_limits: Budgets of an episode.
        agent_limits: Budgets of the agent loop.
        retries: Further attempts at a rollout that failed for a reason that may pass.
        max_attempts: Attempts at a rollout over all sessions of the run; by default those of three
            sessions.
        pass_threshold: A rollout passes with at least this reward.
        weight: The environment's weight among `more`.
        more: Further environments of the same run.
        limit: Take only so many tasks, over all environments.
        ray: Run the rollouts on Ray; ``None`` runs them in this process.
        group_deadline: Seconds that a group which is compared waits for its last rollouts.
        compression: Of the rollouts in `output`, where a run begins there.
    """

    entry: EnvironmentEntry
    config: EnvironmentConfig
    model: str
    tasks: Callable[[], Iterable[Task]]
    input: str = ""
    output: Path | None = None
    on_existing: OnExisting = OnExisting.REFUSE
    num_repeats: int = 1
    concurrency: int = 64
    seed: int = 0
    sampling: RowSampling = field(default_factory=RowSampling)
    episode_limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    agent_limits: AgentLimits = field(default_factory=AgentLimits)
    retries: int = 1
    max_attempts: int | None = None
    pass_threshold: float = 1.0
    weight: float = 1.0
    more: Sequence[RunPart] = ()
    limit: int | None = None
    ray: RayOptions | None = None
    group_deadline: float = GROUP_DEADLINE
    compression: Compression | None = None

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise InvalidConfig(f"each environment of a run is named once, not {', '.join(names)}")
        wrong = [part.name for part in self.parts if not 0.0 < part.weight < float("inf")]
        if wrong:
            raise InvalidConfig(f"the weight of {wrong[0]} must be a number above 0")

    @property
    def parts(self) -> list[RunPart]:
        """All environments of the run."""
        first = RunPart(
            entry=self.entry,
            config=self.config,
            tasks=self.tasks,
            input=self.input,
            sampling=self.sampling,
            episode_limits=self.episode_limits,
            pass_threshold=self.pass_threshold,
            weight=self.weight,
        )
        return [first, *self.more]

    def manifest(self, source: ModelSource) -> Manifest:
        """What to record of these settings; tells the template only once `source` is open."""
        parts = self.parts
        versions = [part.entry.environment.version for part in parts]
        return Manifest(
            environment=", ".join(part.name for part in parts),
            environment_version=", ".join(versions),
            environment_config=_by_name(parts, lambda part: part.config.model_dump(mode="json")),
            model=source.name,
            template_hash=source.template_hash,
            seed=self.seed,
            sampling=_by_name(parts, lambda part: asdict(part.sampling)),
            limits=_by_name(parts, self._limits),
            num_repeats=self.num_repeats,
            input="; ".join(part.input for part in parts),
            blend={part.name: part.weight for part in parts} if self.more else None,
            git=git_state(self.entry.folder or Path.cwd()),
        )

    def metrics(self) -> RolloutMetrics:
        """What gathers the metrics of the run."""
        if not self.more:
            return RolloutMetrics(self.pass_threshold)
        thresholds = {part.name: part.pass_threshold for part in self.parts}
        return RolloutMetrics(self.pass_threshold, thresholds)

    def _limits(self, part: RunPart) -> dict[str, Any]:
        limits = {**asdict(part.episode_limits), **asdict(self.agent_limits)}
        if part.compares:
            # Rewards are relative to a group of this size.
            limits["num_repeats"] = self.num_repeats
        return limits


def _by_name(parts: Sequence[RunPart], of: Callable[[RunPart], dict[str, Any]]) -> dict[str, Any]:
    """What `of` gives: of one environment as it is, of several under their names."""
    if len(parts) == 1:
        return of(parts[0])
    return {part.name: of(part) for part in parts}


class Observer(Protocol):
    """Told how a run goes, from its event loop; must not block."""

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        """The model is loaded and the folder open, with `skipped` rollouts that need no run."""
        ...

    def finished(self, rollout: Rollout) -> None:
        """A rollout was finished, and recorded."""
        ...


async def run(settings: RunSettings, observer: Observer | None = None) -> Metrics:
    """Collect all rollouts of `settings` that its folder lacks.

    What is finished is recorded at once. On cancellation, and when something raises, the folder is
    left whole, with metrics of what is there, and can be resumed.

    Returns:
        Metrics over the whole folder, earlier sessions included.

    Raises:
        UsageError: If the settings can't be used.
        OSError: If the folder can't be written.
    """
    metrics = settings.metrics()
    source = model_source(settings.model, seed=settings.seed)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(_check_folder, settings, source)
        if settings.ray is None:
            await stack.enter_async_context(source)
        record = _Record(None, metrics)
        if settings.output is not None:
            folder = await asyncio.to_thread(
                _open_folder, settings, source, settings.output, metrics
            )
            record = stack.enter_context(_Record(folder, metrics))
        if observer is not None:
            observer.began(metrics, len(record.skip))
        batches = _batches(settings, source, record)
        async with aclosing(batches):
            async for batch in batches:
                await record.append(batch)
                if observer is not None:
                    for rollout in batch:
                        observer.finished(rollout)
    return metrics.metrics()


def _batches(
    settings: RunSettings, source: ModelSource, record: _Record
) -> AsyncGenerator[list[Rollout]]:
    parts = [
        Part(
            entry=part.entry,
            config=part.config,
            sampling=part.sampling,
            limits=part.episode_limits,
        )
        for part in settings.parts
    ]

    def runner() -> AbstractAsyncContextManager[Runner]:
        if settings.ray is not None:
            return ray_runner(
                settings.ray,
                parts,
                settings.model,
                agent_limits=settings.agent_limits,
                seed=settings.seed,
                retries=Retries(settings.retries),
                concurrency=settings.concurrency,
                on_retry=record.append_retried,
            )
        return local_runner(
            parts,
            source,
            agent=ToolAgent(settings.agent_limits),
            seed=settings.seed,
            retries=Retries(settings.retries),
            on_retry=record.append_retried,
        )

    return collect_batches(
        parts,
        task_stream(
            [part.tasks() for part in settings.parts],
            [part.weight for part in settings.parts],
            settings.limit,
        ),
        runner,
        num_repeats=settings.num_repeats,
        concurrency=settings.concurrency,
        skip=record.skip,
        group_deadline=settings.group_deadline,
    )


class _Record:
    """Where finished rollouts go: the metrics and, where there is one, the folder."""

    def __init__(self, folder: RunFolder | None, metrics: RolloutMetrics) -> None:
        self._folder, self._metrics = folder, metrics
        # One thread: the order of lines is the order of finish, and one disk is one disk.
        self._writer = ThreadPoolExecutor(1, "rollouts") if folder is not None else None

    @property
    def skip(self) -> frozenset[RolloutKey]:
        return self._folder.skip if self._folder is not None else frozenset()

    async def append(self, rollouts: Sequence[Rollout]) -> None:
        if self._folder is None:
            for rollout in rollouts:
                self._metrics.add(rollout)
        else:
            # One trip to the thread for all that finished while the last one was under way.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._writer, self._folder.append, *rollouts)

    def append_retried(self, rollout: Rollout) -> None:
        if self._folder is None:
            self._metrics.add_retried(rollout)
        elif self._writer is not None:
            self._writer.submit(self._folder.append_retried, rollout)

    def __enter__(self) -> _Record:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.shutdown(wait=True)
        if self._folder is not None:
            try:
                self._folder.write_metrics()
            except OSError:
                # What the run stops for says more: it names the file that could not be written.
                if error is None:
                    raise
            finally:
                self._folder.close()


def _check_folder(settings: RunSettings, source: ModelSource) -> None:
    """Refuse a folder that can't be used before the model is loaded, which may take minutes."""
    if settings.output is not None:
        RunFolder.check(
            settings.output,
            settings.manifest(source),
            settings.on_existing,
            compression=settings.compression,
            tasks=chain.from_iterable(part.tasks() for part in settings.parts),
        )


def _open_folder(
    settings: RunSettings, source: ModelSource, output: Path, metrics: RolloutMetrics
) -> RunFolder:
    attempts = settings.max_attempts
    return RunFolder(
        output,
        settings.manifest(source),
        on_existing=settings.on_existing,
        max_attempts=SESSIONS_TO_TRY * (settings.retries + 1) if attempts is None else attempts,
        whole_groups={part.name for part in settings.parts if part.compares},
        metrics=metrics,
        compression=settings.compression,
    )
