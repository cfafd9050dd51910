"""The groups that a rollout worker samples, one after the other, and which the trainer has had.

The order of the tasks is that of the rows, again and again, and groups are numbered along it. What
the trainer takes is not in that order, so a run that is resumed is told both: the number below
which all groups were taken, and those above it that were taken too.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from gym_adapters.adapters.trl.environment_blend import EnvironmentPart
from gym_adapters.errors import InvalidConfig
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.training_ledger import TrainingLedger
from gym_adapters.task import Task

__all__ = ["STATE", "AttemptGroup", "GroupNumbers", "begun_numbers"]

log = logging.getLogger(__name__)

STATE = "gym_adapters_rollout_worker"
"""Key of the trainer's state under which a checkpoint tells which groups were taken."""


@dataclass(slots=True)
class AttemptGroup:
    """The attempts at one task that share a baseline.

    Attributes:
        number: Of the group.
        part: The environment.
        task: The task.
        seed: Of the episodes.
        first_index: The ``rollout_index`` of the first attempt.
        rollouts: Those that have ended, by their place in the group.
    """

    number: int
    part: EnvironmentPart
    task: Task
    seed: int
    first_index: int
    rollouts: dict[int, Rollout] = field(default_factory=dict)


class GroupNumbers:
    """Numbers groups, counts attempts at each task, and remembers what was taken.

    Args:
        task_ids: Of the rows, in their order; an id may come several times.
        group_size: Attempts of a group.
    """

    def __init__(self, task_ids: Sequence[str], group_size: int) -> None:
        self._task_ids, self._group_size = task_ids, group_size
        self._places: dict[str, list[int]] = {}
        for place, task_id in enumerate(task_ids):
            self._places.setdefault(task_id, []).append(place)
        self._first = 0
        self._taken: set[int] = set()
        self._left: Counter[int] = Counter()

    def __iter__(self) -> Iterator[int]:
        """The numbers of the groups still to be sampled; it has no end."""
        already = frozenset(self._taken)
        return (number for number in itertools.count(self._first) if number not in already)

    def place(self, number: int) -> int:
        """Which row a group is of."""
        return number % len(self._task_ids)

    def first_index(self, number: int) -> int:
        """The ``rollout_index`` of a group's first attempt: attempts at a task go on counting."""
        epoch, place = divmod(number, len(self._task_ids))
        places = self._places[self._task_ids[place]]
        return (epoch * len(places) + places.index(place)) * self._group_size

    def begin_after(self, next_index: int) -> None:
        """Begin with the first row, in an epoch whose attempts have numbers of `next_index` on."""
        self._first = -(-next_index // self._group_size) * len(self._task_ids)

    def made(self, number: int, samples: int) -> None:
        """Take note of how many samples a finished group is; without any it is done."""
        self._left[number] += samples
        self._note(number)

    def took(self, number: int) -> None:
        """Take note that the trainer took a sample of a group."""
        self._left[number] -= 1
        self._note(number)

    def was_taken(self, task_id: str, rollout_index: int) -> bool:
        """Whether the trainer has had the group of an attempt; ``False`` of what is no such."""
        places = self._places.get(task_id)
        if places is None:
            return False
        epoch, which = divmod(rollout_index // self._group_size, len(places))
        number = epoch * len(self._task_ids) + places[which]
        return number < self._first or number in self._taken

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON."""
        return {
            "tasks": self._digest(),
            "group_size": self._group_size,
            "first": self._first,
            "taken": sorted(self._taken),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a run was.

        Args:
            state: What `state` gave in that run.

        Raises:
            InvalidConfig: If that run had other tasks or groups, or it is no state.
        """
        first, taken = state.get("first"), state.get("taken")
        if not isinstance(first, int) or not isinstance(taken, list):
            raise InvalidConfig("the checkpoint does not tell which tasks were used.")
        if state.get("tasks") != self._digest():
            raise InvalidConfig("the checkpoint is of other tasks, or of another order of them.")
        if state.get("group_size") != self._group_size:
            raise InvalidConfig(
                f"the checkpoint is of groups of {state.get('group_size')} rollouts, and now they "
                f"are of {self._group_size}."
            )
        self._first, self._taken = first, set(taken)

    def _digest(self) -> str:
        return blake2b("\n".join(self._task_ids).encode(), digest_size=8).hexdigest()

    def _note(self, number: int) -> None:
        if self._left[number]:
            return
        del self._left[number]
        self._taken.add(number)
        while self._first in self._taken:
            self._taken.remove(self._first)
            self._first += 1


def begun_numbers(
    task_ids: Sequence[str], group_size: int, state: Any, folder: Path | str | None
) -> GroupNumbers:
    """The numbers of a training that begins, or goes on behind what its checkpoint has used.

    The ledger is cut back to what was used: the rest is sampled again, under the same numbers.
    Where the checkpoint does not tell what was used, the first task is the next one, and numbers
    follow those in the ledger.

    Args:
        task_ids: Of the rows, in their order.
        group_size: Attempts of a group.
        state: The trainer's.
        folder: The ledger's, where there is one.

    Raises:
        OSError: If the ledger can't be read or written.
    """
    numbers = GroupNumbers(task_ids, group_size)
    ledger = None if folder is None else TrainingLedger(folder)
    if state.global_step:
        try:
            numbers.restore(state.stateful_callbacks.get(STATE) or {})
        except InvalidConfig as error:
            log.warning("resumed at step %d with the first task: %s", state.global_step, error)
        else:
            dropped = 0 if ledger is None else ledger.keep(numbers.was_taken)
            told = "resumed at step %d behind the tasks used; %d rollouts dropped from the ledger"
            log.info(told, state.global_step, dropped)
            return numbers
    if ledger is not None:
        numbers.begin_after(max(ledger.next_indices().values(), default=0))
    return numbers
