"""From which reward on an attempt is a pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.recorded import recorded_thresholds

__all__ = ["ROUNDING", "PassMark"]

# As in the metrics: a reward summed from parts may miss the threshold by a rounding error.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PassMark:
    """Least reward of a pass.

    Attributes:
        threshold: Of every environment that is not named.
        by_environment: Of those that are.
    """

    threshold: float = 1.0
    by_environment: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_source(cls, path: Path, asked: float | None = None) -> Self:
        """What was asked for, else what the run in the folder `path` was measured by, else 1."""
        if asked is not None:
            return cls(asked)
        return cls(*recorded_thresholds(path)) if path.is_dir() else cls()

    def of(self, rollout: Rollout) -> float:
        """The mark for one rollout, rounding allowed for."""
        mark = self.by_environment.get(rollout.provenance.environment, self.threshold)
        return mark - ROUNDING
