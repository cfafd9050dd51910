from __future__ import annotations

import logging

import pytest

from gym_adapters import JudgeError, Outcome, Reward, StopReason, ToolInfrastructureError
from gym_adapters.adapters.trl.reporting import Attempt, report


def attempts() -> list[Attempt]:
    return [
        Attempt.of_outcome(
            Outcome.scored(Reward(1.0, {"correct": 1.0}), StopReason.ANSWERED), {"turns": 2.0}
        ),
        Attempt.of_outcome(
            Outcome.scored(Reward(0.0, {"correct": 0.0}), StopReason.LENGTH), {"turns": 4.0}
        ),
        Attempt.of_outcome(Outcome.unscored(JudgeError("the judge is silent"))),
        Attempt.of_outcome(Outcome.unscored(ToolInfrastructureError("no database"))),
    ]


def test_rewards_come_back_in_order_and_failures_as_none() -> None:
    assert report(attempts(), environment="e") == [1.0, 0.0, None, None]


def test_components_and_failures_are_logged_by_name() -> None:
    metrics: dict[str, float] = {}
    report(attempts(), environment="e", log_metric=metrics.__setitem__)
    assert metrics == {
        "gym/failed": 0.5,
        "gym/failed/judge": 0.25,
        "gym/failed/tool": 0.25,
        "gym/truncated": 0.25,
        "gym/untrained": 0.5,
        "gym/components/correct": 0.5,
        "gym/turns": 3.0,
    }


def test_the_completions_table_tells_each_failure() -> None:
    columns: dict[str, list[object]] = {}
    report(attempts(), environment="e", log_extra=columns.__setitem__)
    assert columns["gym_stop_reason"] == ["answered", "length", "failed", "failed"]
    assert columns["gym_failure"] == [
        "",
        "",
        "judge: the judge is silent",
        "tool: no database",
    ]


def test_failures_are_warned_of_with_the_first_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report(attempts(), environment="e")
    assert "2 of 4 rollouts of e" in caplog.text
    assert "judge: 1, tool: 1" in caplog.text
    assert "the judge is silent" in caplog.text


def test_a_batch_without_failures_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    report(attempts()[:2], environment="e")
    assert caplog.text == ""
