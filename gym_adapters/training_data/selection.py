"""Which stored rollouts go into a file, and a count of why the others don't."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from gym_adapters.errors import InvalidConfig
from gym_adapters.reward import OutcomeStatus
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.metrics import tool_errors
from gym_adapters.training_data.near_duplicates import NearDuplicates, output_text
from gym_adapters.training_data.pass_mark import PassMark
from gym_adapters.training_data.splits import task_place
from gym_adapters.training_data.stored import Place

__all__ = ["Selection", "Tally", "sampled_tokens", "selected"]


@dataclass(slots=True)
class Tally:
    """Rollouts in and out.

    Attributes:
        read: Rollouts read.
        left_out: Of them, those left out, by reason; also pairs, under reasons that say so.
        notes: Things that were changed on the way, by what.
    """

    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """For a card."""
        return {
            "rollouts_read": self.read,
            "left_out": dict(sorted(self.left_out.items())),
            "changed": dict(sorted(self.notes.items())),
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take. An unscored rollout is never taken: a failure is not a reward of 0.

    Attributes:
        min_reward: Least reward.
        max_reward: Greatest reward.
        max_tokens: Most sampled tokens.
        truncated: Whether to take attempts that a budget cut.
        tool_errors: Whether to take attempts with a tool result that is an error.
        near_duplicates: Leave out attempts this similar to one of the same task that was taken
            (`near_duplicates`); ``None`` takes all.
        per_task: Most attempts at one task, the first ones.
        passes: Take passes only, by this mark.
        task_share: Take tasks whose place (`task_place`) is at least the first number and below the
            second; two exports with shares that don't overlap have no task in common.
    """

    min_reward: float | None = None
    max_reward: float | None = None
    max_tokens: int | None = None
    truncated: bool = False
    tool_errors: bool = True
    near_duplicates: float | None = None
    per_task: int | None = None
    passes: PassMark | None = None
    task_share: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.min_reward, self.max_reward
        if low is not None and high is not None and low > high:
            raise InvalidConfig(f"no reward is at least {low} and at most {high}")
        if not 0.0 <= self.task_share[0] < self.task_share[1] <= 1.0:
            raise InvalidConfig(f"a share of tasks lies within 0 and 1, not {self.task_share}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidConfig(f"the most tokens must be at least 1, not {self.max_tokens}")
        if self.per_task is not None and self.per_task < 1:
            raise InvalidConfig(f"attempts at one task must be at least 1, not {self.per_task}")
        if self.near_duplicates is not None:
            NearDuplicates(self.near_duplicates)

    def to_json(self) -> dict[str, Any]:
        """For a card."""
        return asdict(self)

    def why_not(self, rollout: Rollout) -> str | None:
        """Why a rollout is left out, by itself; ``None`` where it is taken."""
        failure, reward = rollout.outcome.failure, rollout.reward
        if failure is not None or reward is None:
            return f"unscored: {failure.boundary.value}" if failure is not None else "unscored"
        if not self.task_share[0] <= task_place(rollout.task_id) < self.task_share[1]:
            return "task outside of the share"
        if self.min_reward is not None and reward < self.min_reward:
            return "reward below the least"
        if self.passes is not None and reward < self.passes.of(rollout):
            return "not a pass"
        if self.max_reward is not None and reward > self.max_reward:
            return "reward above the greatest"
        if not self.truncated and rollout.outcome.status is OutcomeStatus.TRUNCATED:
            return "truncated"
        if self.max_tokens is not None and sampled_tokens(rollout) > self.max_tokens:
            return "too many tokens"
        if not self.tool_errors and tool_errors(rollout.output):
            return "tool error"
        return None


def sampled_tokens(rollout: Rollout) -> int:
    """Tokens the policy sampled: from the segments, else as its server counted them."""
    if rollout.segments:
        return sum(sum(segment.mask) for segment in rollout.segments)
    return rollout.usage.output_tokens


def selected(
    rollouts: Iterable[tuple[Place, Rollout]], selection: Selection, tally: Tally
) -> Iterator[tuple[Place, Rollout]]:
    """The rollouts to take; the rest is counted in `tally`."""
    similar = selection.near_duplicates
    kept = None if similar is None else NearDuplicates(similar)
    taken: Counter[str] = Counter()
    for place, rollout in rollouts:
        tally.read += 1
        reason = selection.why_not(rollout)
        if reason is None and taken[rollout.task_id] == selection.per_task:
            reason = "enough of its task"
        if reason is None and kept is not None:
            is_new = kept.add(rollout.task_id, output_text(rollout.output))
            reason = None if is_new else "near duplicate"
        if reason is None:
            taken[rollout.task_id] += 1
            yield place, rollout
        else:
            tally.left_out[reason] += 1
