"""Rollouts of a training run, in the files that ``collect`` writes, from any of its processes.

A trainer samples in several processes at once and is told nothing of a run's end, so there is no
`RunFolder` to hold open: each batch is appended whole, under a lock.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.append_file import AppendFile
from gym_adapters.rollouts.json_line import json_line
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.recorded import FAILURES, MANIFEST, ROLLOUTS

__all__ = ["TrainingLedger"]

_LOCK = ".append-lock"
# Seconds to wait for a write that is under way when it is cancelled.
_GRACE = 30.0


class TrainingLedger:
    """Appends rollouts to a folder that ``gym-adapters report`` and ``export`` read.

    Several processes may append to one folder, also on machines that share a file system with
    locks. Attempts at one task must differ in ``rollout_index``, over the whole run.

    Args:
        folder: Made with the first rollout.
        model: The policy, for the manifest.
        seed: Of the run.
        group_size: Rollouts of a task that share a baseline.
        input: Where the tasks came from.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        model: str = "policy",
        seed: int = 0,
        group_size: int = 1,
        input: str = "training",  # noqa: A002 - the manifest's own word
    ) -> None:
        self.folder = Path(folder)
        self._model, self._seed, self._group_size, self._input = model, seed, group_size, input
        self._environments: set[str] = set()

    def append(self, rollouts: Sequence[Rollout]) -> None:
        """Record finished rollouts; what failed goes to the failures.

        Raises:
            OSError: If they can't be written; the files are then as they were before.
        """
        lines: dict[str, list[bytes]] = {ROLLOUTS: [], FAILURES: []}
        for rollout in rollouts:
            name = ROLLOUTS if rollout.outcome.failure is None else FAILURES
            lines[name].append(json_line(rollout.to_json()))
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._tell_environments(rollouts)
            for name, written in lines.items():
                if written:
                    with AppendFile(self.folder / name) as file:
                        file.append(b"".join(written))

    async def append_async(self, rollouts: Sequence[Rollout]) -> None:
        """`append`, in a thread; cancelled, it ends once that thread has: nothing comes later.

        Raises:
            OSError: As `append`.
        """
        writing = asyncio.ensure_future(asyncio.to_thread(self.append, rollouts))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing}, timeout=_GRACE)
            raise

    def keep_steps(self, steps: int) -> int:
        """Drop the rollouts of all steps but the first `steps`, which a resumed run does again.

        A step's attempts at a task are numbered from ``step * group_size`` on, so their numbers say
        which step sampled them. The group size is the one in the manifest. Only for a folder that
        nobody appends to.

        Returns:
            How many were dropped; 0 also where there is no ledger.

        Raises:
            UsageError: If the manifest can't be read.
            OSError: If files can't be written; each is then as it was before.
        """
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            return 0
        first_dropped = steps * Manifest.read(manifest).num_repeats
        return self.keep(lambda _, index: index < first_dropped)

    def keep(self, wanted: Callable[[str, int], bool]) -> int:
        """Drop the rollouts that aren't `wanted`. Only for a folder that nobody appends to.

        Args:
            wanted: Told a task's id and a ``rollout_index``.

        Returns:
            How many were dropped; 0 also where there is no ledger.

        Raises:
            OSError: If files can't be written; each is then as it was before.
        """
        if not (self.folder / MANIFEST).is_file():
            return 0
        with self._locked():
            return sum(_drop(self.folder / name, wanted) for name in (ROLLOUTS, FAILURES))

    def next_indices(self) -> Counter[str]:
        """By task, the ``rollout_index`` that follows all that are kept; 0 of other tasks.

        For a trainer that does not tell which step samples: it goes on counting from here.

        Raises:
            OSError: If files can't be read.
        """
        following: Counter[str] = Counter()
        for name in (ROLLOUTS, FAILURES):
            path = self.folder / name
            if path.is_file():
                for task_id, index, _ in _keyed_lines(path):
                    following[task_id] = max(following[task_id], index + 1)
        return following

    def _tell_environments(self, rollouts: Sequence[Rollout]) -> None:
        """Keep the manifest true: it names every environment that was seen."""
        new = {rollout.provenance.environment for rollout in rollouts} - self._environments
        if not new:
            return
        path = self.folder / MANIFEST
        known = Manifest.read(path) if path.exists() else None
        names = set(known.environment.split(", ")) if known is not None else set()
        self._environments |= new | names
        if new <= names:
            return
        versions = {
            rollout.provenance.environment: rollout.provenance.environment_version
            for rollout in rollouts
        }
        if known is not None:
            versions |= dict(
                zip(
                    known.environment.split(", "),
                    known.environment_version.split(", "),
                    strict=False,
                )
            )
        ordered = sorted(versions)
        hashes = {rollout.provenance.template_hash for rollout in rollouts}
        manifest = Manifest(
            environment=", ".join(ordered),
            environment_version=", ".join(versions[name] for name in ordered),
            model=self._model,
            template_hash=hashes.pop() if len(hashes) == 1 else None,
            seed=self._seed,
            num_repeats=self._group_size,
            input=self._input,
            blend=dict.fromkeys(ordered, 1.0) if len(ordered) > 1 else None,
        )
        draft = path.with_name(f"{path.name}.draft")
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        draft.write_bytes(orjson.dumps(manifest.to_json(), option=options))
        draft.replace(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / _LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            # Some network file systems have no locks: one process a folder is safe there.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _drop(path: Path, wanted: Callable[[str, int], bool]) -> int:
    """Drop the rollouts of `path` that aren't wanted, and a line that was torn."""
    if not path.is_file():
        return 0
    dropped = 0
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as kept:
        for task_id, index, line in _keyed_lines(path):
            if wanted(task_id, index):
                kept.write(line)
            else:
                dropped += 1
    draft.replace(path)
    return dropped


def _keyed_lines(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Task, number and line of each rollout of `path`, but for a line that was torn."""
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            yield row["gym_adapters"]["task_id"], row["_ng_rollout_index"], line
