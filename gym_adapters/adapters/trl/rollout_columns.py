"""Finished rollouts as the columns a rollout function returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gym_adapters.adapters.trl.reporting import Attempt
from gym_adapters.adapters.trl.reward import ATTEMPT
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment

__all__ = ["rollout_columns"]


def rollout_columns(rollouts: Sequence[Rollout], *, pad_id: int) -> dict[str, list[Any]]:
    """One entry a rollout in every column.

    ``env_mask`` is 1 where the policy sampled. A rollout without a reward keeps its tokens for the
    logs, under a mask of 0. TRL reads the last token of a completion, so one without tokens gets
    the padding token, masked too.

    Args:
        rollouts: Finished rollouts.
        pad_id: The tokenizer's padding token.
    """
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "gym_reward", ATTEMPT)
    }
    for rollout in rollouts:
        attempt = Attempt.of_rollout(rollout)
        segments = rollout.segments
        if len(segments) == 1:
            segment = segments[0]
        else:
            segment = Segment((pad_id,), (pad_id,), (0,), (0.0,))
            # One sample can't hold two segments.
            attempt = replace(attempt, reward=None)
        trained = attempt.reward is not None
        columns["prompt_ids"].append(list(segment.prompt_ids))
        columns["completion_ids"].append(list(segment.completion_ids))
        columns["logprobs"].append(list(segment.logprobs))
        columns["env_mask"].append(list(segment.mask) if trained else [0] * len(segment.mask))
        columns["gym_reward"].append(attempt.reward)
        columns[ATTEMPT].append(attempt)
    return columns
