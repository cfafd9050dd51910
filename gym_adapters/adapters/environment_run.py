"""One environment as a trainer uses it: settings, event loop, and resources opened once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from gym_adapters.adapters.background_loop import BackgroundLoop
from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.episode import Episode, EpisodeLimits
from gym_adapters.errors import Boundary, boundary
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.groups import compared
from gym_adapters.rollouts.model_judge import open_run_resources
from gym_adapters.task import Task

__all__ = ["AnyEnvironment", "EnvironmentRun"]

log = logging.getLogger(__name__)
# Seconds of wall time to open what a whole run shares: a container may have to be pulled.
OPEN_TIMEOUT = 900.0

AnyEnvironment = type[Environment[Any]] | EnvironmentEntry | str
"""An environment's class, an entry of the registry, or a name that the registry resolves."""


class EnvironmentRun:
    """Makes episodes of one environment, over resources opened when the first of them needs them.

    Args:
        environment: Class, registry entry or name.
        config: Settings; by default those of the entry's card, or the class's own defaults.
        limits: Bounds of an episode; by default the card's turn budget, where there is a card.

    Attributes:
        environment: The class.
        config: The settings.
        limits: The bounds.
        loop: Where all of the environment's code runs.
    """

    def __init__(
        self,
        environment: AnyEnvironment,
        *,
        config: EnvironmentConfig | None = None,
        limits: EpisodeLimits | None = None,
    ) -> None:
        entry = load_environment(environment) if isinstance(environment, str) else environment
        if isinstance(entry, EnvironmentEntry):
            self.environment = entry.environment
            self.config = config if config is not None else entry.config()
            turns = entry.card.budget.max_turns if entry.card else EpisodeLimits().max_turns
            self.limits = limits if limits is not None else EpisodeLimits(max_turns=turns)
        else:
            self.environment = entry
            self.config = config if config is not None else entry.Config()
            self.limits = limits if limits is not None else EpisodeLimits()
        self.loop = BackgroundLoop(f"gym_adapters-{self.environment.name}")
        self._keeper: _ResourceKeeper | None = None

    def task(self, row: dict[str, Any]) -> Task:
        """The task of one row.

        Raises:
            InvalidRow: Naming field and fix.
        """
        return self.environment.task_type.from_row(row)

    async def episode(
        self, task: Task, *, seed: int, rollout_index: int, max_turns: int | None = None
    ) -> Episode:
        """A fresh episode; call it on `loop`.

        Raises:
            EnvironmentFailure: If the resources can't be opened.
        """
        limits = self.limits if max_turns is None else replace(self.limits, max_turns=max_turns)
        return Episode(
            self.environment,
            task,
            config=self.config,
            resources=await self._resources(),
            seed=seed,
            rollout_index=rollout_index,
            limits=limits,
        )

    async def compared(self, group: Sequence[Rollout]) -> list[Rollout]:
        """The attempts at one task with the rewards of `Environment.compare`; call it on `loop`.

        Raises:
            EnvironmentFailure: If the resources can't be opened.
        """
        return await compared(
            self.environment, group, config=self.config, resources=await self._resources()
        )

    async def _resources(self) -> Any:
        keeper = self._keeper
        if keeper is None:
            keeper = self._keeper = _ResourceKeeper(self.environment, self.config)
        try:
            return await keeper.resources()
        except Exception:
            if self._keeper is keeper:
                self._keeper = None
            raise

    async def aclose(self) -> None:
        """Close the resources; call it on `loop`. Using the run again opens them anew."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.close()

    def share_loop(self, loop: BackgroundLoop) -> None:
        """Run on `loop` from now on, with other environments; its owner closes it."""
        if loop is not self.loop:
            self.close()
            self.loop = loop

    def close(self) -> None:
        """Close the resources and end the thread; using the run again opens them anew."""
        self.loop.run(self.aclose())
        self.loop.close()


class _ResourceKeeper:
    """Holds `open_resources` open in one task: it may use cancel scopes, which belong to a task."""

    def __init__(self, environment: type[Environment[Any]], config: EnvironmentConfig) -> None:
        self._environment, self._config = environment, config
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep())

    async def resources(self) -> Any:
        # A rollout that is cancelled must not take the others' resources with it.
        return await asyncio.shield(self._opened)

    async def close(self) -> None:
        self._closing.set()
        await self._task

    async def _keep(self) -> None:
        name = self._environment.name
        try:
            async with AsyncExitStack() as stack:
                with boundary(Boundary.ENVIRONMENT, f"open_resources of {name}"):
                    async with asyncio.timeout(OPEN_TIMEOUT):
                        resources = await stack.enter_async_context(
                            open_run_resources(self._environment, self._config)
                        )
                self._opened.set_result(resources)
                await self._closing.wait()
        except Exception as error:
            if self._opened.done():
                log.warning("closing the resources of %s failed", name, exc_info=True)
            else:
                self._opened.set_exception(error)
