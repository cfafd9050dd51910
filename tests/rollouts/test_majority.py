"""majority@k equals what counting by hand gives."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gym_adapters import Outcome, Reward, Rollout, StopReason
from gym_adapters.rollouts import RolloutMetrics
from gym_adapters.rollouts.majority import (
    AnswerTally,
    MajorityAtK,
    answer_of,
    majority_at_k,
    majority_over_tasks,
)

RIGHT, WRONG = AnswerTally(2, 2.0), AnswerTally(3, 0.0)


def test_values_counted_by_hand() -> None:
    # Of all five, the wrong answer is the most frequent.
    assert majority_at_k((RIGHT, WRONG), 0, 5) == 0.0
    # One alone: as often right as attempts are.
    assert majority_at_k((RIGHT, WRONG), 0, 1) == pytest.approx(2 / 5)
    # Two: RR is right (1 of 10 draws), WW is wrong (3), RW is a tie worth a half (6).
    assert majority_at_k((RIGHT, WRONG), 0, 2) == pytest.approx((1 + 6 * 0.5) / 10)
    # Three of RR and two silent ones: every draw holds a vote, and all votes are right.
    assert majority_at_k((RIGHT,), 2, 3) == 1.0
    # One of them: two of the four draws hold none.
    assert majority_at_k((RIGHT,), 2, 1) == pytest.approx(0.5)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.floats(0, 1)), min_size=1, max_size=5),
    st.integers(0, 4),
    st.data(),
)
def test_it_lies_between_the_worst_and_the_best_answer(
    answers: list[tuple[int, float]], silent: int, data: st.DataObject
) -> None:
    tallies = tuple(AnswerTally(count, count * worth) for count, worth in answers)
    most = silent + sum(count for count, _ in answers)
    value = majority_at_k(tallies, silent, data.draw(st.integers(1, most)))
    worths = [worth for _, worth in answers] + [0.0] * bool(silent)
    assert min(worths) - 1e-9 <= value <= max(worths) + 1e-9


def test_many_draws_are_sampled_and_come_to_the_same_each_time() -> None:
    many = (AnswerTally(30, 30.0), AnswerTally(20, 0.0))
    majority_at_k.cache_clear()
    first = majority_at_k(many, 0, 16)
    majority_at_k.cache_clear()
    assert first == majority_at_k(many, 0, 16)
    assert 0.7 < first < 1.0


def test_tasks_with_too_few_attempts_are_counted_apart() -> None:
    found = majority_over_tasks([([RIGHT, WRONG], 0), ([RIGHT], 0)], 5)
    assert found == MajorityAtK(5, 0.0, 1, 1)
    assert majority_over_tasks([([RIGHT], 0)], 5).reward is None


def test_answers_are_what_environments_call_so() -> None:
    assert answer_of({"answer": " 3 "}) == answer_of({"extracted_answer": "3"})
    assert answer_of({"answer": None, "extracted_answer": "3"}) == answer_of({"answer": "3"})
    assert answer_of({"answer": [1, 2]}) != answer_of({"answer": [2, 1]})
    assert answer_of({"reason": "3"}) is None


def rollout(task: str, index: int, reward: float, info: dict[str, str]) -> Rollout:
    return Rollout(
        row={},
        task_id=task,
        rollout_index=index,
        prompt=(),
        output=(),
        tools=(),
        outcome=Outcome.scored(Reward(reward, info=info), StopReason.ANSWERED),
    )


def test_the_metrics_of_a_run_tell_it_where_rewards_name_answers() -> None:
    metrics = RolloutMetrics()
    for index, answer in enumerate(["3", "3", "4"]):
        metrics.add(rollout("a", index, float(answer == "3"), {"answer": answer}))
    metrics.add(rollout("b", 0, 0.0, {}))
    assert metrics.metrics(ks=[1, 3]).majority_at_k == [MajorityAtK(3, 1.0, 1, 1)]
    without = RolloutMetrics()
    without.add(rollout("a", 0, 1.0, {}))
    without.add(rollout("a", 1, 1.0, {}))
    assert without.metrics().majority_at_k == []
