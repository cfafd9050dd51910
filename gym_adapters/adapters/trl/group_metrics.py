"""What AsyncGRPOTrainer logs of finished groups."""

from __future__ import annotations

from collections.abc import Sequence

from gym_adapters.adapters.trl.reporting import Attempt, report
from gym_adapters.errors import Boundary
from gym_adapters.rollout import Rollout

__all__ = ["GroupMetrics", "Rates"]

Rates = dict[str, tuple[float, float]]
"""Numerator and denominator by name: TRL logs the sum of one by the sum of the other."""


class GroupMetrics:
    """Metrics of group after group; a share, once told, is told of every later group.

    Args:
        among_others: Whether there are several environments.
    """

    def __init__(self, among_others: bool) -> None:
        self._among_others = among_others
        self._seen: set[Boundary] = set()

    def of(self, rollouts: Sequence[Rollout], environment: str) -> Rates:
        """The metrics of one group, by the names that `report` gives them."""
        rates: Rates = {}

        def add(name: str, value: float) -> None:
            numerator, denominator = rates.get(name, (0.0, 0.0))
            rates[name] = (numerator + value, denominator + 1.0)

        failures = [each.outcome.failure for each in rollouts]
        self._seen |= {failure.boundary for failure in failures if failure is not None}
        report(
            [Attempt.of_rollout(each) for each in rollouts],
            environment=environment,
            among_others=self._among_others,
            boundaries=self._seen,
            log_metric=add,
        )
        return rates
