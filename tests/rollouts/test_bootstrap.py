"""Intervals hold the mean, get narrower with tasks, and are the same each time."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, strategies as st

from gym_adapters.rollouts.bootstrap import MOST_RESAMPLED, Interval, mean_interval


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_an_interval_lies_within_the_values_and_around_their_mean(values: list[float]) -> None:
    interval = mean_interval(values)
    if len(set(values)) == 1:
        assert interval is None
        return
    assert interval is not None
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == mean_interval(values)


def test_one_task_says_nothing_about_others() -> None:
    assert mean_interval([0.5]) is None
    assert mean_interval([]) is None


def test_half_of_a_hundred_tasks_is_known_to_about_ten_points() -> None:
    interval = mean_interval([0.0, 1.0] * 50)
    assert interval is not None
    # The normal limit: 0.5 +- 1.96 * 0.5 / 10.
    assert interval.low == pytest.approx(0.402, abs=0.03)
    assert interval.high == pytest.approx(0.598, abs=0.03)


def test_the_normal_limit_takes_over_without_a_jump() -> None:
    values = [Random(1).random() for _ in range(1)] + [Random(n).random() for n in range(2000)]
    below, above = (
        mean_interval(values[:MOST_RESAMPLED]),
        mean_interval(values[: MOST_RESAMPLED + 1]),
    )
    assert isinstance(below, Interval)
    assert above is not None
    assert below.low == pytest.approx(above.low, abs=0.004)
    assert below.high == pytest.approx(above.high, abs=0.004)


def test_rewards_near_the_end_of_what_a_float_holds_break_nothing() -> None:
    assert mean_interval([1.7e308, -1.7e308, 1.7e308]) is None
