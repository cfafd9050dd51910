"""An environment as servers have it: its resources open, an episode for each row that is sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from typing import Any

from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.episode import Episode, EpisodeLimits, Step
from gym_adapters.errors import EnvironmentFailure, InvalidEnvironment, Unsupported
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollouts.model_judge import open_run_resources
from gym_adapters.serving.environment_session import verdict_of
from gym_adapters.task import Task

__all__ = ["ServedEnvironment"]


class ServedEnvironment:
    """Makes episodes. Use it as an async context manager: the resources are open within.

    Args:
        entry: The environment.
        config: Its settings; by default its card's.
        limits: Turns and times of an attempt; by default the card's turns.
        seed: Seed of the environment's random numbers.
        reserved: Names that no tool may have, because they are endpoints.
    """

    def __init__(
        self,
        entry: EnvironmentEntry,
        *,
        config: EnvironmentConfig | None = None,
        limits: EpisodeLimits | None = None,
        seed: int = 0,
        reserved: Collection[str] = (),
    ) -> None:
        self.entry = entry
        self.environment: type[Environment[Any]] = entry.environment
        self.config = config if config is not None else entry.config()
        turns = entry.card.budget.max_turns if entry.card is not None else EpisodeLimits().max_turns
        self.limits = limits if limits is not None else EpisodeLimits(max_turns=turns)
        self.seed, self._reserved = seed, frozenset(reserved)
        self._stack = AsyncExitStack()
        self._resources: Any = None

    async def __aenter__(self) -> ServedEnvironment:
        self._check_names(self.environment.class_tools)
        if self.environment.capabilities().compares:
            raise Unsupported(
                f"{self.entry.name} rewards attempts by comparing a group, and a server sees one "
                "attempt at a time"
            )
        self._resources = await self._stack.enter_async_context(
            open_run_resources(self.environment, self.config)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def task(self, row: Mapping[str, Any]) -> Task:
        """The task of a row.

        Raises:
            InvalidRow: If it is none of the environment's.
        """
        return self.environment.task_type.from_row(row)

    def episode(self, task: Task, *, rollout_index: object = 0) -> Episode:
        """A fresh attempt; an index that is no whole number is 0."""
        return Episode(
            self.environment,
            task,
            config=self.config,
            resources=self._resources,
            seed=self.seed,
            rollout_index=rollout_index if isinstance(rollout_index, int) else 0,
            limits=self.limits,
        )

    async def start(self, episode: Episode) -> Step:
        """The first step of `episode`.

        Raises:
            HttpError: If the environment can't be started.
            EnvironmentFailure: If it is over before the first turn.
            InvalidEnvironment: If a tool has a reserved name.
        """
        step = await episode.start()
        if step.outcome is not None:
            verdict_of(step.outcome)
            raise EnvironmentFailure(f"{self.entry.name} ended the episode before its first turn")
        self._check_names([tool["name"] for tool in episode.tools])
        return step

    def _check_names(self, tools: Collection[str]) -> None:
        taken = sorted(self._reserved.intersection(tools))
        if taken:
            raise InvalidEnvironment(
                f"{self.entry.name} can't be served: its tools {', '.join(taken)} have the names "
                "of endpoints. Give them other names: @tool(name=...)"
            )
