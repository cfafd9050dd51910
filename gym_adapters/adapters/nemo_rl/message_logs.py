"""Rollouts as what NeMo RL's NeMo Gym path takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from gym_adapters.reward import Reward
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment

__all__ = ["is_trained", "message_log", "nemo_result"]

Message = dict[str, Any]
# As NeMo RL compares a reward with the sum of its components.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6


def message_log(segment: Segment) -> list[Message]:
    """A segment as messages of token ids: the policy's are ``assistant``, all others ``user``.

    Joined, their ``token_ids`` are the segment's, and NeMo RL trains on exactly those of the
    assistant's. All are plain lists, which NeMo RL makes tensors of.
    """
    log: list[Message] = [_read(list(segment.prompt_ids))]
    start = 0
    for sampled, run in groupby(segment.mask):
        end = start + len(list(run))
        ids = list(segment.completion_ids[start:end])
        log.append(_written(ids, list(segment.logprobs[start:end])) if sampled else _read(ids))
        start = end
    return log


def is_trained(rollout: Rollout) -> bool:
    """Whether there is a reward, and one segment of tokens with finite log-probabilities."""
    if rollout.reward is None or len(rollout.segments) != 1:
        return False
    segment = rollout.segments[0]
    return any(segment.mask) and all(map(math.isfinite, segment.logprobs))


def nemo_result(rollout: Rollout, *, row: Mapping[str, Any], eos_token_id: int) -> dict[str, Any]:
    """What ``run_rollouts`` gives for one row.

    A rollout that can't be trained on is marked with ``mask_sample``, which keeps it out of the
    loss; the launcher keeps it out of its group's baseline too. Its reward is written as 0 because
    NeMo RL demands a number. One without tokens gets a placeholder of two.

    Args:
        rollout: A finished attempt.
        row: As NeMo RL gave it.
        eos_token_id: The placeholder.
    """
    trained = is_trained(rollout)
    if trained:
        log = message_log(rollout.segments[0])
    else:
        log = [_read([eos_token_id]), _written([eos_token_id], [0.0])]
    return {
        "message_log": log,
        # A copy: NeMo RL makes tensors in place, of both.
        "input_message_log": [dict(log[0])],
        "full_result": _full_result(rollout, row, trained),
    }


def _full_result(rollout: Rollout, row: Mapping[str, Any], trained: bool) -> dict[str, Any]:
    outcome = rollout.outcome
    told = rollout.to_json()
    # NeMo RL reports the numbers among these, by the names in a batch's first result.
    result: dict[str, Any] = {
        "responses_create_params": told["responses_create_params"],
        "response": told["response"],
        "agent_ref": row.get("agent_ref"),
        "reward": rollout.reward if trained else 0.0,
        "instance_config": {"mask_sample": not trained},
        "untrained": not trained,
        "failed": outcome.failure is not None,
        "gym_truncated": outcome.status.value == "truncated",
        "turns": rollout.usage.turns,
        "sampled_tokens": rollout.usage.output_tokens,
        "seconds": rollout.timings.total,
        "stop_reason": outcome.stop_reason.value,
        "failure": None,
    }
    if outcome.failure is not None:
        failure = outcome.failure
        result["failure"] = {"boundary": failure.boundary.value, "message": failure.message}
    if trained and outcome.reward is not None:
        components = dict(outcome.reward.components)
        if components and _sum_to_reward(outcome.reward):
            result["reward_components"] = components
        result |= {f"component_{name}": value for name, value in components.items()}
    return result


def _sum_to_reward(reward: Reward) -> bool:
    """Whether NeMo RL would take the components: they must add up to the reward."""
    total = sum(reward.components.values())
    return math.isclose(reward.value, total, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _read(ids: list[int]) -> Message:
    return {"role": "user", "content": "", "token_ids": ids}


def _written(ids: list[int], logprobs: list[float]) -> Message:
    return {
        "role": "assistant",
        "content": "",
        "token_ids": ids,
        "generation_logprobs": logprobs,
        "is_invalid_tool_call": False,
        "has_malformed_thinking": False,
    }
