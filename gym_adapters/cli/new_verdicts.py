"""What ``reverify`` reads and what it writes: stored rollouts, and a record with new verdicts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.collection import RolloutKey
from gym_adapters.rollouts.json_line import json_line
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.metrics import Metrics, RolloutMetrics
from gym_adapters.rollouts.recorded import MANIFEST, final_rollouts
from gym_adapters.rollouts.replay import VERDICTS
from gym_adapters.rollouts.run_folder import OnExisting, RunFolder
from gym_adapters.training_data.stored import Place, StoredRollouts

__all__ = ["Change", "NewVerdicts", "RecordedRollouts", "lacks_verdict"]

FILE_SUFFIX = ".jsonl"
# Beside the file that is asked for: the run that becomes it once it is whole.
_UNFINISHED = ".unfinished"


class RecordedRollouts:
    """The stored rollouts of one environment; those of NeMo Gym name none.

    Attributes:
        read: How many were read.
    """

    def __init__(self, stored: StoredRollouts, environment: str) -> None:
        self._stored, self._environment = stored, environment
        self.read = 0
        self._keys: set[RolloutKey] = set()

    @property
    def num_repeats(self) -> int | None:
        """Attempts of one group; a file does not tell them, and then all at a task are one."""
        return None if self._stored.manifest is None else self._stored.manifest.num_repeats

    def count(self) -> int:
        """How many there are, for a bar: of a run, as many as it told when it ended."""
        return self._stored.count(self._environment)

    def __iter__(self) -> Iterator[Rollout]:
        """The rollouts.

        Raises:
            InvalidRow: If one can't be read, or stands there twice.
        """
        several = self._stored.manifest is not None and self._stored.manifest.blend is not None
        for place, rollout in self._stored:
            named = rollout.provenance.environment
            if several and named != self._environment:
                continue
            self._note(rollout, place)
            if not named:
                own = replace(rollout.provenance, environment=self._environment)
                rollout = replace(rollout, provenance=own)
            yield rollout

    def _note(self, rollout: Rollout, place: Place) -> None:
        key = (rollout.task_id, rollout.rollout_index)
        if key in self._keys:
            raise InvalidRow(
                f"attempt {key[1]} of task {key[0]} stands in this file before.",
                fix="give the folder of the run, where the last one counts, or one run at a time.",
                source=str(self._stored.path),
                line=place.line,
            )
        self._keys.add(key)
        self.read += 1


@dataclass(frozen=True, slots=True)
class Change:
    """A verdict that is another one now."""

    task_id: str
    rollout_index: int
    before: float | None
    after: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As JSON; rewards of rollouts without a verdict are null."""
        return {
            "task_id": self.task_id,
            "rollout_index": self.rollout_index,
            "before": self.before,
            "after": self.after,
            "reason": self.reason,
        }


class NewVerdicts:
    """The new record, and how verdicts changed. Use it as a context manager.

    What is there is thrown away, and a new record begun, only when there is a verdict to write: a
    source that can't be verified costs nothing.

    Args:
        entry: The environment.
        output: Folder of a run; or a file of rollouts (``.jsonl``), which comes when it is whole.
        manifest: Of the new run.
        on_existing: What to do if there is a record already.

    Attributes:
        metrics: Of all that is recorded so far.
        same: How many verdicts are as they were.
        kept: How many were not verified again.
        changes: The others.

    Raises:
        UsageError: If there is a record, or it can't be written.
    """

    def __init__(
        self, entry: EnvironmentEntry, output: Path, manifest: Manifest, on_existing: OnExisting
    ) -> None:
        self._entry, self._manifest, self._on_existing = entry, manifest, on_existing
        self._file = output if output.suffix == FILE_SUFFIX and not output.is_dir() else None
        self._path = output
        if self._file is not None:
            if output.exists() and on_existing is not OnExisting.OVERWRITE:
                raise InvalidConfig(
                    f"{output} is there already. Fix: throw it away with --overwrite, or give "
                    "another file with --output"
                )
            self._path = output.with_name(output.name + _UNFINISHED)
        card = entry.card
        self.metrics = RolloutMetrics(card.reward_range[1] if card is not None else 1.0)
        self._folder: RunFolder | None = None
        # The check makes the folder, to see that it can be; beside a file nobody asked for one.
        self._is_probe = self._file is not None and not self._path.exists()
        RunFolder.check(self._path, manifest, on_existing)
        if on_existing is OnExisting.RESUME:
            _check_same_source(self._path, manifest)
            self._open()
        self.same = self.kept = 0
        self.changes: list[Change] = []

    @property
    def there(self) -> int:
        """How many rollouts a resumed record holds."""
        return 0 if self._folder is None else len(self._folder.skip)

    @property
    def any(self) -> bool:
        """Whether anything was written."""
        return bool(self.same or self.kept or self.changes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            try:
                self._folder.write_metrics()
            finally:
                self._folder.close()
        elif self._is_probe:
            shutil.rmtree(self._path, ignore_errors=True)

    def has(self, rollout: Rollout) -> bool:
        """Whether there is nothing left to do for it: what never came to a verdict stays so."""
        if self._folder is None:
            return False
        key = (rollout.task_id, rollout.rollout_index)
        return key in self._folder.skip or (
            rollout.outcome.failure is not None
            and not lacks_verdict(rollout)
            and self._folder.holds(key)
        )

    def keep(self, rollout: Rollout) -> None:
        """Write one as it is."""
        self._open().append(rollout)
        self.kept += 1

    def add(self, before: Rollout, after: Rollout) -> None:
        """Write a new verdict."""
        self._open().append(after)
        if before.reward == after.reward:
            self.same += 1
            return
        failure = after.outcome.failure
        reason = "" if failure is None else failure.message
        key = (after.task_id, after.rollout_index)
        self.changes.append(Change(*key, before.reward, after.reward, reason))

    def finish(self) -> Metrics:
        """End the record; the metrics of all that is in it."""
        folder = self._open()
        metrics = folder.write_metrics()
        if self._file is not None:
            draft = self._path / f"{self._file.name}.draft"
            with draft.open("wb") as file:
                for rollout in final_rollouts(self._path):
                    file.write(json_line(rollout.to_json()))
            draft.replace(self._file)
            folder.close()
            self._folder = None
            shutil.rmtree(self._path)
        return metrics

    def _open(self) -> RunFolder:
        if self._folder is None:
            self._folder = RunFolder(
                self._path,
                self._manifest,
                on_existing=self._on_existing,
                whole_groups=self._entry.environment.capabilities().compares,
                metrics=self.metrics,
            )
        return self._folder


def lacks_verdict(rollout: Rollout) -> bool:
    """Whether it failed, and only its verdict is missing."""
    failure = rollout.outcome.failure
    return failure is not None and failure.boundary in VERDICTS


def _check_same_source(output: Path, manifest: Manifest) -> None:
    if (output / MANIFEST).exists():
        then = Manifest.read(output / MANIFEST).input
        if then != manifest.input:
            raise InvalidConfig(
                f"{output} holds other verdicts ({then}), not those of this source "
                f"({manifest.input}). Fix: give another folder with --output"
            )
