"""Questions that a program can ask and answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Question", "questions"]

WORDS = (
    "anchor",
    "apple",
    "badge",
    "basket",
    "candle",
    "carpet",
    "dragon",
    "eagle",
    "feather",
    "forest",
    "garden",
    "hammer",
    "harbour",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "lantern",
    "marble",
    "mirror",
    "needle",
    "ocean",
    "orchard",
    "pepper",
    "pillow",
    "quarry",
    "river",
    "saddle",
    "shadow",
    "tunnel",
    "umbrella",
    "valley",
    "velvet",
    "window",
    "yellow",
    "zebra",
)


class Question(NamedTuple):
    """A question, its options, and the index of the right one."""

    text: str
    options: Sequence[str]
    right: int


def questions(rng: random.Random, count: int, difficulty: float) -> Iterator[Question]:
    """`count` questions; `difficulty` from 0 to 1 gives 3 to 10 options and longer numbers."""
    options = 3 + round(7 * difficulty)
    bound = 10 ** (2 + round(4 * difficulty))
    for _ in range(count):
        kind = rng.randrange(3)
        if kind == 0:
            numbers = rng.sample(range(bound), options)
            yield _asked("Which of these numbers is the greatest?", numbers, max(numbers))
        elif kind == 1:
            a, b = rng.randrange(bound), rng.randrange(bound)
            wrong = rng.sample([d for d in range(-2 * options, 2 * options) if d], options - 1)
            sums = [a + b, *(a + b + offset for offset in wrong)]
            rng.shuffle(sums)
            yield _asked(f"What is {a} + {b}?", sums, a + b)
        else:
            words = rng.sample(WORDS, options)
            yield _asked("Which of these words comes first in a dictionary?", words, min(words))


def _asked(text: str, options: Sequence[str] | Sequence[int], right: str | int) -> Question:
    return Question(text, [str(option) for option in options], list(options).index(right))
