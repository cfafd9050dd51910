"""Splits that are the same on every machine and keep the proportions of every stratum."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Any

from gym_adapters.errors import InvalidConfig
from gym_adapters.training_data.rows import Row

__all__ = ["Split", "field_value", "parsed_parts", "task_place"]


def parsed_parts(text: str) -> dict[str, float]:
    """Shares from ``train=0.9,validation=0.1``; they are scaled to sum to 1.

    Raises:
        InvalidConfig: If it can't be read, or names a part twice.
    """
    parts: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        try:
            number = float(share)
        except ValueError:
            number = math.nan
        if not name or name in parts or not 0.0 < number < math.inf or "/" in name:
            raise InvalidConfig(f"parts {text!r}: write them as train=0.9,validation=0.1")
        parts[name] = number
    return parts


def field_value(row: Mapping[str, Any], path: str) -> str:
    """The value at a dotted path of a row as text, ``""`` where there is none."""
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Split:
    """Which part each task belongs to.

    A task's place is a hash of seed and task id; in each stratum the tasks with the smallest
    hashes go to the first part, as many as its share of the stratum comes to, and so on. So parts
    do not depend on the order of rows or files, a task that comes twice stays in one part, and each
    part has its share of each stratum to within one task.

    Attributes:
        parts: Shares by name, in order.
        seed: Another seed is another split.
        bounds: By stratum, the greatest hash of each part.
    """

    parts: tuple[str, ...]
    seed: int
    bounds: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(
        cls,
        rows: Iterable[tuple[Row, str]],
        parts: Mapping[str, float],
        *,
        seed: int = 0,
        stratify: str | None = None,
    ) -> Split:
        """The split of `rows`, which are read once; 8 bytes a row are kept meanwhile.

        Args:
            rows: Rows with their task ids.
            parts: Shares by name.
            seed: Seed of the hash.
            stratify: Dotted path of the field whose values are the strata.
        """
        hashes: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
        for row, task_id in rows:
            stratum = "" if stratify is None else field_value(row, stratify)
            hashes[stratum].append(_hash(seed, task_id))
        bounds = {
            stratum: _bounds(sorted(set(found)), list(parts.values()))
            for stratum, found in hashes.items()
        }
        return cls(tuple(parts), seed, bounds)

    def part(self, row: Mapping[str, Any], task_id: str, stratify: str | None = None) -> str:
        """The part of one row.

        Raises:
            InvalidConfig: If its stratum was not among the rows that the split was made of.
        """
        stratum = "" if stratify is None else field_value(row, stratify)
        place = _hash(self.seed, task_id)
        for name, bound in zip(self.parts, self.bounds.get(stratum, ()), strict=False):
            if place <= bound:
                return name
        raise InvalidConfig(f"the rows changed while they were split: {stratum!r} is new")


def task_place(task_id: str, seed: int = 0) -> float:
    """Where a task stands between 0 and 1, the same on every machine."""
    # The 53 bits that a float holds, so that it stays below 1.
    return (_hash(seed, task_id) >> 11) / 2**53


def _hash(seed: int, task_id: str) -> int:
    return int.from_bytes(blake2b(f"{seed}:{task_id}".encode(), digest_size=8).digest(), "big")


def _bounds(ordered: list[int], shares: list[float]) -> tuple[int, ...]:
    total = sum(shares)
    counts = [round(len(ordered) * share / total) for share in accumulate(shares)]
    counts[-1] = len(ordered)
    # A part that gets nothing lies below all hashes.
    return tuple(ordered[count - 1] if count else -1 for count in counts)
