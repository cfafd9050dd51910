"""Which task comes next: one the policy solves sometimes, where there is most to learn.

After DAPO (https://arxiv.org/abs/2503.14476), a group whose rewards are all alike has no gradient:
`informative_groups` leaves it out, and the curriculum comes back to its task seldom. Nothing here
knows a trainer: give it the rewards of finished groups, and iterate over it for rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.rollout import Rollout
from gym_adapters.task import Task
from gym_adapters.training_data.profile import TaskProfile
from gym_adapters.training_data.rows import Row

IN_BAND, UNTRIED, OUTSIDE = "in band", "untried", "outside"

__all__ = ["Curriculum", "CurriculumRule", "Drawn", "informative_groups", "iterable_dataset"]


@dataclass(frozen=True, slots=True)
class CurriculumRule:
    """How tasks are chosen.

    Attributes:
        band: Least and greatest pass rate of a task worth trying, both included.
        explore: Share of draws for tasks that were never tried.
        revisit: Share of draws for tasks outside of the band, or whose attempts were all alike.
        forget: Weight of what was known of a task when a new group of it comes, in [0, 1]: at 1
            all groups count alike, at 0 only the last.
        least_share: Least share of draws that an environment gets, divided by their number.
        threshold: Reward that counts as a pass.
    """

    band: tuple[float, float] = (0.1, 0.9)
    explore: float = 0.2
    revisit: float = 0.05
    forget: float = 0.5
    least_share: float = 0.2
    threshold: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.band
        if not 0.0 <= low <= high <= 1.0:
            raise InvalidConfig(f"a band of pass rates lies within 0 and 1, not {self.band}")
        for name in ("explore", "revisit", "forget", "least_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidConfig(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if self.explore + self.revisit > 1.0:
            raise InvalidConfig(
                "explore and revisit are shares of the same draws: at most 1 in all"
            )


@dataclass(frozen=True, slots=True)
class Drawn:
    """A task to try: the environment it is for, its id and its row."""

    environment: str
    task_id: str
    row: Row


@dataclass(slots=True)
class _Known:
    """What is known of a task: like `TaskProfile`, but fading."""

    weight: float = 0.0
    passes: float = 0.0
    alike: bool = False


class _Pool:
    """The tasks of one environment, by kind, so that a draw costs the same for any number."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = {Task.from_row(row).task_id: row for row in rows}
        self.worth = float(len(self.rows))
        self._values = dict.fromkeys(self.rows, 1.0)
        self._kinds = dict.fromkeys(self.rows, UNTRIED)
        self.of_kind: dict[str, list[str]] = {IN_BAND: [], UNTRIED: list(self.rows), OUTSIDE: []}
        self._places = {task_id: at for at, task_id in enumerate(self.rows)}

    def move(self, task_id: str, kind: str, worth: float) -> None:
        """Say of what kind a task is now, and what it is worth."""
        if task_id not in self.rows:
            return
        self.worth += worth - self._values[task_id]
        self._values[task_id] = worth
        before = self._kinds[task_id]
        if kind == before:
            return
        left, at = self.of_kind[before], self._places[task_id]
        # The last of its kind takes its place.
        left[at] = left[-1]
        self._places[left[at]] = at
        left.pop()
        self._places[task_id] = len(self.of_kind[kind])
        self.of_kind[kind].append(task_id)
        self._kinds[task_id] = kind


