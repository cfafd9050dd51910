"""Confidence intervals of a mean over tasks, by resampling the tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from math import fsum, sqrt
from random import Random
from typing import NamedTuple

__all__ = ["Interval", "mean_interval"]

RESAMPLES = 400
# Above so many tasks the bootstrap is its own normal limit to within what is shown, and that costs
# nothing.
MOST_RESAMPLED = 2000
_LARGEST = 1e150
_NORMAL_975 = 1.959964


class Interval(NamedTuple):
    """Holds the mean over all possible tasks in 95 of 100 runs."""

    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The 95 % percentile-bootstrap interval of the mean of `values`, one a task.

    The same values give the same interval: the resamples have a seed of their own.

    Returns:
        ``None`` where resampling says nothing about other tasks: fewer than two, all alike, or
        too large to be squared.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    count = len(values)
    # Sums of what comes near the end of a float's range say nothing.
    if count < 2 or max(map(abs, values)) > _LARGEST / count:
        return None
    kinds = Counter(values)
    if len(kinds) == 1:
        return None
    if count > MOST_RESAMPLED:
        mean = fsum(values) / count
        variance = fsum((value - mean) ** 2 for value in values) / count
        reach = _NORMAL_975 * sqrt(variance / count)
        return Interval(mean - reach, mean + reach)
    random = Random(0)
    ordered = sorted(kinds)
    weights = list(accumulate(kinds[value] for value in ordered))
    means = sorted(
        fsum(random.choices(ordered, cum_weights=weights, k=count)) / count
        for _ in range(RESAMPLES)
    )
    tail = round(RESAMPLES * 0.025)
    return Interval(means[tail], means[-tail - 1])
