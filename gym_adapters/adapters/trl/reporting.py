"""What a batch of rollouts tells TRL's logs."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gym_adapters.reward import Failure, Outcome, OutcomeStatus
from gym_adapters.rollout import Rollout

__all__ = ["Attempt", "LogExtra", "LogMetric", "report"]

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
    """

    reward: float | None
    status: str
    stop_reason: str
    components: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None

    @classmethod
    def of_outcome(cls, outcome: Outcome, counts: Mapping[str, float] | None = None) -> Attempt:
        """An attempt that ended in `outcome`."""
        reward = outcome.reward
        return cls(
            reward=None if reward is None else reward.value,
            status=outcome.status.value,
            stop_reason=outcome.stop_reason.value,
            components=dict(reward.components) if reward is not None else {},
            counts=dict(counts or {}),
            failure=outcome.failure,
        )

    @classmethod
    def of_rollout(cls, rollout: Rollout) -> Attempt:
        """An attempt of ours, with its turns, tokens and seconds."""
        return cls.of_outcome(
            rollout.outcome,
            {
                "turns": float(rollout.usage.turns),
                "sampled_tokens": float(rollout.usage.output_tokens),
                "seconds": rollout.timings.total,
            },
        )


def report(
    attempts: Sequence[Attempt],
    *,
    environment: str,
    log_metric: LogMetric | None = None,
    log_extra: LogExtra | None = None,
) -> list[float | None]:
    """Log `attempts`, and give the rewards that TRL wants.

    Metrics: ``gym/failed`` and ``gym/failed/<boundary>``, ``gym/truncated``, ``gym/untrained``
    (failed, or without a token of the policy's), all shares of the batch; ``gym/components/<name>``
    and ``gym/<count>``, means over the rollouts that have one. Columns of the completions table:
    ``gym_stop_reason``, ``gym_failure``.
    """
    failures = [attempt.failure for attempt in attempts if attempt.failure is not None]
    if log_metric is not None and attempts:
        for name, value in _metrics(attempts, failures).items():
            log_metric(f"gym/{name}", value)
    if log_extra is not None:
        log_extra("gym_stop_reason", [attempt.stop_reason for attempt in attempts])
        log_extra("gym_failure", [_told(attempt.failure) for attempt in attempts])
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


def _metrics(attempts: Sequence[Attempt], failures: Sequence[Failure]) -> dict[str, float]:
    total = len(attempts)
    truncated = sum(attempt.status == OutcomeStatus.TRUNCATED.value for attempt in attempts)
    untrained = sum(attempt.reward is None for attempt in attempts)
    metrics = {
        "failed": len(failures) / total,
        "truncated": truncated / total,
        "untrained": untrained / total,
    }
    for boundary, count in Counter(failure.boundary.value for failure in failures).items():
        metrics[f"failed/{boundary}"] = count / total
    values: defaultdict[str, list[float]] = defaultdict(list)
    for attempt in attempts:
        for name, value in attempt.components.items():
            values[f"components/{name}"].append(value)
        for name, value in attempt.counts.items():
            values[name].append(value)
    return metrics | {name: sum(found) / len(found) for name, found in values.items()}


def _told(failure: Failure | None) -> str:
    return "" if failure is None else f"{failure.boundary.value}: {failure.message}"
