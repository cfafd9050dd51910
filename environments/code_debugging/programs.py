"""Small programs that are right, and ways to break them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["PROGRAMS", "Program"]

Draw = Callable[[random.Random], list[Any]]


@dataclass(frozen=True, slots=True)
class Program:
    """A right program, and its faults.

    Attributes:
        function: Name of its function.
        purpose: What the function should do.
        source: The program.
        faults: Pieces of the source, and what breaks it in their place; they do not overlap.
        draw: Draws arguments.
    """

    function: str
    purpose: str
    source: str
    faults: Sequence[tuple[str, str]]
    draw: Draw

    def broken(self, chosen: Sequence[int]) -> str:
        """The source with the faults of these numbers."""
        text = self.source
        for number in chosen:
            right, wrong = self.faults[number]
            text = text.replace(right, wrong, 1)
        return text

    def answer(self, arguments: Sequence[Any]) -> Any:
        """What the function should return."""
        names: dict[str, Any] = {}
        exec(compile(self.source, self.function, "exec"), names)
        return names[self.function](*arguments)


def _numbers(rng: random.Random) -> list[Any]:
    return [[rng.randint(-9, 9) for _ in range(rng.randint(0, 9))]]


def _numbers_and_one(rng: random.Random) -> list[Any]:
    numbers = sorted(rng.sample(range(40), rng.randint(0, 9)))
    return [numbers, rng.randint(0, 40)]


def _words(rng: random.Random) -> list[Any]:
    words = ["oar", "tide", "Oar", "reef", "mast", "Tide", "fog"]
    return [" ".join(rng.choice(words) for _ in range(rng.randint(0, 8)))]


def _intervals(rng: random.Random) -> list[Any]:
    starts = [rng.randint(0, 30) for _ in range(rng.randint(0, 6))]
    return [[[start, start + rng.randint(0, 8)] for start in starts]]


def _digits(rng: random.Random) -> list[Any]:
    return [rng.randint(1, 3999)]


def _brackets(rng: random.Random) -> list[Any]:
    if rng.random() < 0.5:
        return ["".join(rng.choice("()[]{}") for _ in range(rng.randint(0, 6)))]
    text = ""
    for _ in range(rng.randint(1, 4)):
        pair = rng.choice(("()", "[]", "{}"))
        text = pair[0] + text + pair[1] if rng.random() < 0.5 else text + pair
    return [text]


_ALL = (
    Program(
        "running_maximum",
        "return a list that holds, at each place, the greatest number up to there",
        """\
def running_maximum(numbers):
    result = []
    greatest = None
    for number in numbers:
        if greatest is None or number > greatest:
            greatest = number
        result.append(greatest)
    return result
""",
        (
            ("greatest = None", "greatest = 0"),
            ("number > greatest", "number < greatest"),
            ("    return result", "    return result[1:]"),
            ("result.append(greatest)", "result.append(number)"),
        ),
        _numbers,
    ),
    Program(
        "insert_position",
        "return the first position at which `wanted` could be put into the sorted list `numbers` "
        "so that it stays sorted",
        """\
def insert_position(numbers, wanted):
    low = 0
    high = len(numbers)
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low
""",
        (
            ("numbers[middle] < wanted", "numbers[middle] <= wanted"),
            ("high = len(numbers)\n", "high = len(numbers) - 1\n"),
            ("low = middle + 1", "low = middle"),
            ("(low + high) // 2", "(low + high) / 2"),
        ),
        _numbers_and_one,
    ),
    Program(
        "word_counts",
        "return how often each word of `text` occurs, by word, with upper and lower case the same",
        """\
def word_counts(text):
    counts = {}
    for word in text.split():
        key = word.lower()
        counts[key] = counts.get(key, 0) + 1
    return counts
""",
        (
            ("key = word.lower()", "key = word"),
            ("counts.get(key, 0) + 1", "counts.get(key, 1) + 1"),
            ("text.split()", "text.splitt()"),
            ("counts[key] = counts", "counts[word] = counts"),
        ),
        _words,
    ),
    Program(
        "merge_intervals",
        "return the intervals, each a list of start and end, sorted, with those that overlap or "
        "touch joined into one",
        """\
def merge_intervals(intervals):
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged
""",
        (
            ("sorted(intervals)", "intervals"),
            ("max(merged[-1][1], end)", "end"),
            ("if merged and start", "if start"),
            ("start <= merged", "start < merged"),
        ),
        _intervals,
    ),
    Program(
        "roman",
        "return a number from 1 to 3999 as a Roman numeral",
        """\
VALUES = [
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
    (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
]

def roman(number):
    letters = ""
    for value, letter in VALUES:
        while number >= value:
            letters += letter
            number -= value
    return letters
""",
        (
            ("number >= value", "number > value"),
            ('(90, "XC")', '(90, "CX")'),
            ("letters += letter", "letters = letter"),
            ('(40, "XL")', '(40, "LX")'),
        ),
        _digits,
    ),
    Program(
        "balanced",
        "return whether every bracket in `text`, which holds ()[]{} alone, is closed by its own "
        "kind and in order",
        """\
PAIRS = {")": "(", "]": "[", "}": "{"}

def balanced(text):
    open_brackets = []
    for sign in text:
        if sign in PAIRS:
            if not open_brackets or open_brackets.pop() != PAIRS[sign]:
                return False
        else:
            open_brackets.append(sign)
    return not open_brackets
""",
        (
            ("if not open_brackets or ", "if "),
            ("return not open_brackets", "return True"),
            ("open_brackets.pop()", "open_brackets.pop(0)"),
            ('"]": "["', '"]": "("'),
        ),
        _brackets,
    ),
)
PROGRAMS: Mapping[str, Program] = {program.function: program for program in _ALL}
