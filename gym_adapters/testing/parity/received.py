"""What a trainer was given to train on, in words that are the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gym_adapters.testing.parity.case import Attempt

__all__ = ["EpisodeSeed", "Received", "ReceivedRollout", "Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample, without padding.

    `completion_ids`, `mask` and `logprobs` have the same length T. `mask` is 1 where a token is
    trained on; `logprobs` are natural logs, and count only there.
    """

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    mask: Sequence[int]
    logprobs: Sequence[float]


@dataclass(frozen=True, slots=True)
class EpisodeSeed:
    """What an environment's random numbers follow from, besides its task.

    Attributes:
        seed: Of the run, or of one call of the trainer.
        rollout_index: Which attempt at the task it is, as the adapter counts them.
    """

    seed: int
    rollout_index: int


@dataclass(frozen=True, slots=True)
class ReceivedRollout:
    """What has come of one attempt.

    Attributes:
        samples: What is trained on; empty where nothing is.
        reward: The trainer's; ``None`` where the rollout is outside its group's baseline.
        components: Named parts of the reward; ``None`` where the trainer is not told.
        stop_reason: Why the episode took no further turn; ``None`` where the trainer is not told.
        failure: Boundary at fault where there is no reward; ``None`` for none.
        advantage: The trainer's own; ``None`` where the rollout has none.
    """

    samples: Sequence[Sample] = ()
    reward: float | None = None
    components: Mapping[str, float] | None = None
    stop_reason: str | None = None
    failure: str | None = None
    advantage: float | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """What has come of a case.

    Attributes:
        rollouts: One for each of the case's attempts.
        episodes: What the random numbers of each attempt followed from.
        fewest_survivors: Groups with fewer rollouts that have a reward are left out as a whole.
    """

    rollouts: Mapping[Attempt, ReceivedRollout]
    episodes: Mapping[Attempt, EpisodeSeed]
    fewest_survivors: int = 1
