"""Metrics of a run, gathered rollout by rollout; memory grows with tasks, not with tokens."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from gym_adapters.errors import Boundary
from gym_adapters.generation.constrained import OffPolicyReport, off_policy_report
from gym_adapters.items import Item, valid_text
from gym_adapters.reward import Failure, OutcomeStatus
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.bootstrap import Interval, mean_interval
from gym_adapters.rollouts.majority import (
    AnswerTally,
    MajorityAtK,
    answer_of,
    majority_over_tasks,
)
from gym_adapters.rollouts.pass_at_k import Attempts, PassAtK, pass_at_k_over_tasks

__all__ = ["Metrics", "PassAtK", "RolloutMetrics", "Spread", "tool_errors"]

LONGEST_EXAMPLE = 300


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a quantity over rollouts: mean, median, 95th and 99th percentile, maximum."""

    mean: float
    median: float
    p95: float
    p99: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a run came to. A rate or mean is ``None`` where there is nothing to take it over.

    Rewards, truncation, turns, tools and latency are over scored rollouts alone: a failure is
    counted by boundary, and never as a reward of 0. Tokens are those of all rollouts.

    Attributes:
        tasks: Tasks with at least one rollout.
        rollouts: Rollouts, the failed ones included.
        scored: Rollouts with a reward.
        failures: Failed rollouts by boundary.
        retried: Failed attempts that were made again, by boundary; not among `rollouts`.
        failure_examples: What the first failure of each boundary said.
        reward_mean: Mean over scored rollouts.
        reward_std: Sample standard deviation over scored rollouts.
        reward_mean_of_tasks: Mean over tasks of their mean reward.
        reward_standard_error: Of `reward_mean_of_tasks`, tasks being the independent draws.
        reward_interval: Its 95 % confidence interval, by resampling the tasks.
        components: Mean of each reward component, over the rollouts that have it.
        pass_threshold: A rollout passes with at least this reward.
        pass_at_k: One entry per k.
        majority_at_k: One entry per k above 1; empty where rewards name no answers.
        truncation_rate: Share of scored rollouts that a budget cut.
        stop_reasons: Scored rollouts by stop reason.
        tool_calls: Tool results read by the model, or at least produced for it.
        tool_errors: Those that are errors, by type.
        input_tokens: Context read over all model calls.
        output_tokens: Tokens sampled.
        turns: Model calls per rollout.
        seconds: Wall time per rollout, where it was recorded.
        model_share: Share of that time spent waiting for the model.
        constrained: What constraints did to the tokens sampled; ``None`` where there were none.
        environments: The same for each environment, where a run has several.
    """

    tasks: int
    rollouts: int
    scored: int
    failures: Mapping[str, int]
    retried: Mapping[str, int]
    failure_examples: Mapping[str, str]
    reward_mean: float | None
    reward_std: float | None
    reward_mean_of_tasks: float | None
    reward_standard_error: float | None
    reward_interval: Interval | None
    components: Mapping[str, float]
    pass_threshold: float
    pass_at_k: Sequence[PassAtK]
    majority_at_k: Sequence[MajorityAtK]
    truncation_rate: float | None
    stop_reasons: Mapping[str, int]
    tool_calls: int
    tool_errors: Mapping[str, int]
    input_tokens: int
    output_tokens: int
    turns: Spread | None
    seconds: Spread | None
    model_share: float | None
    constrained: OffPolicyReport | None = None
    environments: Mapping[str, Metrics] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The metrics as one JSON-serialisable object."""
        data: dict[str, Any] = _lists(asdict(self))
        if not self.environments:
            del data["environments"]
        if self.constrained is None:
            del data["constrained"]
        return data


