"""Environments in TRL's own tool loop, for environments of tools alone.

TRL makes instances with a factory of no arguments, calls ``reset(**row)`` before each rollout and
the instance's methods when the model calls tools. It never says that a rollout is over: the reward
function, which sees the final message, does.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.environment_run import AnyEnvironment, EnvironmentRun
from gym_adapters.adapters.trl.completions import Completion, completion_items
from gym_adapters.adapters.trl.reporting import Attempt, LogExtra, LogMetric, report
from gym_adapters.adapters.trl.reward import Rewards
from gym_adapters.adapters.trl.rows import row_of_columns
from gym_adapters.adapters.trl.tool_schema import ShownTool, method_of
from gym_adapters.adapters.trl.trainer_facts import TrainerFacts
from gym_adapters.adapters.trl.version import check_trl
from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import Episode, EpisodeLimits
from gym_adapters.errors import (
    Boundary,
    RolloutError,
    Unsupported,
    UsageError,
    boundary,
)
from gym_adapters.items import FunctionTool
from gym_adapters.reward import StopReason
from gym_adapters.task import Task
from gym_adapters.tools import Tool, error_result

__all__ = ["EnvironmentFactory", "EnvironmentReward", "ToolEnvironment", "environment_factory"]

# What TRL does not take for a tool.
_RESERVED = ("reset", "get_reward")


def environment_factory(
    environment: AnyEnvironment,
    *,
    tasks: Sequence[Task] = (),
    config: EnvironmentConfig | None = None,
    limits: EpisodeLimits | None = None,
    facts: TrainerFacts | None = None,
) -> EnvironmentFactory:
    """What ``GRPOTrainer(environment_factory=...)`` takes; its reward is `EnvironmentReward`.

    Args:
        environment: Class, registry entry or name.
        tasks: The rows to come, as far as known: they may declare which tools there are.
        config: Its settings; by default those of its card.
        limits: Times allowed to hooks, tools and verifier. TRL's ``max_tool_calling_iterations``
            bounds the turns.
        facts: About the trainer; `TrlSpec` gives them.

    Raises:
        Unsupported: If the environment does more than offer the same tools to every row.
    """
    check_trl()
    run = EnvironmentRun(environment, config=config, limits=limits)
    refuse_unsupported(Adapter.TRL_ENVIRONMENT_FACTORY, run.environment, tasks)
    return EnvironmentFactory(run, tasks, facts if facts is not None else TrainerFacts())


class EnvironmentFactory:
    """Makes the instances that TRL pools and resets; see `environment_factory`.

    Args:
        run: The environment.
        tasks: Rows; the first says which tools there are.
        facts: About the trainer.
    """

    def __init__(self, run: EnvironmentRun, tasks: Sequence[Task], facts: TrainerFacts) -> None:
        self.run, self.facts = run, facts
        self.tools = _tools(run, tasks)
        self._instances: weakref.WeakSet[ToolEnvironment] = weakref.WeakSet()
        self._made = 0
        methods = {tool["name"]: method_of(tool) for tool in self.tools}
        self._class = type(run.environment.__name__, (ToolEnvironment,), methods)

    def __call__(self) -> ToolEnvironment:
        """A fresh instance, not yet reset."""
        instance: ToolEnvironment = self._class(self, self._made)
        self._made += 1
        self._instances.add(instance)
        return instance

    def close(self) -> None:
        """Close all episodes and the environment's resources."""
        for instance in list(self._instances):
            instance._close()
        self.run.close()


