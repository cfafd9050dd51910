"""What a batch of rollouts tells TRL's logs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gym_adapters.errors import Boundary
from gym_adapters.reward import Failure, Outcome, OutcomeStatus
from gym_adapters.rollout import Rollout

__all__ = ["Attempt", "LogExtra", "LogMetric", "columns", "report"]

log = logging.getLogger(__name__)

LogMetric = Callable[[str, float], None]
LogExtra = Callable[[str, list[Any]], None]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is worth logging of one rollout.

    Attributes:
        reward: What TRL trains on; ``None`` leaves the rollout out.
        status: ``scored``, ``truncated`` or ``unscored``.
        stop_reason: Why it took no further turn.
        components: Named parts of the reward.
        counts: Other numbers: turns, sampled tokens and the like.
        failure: Why there is no reward.
        environment: Name of its environment.
    """

    reward: float | None
    status: str
    stop_reason: str
    components: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    environment: str = ""

    def __repr__(self) -> str:
        # TRL shows it where there is no reward: short, without the failure's traceback.
        told = _told(self.failure) or self.stop_reason
        return f"<{self.status} attempt at {self.environment or 'a task'}: {told}>"

    @classmethod
    def of_outcome(
        cls,
        outcome: Outcome,
        counts: Mapping[str, float] | None = None,
        *,
        environment: str = "",
    ) -> Attempt:
        """An attempt that ended in `outcome`."""
        reward = outcome.reward
        return cls(
            reward=None if reward is None else reward.value,
            status=outcome.status.value,
            stop_reason=outcome.stop_reason.value,
            components=dict(reward.components) if reward is not None else {},
            counts=dict(counts or {}),
            failure=outcome.failure,
            environment=environment,
        )

    @classmethod
    def of_rollout(cls, rollout: Rollout) -> Attempt:
        """An attempt of ours, with its turns, tokens and seconds.

        One that sampled nothing has no reward here: there is nothing to give it to.
        """
        attempt = cls.of_outcome(
            rollout.outcome,
            {
                "turns": float(rollout.usage.turns),
                "sampled_tokens": float(rollout.usage.output_tokens),
                "seconds": rollout.timings.total,
            },
            environment=rollout.provenance.environment,
        )
        return attempt if rollout.segments else replace(attempt, reward=None)


def report(
    attempts: Sequence[Attempt],
    *,
    environment: str,
    among_others: bool = False,
    boundaries: Collection[Boundary] = (),
    log_metric: LogMetric | None = None,
    log_extra: LogExtra | None = None,
) -> list[float | None]:
    """Log `attempts`, and give the rewards that TRL wants.

    Metrics: ``gym/failed`` and ``gym/failed/<boundary>``, ``gym/truncated``, ``gym/untrained``
    (failed, or without a token of the policy's), all shares of the batch; ``gym/components/<name>``
    and ``gym/<count>``, means over the rollouts that have one. Columns of the completions table:
    ``gym_stop_reason``, ``gym_failure``.

    Args:
        attempts: Of one environment.
        environment: Its name.
        among_others: Others are trained on too: names of metrics then begin with
            ``gym/<environment>/``. Columns, which must cover the whole batch, are not logged.
        boundaries: Those to log the share of failures of also where it is 0.
        log_metric: Called for each rollout, so that means over several calls are exact.
        log_extra: TRL's.
    """
    failures = [attempt.failure for attempt in attempts if attempt.failure is not None]
    if log_metric is not None:
        prefix = f"gym/{environment}" if among_others else "gym"
        for name, value in _values(attempts, boundaries):
            log_metric(f"{prefix}/{name}", value)
    if log_extra is not None and not among_others:
        for column, values in columns(attempts).items():
            log_extra(column, values)
    if failures:
        by_boundary = Counter(failure.boundary.value for failure in failures)
        log.warning(
            "%d of %d rollouts of %s have no reward and train nothing (%s); the first: %s",
            len(failures),
            len(attempts),
            environment,
            ", ".join(f"{boundary}: {count}" for boundary, count in by_boundary.items()),
            failures[0].message,
        )
    return [attempt.reward for attempt in attempts]


def columns(attempts: Sequence[Attempt]) -> dict[str, list[Any]]:
    """Columns of the completions table, one entry an attempt."""
    return {
        "gym_stop_reason": [attempt.stop_reason for attempt in attempts],
        "gym_failure": [_told(attempt.failure) for attempt in attempts],
    }


def _values(
    attempts: Sequence[Attempt], always: Collection[Boundary]
) -> Iterator[tuple[str, float]]:
    """Metrics of each rollout by name; their means are those of the batch."""
    seen = {attempt.failure.boundary for attempt in attempts if attempt.failure is not None}
    for attempt in attempts:
        yield "failed", float(attempt.failure is not None)
        yield "truncated", float(attempt.status == OutcomeStatus.TRUNCATED.value)
        yield "untrained", float(attempt.reward is None)
        for boundary in sorted(seen.union(always)):
            at_fault = attempt.failure is not None and attempt.failure.boundary is boundary
            yield f"failed/{boundary.value}", float(at_fault)
        for name, value in attempt.components.items():
            yield f"components/{name}", value
        yield from attempt.counts.items()


def _told(failure: Failure | None) -> str:
    return "" if failure is None else f"{failure.boundary.value}: {failure.message}"
