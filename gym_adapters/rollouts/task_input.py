"""Where the tasks of a run come from: a file of rows, a generator, or the examples that ship."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gym_adapters.errors import InvalidConfig
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.task import Task

__all__ = ["TaskInput"]


@dataclass(frozen=True, slots=True)
class TaskInput:
    """The tasks of a run, read anew each time they are asked for.

    Attributes:
        entry: The environment.
        path: File of rows.
        generate: How many tasks to generate in place of that.
        difficulty: Of generated tasks, from 0 to 1.
        seed: Of generated tasks.
        limit: Take only so many.

    Raises:
        InvalidConfig: If there is nothing to take tasks from, or too much.
    """

    entry: EnvironmentEntry
    path: Path | None = None
    generate: int | None = None
    difficulty: float = 0.5
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.path is not None and self.generate is not None:
            raise InvalidConfig("give rows or a number of tasks to generate, not both")
        if self.path is not None:
            _check_file(self.path)
        for name, value in (("limit", self.limit), ("number of tasks", self.generate)):
            if value is not None and value < 1:
                raise InvalidConfig(f"the {name} must be at least 1, not {value}")
        if self.generate is None and self.path is None and self.entry.example_path is None:
            raise InvalidConfig(
                f"{self.entry.name} ships no example rows. Fix: give rows with --input, "
                "or generate tasks with --num-tasks"
            )

    @property
    def description(self) -> str:
        """Where the tasks come from, for a manifest."""
        first = "" if self.limit is None else f", the first {self.limit} of them"
        if self.generate is not None:
            made = f"generated: {self.generate}, difficulty {self.difficulty}, seed {self.seed}"
            return made + first
        return str(self.path if self.path is not None else self.entry.example_path) + first

    def __call__(self) -> Iterator[Task]:
        """The tasks, one at a time.

        Raises:
            InvalidRow: Naming file, line, field and fix.
            Unsupported: If the environment generates none.
        """
        return islice(self._all(), self.limit)

    def count(self) -> int:
        """How many tasks there are; reads and checks all rows, and keeps none.

        Raises:
            InvalidRow: As for calling it.
            InvalidConfig: If there are none.
        """
        total = sum(1 for _ in self())
        if total == 0:
            raise InvalidConfig(f"there are no tasks in {self.description}")
        return total

    def _all(self) -> Iterator[Task]:
        if self.generate is not None:
            yield from self.entry.environment.generate_tasks(
                self.generate, seed=self.seed, difficulty=self.difficulty
            )
        else:
            path = self.path if self.path is not None else self.entry.example_path
            yield from self.entry.read_tasks(path) if path is not None else ()


# What rows are often kept as, and are not read from.
_OTHER_FORMS = (".gz", ".bz2", ".xz", ".zst", ".zip", ".parquet", ".arrow", ".csv")


def _check_file(path: Path) -> None:
    fix = "Fix: give a file with one JSON object a line"
    if path.is_dir():
        raise InvalidConfig(f"{path} is a folder, not a file of rows. {fix}")
    if not path.is_file():
        raise InvalidConfig(f"there is no file {path}")
    if path.suffix in _OTHER_FORMS:
        raise InvalidConfig(f"rows are not read from {path.suffix} files, as {path} is. {fix}")
