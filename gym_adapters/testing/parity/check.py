"""Cases taken through trainers, and what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gym_adapters.errors import GymAdaptersError, Unsupported
from gym_adapters.rollout import Rollout
from gym_adapters.testing.parity.case import Attempt, ParityCase, Room
from gym_adapters.testing.parity.difference import (
    Difference,
    advantage_differences,
    differences,
    is_trainable,
)
from gym_adapters.testing.parity.driver import TRAINERS, ParityDriver, parity_driver
from gym_adapters.testing.parity.received import Received
from gym_adapters.testing.parity.reference import reference_rollouts, room_for

__all__ = ["Cell", "Verdict", "check_case", "check_parity"]

REFUSED_ROOM = Room(1024, 1024)


class Verdict(StrEnum):
    """What came of one case in one trainer."""

    SAME = "same"  # the trainer received what the rollouts were
    REFUSED = "refused"  # the adapter said no, and the capability matrix says that it must
    NOT_CHECKED = "not checked"  # the trainer is not here
    DIFFERENT = "different"  # anything else


@dataclass(frozen=True, slots=True)
class Cell:
    """One case in one trainer.

    Attributes:
        case: Its name.
        trainer: Its name.
        verdict: What came of it.
        detail: Why it is refused, not checked or different, where there is one reason.
        differences: What differs.
        rollouts: How many were compared.
        samples: How many training samples were compared.
    """

    case: str
    trainer: str
    verdict: Verdict
    detail: str = ""
    differences: Sequence[Difference] = ()
    rollouts: int = 0
    samples: int = 0


def check_parity(
    cases: Iterable[ParityCase],
    trainers: Sequence[str],
    *,
    told: Callable[[Cell], None] = lambda cell: None,
) -> list[Cell]:
    """Every case in every trainer, one trainer after the other.

    Args:
        cases: `parity_shapes` or `environment_cases`, or your own.
        trainers: Of `TRAINERS`; taken in that order.
        told: Called with each cell as it is known.

    Raises:
        UsageError: If a trainer is unknown, or a case's environment.
    """
    asked = list(cases)
    drivers = {trainer: parity_driver(trainer) for trainer in trainers}
    cells = []
    for trainer in (each for each in TRAINERS if each in drivers):
        for case in asked:
            cells.append(check_case(case, drivers[trainer]))
            told(cells[-1])
    return cells


def check_case(case: ParityCase, driver: ParityDriver) -> Cell:
    """One case in one trainer. Not for use inside a running event loop: trainers begin their own.

    Raises:
        UsageError: If the case's environment is unknown.
    """
    absent = driver.unavailable()
    if absent is not None:
        return Cell(case.name, driver.trainer, Verdict.NOT_CHECKED, absent)
    reason = driver.refusal(case)
    if reason is not None:
        return _refused(case, driver, reason)
    try:
        room = room_for(case, list(asyncio.run(reference_rollouts(case)).values()))
        received = driver.drive(case, room)
        expected = asyncio.run(reference_rollouts(case, received.episodes))
        found = differences(expected, received)
        found += _beside_failures(case, driver, room, expected, received)
    except GymAdaptersError as error:
        told = f"the capability matrix says that it is supported, but: {error}"
        return Cell(case.name, driver.trainer, Verdict.DIFFERENT, told)
    return Cell(
        case.name,
        driver.trainer,
        Verdict.DIFFERENT if found else Verdict.SAME,
        differences=found,
        rollouts=len(expected),
        samples=sum(len(rollout.samples) for rollout in received.rollouts.values()),
    )


def _refused(case: ParityCase, driver: ParityDriver, reason: str) -> Cell:
    """Whether the adapter refuses what the matrix says that it must."""
    try:
        driver.drive(case, REFUSED_ROOM)
    except Unsupported:
        return Cell(case.name, driver.trainer, Verdict.REFUSED, reason)
    told = f"the capability matrix says that it is refused ({reason}), but it ran"
    return Cell(case.name, driver.trainer, Verdict.DIFFERENT, told)


def _beside_failures(
    case: ParityCase,
    driver: ParityDriver,
    room: Room,
    expected: dict[Attempt, Rollout],
    received: Received,
) -> list[Difference]:
    """Whether failed rollouts leave the advantages of the others as they would be without them.

    Asked where rollouts fail, the same ones of each group, and two or more do not.
    """
    kept = [
        index
        for index in range(case.group_size)
        if all(is_trainable(expected[Attempt(t, index)]) for t in range(len(case.tasks)))
    ]
    survivors = [attempt for attempt in case.attempts if is_trainable(expected[attempt])]
    told = any(rollout.advantage is not None for rollout in received.rollouts.values())
    alike = len(survivors) == len(kept) * len(case.tasks)
    if not told or not alike or not 2 <= len(kept) < case.group_size:
        return []
    alone = driver.drive(case.of_attempts(kept), room)
    if not _same_rewards(alone, received):
        # An environment whose random numbers change with an attempt's place: nothing to compare.
        return []
    return advantage_differences(received, alone, survivors)


def _same_rewards(alone: Received, whole: Received) -> bool:
    def rewards(received: Received) -> list[float]:
        told = (received.rollouts[attempt].reward for attempt in sorted(received.rollouts))
        return [reward for reward in told if reward is not None]

    return rewards(alone) == rewards(whole)
