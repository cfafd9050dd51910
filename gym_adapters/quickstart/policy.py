"""The quickstart's policy before training: it speaks the format and gets the numbers wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gym_adapters.registry import EnvironmentEntry
from gym_adapters.task import Task
from gym_adapters.testing.gold import gold_conversations
from gym_adapters.testing.tiny_model import TinyPolicy, WarmUp, tiny_policy

if TYPE_CHECKING:
    from gym_adapters.quickstart.lesson import QuickstartObserver, QuickstartSettings

__all__ = ["warmed_up_policy"]


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
