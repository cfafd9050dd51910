"""The folder of a run: append-only, whole after any crash, and able to go on where it stopped.

What is in it, and how it is read: `gym_adapters.rollouts.recorded`.
"""

from __future__ import annotations

import fcntl
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Self

import orjson

from gym_adapters.errors import InvalidConfig, UsageError
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.append_file import AppendFile, cut_torn_line
from gym_adapters.rollouts.collection import RolloutKey
from gym_adapters.rollouts.compressed import (
    SUFFIX,
    Compression,
    compressed,
    cut_torn_frame,
    is_compressed,
    open_stored,
    stored,
)
from gym_adapters.rollouts.json_line import json_line
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.metrics import Metrics, RolloutMetrics
from gym_adapters.rollouts.recorded import (
    FAILURES,
    MANIFEST,
    METRICS,
    ROLLOUTS,
    Failed,
    read_rollouts,
    recorded_in,
    recorded_tasks,
)
from gym_adapters.task import Task

__all__ = ["OnExisting", "RunFolder"]

_LINES = (ROLLOUTS, FAILURES)
_OWN = (*_LINES, *(name + SUFFIX for name in _LINES), METRICS, MANIFEST)
_DRAFT = ".draft"
# What a process leaves that dies while it replaces a file.
_DRAFTS = tuple(name + _DRAFT for name in _OWN)
_LOCK = ".lock"
SHOWN_TASKS = 3
# Bytes of lines that are made before they are written, where many rollouts have finished.
AT_ONCE = 4 << 20


