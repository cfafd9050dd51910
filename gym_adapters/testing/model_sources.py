"""What the model specs ``scripted:`` and ``tiny`` mean (see `gym_adapters.rollouts.models`)."""

from __future__ import annotations

import asyncio
from math import inf, nan
from typing import Any

from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig
from gym_adapters.generation.chat import ChatModel
from gym_adapters.rollouts.models import ModelSource, SourceBase
from gym_adapters.rollouts.transformers_source import TransformersSource
from gym_adapters.task import Task
from gym_adapters.testing.scripted_chat import empty_model, garbage_model, gold_model

__all__ = ["ScriptedSource", "TinySource", "scripted_source", "tiny_source"]

KINDS = ("gold", "empty", "garbage")


class ScriptedSource(SourceBase):
    """A scripted model per rollout.

    Args:
        kind: ``gold`` (the environment's own best attempt), ``empty`` or ``garbage``.
        delay: Seconds before each turn.
    """

    says_the_same = True

    def __init__(self, kind: str, *, delay: float = 0.0) -> None:
        if kind not in KINDS:
            raise InvalidConfig(
                f"there is no scripted model {kind!r}. Fix: write "
                + " or ".join(f"scripted:{known}" for known in KINDS)
                + ", with @SECONDS after it to delay each turn."
            )
        super().__init__(f"scripted:{kind}")
        self._kind, self._delay = kind, delay

    def for_rollout(
        self, environment: type[Environment[Any]], task: Task, rollout_index: int = 0
    ) -> ChatModel:
        """The script of `task`."""
        if self._kind == "gold":
            return gold_model(environment, task, delay=self._delay)
        if self._kind == "garbage":
            return garbage_model(task, rollout_index=rollout_index, delay=self._delay)
        return empty_model(delay=self._delay)


class TinySource(TransformersSource):
    """The tiny policy with random weights: made on first use, then cached."""

    def __init__(self, *, seed: int) -> None:
        super().__init__("tiny", seed=seed)

    async def _path(self) -> str:
        from gym_adapters.testing.tiny_model import tiny_policy

        return str((await asyncio.to_thread(tiny_policy, seed=0)).model_path)


def scripted_source(argument: str, seed: int) -> ModelSource:
    """``scripted:gold``, ``scripted:empty`` or ``scripted:garbage``, and maybe ``@SECONDS``."""
    kind, _, told = argument.partition("@")
    try:
        delay = float(told) if told else 0.0
    except ValueError:
        delay = nan
    if not 0.0 <= delay < inf:
        raise InvalidConfig(f"scripted:{argument}: {told!r} is not a number of seconds")
    return ScriptedSource(kind, delay=delay)


def tiny_source(argument: str, seed: int) -> ModelSource:
    """``tiny``."""
    if argument:
        raise InvalidConfig(f"the tiny policy takes no argument, not {argument!r}: write tiny")
    return TinySource(seed=seed)
