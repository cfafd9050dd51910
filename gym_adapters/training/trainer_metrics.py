"""What trainers log, step by step, in one shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gym_adapters.rollouts.json_line import json_line

__all__ = ["Trend", "read_metrics", "trend", "write_flat"]

# What says best whether a training works, by the names that trainers give it.
TOLD = ("reward", "critic/score/mean", "loss", "train_loss")


@dataclass(frozen=True, slots=True)
class Trend:
    """Where a metric began and where it ended: means over a quarter of its steps each.

    Attributes:
        name: Of the metric.
        first: Over the first quarter.
        last: Over the last.
        steps: How many there are.
    """

    name: str
    first: float
    last: float
    steps: int


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; verl's, which nest what was logged, are made flat."""
    return list(_flat(path))


def write_flat(source: Path, target: Path) -> None:
    """Write the metrics that a trainer keeps in `source` to `target`, flat; nothing where none.

    A trainer that goes on begins its file anew: what `target` has of earlier steps is kept.
    """
    entries = list(_flat(source))
    if entries:
        first = entries[0].get("step", 0)
        earlier = [each for each in _flat(target) if each.get("step", 0) < first]
        target.write_bytes(b"".join(map(json_line, [*earlier, *entries])))


def trend(entries: Sequence[Mapping[str, Any]], names: Sequence[str] = TOLD) -> Trend | None:
    """The trend of the first of `names` that was logged; ``None`` where none was."""
    for name in names:
        values = [float(each[name]) for each in entries if isinstance(each.get(name), float | int)]
        if values:
            quarter = max(1, len(values) // 4)
            return Trend(name, _mean(values[:quarter]), _mean(values[-quarter:]), len(values))
    return None


def _flat(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:  # a line that was being written when the run was stopped
            continue
        if isinstance(entry, dict):
            data = entry.pop("data", None)
            yield {**entry, **data} if isinstance(data, dict) else entry


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
