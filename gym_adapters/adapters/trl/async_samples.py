"""A finished group as the samples that AsyncGRPOTrainer trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gym_adapters.adapters.failure_streak import problem_of
from gym_adapters.adapters.prompt_messages import prompt_messages
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment

__all__ = ["group_advantages", "group_samples"]

# TRL's own, in its rollout worker.
_SMALLEST_DEVIATION = 1e-8


def group_advantages(rewards: Sequence[float]) -> tuple[list[float], float]:
    """Advantages of a group, and the standard deviation of its rewards.

    ``(reward - mean) / (deviation + 1e-8)``, with the deviation of a population, as TRL's own
    rollout worker has it (GRPOTrainer takes that of a sample, and 1e-4).
    """
    mean = sum(rewards) / len(rewards)
    deviation = (sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5
    return [(reward - mean) / (deviation + _SMALLEST_DEVIATION) for reward in rewards], deviation


def group_samples(rollouts: Sequence[Rollout], *, group_id: int) -> list[Any]:
    """A ``RolloutSample`` for each segment of each rollout that can be trained on.

    A rollout without a reward, or without a token of the policy's, gives none, and has no part in
    the advantages. All samples of a rollout have its advantage. Its reward is in the metrics of the
    first alone, so that TRL's mean is one of rollouts. A sample is as old as its oldest turn.

    Args:
        rollouts: All attempts of the group; their turns are stamped with TRL's version.
        group_id: TRL counts prompts by it.
    """
    survivors = [each for each in rollouts if problem_of(each) is None]
    rewards = [each.reward for each in survivors if each.reward is not None]
    if not rewards:
        return []
    advantages, deviation = group_advantages(rewards)
    samples = []
    for rollout, reward, advantage in zip(survivors, rewards, advantages, strict=True):
        metrics = {
            "reward": reward,
            "reward_std": deviation,
            # Not named by the environment at the end: TRL sums, say, what ends in "total".
            f"rewards/{rollout.provenance.environment}/mean": reward,
        }
        for place, segment in enumerate(rollout.segments):
            samples.append(
                _sample(rollout, segment, advantage, group_id, metrics if place == 0 else {})
            )
    return samples


def _sample(
    rollout: Rollout,
    segment: Segment,
    advantage: float,
    group_id: int,
    metrics: dict[str, float],
) -> Any:
    import numpy as np
    from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

    context = [0] * len(segment.prompt_ids)
    versions = [span.weights_version for span in segment.spans if span.sampled]
    return RolloutSample(
        prompt=prompt_messages(rollout.prompt),
        completion=prompt_messages(rollout.output),
        input_ids=np.asarray([*segment.prompt_ids, *segment.completion_ids], dtype=np.int64),
        completion_mask=np.asarray([*context, *segment.mask], dtype=np.int64),
        old_log_probs=np.asarray([*context, *segment.logprobs], dtype=np.float32),
        advantage=advantage,
        model_version=min(version for version in versions if isinstance(version, int)),
        group_id=group_id,
        metrics=metrics,
    )