class ToolEnvironment:
    """One pooled instance: an episode at a time. TRL takes every public method for a tool.

    Args:
        factory: Who made it.
        index: Which instance this is; the rollout's index in its batch.
    """

    def __init__(self, factory: EnvironmentFactory, index: int) -> None:
        self._run, self._facts, self._index = factory.run, factory.facts, index
        self._declared = {tool["name"]: tool for tool in factory.tools}
        self._rounds = 0
        self._episode: Episode | None = None
        self._tools: dict[str, Tool] = {}
        self._calls = 0
        self._ended_after: int | None = None
        # TRL lists the class's functions, and then takes what the instance holds under their names:
        # here something that is its own, exact schema.
        for tool in factory.tools:
            setattr(self, tool["name"], ShownTool(tool, self._caller(tool["name"])))

    def reset(self, **row: Any) -> None:
        """Close the rollout before and start one of `row`, a row of the dataset.

        Raises:
            InvalidRow: If the row can't be read.
            Unsupported: If the row declares other tools than the first one did.
        """
        prompt = row.get("prompt") or ""
        columns = {name: [value] for name, value in row.items() if name != "prompt"}
        task = self._run.task(row_of_columns(columns, 0, prompt))
        self._run.loop.run(self._start(task))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._index} of gym_adapters>"

    async def _start(self, task: Task) -> None:
        await self._close_episode()
        self._rounds += 1
        episode = await self._run.episode(
            task, seed=self._facts.seed + self._rounds, rollout_index=self._index
        )
        self._episode, self._tools, self._calls, self._ended_after = episode, {}, 0, None
        step = await episode.start()
        if step.done:
            return
        tools = {tool.name: tool for tool in episode.environment.available_tools()}
        if {name: tool.declaration() for name, tool in tools.items()} != self._declared:
            raise Unsupported(
                f"a row of {self._run.environment.name} offers other tools than TRL was given "
                f"({', '.join(self._declared)}). Fix: use rollout_function."
            )
        self._tools = tools

    def _caller(self, name: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda arguments: self._run.loop.run(self._call(name, arguments))

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        episode = self._episode
        if episode is None or name not in self._tools:
            return error_result("tool_error", "not run: the rollout could not be started")
        self._calls += 1
        if episode.outcome is not None:
            return error_result("tool_error", "not run: the rollout has failed")
        if self._ended_after is not None:
            return error_result("tool_error", "not run: the episode has ended")
        try:
            with boundary(Boundary.TOOL, f"tool {name} of {episode.environment.name}"):
                async with asyncio.timeout(episode.limits.tool_timeout):
                    result = await self._tools[name].call(json.dumps(arguments))
        except RolloutError as error:
            episode.fail(error)
            return error_result("exception", "the tool could not be run")
        if episode.environment.ended:
            self._ended_after = self._calls
        return result

    async def _finish(
        self, completion: Completion, completion_ids: Sequence[int] | None
    ) -> Attempt:
        episode = self._episode
        if episode is None:
            raise UsageError("a rollout was scored before it was reset.")
        if episode.outcome is None:
            messages, reason = self._ending(completion, completion_ids)
            episode.output[:] = completion_items(messages)
            episode.turns = sum(message.get("role") == "assistant" for message in messages)
            await episode.truncate(reason)
        outcome = episode.outcome
        if outcome is None:
            raise RuntimeError("an episode that was verified has no outcome")
        counts = {"tool_calls": float(self._calls), "turns": float(episode.turns)}
        return Attempt.of_outcome(outcome, counts)

    def _ending(
        self, completion: Completion, completion_ids: Sequence[int] | None
    ) -> tuple[list[Mapping[str, Any]], StopReason]:
        """The messages that count, and why there are no more."""
        if isinstance(completion, str):
            raise UsageError(
                "an environment needs conversational prompts. Fix: use trl_dataset(tasks)."
            )
        messages = list(completion)
        results = [
            position
            for position, message in enumerate(messages)
            if message.get("role") == "tool" and message.get("name") in self._declared
        ]
        if self._ended_after is not None and len(results) >= self._ended_after:
            end = results[self._ended_after - 1] + 1
            while end < len(messages) and messages[end].get("role") == "tool":
                end += 1
            return messages[:end], StopReason.ENVIRONMENT
        last = messages[-1] if messages else {}
        # TRL takes results back that don't fit, after the tools have run.
        if len(results) < self._calls or last.get("role") == "tool":
            return messages, StopReason.CONTEXT
        if last.get("tool_calls"):
            return messages, StopReason.MAX_TURNS
        if self._facts.was_cut(completion_ids):
            return messages, StopReason.LENGTH
        return messages, StopReason.ANSWERED

    async def _close_episode(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            await episode.close()

    def _close(self) -> None:
        if self._episode is not None:
            self._run.loop.run(self._close_episode())


class EnvironmentReward:
    """The verdict on each rollout of an `EnvironmentFactory`'s instances.

    Args:
        factory: What GRPOTrainer was given as ``environment_factory``, or one of several.

    Attributes:
        among_others: Whether it is one of several.
    """

    def __init__(self, factory: EnvironmentFactory) -> None:
        self.__name__ = factory.run.environment.name
        self._factory = factory
        self.among_others = False

    async def __call__(
        self,
        prompts: Sequence[Completion],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None = None,
        environments: Sequence[object] | None = None,
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> Rewards:
        """One reward a rollout; ``None`` where there is no verdict, or another's environment.

        Raises:
            UsageError: If GRPOTrainer has no ``environment_factory``.
        """
        if environments is None:
            raise UsageError(
                "this reward function belongs to an environment_factory, and GRPOTrainer has none. "
                "Fix: give it both, as trainer_arguments() does."
            )
        ids = completion_ids if completion_ids is not None else [None] * len(completions)
        ours = [
            (index, instance)
            for index, instance in enumerate(environments)
            if isinstance(instance, ToolEnvironment) and instance._run is self._factory.run
        ]
        finishing = [instance._finish(completions[i], ids[i]) for i, instance in ours]
        attempts = await self._factory.run.loop.run_from(_all(finishing))
        given = report(
            attempts,
            environment=self.__name__,
            among_others=self.among_others,
            boundaries=self._factory.facts.boundaries,
            log_metric=log_metric,
        )
        rewards: Rewards = [None] * len(prompts)
        reasons: list[str | None] = [None] * len(prompts)
        for (index, _), attempt, reward in zip(ours, attempts, given, strict=True):
            rewards[index], reasons[index] = reward, attempt.stop_reason
        # TRL strings together what several functions log of one column.
        if log_extra is not None and not self.among_others:
            log_extra("gym_stop_reason", reasons)
        return rewards


async def _all(finishing: Sequence[Coroutine[Any, Any, Attempt]]) -> list[Attempt]:
    return list(await asyncio.gather(*finishing))


def _tools(run: EnvironmentRun, tasks: Sequence[Task]) -> list[FunctionTool]:
    environment = run.environment
    if tasks:
        offered = environment(tasks[0], config=run.config).available_tools()
    else:
        offered = list(environment.class_tools.values())
    for tool in offered:
        if tool.name in _RESERVED or tool.name.startswith("_"):
            raise Unsupported(
                f"TRL does not take {tool.name!r} of {environment.name} for a tool: the name is "
                "its own, or begins with an underscore. Fix: rename it, or use rollout_function."
            )
    return [tool.declaration() for tool in offered]