class Curriculum:
    """Draws tasks without end, and learns from what becomes of them.

    Args:
        pools: Rows by environment; a task that comes twice counts once.
        rule: How to choose.
        seed: The same seed, rewards and order of calls draw the same tasks.
        profiles: What a run found out before (`profile_of_run`).

    Raises:
        InvalidConfig: If there is no row.
        InvalidRow: If a row is not one.
    """

    def __init__(
        self,
        pools: Mapping[str, Iterable[Row]],
        rule: CurriculumRule | None = None,
        *,
        seed: int = 0,
        profiles: Mapping[str, TaskProfile] | None = None,
    ) -> None:
        self.rule = rule if rule is not None else CurriculumRule()
        self._rng = random.Random(seed)
        made = {environment: _Pool(rows) for environment, rows in pools.items()}
        self._pools = {name: pool for name, pool in made.items() if pool.rows}
        if not self._pools:
            raise InvalidConfig("a curriculum needs at least one row")
        self._known: dict[str, _Known] = {}
        for task_id, profile in (profiles or {}).items():
            if profile.attempts:
                self._known[task_id] = _Known(
                    profile.attempts, profile.passes, profile.spread == 0.0
                )
                self._sort(task_id)

    def record(self, task_id: str, rewards: Sequence[float | None]) -> None:
        """Take in what a group of attempts at a task got; a task of no pool is remembered, too.

        Args:
            task_id: The task.
            rewards: One an attempt; ``None`` for an unscored one, which tells nothing.
        """
        scored = [reward for reward in rewards if reward is not None]
        if not scored:
            return
        known = self._known.setdefault(task_id, _Known())
        keep = self.rule.forget
        known.weight = known.weight * keep + len(scored)
        passes = sum(reward >= self.rule.threshold for reward in scored)
        known.passes = known.passes * keep + passes
        # One attempt can't differ from itself; that says nothing of the task.
        known.alike = len(scored) > 1 and min(scored) == max(scored)
        self._sort(task_id)

    def record_group(self, rollouts: Sequence[Rollout]) -> None:
        """`record`, for the rollouts of one group."""
        if rollouts:
            self.record(rollouts[0].task_id, [rollout.reward for rollout in rollouts])

    def record_batch(self, task_ids: Sequence[str], rewards: Sequence[float | None]) -> None:
        """`record`, for a batch of attempts at several tasks: all that name a task are one group.

        Raises:
            ValueError: If the two differ in length.
        """
        groups: dict[str, list[float | None]] = {}
        for task_id, reward in zip(task_ids, rewards, strict=True):
            groups.setdefault(task_id, []).append(reward)
        for task_id, group in groups.items():
            self.record(task_id, group)

    def pass_rate(self, task_id: str) -> float | None:
        """Pass rate of a task as far as it is known; ``None`` before its first scored attempt."""
        known = self._known.get(task_id)
        return None if known is None or not known.weight else known.passes / known.weight

    def mix(self) -> dict[str, float]:
        """Share of draws by environment.

        In proportion to what there is to learn: the mean over the environment's tasks of
        4 p (1 - p), p being the pass rate, and 1 for a task never tried. Each gets its least share.
        """
        # What rounding leaves of a sum of zeros is no worth.
        worth = {
            name: max(round(pool.worth / len(pool.rows), 9), 0.0)
            for name, pool in self._pools.items()
        }
        total = math.fsum(worth.values())
        floor = self.rule.least_share / len(worth)
        if total == 0.0:
            return dict.fromkeys(worth, 1.0 / len(worth))
        left = 1.0 - self.rule.least_share
        return {name: floor + left * value / total for name, value in worth.items()}

    def draw(self) -> Drawn:
        """The next task."""
        shares = self.mix()
        name = self._rng.choices(list(shares), list(shares.values()))[0]
        pool = self._pools[name]
        kinds = pool.of_kind
        rule = self.rule
        wanted = {
            IN_BAND: 1.0 - rule.explore - rule.revisit,
            UNTRIED: rule.explore,
            OUTSIDE: rule.revisit,
        }
        # A kind there is none of leaves its share to the others; with none left, any task will do.
        there = {kind: wanted[kind] for kind, found in kinds.items() if found}
        if not any(there.values()):
            there = dict.fromkeys(there, 1.0)
        kind = self._rng.choices(list(there), list(there.values()))[0]
        task_id = self._rng.choice(kinds[kind])
        return Drawn(name, task_id, pool.rows[task_id])

    def __iter__(self) -> Iterator[Drawn]:
        while True:
            yield self.draw()

    def state(self) -> dict[str, Any]:
        """What it takes to go on later, as JSON."""
        version, internal, gauss = self._rng.getstate()
        return {
            "rng": [version, list(internal), gauss],
            "known": {
                task_id: [known.weight, known.passes, known.alike]
                for task_id, known in self._known.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            InvalidConfig: If it is not that.
        """
        try:
            version, internal, gauss = state["rng"]
            known = {task_id: _Known(*parts) for task_id, parts in state["known"].items()}
            self._rng.setstate((version, tuple(internal), gauss))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidConfig(f"this is not the state of a curriculum: {error!r}") from error
        tried_before, self._known = self._known, known
        for task_id in {**tried_before, **known}:
            self._sort(task_id)

    def _sort(self, task_id: str) -> None:
        """Put a task among those of its kind, after something was learned of it."""
        rate = self.pass_rate(task_id)
        worth = 1.0 if rate is None else 4.0 * rate * (1.0 - rate)
        for pool in self._pools.values():
            pool.move(task_id, self._kind_of(task_id), worth)

    def _kind_of(self, task_id: str) -> str:
        rate = self.pass_rate(task_id)
        if rate is None:
            return UNTRIED
        low, high = self.rule.band
        return IN_BAND if low <= rate <= high and not self._known[task_id].alike else OUTSIDE


def informative_groups(groups: Iterable[Sequence[Rollout]]) -> Iterator[list[Rollout]]:
    """The scored rollouts of each group whose rewards differ; other groups are left out (DAPO)."""
    for group in groups:
        scored = [rollout for rollout in group if rollout.reward is not None]
        if len({rollout.reward for rollout in scored}) > 1:
            yield scored


def iterable_dataset(rows: Callable[[], Iterable[Mapping[str, Any]]]) -> Any:
    """A ``datasets.IterableDataset`` that asks `rows` anew each time it is gone through.

    For what changes while it is read (a curriculum, a replay buffer), keep
    ``dataloader_num_workers=0``: a worker process has a copy that learns nothing.

    Args:
        rows: Makes the rows.

    Raises:
        MissingExtra: Without datasets.
    """
    datasets = require("datasets", "trl", "an iterable dataset")
    return datasets.IterableDataset.from_generator(lambda: iter(rows()))