class OnExisting(StrEnum):
    """What to do with a folder that holds a run already."""

    REFUSE = "refuse"
    RESUME = "resume"
    OVERWRITE = "overwrite"


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
        compression: Of the rollouts, where a run begins; a resumed run goes on as it is.

    Raises:
        UsageError: If the folder holds something and `on_existing` does not allow for it, holds
            another run, is in use by another process, or can't be written.
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
        compression: Compression | None = None,
    ) -> None:
        def grouped(environment: str) -> bool:
            if isinstance(whole_groups, bool):
                return whole_groups
            return environment in whole_groups

        self.path = path
        self.metrics = metrics if metrics is not None else RolloutMetrics()
        self._lock = _locked(path)
        try:
            earlier = _earlier(path, manifest, on_existing, compression)
            if earlier is None:
                for name in (*_OWN, *_DRAFTS):
                    (path / name).unlink(missing_ok=True)
            else:
                self._cut(grouped, manifest.num_repeats)
            recorded = recorded_in(path, self.metrics)
            repeats = manifest.num_repeats
            if earlier is not None:
                manifest = replace(
                    earlier,
                    template_hash=manifest.template_hash,
                    sessions=(*earlier.sessions, *manifest.sessions),
                    # More rows or attempts may be asked for now; what is there stays there.
                    input=manifest.input,
                    num_repeats=max(repeats, earlier.num_repeats),
                )
            self.manifest = manifest
            _write_whole(path / MANIFEST, manifest.to_json())
            self._rollouts = _lines_file(path / ROLLOUTS, compression)
            self._failures = _lines_file(path / FAILURES, compression)
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
    def check(
        cls,
        path: Path,
        manifest: Manifest,
        on_existing: OnExisting,
        *,
        compression: Compression | None = None,
        tasks: Iterable[Task] | None = None,
    ) -> None:
        """Raise what opening would, changing nothing; a template not known yet is let pass.

        The folder itself is made, to see that it can be.

        Args:
            path: As for the constructor, and so on.
            manifest: The same.
            on_existing: The same.
            compression: The same.
            tasks: All tasks of the run: those recorded must be among them if it is resumed.

        Raises:
            UsageError: As for the constructor, and for tasks that are not there.
        """
        if compression is not None:
            compressed(b"")  # whether the package is here
        _locked(path).close()
        resumes = on_existing is OnExisting.RESUME
        if resumes and manifest.template_hash is None and (path / MANIFEST).exists():
            known = Manifest.read(path / MANIFEST).template_hash
            manifest = replace(manifest, template_hash=known)
        earlier = _earlier(path, manifest, on_existing, compression)
        if earlier is not None and tasks is not None:
            _check_tasks(path, tasks, earlier.input, manifest.input)

    @property
    def failed(self) -> int:
        """How many rollouts have no reward so far."""
        return len(self._failed)

    def holds(self, key: RolloutKey) -> bool:
        """Whether that rollout is recorded, with a reward or without."""
        return key in self.skip or key in self._failed

    def append(self, *rollouts: Rollout) -> None:
        """Record finished rollouts: those with a reward in one go, those without in another.

        Raises:
            OSError: If not all of them can be written. Those that could are recorded, and nothing
                of the others is.
        """
        scored = [rollout for rollout in rollouts if rollout.outcome.failure is None]
        failed = [rollout for rollout in rollouts if rollout.outcome.failure is not None]
        for file, finished in ((self._rollouts, scored), (self._failures, failed)):
            if finished:
                self._append(file, finished)

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

    def _append(self, file: AppendFile, rollouts: Sequence[Rollout]) -> None:
        lines: list[bytes] = []
        size = written = 0
        for number, rollout in enumerate(rollouts, start=1):
            lines.append(json_line(rollout.to_json()))
            size += len(lines[-1])
            if size >= AT_ONCE or number == len(rollouts):
                self._write(file, rollouts[written:number], lines)
                lines, size, written = [], 0, number

    def _write(self, file: AppendFile, rollouts: Sequence[Rollout], lines: Sequence[bytes]) -> None:
        try:
            file.append(b"".join(lines))
        except OSError:
            # As many as the disk still takes: the others have to be sampled again.
            for rollout, line in zip(rollouts, lines, strict=True):
                file.append(line)
                self._count(rollout)
        else:
            for rollout in rollouts:
                self._count(rollout)

    def _count(self, rollout: Rollout) -> None:
        key = (rollout.task_id, rollout.rollout_index)
        if (before := self._failed.pop(key, None)) is not None:
            self.metrics.make_retried(*before)
        if (failure := rollout.outcome.failure) is not None:
            self._failed[key] = Failed(failure.boundary, rollout.provenance.environment)
        self.metrics.add(rollout)

    def _cut(self, grouped: Callable[[str], bool], num_repeats: int) -> None:
        files = [stored(self.path / name) for name in _LINES]
        for file in files:
            (cut_torn_frame if is_compressed(file) else cut_torn_line)(file)
        groups: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
        for file in files:
            for task_id, index in _keys(file, grouped):
                groups[task_id, index // num_repeats].add(index)
        torn = {group for group, indexes in groups.items() if len(indexes) < num_repeats}
        if torn:
            for file in files:
                _keep(file, lambda key: (key[0], key[1] // num_repeats) not in torn)


def _lines_file(path: Path, compression: Compression | None) -> AppendFile:
    """The file to append to: the one that is there, else a new one."""
    file = stored(path)
    if not file.exists() and compression is not None:
        file = path.with_name(path.name + SUFFIX)
    return AppendFile(file, packed=compressed if is_compressed(file) else None)


def _locked(path: Path) -> IO[bytes]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / _LOCK).open("ab")
    except OSError as error:
        raise InvalidConfig(
            f"can't write to {path}: {error.strerror}. Fix: give a folder to write with --output"
        ) from error
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


def _earlier(
    path: Path, manifest: Manifest, on_existing: OnExisting, compression: Compression | None
) -> Manifest | None:
    """The manifest of the run to go on with; ``None`` where one begins, maybe over another."""
    there = sorted(entry.name for entry in path.iterdir() if entry.name not in (_LOCK, *_DRAFTS))
    if not there:
        return None
    if not set(there) & {MANIFEST, *_OWN[:3]}:
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
    if compression is not None and (path / ROLLOUTS).exists():
        raise InvalidConfig(
            f"{path} holds a run that is not compressed, and goes on like that. "
            "Fix: leave out --compress, or give another folder with --output"
        )
    return earlier


def _check_tasks(path: Path, tasks: Iterable[Task], then: str, now: str) -> None:
    missing = recorded_tasks(path)
    recorded = len(missing)
    if recorded:
        missing.difference_update(task.task_id for task in tasks)
    if missing:
        some = ", ".join(sorted(missing)[:SHOWN_TASKS])
        raise InvalidConfig(
            f"{path} holds a run of other tasks: {len(missing)} of the {recorded} recorded there "
            f"are not among those given (such as {some}). They came from {then}, and now come from "
            f"{now}. Fix: give all tasks that it was begun with, or another folder with --output"
        )


def _keys(path: Path, wanted: Callable[[str], bool]) -> Iterable[RolloutKey]:
    """Keys of the rollouts of the wanted environments."""
    if path.exists():
        for rollout in read_rollouts(path):
            if wanted(rollout.provenance.environment):
                yield rollout.task_id, rollout.rollout_index


def _keep(path: Path, wanted: Callable[[RolloutKey], bool]) -> None:
    """Rewrite `path` with the wanted lines alone, at once or not at all."""
    if not path.exists():
        return
    draft = path.with_name(path.name + _DRAFT)
    with open_stored(path) as source, draft.open("wb") as target:
        for line in source:
            row = orjson.loads(line)
            if wanted((row["gym_adapters"]["task_id"], row["_ng_rollout_index"])):
                target.write(compressed(line) if is_compressed(path) else line)
        _settle(target)
    draft.replace(path)


def _write_whole(path: Path, data: object) -> None:
    """Write a JSON file so that a reader, or a crash, finds the old one or the new one."""
    draft = path.with_name(path.name + _DRAFT)
    try:
        with draft.open("wb") as file:
            file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            _settle(file)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _settle(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
