from __future__ import annotations

import logging
from typing import Any

import pytest

from gym_adapters import JudgeError, Outcome, Reward, StopReason, ToolInfrastructureError
from gym_adapters.adapters.trl.reporting import Attempt, report
from gym_adapters.errors import Boundary


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


def logged(**options: Any) -> dict[str, float]:
    """What a trainer logs: it takes the mean of what it is told."""
    told: dict[str, list[float]] = {}
    report(
        attempts(),
        log_metric=lambda name, value: told.setdefault(name, []).append(value),
        **options,
    )
    return {name: sum(values) / len(values) for name, values in told.items()}


def test_rewards_come_back_in_order_and_failures_as_none() -> None:
    assert report(attempts(), environment="e") == [1.0, 0.0, None, None]


def test_components_and_failures_are_logged_by_name() -> None:
    assert logged(environment="e") == {
        "gym/failed": 0.5,
        "gym/failed/judge": 0.25,
        "gym/failed/tool": 0.25,
        "gym/truncated": 0.25,
        "gym/untrained": 0.5,
        "gym/components/correct": 0.5,
        "gym/turns": 3.0,
    }


def test_among_others_an_environment_logs_under_its_name_and_no_columns() -> None:
    metrics = logged(environment="e", among_others=True)
    assert set(metrics) == {
        f"gym/e/{name}"
        for name in (
            "failed",
            "failed/judge",
            "failed/tool",
            "truncated",
            "untrained",
            "components/correct",
            "turns",
        )
    }
    columns: dict[str, list[object]] = {}
    report(attempts(), environment="e", among_others=True, log_extra=columns.__setitem__)
    assert columns == {}


def test_where_others_may_see_other_failures_every_boundary_has_a_share() -> None:
    metrics = logged(environment="e", boundaries=list(Boundary))
    assert metrics["gym/failed/judge"] == 0.25
    assert metrics["gym/failed/sandbox"] == 0.0
    assert sum("gym/failed/" in name for name in metrics) == len(Boundary)


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


def test_an_attempt_is_shown_in_a_few_words() -> None:
    scored, _, failed, _ = attempts()
    assert repr(scored) == "<scored attempt at a task: answered>"
    assert repr(failed) == "<unscored attempt at a task: judge: the judge is silent>"


def test_failures_are_warned_of_with_the_first_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report(attempts(), environment="e")
    assert "2 of 4 rollouts of e" in caplog.text
    assert "judge: 1, tool: 1" in caplog.text
    assert "the judge is silent" in caplog.text


def test_a_batch_without_failures_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    report(attempts()[:2], environment="e")
    assert caplog.text == ""
