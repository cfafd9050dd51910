"""Finished rollouts as what verl's V1 trainer takes, checked to the token.

verl checks nothing: log-probabilities that are one short are trained on shifted, a response that is
too long grows the batch, a missing version stamp ends the run after a whole step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from gym_adapters.errors import LedgerError
from gym_adapters.reward import Outcome, OutcomeStatus
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment

__all__ = ["SampleBounds", "SampleFields", "checked", "reward_extra_info", "sample_fields"]


@dataclass(frozen=True, slots=True)
class SampleBounds:
    """Bounds of one training sample, in tokens.

    Attributes:
        prompt: Of the rollout's first prompt.
        response: Of a response, environment tokens included.
    """

    prompt: int
    response: int


@dataclass(frozen=True, slots=True)
class SampleFields:
    """The fields of one ``AgentLoopOutput``, in verl's own words."""

    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    response_logprobs: list[float]
    reward_score: float
    num_turns: int
    extra_fields: dict[str, Any]


def sample_fields(
    rollout: Rollout,
    bounds: SampleBounds,
    *,
    versions: Sequence[int],
    components: Sequence[str] = (),
) -> list[SampleFields]:
    """One entry a segment, oldest first; all have the rollout's reward.

    Args:
        rollout: Scored, with at least one segment.
        bounds: Of each sample.
        versions: Weights versions that the rollout's turns were sampled from.
        components: Reward components to report by name.

    Raises:
        LedgerError: If the rollout has no reward or no tokens, or a sample breaks a rule.
    """
    reward = rollout.outcome.reward
    if reward is None or not rollout.segments or not versions:
        raise LedgerError("a rollout without a reward, tokens or weights version can't be trained")
    extra: dict[str, Any] = {
        "min_global_steps": min(versions),
        "max_global_steps": max(versions),
        "reward_extra_info": reward_extra_info(rollout, components),
    }
    for position, segment in enumerate(rollout.segments):
        check_segment(segment, bounds, is_first=position == 0)
    return [
        SampleFields(
            prompt_ids=list(segment.prompt_ids),
            response_ids=list(segment.completion_ids),
            response_mask=list(segment.mask),
            response_logprobs=list(segment.logprobs),
            reward_score=reward.value,
            # verl counts the turns of both sides.
            num_turns=2 * rollout.usage.turns,
            extra_fields={**extra, "reward_extra_info": dict(extra["reward_extra_info"])},
        )
        for segment in rollout.segments
    ]


def checked(rollout: Rollout, bounds: SampleBounds) -> Rollout:
    """`rollout`, unscored where one of its segments breaks a rule.

    To be asked before its group is settled: a sample refused after that would leave a hole in it.
    """
    try:
        for position, segment in enumerate(rollout.segments):
            check_segment(segment, bounds, is_first=position == 0)
    except LedgerError as error:
        return replace(rollout, outcome=Outcome.unscored(error))
    return rollout


def check_segment(segment: Segment, bounds: SampleBounds, *, is_first: bool) -> None:
    """Refuse a sample that verl would take, and train wrongly on.

    Raises:
        LedgerError: Naming the rule that is broken.
    """
    length, read = len(segment.completion_ids), len(segment.prompt_ids)
    logprobs, room = segment.logprobs, bounds.prompt + bounds.response
    rules = {
        "the prompt is empty": read > 0,
        "the response is empty": length > 0,
        f"{len(segment.mask)} mask entries for {length} tokens": len(segment.mask) == length,
        f"{len(logprobs)} log-probabilities for {length} tokens": len(logprobs) == length,
        "nothing in the response was sampled": any(segment.mask),
        "a log-probability is not finite": all(map(math.isfinite, logprobs)),
        f"a response of {length} tokens, {bounds.response} are allowed": length <= bounds.response,
        # A later segment's prompt holds what was said before; together they have the same room.
        f"{read + length} tokens, {room} are allowed": read + length <= room,
        f"a prompt of {read} tokens, {bounds.prompt} are allowed": not is_first
        or read <= bounds.prompt,
    }
    broken = [problem for problem, holds in rules.items() if not holds]
    if broken:
        raise LedgerError(f"a training sample breaks verl's rules: {'; '.join(broken)}")


def reward_extra_info(rollout: Rollout, components: Sequence[str]) -> dict[str, float | str]:
    """What verl's validation reports: the same keys for every rollout, whatever its reward has.

    Numbers are averaged; text is only dumped. The name ``acc`` is left to nobody on purpose: verl
    fills it up with zeros for rollouts that failed.
    """
    reward = rollout.outcome.reward
    parts: Mapping[str, float] = reward.components if reward is not None else {}
    return {
        "score": reward.value if reward is not None else math.nan,
        "truncated": float(rollout.outcome.status is OutcomeStatus.TRUNCATED),
        "turns": float(rollout.usage.turns),
        "sampled_tokens": float(rollout.usage.output_tokens),
        **{f"component/{name}": parts.get(name, math.nan) for name in components},
        "components": orjson.dumps(dict(parts)).decode(),
        "stop_reason": rollout.outcome.stop_reason.value,
    }
