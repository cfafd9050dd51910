"""Several row files as one: blended by weight, each task once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.task import Task
from gym_adapters.training_data.id_set import IdSet
from gym_adapters.training_data.rows import Row, numbered_rows, row_problems

__all__ = ["WeightedFile", "agent_named", "checked_rows", "parsed_weights", "unique"]


@dataclass(frozen=True, slots=True)
class WeightedFile:
    """A file and how many of its rows go to one of a file of weight 1."""

    path: Path
    weight: float = 1.0


def parsed_weights(texts: Sequence[str]) -> list[WeightedFile]:
    """``path`` or ``path=weight``, as a command line gives them.

    Raises:
        InvalidConfig: If a weight is no positive number.
    """
    files = []
    for text in texts:
        path, equals, weight = text.rpartition("=")
        if not equals:
            files.append(WeightedFile(Path(text)))
            continue
        try:
            files.append(WeightedFile(Path(path), float(weight)))
        except ValueError:
            files.append(WeightedFile(Path(text)))  # a name that holds "="
        if not 0.0 < files[-1].weight < float("inf"):
            raise InvalidConfig(f"the weight of {path} must be above 0, not {weight}")
    return files


def checked_rows(path: Path, entry: EnvironmentEntry | None = None) -> Iterator[tuple[Row, str]]:
    """Rows of a file with their task ids.

    Raises:
        InvalidRow: At the first problem; `row_problems` tells them all.
    """
    for number, row in numbered_rows(path):
        if isinstance(row, InvalidRow):
            raise row
        for problem in row_problems(row, entry):
            raise problem.at(str(path), number)
        yield row, Task.from_row(row).task_id


def unique(rows: Iterable[tuple[Row, str]]) -> Iterator[tuple[Row, str]]:
    """The first row of each task."""
    seen = IdSet()
    return ((row, task_id) for row, task_id in rows if seen.add(task_id))


def agent_named(row: Row, agent: str | None) -> Row:
    """`row` with NeMo Gym's ``agent_ref``, where it has none and `agent` names one."""
    if agent is None or row.get("agent_ref") is not None:
        return row
    return {**row, "agent_ref": {"type": "responses_api_agents", "name": agent}}