def _lists(value: Any) -> Any:
    """`value` with named tuples, which JSON libraries refuse, as lists."""
    if isinstance(value, dict):
        return {key: _lists(each) for key, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(slots=True)
class _Mean:
    """Mean and variance of a stream (Welford's method), stable for long runs."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def std(self) -> float | None:
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else None


@dataclass(slots=True)
class _TaskTally:
    """The rewards of one task."""

    rewards: float = 0.0
    attempts: int = 0
    passes: int = 0
    answers: dict[bytes, AnswerTally] = field(default_factory=dict)

    def answered(self, answer: bytes, reward: float) -> None:
        before = self.answers.get(answer, AnswerTally(0, 0.0))
        self.answers[answer] = AnswerTally(before.attempts + 1, before.rewards + reward)

    @property
    def silent(self) -> int:
        return self.attempts - sum(answer.attempts for answer in self.answers.values())


@dataclass(slots=True)
class RolloutMetrics:
    """Gathers `Metrics`; `add` each rollout once, in any order.

    Args:
        pass_threshold: A rollout passes with at least this reward.
        thresholds: The same by environment, where a run has several.
    """

    pass_threshold: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    rollouts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    failure_examples: dict[str, str] = field(default_factory=dict)
    reward: _Mean = field(default_factory=_Mean)
    _tasks: dict[str, _TaskTally] = field(default_factory=dict)
    _components: dict[str, _Mean] = field(default_factory=dict)
    _stop_reasons: Counter[str] = field(default_factory=Counter)
    _truncated: int = 0
    _tool_calls: int = 0
    _tool_errors: Counter[str] = field(default_factory=Counter)
    _turns: array[float] = field(default_factory=lambda: array("d"))
    _seconds: array[float] = field(default_factory=lambda: array("d"))
    _model_seconds: float = 0.0
    _off_policy: OffPolicyReport = field(default_factory=lambda: off_policy_report(()))
    _parts: dict[str, RolloutMetrics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parts = {name: RolloutMetrics(each) for name, each in self.thresholds.items()}

    def add(self, rollout: Rollout) -> None:
        """Count one finished rollout, failed or not."""
        environment = rollout.provenance.environment
        if (part := self._parts.get(environment)) is not None:
            part.add(rollout)
        self.rollouts += 1
        self.input_tokens += rollout.usage.input_tokens
        self.output_tokens += rollout.usage.output_tokens
        self._off_policy += off_policy_report(rollout.segments)
        tally = self._tasks.setdefault(rollout.task_id, _TaskTally())
        outcome = rollout.outcome
        if outcome.failure is not None:
            at_fault = outcome.failure.boundary.value
            self.failures[at_fault] += 1
            self.failure_examples.setdefault(at_fault, _told(outcome.failure))
        if outcome.reward is None:
            return
        reward = outcome.reward.value
        self.reward.add(reward)
        tally.rewards += reward
        tally.attempts += 1
        if (answer := answer_of(outcome.reward.info)) is not None:
            tally.answered(answer, reward)
        # A reward summed from parts may miss the threshold by a rounding error.
        threshold = self.thresholds.get(environment, self.pass_threshold)
        tally.passes += reward >= threshold - 1e-9
        for name, component in outcome.reward.components.items():
            self._components.setdefault(name, _Mean()).add(component)
        self._stop_reasons[outcome.stop_reason.value] += 1
        self._truncated += outcome.status is OutcomeStatus.TRUNCATED
        self._add_costs(rollout)

    def add_retried(self, rollout: Rollout) -> None:
        """Count a failed attempt that another one followed."""
        if (part := self._parts.get(rollout.provenance.environment)) is not None:
            part.add_retried(rollout)
        self.input_tokens += rollout.usage.input_tokens
        self.output_tokens += rollout.usage.output_tokens
        if rollout.outcome.failure is not None:
            self.retried[rollout.outcome.failure.boundary.value] += 1

    def make_retried(self, at_fault: Boundary, environment: str = "") -> None:
        """Take a failure counted by `add` for a retried one: the rollout is attempted again."""
        if (part := self._parts.get(environment)) is not None:
            part.make_retried(at_fault)
        self.rollouts -= 1
        self.failures[at_fault.value] -= 1
        self.failures += Counter()  # drops what has come to 0
        self.retried[at_fault.value] += 1

    def _add_costs(self, rollout: Rollout) -> None:
        self._turns.append(rollout.usage.turns)
        if rollout.timings.total > 0.0:  # rollouts of other libraries tell no times
            self._seconds.append(rollout.timings.total)
            self._model_seconds += rollout.timings.model
        self._tool_calls += sum(item["type"] == "function_call_output" for item in rollout.output)
        self._tool_errors.update(tool_errors(rollout.output))

    def metrics(self, ks: Iterable[int] | None = None) -> Metrics:
        """What the rollouts so far come to.

        Args:
            ks: For which k to give pass@k; by default 1, the powers of two, and the most attempts
                that a task has.
        """
        asked = ks if ks is None else list(ks)
        tallies = self._tasks.values()
        scored = [tally for tally in tallies if tally.attempts]
        most = max((tally.attempts for tally in scored), default=0)
        of_tasks = _Mean()
        means = [tally.rewards / tally.attempts for tally in scored]
        for mean in means:
            of_tasks.add(mean)
        ks = _usual_ks(most) if asked is None else asked
        attempts = [Attempts(tally.attempts, tally.passes) for tally in tallies]
        seconds = math.fsum(self._seconds)
        return Metrics(
            tasks=len(self._tasks),
            rollouts=self.rollouts,
            scored=self.reward.count,
            failures=dict(self.failures),
            retried=dict(self.retried),
            failure_examples={
                name: text for name, text in self.failure_examples.items() if name in self.failures
            },
            reward_mean=self.reward.mean if self.reward.count else None,
            reward_std=self.reward.std,
            reward_mean_of_tasks=of_tasks.mean if scored else None,
            reward_standard_error=(
                None if of_tasks.std is None else of_tasks.std / math.sqrt(of_tasks.count)
            ),
            reward_interval=mean_interval(means),
            components={
                valid_text(name): part.mean for name, part in sorted(self._components.items())
            },
            pass_threshold=self.pass_threshold,
            pass_at_k=[pass_at_k_over_tasks(attempts, k) for k in ks],
            majority_at_k=self._majority(ks),
            truncation_rate=self._truncated / self.reward.count if self.reward.count else None,
            stop_reasons=dict(self._stop_reasons),
            tool_calls=self._tool_calls,
            tool_errors=dict(self._tool_errors),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            turns=_spread(self._turns),
            seconds=_spread(self._seconds),
            model_share=self._model_seconds / seconds if seconds > 0 else None,
            constrained=self._off_policy if self._off_policy.constrained_tokens else None,
            environments={name: part.metrics(asked) for name, part in self._parts.items()},
        )

    def _majority(self, ks: Iterable[int]) -> list[MajorityAtK]:
        if not any(tally.answers for tally in self._tasks.values()):
            return []
        votes = [(list(tally.answers.values()), tally.silent) for tally in self._tasks.values()]
        return [majority_over_tasks(votes, k) for k in ks if k > 1]


def _told(failure: Failure) -> str:
    """What a failure said, in one line that a terminal has room for."""
    message = " ".join(valid_text(failure.message).split()) or "(it said nothing)"
    # Messages of ours say what they are; a bare "0" of a KeyError does not.
    named = message if failure.error in message else f"{failure.error}: {message}"
    return named if len(named) <= LONGEST_EXAMPLE else f"{named[:LONGEST_EXAMPLE]} ..."


def tool_errors(items: Iterable[Item]) -> Counter[str]:
    """Tool results in `items` that are errors (`gym_adapters.tools`), counted by type."""
    found: Counter[str] = Counter()
    for item in items:
        if item["type"] != "function_call_output" or not item["output"].startswith('{"error":'):
            continue
        try:
            kind = orjson.loads(item["output"])["error"]["type"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(kind, str):
            found[kind] += 1
    return found


def _usual_ks(most: int) -> list[int]:
    """Each power of two up to `most`, and `most` itself."""
    powers = [2**power for power in range(most.bit_length())]
    return powers if most in powers or not most else [*powers, most]


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)
    return Spread(
        mean=math.fsum(ordered) / len(ordered),
        median=_quantile(ordered, 0.5),
        p95=_quantile(ordered, 0.95),
        p99=_quantile(ordered, 0.99),
        maximum=ordered[-1],
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
