"""Problems of our own making: a statement, a solution, and test cases made by running it.

Solutions are Python functions here, so that expected outputs are computed without a sandbox.
"""

from __future__ import annotations

import inspect
import random
import textwrap
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gym_adapters import Unsupported

__all__ = ["generated_problems", "solution_of"]

INSTRUCTIONS = (
    "Solve the problem in Python. Put the whole solution in one ```python code block at the end."
)
CASES = 8


def total_above(values: list[int], bound: int) -> int:
    return sum(value for value in values if value > bound)


def longest_run(values: list[int], bound: int) -> int:
    best = length = 0
    for value in values:
        length = length + 1 if value > bound else 0
        best = max(best, length)
    return best


def most_common(values: list[int], bound: int) -> int:
    counts = Counter(value % bound for value in values)
    return min(counts, key=lambda value: (-counts[value], value))


def pairs_with_sum(values: list[int], bound: int) -> int:
    seen: Counter[int] = Counter()
    pairs = 0
    for value in values:
        pairs += seen[bound - value]
        seen[value] += 1
    return pairs


def widest_window(values: list[int], bound: int) -> int:
    best = start = total = 0
    for end, value in enumerate(values):
        total += value
        while total > bound:
            total -= values[start]
            start += 1
        best = max(best, end - start + 1)
    return best


def fewest_coins(values: list[int], bound: int) -> int:
    fewest = {0: 0}
    queue = deque([0])
    while queue:
        at = queue.popleft()
        for value in values:
            after = at + value
            if after <= bound and after not in fewest:
                fewest[after] = fewest[at] + 1
                queue.append(after)
    return fewest.get(bound, -1)


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem: `statement` speaks of the list `values` and the number `bound`."""

    function: Callable[[list[int], int], int]
    statement: str
    difficulty: float
    values: tuple[int, int]
    bounds: tuple[int, int]


PROBLEMS = (
    Problem(
        total_above,
        "Find the sum of all values that are greater than the bound; 0 if there are none.",
        0.0,
        (-50, 50),
        (-20, 20),
    ),
    Problem(
        longest_run,
        "Find the length of the longest run of neighbouring values that are all greater than the "
        "bound; 0 if there is none.",
        0.2,
        (0, 20),
        (3, 12),
    ),
    Problem(
        most_common,
        "Divide each value by the bound and keep the remainder. Find the remainder that is most "
        "frequent; among equally frequent ones, the smallest.",
        0.4,
        (0, 60),
        (2, 9),
    ),
    Problem(
        pairs_with_sum,
        "Count the pairs of positions i < j whose values add up to the bound.",
        0.6,
        (0, 15),
        (5, 25),
    ),
    Problem(
        widest_window,
        "No value is negative. Find the length of the longest stretch of neighbouring values whose "
        "sum is at most the bound; 0 if there is none.",
        0.8,
        (0, 20),
        (10, 60),
    ),
    Problem(
        fewest_coins,
        "The values are kinds of coins, all positive, each to be used as often as you like. Find "
        "the smallest number of coins that add up to the bound exactly, or -1 if none do.",
        1.0,
        (2, 30),
        (20, 120),
    ),
)


def generated_problems(count: int, seed: int, difficulty: float) -> Iterator[Mapping[str, Any]]:
    """Rows; see `CodeGen.generate_tasks`."""
    rng = random.Random(f"code_gen:{seed}")
    offered = sorted(PROBLEMS, key=lambda problem: abs(problem.difficulty - difficulty))[:3]
    for number in range(count):
        problem = rng.choice(offered)
        yield _row(problem, rng, number, calls_function=rng.random() < 0.5)


def solution_of(row: Mapping[str, Any]) -> str:
    """The source of a solution of a generated row.

    Raises:
        Unsupported: If the row was not generated here.
    """
    by_name = {problem.function.__name__: problem for problem in PROBLEMS}
    chosen = by_name.get(row.get("problem", ""))
    if chosen is None:
        raise Unsupported("code_gen knows solutions of the problems it generated alone")
    function = chosen.function
    source = textwrap.dedent(inspect.getsource(function))
    imports = "from collections import Counter, deque\n\n"
    if row["verifier_metadata"]["unit_tests"].get("fn_name"):
        return imports + source.replace(f"def {function.__name__}", "def solve", 1)
    call = f"print({function.__name__}(list(map(int, input().split())), bound))"
    return f"{imports}{source}\n_, bound = map(int, input().split())\n{call}\n"


def _row(
    problem: Problem, rng: random.Random, number: int, *, calls_function: bool
) -> Mapping[str, Any]:
    cases = [_case(problem, rng, size) for size in range(1, CASES + 1)]
    if calls_function:
        form = "Write a function solve(values, bound) that returns the answer."
        inputs = [f"{values}\n{bound}" for values, bound in cases]
    else:
        form = (
            "Input: the first line holds the number of values and the bound, the second line the "
            "values. Output: the answer, on one line."
        )
        inputs = [f"{len(v)} {bound}\n{' '.join(map(str, v))}\n" for v, bound in cases]
    answers = [problem.function(values, bound) for values, bound in cases]
    example = f"Example input:\n{inputs[-1].strip()}\nExample output:\n{answers[-1]}"
    given = "Given are a list of whole numbers, called values, and a bound."
    statement = f"{given} {problem.statement}"
    row = {
        "responses_create_params": {
            "input": [
                {
                    "role": "user",
                    "content": f"{INSTRUCTIONS}\n\n{statement}\n\n{form}\n\n{example}",
                }
            ]
        },
        "verifier_metadata": {
            "unit_tests": {
                "inputs": inputs,
                "outputs": [f"{answer}" if calls_function else f"{answer}\n" for answer in answers],
                "fn_name": "solve" if calls_function else None,
            },
            "difficulty": f"{problem.difficulty}",
        },
        "problem": problem.function.__name__,
        "problem_number": number,
    }
    # Through JSON, so that a generated task is what reading its row back gives.
    return orjson.loads(orjson.dumps(row))  # type: ignore[no-any-return]


def _case(problem: Problem, rng: random.Random, size: int) -> tuple[list[int], int]:
    length = rng.randrange(size, 3 * size + 1)
    values = [rng.randint(*problem.values) for _ in range(length)]
    return values, rng.randint(*problem.bounds)
