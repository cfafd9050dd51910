"""A reward is a finite float, or there is none."""

from __future__ import annotations

import numpy as np
import pytest

from gym_adapters.errors import Boundary, JudgeError, LedgerError, VerifierError, boundary
from gym_adapters.reward import (
    TRUNCATING,
    Failure,
    Outcome,
    OutcomeStatus,
    Reward,
    StopReason,
)


@pytest.mark.parametrize(
    ("verdict", "value"),
    [(1, 1.0), (True, 1.0), (False, 0.0), (-0.5, -0.5), (np.float32(0.5), 0.5), (np.int64(2), 2.0)],
)
def test_numbers_become_floats(verdict: float, value: float) -> None:
    reward = Reward.of(verdict)
    assert reward.value == value
    assert type(reward.value) is float


@pytest.mark.parametrize(
    "verdict",
    [float("nan"), float("inf"), -float("inf"), 10**400, None, "1", [1.0], np.float64("nan")],
)
def test_anything_that_is_not_a_finite_number_is_refused(verdict: object) -> None:
    with pytest.raises(VerifierError, match="value must be a finite number"):
        Reward.of(verdict)  # type: ignore[arg-type]


def test_a_component_must_be_finite_and_is_named() -> None:
    with pytest.raises(VerifierError, match="component 'style'"):
        Reward(1.0, components={"style": float("nan")})


def test_components_need_not_add_up() -> None:
    reward = Reward(1.0, components={"a": 0.25, "b": True})
    assert reward.components == {"a": 0.25, "b": 1.0}


def test_of_gives_a_reward_back_as_it_is() -> None:
    reward = Reward(0.5)
    assert Reward.of(reward) is reward


@pytest.mark.parametrize("reason", [r for r in StopReason if r is not StopReason.FAILED])
def test_an_outcome_is_truncated_exactly_where_a_budget_ended_it(reason: StopReason) -> None:
    outcome = Outcome.scored(Reward(1.0), reason)
    truncated = outcome.status is OutcomeStatus.TRUNCATED
    assert truncated is (reason in TRUNCATING)
    assert outcome.reward == Reward(1.0)
    assert outcome.failure is None


def test_budgets_are_length_turns_context_and_time() -> None:
    assert {reason.value for reason in TRUNCATING} == {"length", "max_turns", "context", "time"}


@pytest.mark.parametrize(
    ("error", "at_fault"),
    [
        (JudgeError("x"), Boundary.JUDGE),
        (LedgerError("x"), Boundary.MODEL),
        (TimeoutError("x"), Boundary.TIMEOUT),
        (ValueError("x"), Boundary.ENVIRONMENT),
    ],
)
def test_a_failure_names_the_boundary_at_fault(error: Exception, at_fault: Boundary) -> None:
    outcome = Outcome.unscored(error)
    assert outcome.status is OutcomeStatus.UNSCORED
    assert outcome.stop_reason is StopReason.FAILED
    assert outcome.reward is None
    assert outcome.failure is not None
    assert outcome.failure.boundary is at_fault
    assert outcome.failure.message == "x"


def test_a_failure_names_the_error_behind_it_and_keeps_its_traceback() -> None:
    with pytest.raises(VerifierError) as caught, boundary(Boundary.VERIFIER, "verify of x"):
        raise ZeroDivisionError("by nothing")
    failure = Failure.from_exception(caught.value)
    assert failure.error == "ZeroDivisionError"
    assert failure.message == "verify of x: ZeroDivisionError: by nothing"
    assert 'raise ZeroDivisionError("by nothing")' in failure.detail


def test_an_outcome_has_either_a_reward_or_a_failure() -> None:
    failure = Failure(Boundary.TOOL, "OSError", "gone")
    with pytest.raises(ValueError, match="either a reward or a failure"):
        Outcome(OutcomeStatus.SCORED, StopReason.ANSWERED)
    with pytest.raises(ValueError, match="either a reward or a failure"):
        Outcome(OutcomeStatus.SCORED, StopReason.ANSWERED, Reward(1.0), failure)
    with pytest.raises(ValueError, match="can't have reward"):
        Outcome(OutcomeStatus.UNSCORED, StopReason.FAILED, reward=Reward(0.0))
    with pytest.raises(ValueError, match="can't have reward"):
        Outcome(OutcomeStatus.SCORED, StopReason.ANSWERED, failure=failure)
