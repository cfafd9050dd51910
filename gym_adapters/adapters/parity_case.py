"""What the drivers of parity cases share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from gym_adapters.adapters.capabilities import Adapter, Feature, refuse_unsupported
from gym_adapters.adapters.environment_run import EnvironmentRun
from gym_adapters.episode import Episode
from gym_adapters.errors import RolloutError, Unsupported
from gym_adapters.registry import load_environment
from gym_adapters.task import Task
from gym_adapters.testing.parity import Attempt, EpisodeSeed, ParityCase

__all__ = ["SeenSeeds", "refusal_of", "seen_seeds"]


def refusal_of(adapter: Adapter, case: ParityCase) -> str | None:
    """Why the capability matrix refuses `case` to `adapter`; ``None`` where it doesn't.

    Raises:
        UnknownEnvironment: If the case's environment can't be found.
    """
    environment = load_environment(case.environment).environment
    also = [Feature.SEVERAL_SEGMENTS] if case.several_segments else []
    try:
        refuse_unsupported(adapter, environment, case.tasks, also=also)
    except Unsupported as error:
        return str(error)
    return None


class SeenSeeds:
    """What the random numbers of an adapter's episodes followed from.

    Attributes:
        runs: The environments that made the episodes.
    """

    def __init__(self) -> None:
        self.runs: set[EnvironmentRun] = set()
        self._by_task: defaultdict[str, set[EpisodeSeed]] = defaultdict(set)

    def add(self, task_id: str, seed: EpisodeSeed) -> None:
        """Note one episode."""
        self._by_task[task_id].add(seed)

    def of(self, case: ParityCase) -> dict[Attempt, EpisodeSeed]:
        """By attempt; an adapter may count attempts at a task from any number, but upwards.

        Raises:
            RolloutError: If a task had fewer episodes than attempts.
        """
        found: dict[Attempt, EpisodeSeed] = {}
        for place, task in enumerate(case.tasks):
            seeds = sorted(self._by_task[task.task_id], key=lambda it: it.rollout_index)
            if len(seeds) < case.group_size:
                raise RolloutError(
                    f"{len(seeds)} different episodes of a task that is attempted "
                    f"{case.group_size} times"
                )
            first = seeds[: case.group_size]
            found |= {Attempt(place, index): seed for index, seed in enumerate(first)}
        return found


@contextmanager
def seen_seeds() -> Iterator[SeenSeeds]:
    """Note the seed of every episode that adapters of this process make meanwhile."""
    seen = SeenSeeds()
    make = EnvironmentRun.episode

    async def episode(
        self: EnvironmentRun, task: Task, *, seed: int, rollout_index: int, **options: Any
    ) -> Episode:
        seen.runs.add(self)
        seen.add(task.task_id, EpisodeSeed(seed, rollout_index))
        return await make(self, task, seed=seed, rollout_index=rollout_index, **options)

    with mock.patch.object(EnvironmentRun, "episode", episode):
        yield seen
