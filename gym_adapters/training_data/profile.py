"""How hard tasks are, as measured by a run of many attempts at each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gym_adapters.rollout import Rollout
from gym_adapters.training_data.pass_mark import PassMark
from gym_adapters.training_data.rows import Row
from gym_adapters.training_data.stored import StoredRollouts

__all__ = ["BANDS", "PROFILE", "TaskProfile", "labelled", "profile_of", "profile_of_run"]

PROFILE = "_ng_profile"
"""Key of a row's label. Keys that begin so are bookkeeping: they don't change the task's id."""

BANDS = ("never", "rarely", "sometimes", "mostly", "always")


@dataclass(slots=True)
class TaskProfile:
    """Attempts at one task.

    Attributes:
        attempts: Scored attempts; failures say nothing about the task.
        passes: Of them, those whose reward reached the threshold.
        rewards: Sum of rewards.
        squares: Sum of squared rewards.
    """

    attempts: int = 0
    passes: int = 0
    rewards: float = 0.0
    squares: float = 0.0

    def add(self, reward: float, threshold: float) -> None:
        """Count one scored attempt."""
        self.attempts += 1
        self.passes += reward >= threshold
        self.rewards += reward
        self.squares += reward * reward

    @property
    def pass_rate(self) -> float:
        """Passes over scored attempts; NaN without any."""
        return self.passes / self.attempts if self.attempts else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation of the rewards over the attempts; 0 where all got the same."""
        if not self.attempts:
            return 0.0
        mean = self.rewards / self.attempts
        variance = self.squares / self.attempts - mean * mean
        # Below rounding of the sums, the rewards were equal.
        return math.sqrt(variance) if variance > 1e-12 * max(1.0, mean * mean) else 0.0

    @property
    def band(self) -> str:
        """``never``, ``rarely`` (to 1/4), ``sometimes``, ``mostly`` (from 3/4) or ``always``."""
        rate = self.pass_rate
        if rate in (0.0, 1.0):
            return BANDS[0] if rate == 0.0 else BANDS[-1]
        return BANDS[1] if rate <= 0.25 else BANDS[3] if rate >= 0.75 else BANDS[2]

    def to_json(self) -> dict[str, Any]:
        """The label of a row."""
        return {
            "attempts": self.attempts,
            "pass_rate": self.pass_rate,
            "mean_reward": self.rewards / self.attempts,
            "reward_std": self.spread,
            "band": self.band,
        }


def profile_of(rollouts: Iterable[Rollout], mark: PassMark | None = None) -> dict[str, TaskProfile]:
    """Profiles by task id of all tasks with a scored attempt; a reward of 1 passes by default."""
    passing = mark if mark is not None else PassMark()
    profiles: dict[str, TaskProfile] = {}
    for rollout in rollouts:
        if rollout.reward is not None:
            profiles.setdefault(rollout.task_id, TaskProfile()).add(
                rollout.reward, passing.of(rollout)
            )
    return profiles


def profile_of_run(run: Path, threshold: float | None = None) -> dict[str, TaskProfile]:
    """Profiles from the folder of a run, or from a file of rollouts.

    Args:
        run: Folder or file.
        threshold: Reward that counts as a pass; by default the run's own.

    Raises:
        InvalidRow: If a line is no rollout.
        InvalidConfig: If there is nothing at `run`.
    """
    mark = PassMark.of_source(run, threshold)
    return profile_of((rollout for _, rollout in StoredRollouts(run)), mark)


def labelled(
    rows: Iterable[tuple[Row, str]],
    profiles: Mapping[str, TaskProfile],
    *,
    min_pass_rate: float = 0.0,
    max_pass_rate: float = 1.0,
) -> Iterator[tuple[Row, str]]:
    """Rows with their label under `PROFILE`, those outside of the asked pass rates left out.

    A row that was never attempted has no label, and stays only where no pass rate is asked for.
    """
    asked = min_pass_rate > 0.0 or max_pass_rate < 1.0
    for row, task_id in rows:
        known = profiles.get(task_id)
        if known is None:
            if not asked:
                yield row, task_id
        elif min_pass_rate <= known.pass_rate <= max_pass_rate:
            yield {**row, PROFILE: known.to_json()}, task_id
