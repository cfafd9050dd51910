"""The quickstart's policy before training: it speaks the format and gets the numbers wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from gym_adapters.errors import RolloutError
from gym_adapters.items import FunctionTool
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollouts.collect import collect
from gym_adapters.task import Task
from gym_adapters.testing.tiny_model import Conversation, TinyPolicy, WarmUp, tiny_policy

if TYPE_CHECKING:
    from gym_adapters.quickstart.lesson import QuickstartObserver, QuickstartSettings

__all__ = ["gold_conversations", "warmed_up_policy"]


def warmed_up_policy(
    entry: EnvironmentEntry,
    tasks: Sequence[Task],
    settings: QuickstartSettings,
    observer: QuickstartObserver,
) -> TinyPolicy:
    """A tiny policy that was shown gold transcripts of `tasks`, or the one made before."""
    warmup = WarmUp(asyncio.run(gold_conversations(entry, tasks)))
    observer.stage("policy", warmup.copy_steps + warmup.mistake_steps)
    return tiny_policy(seed=settings.seed, warmup=warmup, progress=observer.warmed_up)


async def gold_conversations(entry: EnvironmentEntry, tasks: Sequence[Task]) -> list[Conversation]:
    """What the environment's own best attempt at each task looks like, in the order of `tasks`."""
    made: dict[str, Conversation] = {}
    async for rollout in collect(entry, tasks, "scripted:gold"):
        if rollout.reward is None:
            raise RolloutError(f"the gold attempt at {rollout.task_id} failed: {rollout.outcome}")
        items = (*rollout.prompt, *rollout.output)
        made[rollout.task_id] = Conversation(items, cast("list[FunctionTool]", rollout.tools))
    return [made[task.task_id] for task in tasks]
