"""The folder of a run: append-only, whole after any crash, and able to go on where it stopped.

============== =====================================================================
rollouts.jsonl scored rollouts, one line each (`Rollout.to_json`), in order of finish
failures.jsonl failed attempts, the same way; a later attempt may have succeeded
manifest.json  what the run is made of (`Manifest`)
metrics.json   what it came to (`Metrics`), written when a session ends
============== =====================================================================
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, NamedTuple, Self

import orjson

from gym_adapters.errors import Boundary, InvalidRow, UsageError
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.append_file import AppendFile, cut_torn_line
from gym_adapters.rollouts.collect import RolloutKey
from gym_adapters.rollouts.json_line import json_line
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.metrics import Metrics, RolloutMetrics
from gym_adapters.task import read_rows

__all__ = [
    "OnExisting",
    "RunFolder",
    "final_rollouts",
    "read_rollouts",
    "recorded_metrics",
    "recorded_thresholds",
]

ROLLOUTS = "rollouts.jsonl"
FAILURES = "failures.jsonl"
MANIFEST = "manifest.json"
METRICS = "metrics.json"
_OWN = (ROLLOUTS, FAILURES, METRICS, MANIFEST)
_LOCK = ".lock"


class OnExisting(StrEnum):
    """What to do with a folder that holds a run already."""

    REFUSE = "refuse"
    RESUME = "resume"
    OVERWRITE = "overwrite"


def read_rollouts(path: Path | str) -> Iterator[Rollout]:
    """The rollouts of a file, one at a time.

    Raises:
        InvalidRow: If a line is not a rollout of this version.
    """
    for line, row in read_rows(path):
        try:
            yield Rollout.from_json(row)
        except InvalidRow as error:
            raise error.at(str(path), line) from None


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


class RunFolder:
    """The files of one run, open for appending. Use it as a context manager.

    Args:
        path: The folder; made where absent.
        manifest: What this session is made of. A resumed run keeps the manifest it has, with this
            session added.
        on_existing: What to do if a run is there already.
        max_attempts: A rollout that failed this often is not attempted again when the run is
            resumed.
        whole_groups: Rewards are relative to the group: groups that are not whole are dropped when
            the run is resumed, so that they are run again, and whole ones are never touched. Names
            of environments, where that holds for some of them.
        metrics: Told of all that is recorded, before and during this session.

    Raises:
        UsageError: If the folder holds something and `on_existing` does not allow for it, holds
            another run, or is in use by another process.
        InvalidRow: If a line of a resumed run can't be read.
        OSError: If files can't be written.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        on_existing: OnExisting = OnExisting.REFUSE,
        max_attempts: int = 3,
        whole_groups: bool | Collection[str] = False,
        metrics: RolloutMetrics | None = None,
    ) -> None:
        def grouped(environment: str) -> bool:
            if isinstance(whole_groups, bool):
                return whole_groups
            return environment in whole_groups

        self.path = path
        self.metrics = metrics if metrics is not None else RolloutMetrics()
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path)
        try:
            earlier = _earlier(path, manifest, on_existing)
            if earlier is None:
                for name in _OWN:
                    (path / name).unlink(missing_ok=True)
            else:
                self._cut(grouped, manifest.num_repeats)
            recorded = _read(path, self.metrics)
            repeats = manifest.num_repeats
            if earlier is not None:
                manifest = replace(
                    earlier,
                    template_hash=manifest.template_hash,
                    sessions=(*earlier.sessions, *manifest.sessions),
                    num_repeats=repeats,
                )
            self.manifest = manifest
            _write_whole(path / MANIFEST, manifest.to_json())
            self._rollouts = AppendFile(path / ROLLOUTS)
            self._failures = AppendFile(path / FAILURES)
        except BaseException:
            self._lock.close()
            raise
        self._failed = recorded.failed
        self.skip: frozenset[RolloutKey] = frozenset(recorded.scored) | frozenset(
            key
            for key, failed in recorded.failed.items()
            if grouped(failed.environment) or recorded.attempts[key] >= max_attempts
        )
        """Keys of rollouts that need no run."""

    @classmethod
    def check(cls, path: Path, manifest: Manifest, on_existing: OnExisting) -> None:
        """Raise what opening would, changing nothing; a template not known yet is let pass.

        Raises:
            UsageError: As for the constructor.
        """
        if not path.exists():
            return
        resumes = on_existing is OnExisting.RESUME
        if resumes and manifest.template_hash is None and (path / MANIFEST).exists():
            known = Manifest.read(path / MANIFEST).template_hash
            manifest = replace(manifest, template_hash=known)
        _earlier(path, manifest, on_existing)

    @property
    def failed(self) -> int:
        """How many rollouts have no reward so far."""
        return len(self._failed)

    def append(self, rollout: Rollout) -> None:
        """Record a finished rollout.

        Raises:
            OSError: If it can't be written; the folder is then as it was before.
        """
        key = (rollout.task_id, rollout.rollout_index)
        failure = rollout.outcome.failure
        (self._rollouts if failure is None else self._failures).append(json_line(rollout.to_json()))
        if (before := self._failed.pop(key, None)) is not None:
            self.metrics.make_retried(*before)
        if failure is not None:
            self._failed[key] = Failed(failure.boundary, rollout.provenance.environment)
        self.metrics.add(rollout)

    def append_retried(self, rollout: Rollout) -> None:
        """Record a failed attempt that another one follows in this session."""
        self._failures.append(json_line(rollout.to_json()))
        self.metrics.add_retried(rollout)

    def write_metrics(self) -> Metrics:
        """Write ``metrics.json`` for all that is recorded, and give it back."""
        metrics = self.metrics.metrics()
        _write_whole(self.path / METRICS, metrics.to_json())
        return metrics

    def close(self) -> None:
        """Close the files and let other processes have the folder."""
        try:
            self._rollouts.close()
            self._failures.close()
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _cut(self, grouped: Callable[[str], bool], num_repeats: int) -> None:
        for name in (ROLLOUTS, FAILURES):
            cut_torn_line(self.path / name)
        groups: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
        for name in (ROLLOUTS, FAILURES):
            for task_id, index in _keys(self.path / name, grouped):
                groups[task_id, index // num_repeats].add(index)
        torn = {group for group, indexes in groups.items() if len(indexes) < num_repeats}
        if torn:
            for name in (ROLLOUTS, FAILURES):
                _keep(self.path / name, lambda key: (key[0], key[1] // num_repeats) not in torn)


def recorded_metrics(path: Path, metrics: RolloutMetrics) -> Metrics:
    """The metrics of a run's folder, read from its rollouts and failures.

    Raises:
        UsageError: If it is not the folder of a run.
        InvalidRow: If a line can't be read.
    """
    Manifest.read(path / MANIFEST)
    _read(path, metrics)
    return metrics.metrics()


def _locked(path: Path) -> IO[bytes]:
    file = (path / _LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(
            f"another process is writing to {path}. Fix: wait for it, or give another --output"
        ) from None
    except OSError:
        # Some network file systems have no locks; then there is nothing to ask.
        pass
    return file


def _earlier(path: Path, manifest: Manifest, on_existing: OnExisting) -> Manifest | None:
    """The manifest of the run to go on with; ``None`` where one begins, maybe over another."""
    there = sorted(entry.name for entry in path.iterdir() if entry.name != _LOCK)
    if not there:
        return None
    if MANIFEST not in there and ROLLOUTS not in there:
        raise UsageError(
            f"{path} is not empty and holds no run, but {', '.join(there[:3])}. "
            "Fix: give a new folder with --output"
        )
    if on_existing is OnExisting.REFUSE:
        raise UsageError(
            f"{path} holds a run already. Fix: go on with it with --resume, "
            "throw it away with --overwrite, or give another folder with --output"
        )
    if on_existing is OnExisting.OVERWRITE:
        return None
    earlier = Manifest.read(path / MANIFEST)
    manifest.check_resumable_from(earlier, path)
    return earlier


def recorded_thresholds(path: Path) -> tuple[float, dict[str, float]]:
    """The reward that counted as a pass when the run's metrics were written; 1 where none were.

    Returns:
        Of the run, and of each environment where it has several.
    """
    try:
        metrics = orjson.loads((path / METRICS).read_bytes())
        parts = {
            str(name): float(each["pass_threshold"])
            for name, each in metrics.get("environments", {}).items()
        }
        return float(metrics["pass_threshold"]), parts
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return 1.0, {}


def final_rollouts(path: Path) -> Iterator[Rollout]:
    """Each rollout of a run's folder once: the scored ones, then the last failure of the others.

    Raises:
        UsageError: If it is not the folder of a run.
        InvalidRow: If a line can't be read.
    """
    Manifest.read(path / MANIFEST)
    scored: set[RolloutKey] = set()
    if (path / ROLLOUTS).exists():
        for rollout in read_rollouts(path / ROLLOUTS):
            scored.add((rollout.task_id, rollout.rollout_index))
            yield rollout
    failed: dict[RolloutKey, Rollout] = {}
    if (path / FAILURES).exists():
        for rollout in read_rollouts(path / FAILURES):
            key = (rollout.task_id, rollout.rollout_index)
            if key not in scored:
                failed[key] = rollout
    yield from failed.values()


def _read(path: Path, metrics: RolloutMetrics) -> Recorded:
    recorded = Recorded()
    if (path / ROLLOUTS).exists():
        for rollout in read_rollouts(path / ROLLOUTS):
            recorded.scored.add((rollout.task_id, rollout.rollout_index))
            metrics.add(rollout)
    if (path / FAILURES).exists():
        for rollout in read_rollouts(path / FAILURES):
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


def _keys(path: Path, wanted: Callable[[str], bool]) -> Iterator[RolloutKey]:
    """Keys of the rollouts of the wanted environments."""
    if path.exists():
        for rollout in read_rollouts(path):
            if wanted(rollout.provenance.environment):
                yield rollout.task_id, rollout.rollout_index


def _keep(path: Path, wanted: Callable[[RolloutKey], bool]) -> None:
    """Rewrite `path` with the wanted lines alone, at once or not at all."""
    if not path.exists():
        return
    draft = path.with_name(path.name + ".draft")
    with path.open("rb") as source, draft.open("wb") as target:
        for line in source:
            row = orjson.loads(line)
            if wanted((row["gym_adapters"]["task_id"], row["_ng_rollout_index"])):
                target.write(line)
        _settle(target)
    draft.replace(path)


def _write_whole(path: Path, data: object) -> None:
    """Write a JSON file so that a reader, or a crash, finds the old one or the new one."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        _settle(file)
    draft.replace(path)


def _settle(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
