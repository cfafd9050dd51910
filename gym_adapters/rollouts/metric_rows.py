"""The metrics of a run in words, as the command line and the page of a run show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gym_adapters.rollouts.bootstrap import Interval
from gym_adapters.rollouts.metrics import Metrics, Spread
from gym_adapters.rollouts.pass_at_k import PassAtK

__all__ = ["ENVIRONMENT_COLUMNS", "environment_rows", "metric_rows", "number"]

ENVIRONMENT_COLUMNS = ("environment", "tasks", "rollouts", "no reward", "mean", "pass@1", "pass@k")
"""What `environment_rows` tells."""


def metric_rows(metrics: Metrics) -> Iterator[tuple[str, str]]:
    """Names and values of what a run came to, for a table."""
    yield "tasks", f"{metrics.tasks:,}"
    failed = metrics.rollouts - metrics.scored
    yield "rollouts", f"{metrics.rollouts:,}" + (f", {failed:,} without a reward" if failed else "")
    yield from _rewards(metrics)
    if metrics.failures:
        yield "failures", _counts(metrics.failures)
        for name, said in sorted(metrics.failure_examples.items()):
            yield f"  {name}, the first", said
    if metrics.retried:
        yield "attempted again", _counts(metrics.retried)
    if metrics.scored:
        yield from _costs(metrics)


def environment_rows(metrics: Metrics) -> Iterator[tuple[str, ...]]:
    """A row for each environment of a run of several, by `ENVIRONMENT_COLUMNS`."""
    for name, part in metrics.environments.items():
        passes = [each for each in part.pass_at_k if each.pass_at_k is not None]
        last = passes[-1] if len(passes) > 1 else None
        yield (
            name,
            f"{part.tasks:,}",
            f"{part.rollouts:,}",
            f"{part.rollouts - part.scored:,}",
            "" if part.reward_mean is None else number(part.reward_mean),
            f"{passes[0].pass_at_k:.4f}" if passes else "",
            f"{last.pass_at_k:.4f} (k={last.k})" if last is not None else "",
        )


def number(value: float) -> str:
    """Four places behind the point; where they say nothing, or there are many before it, powers."""
    plain = value == 0.0 or 1e-3 <= abs(value) < 1e6
    return f"{value:.4f}" if plain else f"{value:.4g}"


def _rewards(metrics: Metrics) -> Iterator[tuple[str, str]]:
    if metrics.reward_mean is not None:
        spread = f", std {number(metrics.reward_std)}" if metrics.reward_std is not None else ""
        yield "mean reward", f"{number(metrics.reward_mean)}{spread}"
    if metrics.reward_mean_of_tasks is not None:
        about = _within(metrics.reward_interval)
        yield "mean over tasks", f"{number(metrics.reward_mean_of_tasks)}{about}"
    for name, mean in metrics.components.items():
        yield f"  {name}", number(mean)
    if metrics.pass_at_k:
        yield "a pass", f"a reward of at least {metrics.pass_threshold:g}"
    for each in metrics.pass_at_k:
        yield f"pass@{each.k}", _pass(each)
        if each.k > 1 and each.pass_all_k is not None:
            yield f"pass^{each.k}", f"{each.pass_all_k:.4f}"
    for vote in metrics.majority_at_k:
        if vote.reward is not None:
            yield f"majority@{vote.k}", number(vote.reward)


def _costs(metrics: Metrics) -> Iterator[tuple[str, str]]:
    yield "truncated", f"{metrics.truncation_rate or 0.0:.1%}"
    yield "stopped by", _counts(metrics.stop_reasons)
    if metrics.tool_calls:
        wrong = f", errors: {_counts(metrics.tool_errors)}" if metrics.tool_errors else ""
        yield "tool calls", f"{metrics.tool_calls:,}{wrong}"
    if metrics.output_tokens:
        yield "tokens", f"{metrics.input_tokens:,} read, {metrics.output_tokens:,} sampled"
    if metrics.constrained is not None:
        yield "constraints", str(metrics.constrained)
    if metrics.turns is not None:
        yield "turns", _spread(metrics.turns, "")
    if metrics.seconds is not None:
        yield "time of a rollout", _spread(metrics.seconds, " s")
    if metrics.model_share is not None:
        yield "spent in the model", f"{metrics.model_share:.0%}"


def _pass(each: PassAtK) -> str:
    if each.pass_at_k is None:
        return "no task has so many scored attempts"
    if not each.tasks_short:
        return f"{each.pass_at_k:.4f}{_within(each.interval)}"
    return (
        f"{each.pass_at_k:.4f}{_within(each.interval)} over {each.tasks} tasks; "
        f"{each.tasks_short} have fewer than {each.k} scored attempts "
        f"(over all tasks at least {each.lower_bound:.4f})"
    )


def _within(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f" (95 %: {number(interval.low)} to {number(interval.high)})"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _spread(spread: Spread, unit: str) -> str:
    return (
        f"mean {spread.mean:.2f}{unit}, median {spread.median:.2f}{unit}, "
        f"95 % below {spread.p95:.2f}{unit}, 99 % below {spread.p99:.2f}{unit}, "
        f"most {spread.maximum:.2f}{unit}"
    )
