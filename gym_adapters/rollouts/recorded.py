"""What the folder of a run holds, read one rollout at a time.

============== =====================================================================
rollouts.jsonl scored rollouts, one line each (`Rollout.to_json`), in order of finish
failures.jsonl failed attempts, the same way; a later attempt may have succeeded
manifest.json  what the run is made of (`Manifest`)
metrics.json   what it came to (`Metrics`), written when a session ends
============== =====================================================================

The first two may be compressed: then their names end in ``.zst``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

from gym_adapters.errors import Boundary, InvalidRow
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.collection import RolloutKey
from gym_adapters.rollouts.compressed import open_stored, stored
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.metrics import Metrics, RolloutMetrics
from gym_adapters.task import rows_of

__all__ = [
    "FAILURES",
    "MANIFEST",
    "METRICS",
    "ROLLOUTS",
    "Failed",
    "Recorded",
    "final_rollouts",
    "read_rollouts",
    "recorded_in",
    "recorded_metrics",
    "recorded_tasks",
    "recorded_thresholds",
]

ROLLOUTS = "rollouts.jsonl"
FAILURES = "failures.jsonl"
MANIFEST = "manifest.json"
METRICS = "metrics.json"


def read_rollouts(path: Path | str) -> Iterator[Rollout]:
    """The rollouts of a file, one at a time; compressed where its name ends in ``.zst``.

    A last line that is only begun, because its writer died, is left out.

    Raises:
        InvalidRow: If a line is not a rollout of this version.
    """
    with open_stored(Path(path)) as file:
        for line, row in rows_of(file, str(path), torn_tail=True):
            try:
                yield Rollout.from_json(row)
            except InvalidRow as error:
                raise error.at(str(path), line) from None


def _rollouts(folder: Path, name: str) -> Iterator[Rollout]:
    path = stored(folder / name)
    if path.exists():
        yield from read_rollouts(path)


class Failed(NamedTuple):
    """At which boundary a rollout of which environment failed."""

    boundary: Boundary
    environment: str


@dataclass(slots=True)
class Recorded:
    """What a folder holds.

    Attributes:
        scored: Keys of scored rollouts.
        failed: The last failure of each rollout that was never scored.
        attempts: How often each of those was attempted.
    """

    scored: set[RolloutKey] = field(default_factory=set)
    failed: dict[RolloutKey, Failed] = field(default_factory=dict)
    attempts: Counter[RolloutKey] = field(default_factory=Counter)


def recorded_in(folder: Path, metrics: RolloutMetrics) -> Recorded:
    """What `folder` holds; `metrics` are told of all of it."""
    recorded = Recorded()
    for rollout in _rollouts(folder, ROLLOUTS):
        recorded.scored.add((rollout.task_id, rollout.rollout_index))
        metrics.add(rollout)
    for rollout in _rollouts(folder, FAILURES):
        failure = rollout.outcome.failure
        key = (rollout.task_id, rollout.rollout_index)
        if failure is None:
            continue
        if key in recorded.scored:
            metrics.add_retried(rollout)
            continue
        if (before := recorded.failed.get(key)) is not None:
            metrics.make_retried(*before)
        recorded.failed[key] = Failed(failure.boundary, rollout.provenance.environment)
        recorded.attempts[key] += 1
        metrics.add(rollout)
    return recorded


def recorded_metrics(folder: Path, metrics: RolloutMetrics) -> Metrics:
    """The metrics of a run's folder, read from its rollouts and failures.

    Raises:
        UsageError: If it is not the folder of a run.
        InvalidRow: If a line can't be read.
    """
    Manifest.read(folder / MANIFEST)
    recorded_in(folder, metrics)
    return metrics.metrics()


def recorded_thresholds(folder: Path) -> tuple[float, dict[str, float]]:
    """The reward that counted as a pass when the run's metrics were written; 1 where none were.

    Returns:
        Of the run, and of each environment where it has several.
    """
    try:
        metrics = orjson.loads((folder / METRICS).read_bytes())
        parts = {
            str(name): float(each["pass_threshold"])
            for name, each in metrics.get("environments", {}).items()
        }
        return float(metrics["pass_threshold"]), parts
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return 1.0, {}


def recorded_tasks(folder: Path) -> set[str]:
    """Ids of the tasks that a folder holds rollouts of; reads no more of them than it must."""
    found: set[str] = set()
    for name in (ROLLOUTS, FAILURES):
        path = stored(folder / name)
        if path.exists():
            with open_stored(path) as file:
                for _, row in rows_of(file, str(path), torn_tail=True):
                    own = row.get("gym_adapters")
                    if isinstance(own, dict) and isinstance(own.get("task_id"), str):
                        found.add(own["task_id"])
    return found


def final_rollouts(folder: Path) -> Iterator[Rollout]:
    """Each rollout of a run's folder once: the scored ones, then the last failure of the others.

    Raises:
        UsageError: If it is not the folder of a run.
        InvalidRow: If a line can't be read.
    """
    Manifest.read(folder / MANIFEST)
    scored: set[RolloutKey] = set()
    for rollout in _rollouts(folder, ROLLOUTS):
        scored.add((rollout.task_id, rollout.rollout_index))
        yield rollout
    failed: dict[RolloutKey, Rollout] = {}
    for rollout in _rollouts(folder, FAILURES):
        key = (rollout.task_id, rollout.rollout_index)
        if key not in scored:
            failed[key] = rollout
    yield from failed.values()
