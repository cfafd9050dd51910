"""What a rollout was worth, or why nobody can say.

A reward is a float, or there is none. `Reward` is the float with its named parts; `Outcome` is how
a rollout ended: ``scored``, ``truncated`` (scored, but cut by a budget) or ``unscored`` (a
`Failure`).
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gym_adapters.errors import Boundary, LedgerError, ModelError, RolloutError, VerifierError

__all__ = ["Failure", "Outcome", "OutcomeStatus", "Reward", "StopReason"]


@dataclass(frozen=True, slots=True)
class Reward:
    """A verdict.

    Attributes:
        value: The reward a trainer maximises; finite.
        components: Named parts, logged by name. They need not sum to `value`.
        info: Anything worth keeping beside the verdict; JSON-serialisable.

    Raises:
        VerifierError: If `value` or a component is not a finite number.
    """

    value: float
    components: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _finite(self.value, "value"))
        checked = {
            name: _finite(part, f"component {name!r}") for name, part in self.components.items()
        }
        object.__setattr__(self, "components", checked)

    @classmethod
    def of(cls, verdict: Reward | float) -> Reward:
        """`verdict` as a `Reward`, whether it is one already or a bare number."""
        return verdict if isinstance(verdict, Reward) else cls(verdict)


def _finite(value: object, what: str) -> float:
    # bool is an int in Python, and `return answer == expected` is how most verifiers end.
    if isinstance(value, int | float) and _is_finite(value):
        return float(value)
    # numpy and torch scalars have item(); anything else can't be a reward.
    item = getattr(value, "item", None)
    if item is not None and isinstance(number := item(), int | float) and _is_finite(number):
        return float(number)
    raise VerifierError(f"a reward's {what} must be a finite number, not {value!r}")


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond the range of float
        return False


class StopReason(StrEnum):
    """Why an episode took no further turn."""

    ANSWERED = "answered"  # the assistant stopped calling tools and the environment had no reply
    ENVIRONMENT = "environment"  # the environment ended it
    LENGTH = "length"  # a model turn was cut by its token budget
    MAX_TURNS = "max_turns"  # the turn budget is used up
    CONTEXT = "context"  # the next prompt would leave no room to answer
    TIME = "time"  # the time budget is used up
    FAILED = "failed"  # see the failure


TRUNCATING = frozenset(
    {StopReason.LENGTH, StopReason.MAX_TURNS, StopReason.CONTEXT, StopReason.TIME}
)


class OutcomeStatus(StrEnum):
    """How a rollout ended, for training."""

    SCORED = "scored"
    TRUNCATED = "truncated"
    UNSCORED = "unscored"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a rollout has no reward.

    Attributes:
        boundary: Whose fault it is.
        error: Name of the exception type behind it.
        message: The exception's message.
        detail: The traceback, for a person to read.
    """

    boundary: Boundary
    error: str
    message: str
    detail: str = ""

    @classmethod
    def from_exception(cls, error: BaseException) -> Failure:
        """The failure that `error` means; anything but a `RolloutError` is the environment's."""
        at_fault = Boundary.ENVIRONMENT
        if isinstance(error, RolloutError):
            at_fault = error.boundary
        elif isinstance(error, LedgerError):
            at_fault = ModelError.boundary
        elif isinstance(error, TimeoutError):
            at_fault = Boundary.TIMEOUT
        cause = error.__cause__ or error
        return cls(
            boundary=at_fault,
            error=type(cause).__name__,
            message=str(error),
            detail="".join(traceback.format_exception(error)),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rollout ended.

    Exactly one of `reward` and `failure` is set: ``scored`` and ``truncated`` have a reward,
    ``unscored`` has a failure.
    """

    status: OutcomeStatus
    stop_reason: StopReason
    reward: Reward | None = None
    failure: Failure | None = None

    def __post_init__(self) -> None:
        if (self.reward is None) == (self.failure is None):
            raise ValueError("an outcome has either a reward or a failure")
        if (self.status is OutcomeStatus.UNSCORED) != (self.reward is None):
            raise ValueError(f"an outcome that is {self.status} can't have reward {self.reward}")

    @classmethod
    def scored(cls, reward: Reward, stop_reason: StopReason) -> Outcome:
        """Scored, or truncated where `stop_reason` is a budget."""
        cut = stop_reason in TRUNCATING
        return cls(
            OutcomeStatus.TRUNCATED if cut else OutcomeStatus.SCORED, stop_reason, reward=reward
        )

    @classmethod
    def unscored(cls, error: BaseException | Failure) -> Outcome:
        """No reward, because of `error`."""
        failure = error if isinstance(error, Failure) else Failure.from_exception(error)
        return cls(OutcomeStatus.UNSCORED, StopReason.FAILED, failure=failure)
