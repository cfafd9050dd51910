"""When a run of failures is the run's own failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gym_adapters.errors import RolloutError
from gym_adapters.rollout import Rollout

__all__ = ["MOST_IN_A_ROW", "FailureStreak", "problem_of"]

MOST_IN_A_ROW = 64
"""Prompts in a row that nothing could be learnt from, until the run ends."""

FEWEST_CALLS = 3
"""Batches they must be spread over: what is down for a moment takes a whole batch with it."""


@dataclass(slots=True)
class FailureStreak:
    """Counts prompts without a rollout to train on.

    Attributes:
        prompts: Since the last rollout that could be trained on.
        calls: Batches they were in.
        first: The first problem of them.
    """

    prompts: int = 0
    calls: int = 0
    first: str = ""

    def note(self, rollouts: Sequence[Rollout], group_size: int) -> None:
        """Count a batch that has ended.

        Args:
            rollouts: All of the batch.
            group_size: Rollouts a prompt.

        Raises:
            RolloutError: If there have been too many.
        """
        problems = [problem for each in rollouts if (problem := problem_of(each)) is not None]
        if len(problems) < len(rollouts):
            self.prompts, self.calls, self.first = 0, 0, ""
            return
        self.first = self.first or next(iter(problems), "")
        self.prompts += -(-len(rollouts) // group_size)
        self.calls += 1
        if self.prompts >= MOST_IN_A_ROW and self.calls >= FEWEST_CALLS:
            raise RolloutError(
                f"none of the rollouts of {self.prompts} prompts in a row has a reward, so that "
                f"nothing is learnt. The first problem: {self.first}"
            )


def problem_of(rollout: Rollout) -> str | None:
    """Why `rollout` can't be trained on; ``None`` where it can."""
    failure = rollout.outcome.failure
    if failure is not None:
        return f"{failure.boundary.value}: {failure.message}"
    if not rollout.segments:
        return f"the policy sampled nothing ({rollout.outcome.stop_reason.value})"
    return None
