"""Metrics over verdicts, in the shape of NeMo Gym's ``/aggregate_metrics``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["aggregate_metrics"]

_NOT_METRICS = frozenset({"_ng_task_index", "_ng_rollout_index", "_ng_attempt_index"})


def aggregate_metrics(verify_responses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics of every numeric field, over all verdicts and by task.

    A verdict without a reward counts as missing, not as 0. Tasks are told apart by
    ``_ng_task_index``; verdicts without one make one group.

    Returns:
        ``group_level_metrics``, ``agent_metrics`` and ``key_metrics``.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for response in verify_responses:
        index = response.get("_ng_task_index")
        groups.setdefault(index if isinstance(index, int) else None, []).append(response)
    largest = max(map(len, groups.values()), default=0)
    by_group = [
        {
            "_ng_task_index": index,
            **_statistics(group),
            "num_rollouts": _scored(group),
            "expected_num_rollouts": largest,
            "missing_num_rollouts": largest - _scored(group),
            "reward_profile_completion_pct": 100.0 * _scored(group) / largest,
        }
        for index, group in groups.items()
    ]
    overall = _statistics(verify_responses)
    key = {name: value for name, value in overall.items() if name.startswith("mean/")}
    return {"group_level_metrics": by_group, "agent_metrics": overall, "key_metrics": key}


def _scored(responses: Sequence[Mapping[str, Any]]) -> int:
    return sum(_number(response.get("reward")) is not None for response in responses)


def _statistics(responses: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    columns: dict[str, list[float]] = {}
    for response in responses:
        for name, value in _numbers(response).items():
            columns.setdefault(name, []).append(value)
    found: dict[str, float] = {}
    for name, values in columns.items():
        found[f"mean/{name}"] = statistics.fmean(values)
        found[f"max/{name}"] = max(values)
        found[f"min/{name}"] = min(values)
        found[f"median/{name}"] = statistics.median(values)
        found[f"std/{name}"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return found


def _numbers(response: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in response.items():
        number = _number(value)
        if number is not None and name not in _NOT_METRICS:
            found[name] = number
    answer = response.get("response")
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        number = _number(usage.get(name)) if isinstance(usage, Mapping) else None
        if number is not None:
            found[name] = number
    components = response.get("reward_components")
    for name, value in components.items() if isinstance(components, Mapping) else ():
        number = _number(value)
        if number is not None:
            found[f"reward/{name}"] = number
    return found


def _number(value: object) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int beyond the range of float
        return None
    return number if math.isfinite(number) else None
