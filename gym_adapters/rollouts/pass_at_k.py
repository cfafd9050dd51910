"""Unbiased pass@k and pass^k over tasks with unequal numbers of attempts.

pass@k is the chance that at least one of k attempts passes, pass^k that all k do. From n attempts
with c passes the unbiased estimates are ``1 - C(n-c, k) / C(n, k)`` (Chen et al., 2021,
arXiv:2107.03374) and ``C(c, k) / C(n, k)``. They exist only where n >= k.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb, fsum
from typing import NamedTuple

from gym_adapters.rollouts.bootstrap import Interval, mean_interval

__all__ = ["Attempts", "PassAtK", "pass_all_k", "pass_at_k", "pass_at_k_over_tasks"]


class Attempts(NamedTuple):
    """Scored attempts at one task, and how many of them passed."""

    attempts: int
    passes: int


def pass_at_k(attempts: int, passes: int, k: int) -> float:
    """The unbiased estimate of pass@k for one task; needs ``attempts >= k``."""
    return 1.0 - comb(attempts - passes, k) / comb(attempts, k)


def pass_all_k(attempts: int, passes: int, k: int) -> float:
    """The unbiased estimate of pass^k for one task; needs ``attempts >= k``."""
    return comb(passes, k) / comb(attempts, k)


@dataclass(frozen=True, slots=True)
class PassAtK:
    """pass@k and pass^k over tasks.

    Attributes:
        k: Attempts.
        pass_at_k: Mean over the tasks with at least k scored attempts; ``None`` where none has.
        pass_all_k: pass^k over the same tasks.
        tasks: Number of those tasks.
        tasks_short: Tasks with fewer than k scored attempts, which have no estimate.
        interval: 95 % confidence interval of `pass_at_k`, by resampling the tasks.
        lower_bound: What pass@k over all tasks is at least: a short task counts with all the
            attempts it has, since more attempts never lower its chance.
    """

    k: int
    pass_at_k: float | None
    pass_all_k: float | None
    tasks: int
    tasks_short: int
    lower_bound: float | None
    interval: Interval | None = None


def pass_at_k_over_tasks(tasks: Iterable[Attempts], k: int) -> PassAtK:
    """pass@k and pass^k over `tasks`, those with too few attempts counted apart."""
    everyone = list(tasks)
    enough = [task for task in everyone if task.attempts >= k]
    bounds = [
        pass_at_k(task.attempts, task.passes, min(k, task.attempts)) if task.attempts else 0.0
        for task in everyone
    ]
    estimates = [pass_at_k(*task, k) for task in enough]
    return PassAtK(
        k=k,
        pass_at_k=_mean(estimates),
        pass_all_k=_mean([pass_all_k(*task, k) for task in enough]),
        tasks=len(enough),
        tasks_short=len(everyone) - len(enough),
        lower_bound=_mean(bounds),
        interval=mean_interval(estimates),
    )


def _mean(values: list[float]) -> float | None:
    return fsum(values) / len(values) if values else None
