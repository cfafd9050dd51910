"""majority@k: what the most frequent of k answers to a task is worth.

An attempt's answer is what its environment says it is: ``answer`` or ``extracted_answer`` in the
reward's `info`. An answer is worth the mean reward of the attempts that gave it; among equally
frequent ones each counts alike. The figure is the mean over draws of k of a task's attempts: all of
them where there are few, else a fixed sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations
from math import comb, fsum
from random import Random
from typing import Any, NamedTuple

import orjson

__all__ = ["AnswerTally", "MajorityAtK", "answer_of", "majority_at_k", "majority_over_tasks"]

ANSWER_KEYS = ("answer", "extracted_answer")
MOST_DRAWS = 500


class AnswerTally(NamedTuple):
    """Attempts that gave one answer, and the sum of their rewards."""

    attempts: int
    rewards: float


@dataclass(frozen=True, slots=True)
class MajorityAtK:
    """majority@k over tasks.

    Attributes:
        k: Attempts.
        reward: Mean over the tasks with at least k scored attempts; ``None`` where none has.
        tasks: Number of those tasks.
        tasks_short: Tasks with fewer, which have no estimate.
    """

    k: int
    reward: float | None
    tasks: int
    tasks_short: int


def answer_of(info: Mapping[str, Any]) -> bytes | None:
    """What stands for the answer in `info`, in eight bytes; ``None`` where there is none."""
    for key in ANSWER_KEYS:
        value = info.get(key)
        if value is not None:
            text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
            text = text.strip()
            return blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return None


@lru_cache(maxsize=4096)
def majority_at_k(answers: tuple[AnswerTally, ...], silent: int, k: int) -> float:
    """majority@k of one task, which must have at least k attempts.

    Args:
        answers: One entry for each different answer.
        silent: Attempts without an answer: they have no vote, and a draw of nothing else is worth
            0.
        k: Attempts drawn.
    """
    votes = [index for index, answer in enumerate(answers) for _ in range(answer.attempts)]
    votes += [-1] * silent
    draws: Iterable[Sequence[int]]
    if comb(len(votes), k) <= MOST_DRAWS:
        draws = list(combinations(votes, k))
    else:
        random = Random(0)
        draws = [random.sample(votes, k) for _ in range(MOST_DRAWS)]
    worths = [_worth(draw, answers) for draw in draws]
    return fsum(worths) / len(worths)


def _worth(draw: Sequence[int], answers: Sequence[AnswerTally]) -> float:
    counts = Counter(draw)
    del counts[-1]
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [answers[index] for index, count in counts.items() if count == most]
    return fsum(winner.rewards / winner.attempts for winner in winners) / len(winners)


def majority_over_tasks(tasks: Iterable[tuple[Sequence[AnswerTally], int]], k: int) -> MajorityAtK:
    """majority@k over tasks, each given by its answers and its attempts without one."""
    known: list[float] = []
    short = 0
    for answers, silent in tasks:
        if silent + sum(answer.attempts for answer in answers) < k:
            short += 1
        else:
            known.append(majority_at_k(tuple(sorted(answers)), silent, k))
    return MajorityAtK(k, fsum(known) / len(known) if known else None, len(known), short)
