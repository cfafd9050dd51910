"""What is in a file of rows, in memory that does not grow with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gym_adapters.items import input_items, item_text
from gym_adapters.training_data.id_set import IdSet
from gym_adapters.training_data.profile import PROFILE
from gym_adapters.training_data.rows import PARAMS, Row

__all__ = ["FieldStats", "NumberStats", "RowStats", "row_stats"]

MOST_VALUES = 50


@dataclass(slots=True)
class NumberStats:
    """Count, least, mean, greatest and sample standard deviation of numbers, added one by one."""

    count: int = 0
    mean: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf
    _squares: float = 0.0

    def add(self, number: float) -> None:
        """Add a number (Welford's algorithm)."""
        self.count += 1
        step = number - self.mean
        self.mean += step / self.count
        self._squares += step * (number - self.mean)
        self.least, self.greatest = min(self.least, number), max(self.greatest, number)

    @property
    def std(self) -> float | None:
        """Sample standard deviation; ``None`` for fewer than two numbers."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else None

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "min": self.least,
            "mean": self.mean,
            "max": self.greatest,
            "std": self.std,
        }


@dataclass(slots=True)
class FieldStats:
    """One field over all rows.

    Attributes:
        present: Rows that have it.
        types: How often it held what type.
        numbers: Of its numbers.
        values: How often it held which short text, for the first fifty different ones.
        more_values: Whether there were others.
    """

    present: int = 0
    types: Counter[str] = field(default_factory=Counter)
    numbers: NumberStats = field(default_factory=NumberStats)
    values: Counter[str] = field(default_factory=Counter)
    more_values: bool = False

    def add(self, value: object) -> None:
        """Count one value."""
        self.present += 1
        self.types[type(value).__name__] += 1
        if isinstance(value, bool | str):
            text = str(value)
            if text in self.values or (len(self.values) < MOST_VALUES and len(text) <= 100):
                self.values[text] += 1
            else:
                self.more_values = True
        elif isinstance(value, int | float):
            self.numbers.add(float(value))

    def to_json(self) -> dict[str, Any]:
        """As JSON; texts are listed only where there are few."""
        data: dict[str, Any] = {"present": self.present, "types": dict(self.types)}
        if self.numbers.count:
            data["numbers"] = self.numbers.to_json()
        if self.values and not self.more_values:
            data["values"] = dict(self.values.most_common())
        return data


@dataclass(slots=True)
class RowStats:
    """A file of rows at a glance.

    Attributes:
        rows: Number of rows.
        tasks: Number of different tasks.
        prompt_characters: Text of the prompts.
        prompt_items: Messages and other items of the prompts.
        tools: Tools that rows declare.
        agents: How many rows name which agent.
        bands: How many rows have which difficulty.
        fields: The environment's own fields by name.
    """

    rows: int = 0
    tasks: int = 0
    prompt_characters: NumberStats = field(default_factory=NumberStats)
    prompt_items: NumberStats = field(default_factory=NumberStats)
    tools: NumberStats = field(default_factory=NumberStats)
    agents: Counter[str] = field(default_factory=Counter)
    bands: Counter[str] = field(default_factory=Counter)
    fields: dict[str, FieldStats] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "rows": self.rows,
            "tasks": self.tasks,
            "prompt_characters": self.prompt_characters.to_json(),
            "prompt_items": self.prompt_items.to_json(),
            "tools": self.tools.to_json(),
            "agents": dict(self.agents),
            "difficulty": dict(self.bands),
            "fields": {name: found.to_json() for name, found in sorted(self.fields.items())},
        }


def row_stats(rows: Iterable[tuple[Row, str]]) -> RowStats:
    """Statistics of rows with their task ids; the rows are taken to be valid."""
    stats, seen = RowStats(), IdSet()
    for row, task_id in rows:
        stats.rows += 1
        seen.add(task_id)
        items = input_items(row[PARAMS]["input"])
        stats.prompt_characters.add(float(sum(len(item_text(item)) for item in items)))
        stats.prompt_items.add(float(len(items)))
        stats.tools.add(float(len(row[PARAMS].get("tools") or ())))
        if isinstance(agent := row.get("agent_ref"), dict):
            stats.agents[str(agent.get("name"))] += 1
        if isinstance(label := row.get(PROFILE), dict):
            stats.bands[str(label.get("band"))] += 1
        for name, value in row.items():
            if name != PARAMS and name != "agent_ref" and not name.startswith("_ng_"):
                stats.fields.setdefault(name, FieldStats()).add(value)
    stats.tasks = len(seen)
    return stats
