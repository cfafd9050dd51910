"""Sampling where the trainer decides: a row may only ask for shorter turns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gym_adapters.errors import InvalidRow
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.task import Task

__all__ = ["TrainerSampling"]

log = logging.getLogger(__name__)


class TrainerSampling:
    """Sampling by task: the trainer's settings, and the row's own token budget for a turn.

    Where a row asks for another temperature or the like, the trainer wins; that is told once.

    Args:
        sampling: The trainer's.
    """

    def __init__(self, sampling: SamplingParams) -> None:
        self._sampling = sampling
        self._told = False

    def __call__(self, task: Task) -> SamplingParams:
        """The sampling of one rollout of `task`.

        Raises:
            InvalidRow: If the row's ``max_output_tokens`` is no positive number.
        """
        asked = task.responses_create_params
        self._tell_conflict(asked)
        own, limit = asked.get("max_output_tokens"), self._sampling.max_tokens
        if own is None:
            return self._sampling
        if not isinstance(own, int) or own < 1:
            raise InvalidRow(
                f"it must be a positive integer, not {own!r}.",
                field="responses_create_params.max_output_tokens",
                fix="write a number of tokens, or leave it out.",
            )
        return replace(self._sampling, max_tokens=own if limit is None else min(own, limit))

    def _tell_conflict(self, asked: Mapping[str, Any]) -> None:
        names = [
            name
            for name in ("temperature", "top_p")
            if asked.get(name) is not None and asked[name] != getattr(self._sampling, name)
        ]
        if names and not self._told:
            self._told = True
            log.warning(
                "rows ask for their own %s; the trainer's settings win. Told once.",
                " and ".join(names),
            )
