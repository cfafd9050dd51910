"""Several row files as one: blended by weight, each task once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.task import Task
from gym_adapters.training_data.id_set import IdSet
from gym_adapters.training_data.rows import Row, numbered_rows, row_problems

__all__ = ["WeightedFile", "agent_named", "blended", "checked_rows", "parsed_weights", "unique"]

T = TypeVar("T")


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


def blended(
    sources: Sequence[Iterable[T]], weights: Sequence[float], *, whole: bool = True
) -> Iterator[T]:
    """The items of several sources, each drawn from in proportion to its weight, evenly spread.

    No chance is involved: the next source is the one that is furthest behind its share (smooth
    weighted round robin), the first of them on a tie.

    Args:
        sources: What to blend; read lazily.
        weights: One a source, above 0.
        whole: When a source ends go on with the others; else end there, and keep the proportions.
    """
    iterators = [iter(source) for source in sources]
    shares = list(weights)
    credit = [0.0] * len(iterators)
    while iterators:
        for index, share in enumerate(shares):
            credit[index] += share
        chosen = max(range(len(credit)), key=credit.__getitem__)
        credit[chosen] -= sum(shares)
        try:
            item = next(iterators[chosen])
        except StopIteration:
            if not whole:
                return
            del iterators[chosen], shares[chosen]
            credit = [0.0] * len(iterators)
            continue
        yield item


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
