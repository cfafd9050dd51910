"""Metrics by values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from gym_adapters import Boundary, ModelError, Outcome, Reward, Rollout, SandboxError, StopReason
from gym_adapters.generation.constrained import CONSTRAINED_LOGPROBS, OffPolicyReport
from gym_adapters.items import function_call, function_call_output
from gym_adapters.rollout import Timings, TokenUsage
from gym_adapters.rollouts.metrics import RolloutMetrics, tool_errors
from gym_adapters.rollouts.pass_at_k import (
    Attempts,
    pass_all_k,
    pass_at_k,
    pass_at_k_over_tasks,
)
from gym_adapters.segment import Segment, Span
from gym_adapters.tools import error_result


def rollout(
    task_id: str,
    outcome: Outcome | float,
    *,
    stop: StopReason = StopReason.ANSWERED,
    tokens: tuple[int, int] = (0, 0),
    seconds: float = 1.0,
    turns: int = 1,
) -> Rollout:
    if not isinstance(outcome, Outcome):
        outcome = Outcome.scored(Reward(outcome, {"part": outcome / 2}), stop)
    return Rollout(
        row={},
        task_id=task_id,
        rollout_index=0,
        prompt=(),
        output=(),
        tools=(),
        outcome=outcome,
        timings=Timings(total=seconds, model=seconds / 4),
        usage=TokenUsage(*tokens, turns),
    )


FAILED = Outcome.unscored(ModelError("down"))


def gathered(*rollouts: Rollout) -> RolloutMetrics:
    metrics = RolloutMetrics()
    for each in rollouts:
        metrics.add(each)
    return metrics


def test_pass_at_k_equals_values_worked_out_by_hand() -> None:
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(3, 2, 2) == 1.0
    assert pass_at_k(5, 0, 3) == 0.0
    assert pass_all_k(4, 2, 2) == pytest.approx(1 / 6)
    assert pass_all_k(4, 4, 4) == 1.0
    assert pass_all_k(4, 3, 4) == 0.0


def test_tasks_with_too_few_attempts_are_counted_and_never_passed_over_in_silence() -> None:
    # One task solved twice of three times, one failed at its only attempt.
    two = pass_at_k_over_tasks([Attempts(3, 2), Attempts(1, 0)], 2)
    assert two.pass_at_k == 1.0
    assert (two.tasks, two.tasks_short) == (1, 1)
    assert two.lower_bound == 0.5


def test_the_lower_bound_counts_a_task_that_was_never_scored_as_zero() -> None:
    one = pass_at_k_over_tasks([Attempts(2, 1), Attempts(0, 0)], 1)
    assert (one.pass_at_k, one.tasks, one.tasks_short) == (0.5, 1, 1)
    assert one.lower_bound == 0.25


def test_a_k_that_no_task_reaches_has_no_value() -> None:
    four = pass_at_k_over_tasks([Attempts(2, 2)], 4)
    assert (four.pass_at_k, four.pass_all_k, four.tasks, four.tasks_short) == (None, None, 0, 1)
    assert four.lower_bound == 1.0
    assert pass_at_k_over_tasks([], 1).lower_bound is None


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_pass(attempts: int, data: st.DataObject) -> None:
    from itertools import combinations

    passes = data.draw(st.integers(0, attempts))
    k = data.draw(st.integers(1, attempts))
    draws = list(combinations([True] * passes + [False] * (attempts - passes), k))
    assert pass_at_k(attempts, passes, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert pass_all_k(attempts, passes, k) == pytest.approx(sum(map(all, draws)) / len(draws))


def test_rewards_are_averaged_over_scored_rollouts_and_over_tasks() -> None:
    metrics = gathered(
        rollout("a", 1.0), rollout("a", 0.0), rollout("a", 1.0), rollout("b", 0.0)
    ).metrics()
    assert metrics.reward_mean == pytest.approx(0.5)
    assert metrics.reward_std == pytest.approx(math.sqrt(1 / 3))
    assert metrics.reward_mean_of_tasks == pytest.approx((2 / 3 + 0) / 2)
    # The means of the tasks are 2/3 and 0: their sample deviation is sqrt(2)/3, over sqrt(2).
    assert metrics.reward_standard_error == pytest.approx(1 / 3)
    assert metrics.components == {"part": pytest.approx(0.25)}


def test_a_failure_is_counted_by_boundary_and_never_as_a_reward() -> None:
    metrics = gathered(
        rollout("a", 1.0),
        rollout("a", FAILED),
        rollout("b", FAILED),
        rollout("b", Outcome.unscored(SandboxError("gone"))),
    ).metrics()
    assert (metrics.tasks, metrics.rollouts, metrics.scored) == (2, 4, 1)
    assert metrics.failures == {"model": 2, "sandbox": 1}
    assert metrics.reward_mean == metrics.reward_mean_of_tasks == 1.0
    assert metrics.pass_at_k[0].tasks_short == 1


def test_with_nothing_scored_there_is_no_mean() -> None:
    metrics = gathered(rollout("a", FAILED)).metrics()
    assert metrics.reward_mean is None
    assert metrics.truncation_rate is None
    assert metrics.seconds is None
    assert metrics.pass_at_k == []


def test_a_failure_that_is_tried_again_moves_from_failures_to_retried() -> None:
    gathering = gathered(rollout("a", FAILED, tokens=(5, 2)))
    gathering.make_retried(Boundary.MODEL)
    gathering.add(rollout("a", 1.0, tokens=(5, 3)))
    metrics = gathering.metrics()
    assert metrics.failures == {}
    assert metrics.retried == {"model": 1}
    assert (metrics.rollouts, metrics.scored) == (1, 1)
    assert (metrics.input_tokens, metrics.output_tokens) == (10, 5)


def test_truncation_time_and_turns() -> None:
    gathering = gathered(
        rollout("a", 1.0, stop=StopReason.LENGTH, seconds=1.0, turns=1),
        rollout("a", 1.0, seconds=2.0, turns=2),
        rollout("a", 1.0, seconds=3.0, turns=3),
        rollout("a", 1.0, stop=StopReason.MAX_TURNS, seconds=10.0, turns=6),
    )
    metrics = gathering.metrics()
    assert metrics.truncation_rate == 0.5
    assert metrics.stop_reasons == {"answered": 2, "length": 1, "max_turns": 1}
    assert metrics.seconds is not None
    assert metrics.seconds.mean == 4.0
    assert metrics.seconds.median == 2.5
    assert metrics.seconds.p95 == pytest.approx(3.0 + 0.85 * 7.0)
    assert metrics.seconds.maximum == 10.0
    assert metrics.turns is not None
    assert metrics.turns.mean == 3.0
    assert metrics.model_share == pytest.approx(0.25)


def test_the_default_ks_are_powers_of_two_and_the_most_attempts() -> None:
    metrics = gathered(*[rollout("a", 1.0)] * 6, rollout("b", 0.0)).metrics()
    assert [each.k for each in metrics.pass_at_k] == [1, 2, 4, 6]
    metrics = gathered(*[rollout("a", 1.0)] * 4).metrics()
    assert [each.k for each in metrics.pass_at_k] == [1, 2, 4]
    assert [each.k for each in gathered(rollout("a", 1.0)).metrics(ks=[3]).pass_at_k] == [3]


def test_a_reward_passes_at_the_threshold_despite_rounding() -> None:
    metrics = RolloutMetrics(pass_threshold=0.3)
    metrics.add(rollout("a", 0.1 + 0.2))
    metrics.add(rollout("b", 0.29))
    assert metrics.metrics().pass_at_k[0].pass_at_k == 0.5


def test_tool_errors_are_told_by_type() -> None:
    items = [
        function_call("f", "{}", "1"),
        function_call_output("1", error_result("invalid_arguments", "x")),
        function_call_output("2", error_result("unknown_tool", "x")),
        function_call_output("3", error_result("invalid_arguments", "x")),
        function_call_output("4", '{"error":"plain"}'),
        function_call_output("5", '{"error":{"type":'),
        function_call_output("6", '{"error":{"type":["a"]}}'),
        function_call_output("7", '{"error":{"type":"\ud800"}}'),
        function_call_output("8", "fine"),
    ]
    assert tool_errors(items) == {"invalid_arguments": 2, "unknown_tool": 1}


def test_constrained_tokens_are_told_and_only_where_there_are_any() -> None:
    span = Span(0, 2, sampled=True, extras={CONSTRAINED_LOGPROBS: [-1.0, -0.5]})
    segment = Segment([1], [2, 3], mask=[1, 1], logprobs=[-1.0, -2.5], spans=(span,))
    constrained = replace(rollout("a", 1.0), segments=(segment,))

    metrics = gathered(constrained, rollout("b", 0.0), constrained).metrics()

    assert metrics.constrained == OffPolicyReport(4, 4, 2, 1.0)
    assert metrics.to_json()["constrained"]["changed_tokens"] == 2
    assert "constrained" not in gathered(rollout("b", 0.0)).metrics().to_json()
