"""Sums that must be worked out with a calculator."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import orjson

from gym_adapters import Environment, Reward, Task, ToolError, Transcript, tool
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.verifiers.answers import integer_answer
from gym_adapters.verifiers.tool_calls import successful_calls

__all__ = ["ArithmeticTask", "ArithmeticTools", "evaluate"]

Operator = Literal["+", "-", "*"]
OPERATORS: tuple[Operator, ...] = ("+", "-", "*")
# Bounds the work of one call, and the digits of what it gives: a product has at most as many digits
# as its factors together.
LONGEST_EXPRESSION = 200
_TOKEN = re.compile(r"\s*+([0-9]++|[-+*])")
_SPELLINGS = str.maketrans({"\u00d7": "*", "\u2212": "-"})


class ArithmeticTask(Task):
    """`a` `operator` `b`, which gives `expected_answer`."""

    a: int
    operator: Operator
    b: int
    expected_answer: int


class ArithmeticTools(Environment[ArithmeticTask]):
    """Work out a sum with a calculator and say the result.

    The reward is 1 if the final message gives the right number and the calculator was used without
    an error, else 0. The answer is the number after the last ``Answer:``, else the last whole
    number; a message that was cut gives none.
    """

    name = "arithmetic_tools"
    stateless_verify = True

    @tool
    async def calculate(self, expression: str) -> str:
        """Work out an expression of whole numbers, +, - and *.

        Args:
            expression: Such as 12+34.
        """
        return str(evaluate(expression))

    async def verify(self, transcript: Transcript) -> Reward:
        """1 for the right number found with the calculator."""
        answer = None if transcript.truncated else integer_answer(transcript.final_text)
        correct = answer == self.task.expected_answer
        used_tool = bool(successful_calls(transcript.tool_calls, "calculate"))
        return Reward(
            float(correct and used_tool),
            components={"correct": float(correct), "used_tool": float(used_tool)},
        )

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[ArithmeticTask]:
        """Sums, no two alike until all there are have been given.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: At 0 additions of single digits; above that subtractions too, and another
                digit every 0.2; from 0.5 on products too.
        """
        sums = _sums(random.Random(seed), 10 ** (1 + int(difficulty * 5)), _operators(difficulty))
        yield from islice(sums, count)

    @classmethod
    def gold_turns(cls, task: ArithmeticTask) -> Sequence[Sequence[Item]]:
        """One call of the calculator, then its result and nothing else."""
        arguments = orjson.dumps({"expression": f"{task.a}{task.operator}{task.b}"}).decode()
        return [
            [function_call("calculate", arguments, "call_0")],
            [assistant_message(str(task.expected_answer))],
        ]


def evaluate(expression: str) -> int:
    """The value of whole numbers joined by +, - and *; products first, a sign is allowed.

    Raises:
        ToolError: If it is longer than 200 characters or anything else stands in it.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ToolError(f"an expression has at most {LONGEST_EXPRESSION} characters")
    total, product, sign = 0, 1, 1
    want_number, may_sign = True, True
    for token in _tokens(expression):
        if token.isdigit():
            if not want_number:
                raise ToolError(f"an operator is missing before {token}")
            product *= sign * int(token)
            sign, want_number = 1, False
        elif want_number:
            if token != "-" or not may_sign:
                raise ToolError(f"a number is missing before {token}")
            sign, may_sign = -sign, False
            continue
        else:
            if token != "*":
                total, product = total + product, 1
                sign = -1 if token == "-" else 1
            want_number = True
        may_sign = want_number
    if want_number:
        raise ToolError("the expression ends without a number")
    return total + product


def _tokens(expression: str) -> Iterator[str]:
    text = expression.translate(_SPELLINGS).strip()
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ToolError("only whole numbers, +, - and * can be worked out")
        position = match.end()
        yield match[1]


def _operators(difficulty: float) -> tuple[Operator, ...]:
    if difficulty == 0.0:
        return OPERATORS[:1]
    return OPERATORS if difficulty >= 0.5 else OPERATORS[:2]


def _sums(
    rng: random.Random, bound: int, operators: Sequence[Operator]
) -> Iterator[ArithmeticTask]:
    """Tasks with numbers below `bound`, without end."""
    given: set[tuple[int, Operator, int]] = set()
    while True:
        drawn = (rng.randrange(bound), rng.choice(operators), rng.randrange(bound))
        if drawn in given:
            continue
        given.add(drawn)
        if len(given) == bound * bound * len(operators):
            given.clear()
        yield _task(*drawn)


def _task(a: int, operator: Operator, b: int) -> ArithmeticTask:
    expression = f"{a}{operator}{b}"
    return ArithmeticTask.from_row(
        {
            "responses_create_params": {
                "input": [{"role": "user", "content": f"What is {expression}?"}]
            },
            "a": a,
            "operator": operator,
            "b": b,
            "expected_answer": evaluate(expression),
        }
    )
