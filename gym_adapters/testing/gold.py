"""An environment's own best attempts, as conversations to show a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from gym_adapters.environment import Environment
from gym_adapters.errors import RolloutError
from gym_adapters.items import FunctionTool
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollouts.collect import collect
from gym_adapters.task import Task
from gym_adapters.testing.tiny_model import Conversation

__all__ = ["gold_conversations"]


async def gold_conversations(
    environment: EnvironmentEntry | type[Environment[Any]], tasks: Sequence[Task]
) -> list[Conversation]:
    """What the environment's gold attempt at each task looks like, in the order of `tasks`.

    Raises:
        Unsupported: If the environment has no gold transcripts.
        RolloutError: If one of them fails.
    """
    made: dict[str, Conversation] = {}
    async for rollout in collect(environment, tasks, "scripted:gold"):
        if rollout.reward is None:
            raise RolloutError(f"the gold attempt at {rollout.task_id} failed: {rollout.outcome}")
        items = (*rollout.prompt, *rollout.output)
        made[rollout.task_id] = Conversation(items, cast("list[FunctionTool]", rollout.tools))
    return [made[task.task_id] for task in tasks]
