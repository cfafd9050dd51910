"""Rollouts of earlier weights, kept on disk and drawn again while they are not too old.

One JSONL file a weights version (``000000012.jsonl``). Lines are written through at once and torn
ones are cut when the buffer is opened, so it survives a crash. Only what sampling needs is in
memory, some 200 bytes a rollout.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.append_file import AppendFile, cut_torn_line
from gym_adapters.rollouts.json_line import json_line
from gym_adapters.task import read_rows
from gym_adapters.training_data.sft import Row, token_row

__all__ = ["Priority", "ReplayBuffer", "Replayed", "group_advantages"]


class Priority(StrEnum):
    """What makes a rollout likely to be drawn.

    ``recency``: weight halves every `half_life` versions. ``advantage``: its absolute advantage
    in its group. ``spread``: the standard deviation of rewards in its group. ``uniform``: nothing.
    """

    UNIFORM = "uniform"
    RECENCY = "recency"
    ADVANTAGE = "advantage"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Replayed:
    """A rollout that was drawn.

    Attributes:
        rollout: The rollout, tokens included.
        weights_version: Version of the weights that sampled it.
        advantage: Reward less the mean of its group.
        spread: Standard deviation of the rewards of its group (over the group, not a sample of it).
    """

    rollout: Rollout
    weights_version: int
    advantage: float
    spread: float


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    offset: int
    advantage: float
    spread: float


def group_advantages(rewards: Sequence[float]) -> tuple[list[float], float]:
    """Each reward less the mean, and the standard deviation (exactly 0 where all are equal)."""
    if not rewards or min(rewards) == max(rewards):
        return [0.0] * len(rewards), 0.0
    mean = math.fsum(rewards) / len(rewards)
    advantages = [reward - mean for reward in rewards]
    return advantages, math.sqrt(math.fsum(each * each for each in advantages) / len(rewards))


class ReplayBuffer:
    """Rollouts by weights version.

    Args:
        folder: Where they are kept; made where absent, and read where there is something.
        max_staleness: Most versions that a rollout may lie behind the newest one; older ones are
            never drawn, and deleted when the next version comes.
        capacity: Most rollouts; the oldest versions are deleted beyond it, never the newest.
        half_life: In versions, for `Priority.RECENCY`.

    Raises:
        InvalidConfig: If a bound is out of range.
        InvalidRow: If a file of the folder is not one of a buffer.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_staleness: int = 4,
        capacity: int | None = None,
        half_life: float = 1.0,
    ) -> None:
        if max_staleness < 0 or (capacity is not None and capacity < 1) or not half_life > 0.0:
            raise InvalidConfig(
                "a replay buffer needs max_staleness >= 0, capacity >= 1 and half_life > 0"
            )
        self.folder, self.max_staleness = folder, max_staleness
        self.capacity, self.half_life = capacity, half_life
        folder.mkdir(parents=True, exist_ok=True)
        self._entries: dict[int, list[_Entry]] = {}
        for path in sorted(folder.glob("[0-9]*.jsonl")):
            cut_torn_line(path)
            self._entries[int(path.stem)] = _entries_of(path)
        self.weights_version = max(self._entries, default=0)
        self._retire()

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def add_group(self, rollouts: Sequence[Rollout], weights_version: int) -> int:
        """Keep the scored rollouts of one group; the failed ones have no share in its baseline.

        Args:
            rollouts: All attempts of the group.
            weights_version: Version of the weights that sampled them; a greater one than before
                makes the others a version older.

        Returns:
            How many were kept; 0 also for a group that is too old already.

        Raises:
            InvalidConfig: If the version is negative.
            OSError: If they can't be written; then none is kept.
        """
        if weights_version < 0:
            raise InvalidConfig(f"a weights version can't be {weights_version}")
        self.advance(weights_version)
        if weights_version < self.weights_version - self.max_staleness:
            return 0
        scored = [(each, each.reward) for each in rollouts if each.reward is not None]
        advantages, spread = group_advantages([reward for _, reward in scored])
        lines = [
            json_line({"advantage": advantage, "spread": spread, "rollout": rollout.to_json()})
            for (rollout, _), advantage in zip(scored, advantages, strict=True)
        ]
        path = self._path(weights_version)
        offset = path.stat().st_size if path.exists() else 0
        with AppendFile(path) as file:
            file.append(b"".join(lines))
        kept = self._entries.setdefault(weights_version, [])
        for line, advantage in zip(lines, advantages, strict=True):
            kept.append(_Entry(weights_version, offset, advantage, spread))
            offset += len(line)
        self._retire()
        return len(lines)

    def advance(self, weights_version: int) -> None:
        """Say that the weights are now at `weights_version`; what is too old is deleted."""
        if weights_version > self.weights_version:
            self.weights_version = weights_version
            self._retire()

    def sample(
        self, count: int, rng: random.Random, priority: Priority = Priority.UNIFORM
    ) -> list[Replayed]:
        """Different rollouts, each in proportion to its weight; those of weight 0 are never drawn.

        Weighted sampling without replacement after Efraimidis and Spirakis (2006).

        Args:
            count: How many; fewer come where there are fewer.
            rng: Source of chance; the same state draws the same.
            priority: What the weight is.
        """
        keyed = []
        for version in sorted(self._entries):
            for entry in self._entries[version]:
                weight = self._weight(entry, priority)
                if weight > 0.0:
                    # 1 - random() is in (0, 1], so its logarithm exists.
                    keyed.append((math.log(1.0 - rng.random()) / weight, entry))
        drawn = heapq.nlargest(count, keyed, key=lambda each: each[0])
        return [self._read(entry) for _, entry in drawn]

    def token_rows(
        self, batch: int, rng: random.Random, priority: Priority = Priority.UNIFORM
    ) -> Iterator[Row]:
        """Rows of ``input_ids``, ``labels`` and ``advantage`` without end, drawn `batch` at a time.

        What is added meanwhile is drawn from the next batch on. It ends when nothing can be drawn.
        """
        while drawn := self.sample(batch, rng, priority):
            found = False
            for each in drawn:
                for segment in each.rollout.segments:
                    found = True
                    yield {**token_row(segment), "advantage": each.advantage}
            if not found:
                raise InvalidRow(
                    "the rollouts of the buffer have no tokens.",
                    field="segments",
                    fix="collect with a model that gives them.",
                )

    def _weight(self, entry: _Entry, priority: Priority) -> float:
        if priority is Priority.UNIFORM:
            return 1.0
        if priority is Priority.RECENCY:
            age = self.weights_version - entry.version
            return float(0.5 ** (age / self.half_life))
        return abs(entry.advantage) if priority is Priority.ADVANTAGE else entry.spread

    def _read(self, entry: _Entry) -> Replayed:
        with self._path(entry.version).open("rb") as file:
            file.seek(entry.offset)
            data: dict[str, Any] = orjson.loads(file.readline())
        rollout = Rollout.from_json(data["rollout"])
        return Replayed(rollout, entry.version, entry.advantage, entry.spread)

    def _retire(self) -> None:
        oldest = self.weights_version - self.max_staleness
        for version in sorted(self._entries):
            over = self.capacity is not None and len(self) > self.capacity
            newest = version == max(self._entries)
            if version < oldest or (over and not newest):
                self._path(version).unlink(missing_ok=True)
                del self._entries[version]

    def _path(self, version: int) -> Path:
        return self.folder / f"{version:09}.jsonl"


def _entries_of(path: Path) -> list[_Entry]:
    entries, offset = [], 0
    lengths = _line_lengths(path)
    for line, row in read_rows(path):
        try:
            advantage, spread = float(row["advantage"]), float(row["spread"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRow(
                f"not a line of a replay buffer: {error!r}.",
                fix="give the buffer a folder of its own.",
                source=str(path),
                line=line,
            ) from error
        entries.append(_Entry(int(path.stem), offset, advantage, spread))
        offset += next(lengths)
    return entries


def _line_lengths(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        yield from map(len, file)
