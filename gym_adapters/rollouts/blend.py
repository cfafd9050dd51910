"""Tasks of several environments in one stream, in proportion to their weights."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from gym_adapters.errors import InvalidConfig
from gym_adapters.task import Task

__all__ = ["blended", "shares", "task_stream"]

T = TypeVar("T")


def blended(
    streams: Sequence[Iterable[T]], weights: Sequence[float], *, whole: bool = True
) -> Iterator[tuple[int, T]]:
    """The items of several streams, each with the index of its stream, evenly spread.

    At each point the streams that have not ended have given items in proportion to their weights,
    to within one each. No chance is involved.

    Args:
        streams: Each read as it is needed.
        weights: Above 0, one per stream.
        whole: When a stream ends go on with the others; else end there, and keep the proportions.
    """
    iterators = [iter(stream) for stream in streams]
    given = [0] * len(iterators)
    left = set(range(len(iterators)))
    while left:
        # The one whose next item is due first; the order of the streams breaks ties.
        index = min(left, key=lambda each: ((given[each] + 1) / weights[each], each))
        try:
            item = next(iterators[index])
        except StopIteration:
            if not whole:
                return
            left.remove(index)
            continue
        given[index] += 1
        yield index, item


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in whole parts as near to the weights as can be, each at least 1.

    Raises:
        InvalidConfig: If there are more parts than tasks.
    """
    if total < len(weights):
        raise InvalidConfig(f"{total} tasks are too few for {len(weights)} environments")
    parts = [1] * len(weights)
    spare = total - len(weights)
    for _ in range(spare):
        index = min(range(len(weights)), key=lambda each: ((parts[each] + 1) / weights[each], each))
        parts[index] += 1
    return parts


async def task_stream(
    streams: Sequence[Iterable[Task]], weights: Sequence[float], limit: int | None = None
) -> AsyncGenerator[tuple[int, Task]]:
    """`blended`, for a collection; at most `limit` tasks."""
    for index, task in islice(blended(streams, weights), limit):
        yield index, task
