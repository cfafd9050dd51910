"""Arithmetic in a universe where the operators mean something else."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import count as counted
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field, FiniteFloat

from gym_adapters import Environment, Task, ToolError, Transcript, Unsupported, tool
from gym_adapters.items import Item, assistant_message, function_call, item_text
from gym_adapters.verifiers.tool_calls import json_or_none

from .operators import evaluate, random_expression, steps

__all__ = ["AdvancedCalculations", "CalculationTask"]

_ASKED = re.compile(r"Get me the values? for (.*) using only the given tools\.", re.DOTALL)
ASKING = "Get me the {values} for {expressions} using only the given tools."


def _decoded(value: Any) -> Any:
    """The list that JSON text stands for: NeMo Gym's rows hold it as text."""
    return json_or_none(value) if isinstance(value, str) else value


class CalculationTask(Task):
    """Get the values `ground_truth`, given as a list or as the JSON text of one."""

    id: int
    ground_truth: Annotated[list[FiniteFloat], BeforeValidator(_decoded), Field(min_length=1)]
    depth: int
    breadth: int


class AdvancedCalculations(Environment[CalculationTask]):
    """Work out expressions with tools whose operators do not mean what they usually do.

    The reward is 1 if every expected value is, exactly, what some tool call gave, else 0.
    """

    name = "math_advanced_calculations"
    stateless_verify = True

    @tool
    async def multiply(self, a: float, b: float) -> dict[str, float]:
        """Multiply two numbers; a * b.

        Args:
            a: First factor.
            b: Second factor.
        """
        return _solution("multiply", a=a, b=b)

    @tool
    async def divide(self, a: float, b: float) -> dict[str, float]:
        """Divide two numbers; a / b. Order and grouping matter.

        Args:
            a: What is divided.
            b: What it is divided by.
        """
        return _solution("divide", a=a, b=b)

    @tool
    async def add(self, a: float, b: float) -> dict[str, float]:
        """Add two numbers; a + b.

        Args:
            a: First number.
            b: Second number.
        """
        return _solution("add", a=a, b=b)

    @tool
    async def subtract(self, a: float, b: float) -> dict[str, float]:
        """Subtract two numbers; a - b.

        Args:
            a: What is subtracted from.
            b: What is subtracted.
        """
        return _solution("subtract", a=a, b=b)

    @tool
    async def power(self, a: float, b: float) -> dict[str, float]:
        """Raise a number to a power; a ** b.

        Args:
            a: The base.
            b: The exponent.
        """
        return _solution("power", a=a, b=b)

    @tool
    async def log(self, a: float, base: float) -> dict[str, float]:
        """Take the logarithm of a number to a base. Any base is positive in this universe.

        Args:
            a: What to take the logarithm of.
            base: Base of the logarithm.
        """
        return _solution("log", a=a, base=base)

    @tool
    async def sin(self, radians: float) -> dict[str, float]:
        """The sine of an angle.

        Args:
            radians: The angle, in radians.
        """
        return _solution("sin", radians=radians)

    @tool
    async def cos(self, radians: float) -> dict[str, float]:
        """The cosine of an angle.

        Args:
            radians: The angle, in radians.
        """
        return _solution("cos", radians=radians)

    @tool
    async def pi(self) -> dict[str, float]:
        """The value of pi in this universe."""
        return _solution("pi")

    @tool
    async def negate(self, a: float) -> dict[str, float]:
        """Negate a number; -a.

        Args:
            a: The number.
        """
        return _solution("negate", a=a)

    @tool
    async def return_constant(self, a: float) -> dict[str, float]:
        """Give a number back as it is.

        Args:
            a: The number.
        """
        return _solution("return_constant", a=a)

    async def verify(self, transcript: Transcript) -> float:
        """1 if every expected value is among what the tools gave."""
        given = {_given(call.output) for call in transcript.tool_calls}
        return float(all(value in given for value in self.task.ground_truth))

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[CalculationTask]:
        """Expressions to work out.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From one expression of one call at 0 to four of up to four nested ones at 1.
        """
        rng = random.Random(seed)
        size = 1 + round(3 * difficulty)
        for index in range(count):
            expressions = [random_expression(rng, size) for _ in range(size)]
            values = [list(steps(expression))[-1].value for expression in expressions]
            yield CalculationTask.from_row(
                {
                    "id": index,
                    "responses_create_params": {
                        "input": [{"role": "user", "content": _question(expressions)}],
                        "tools": [spec.declaration() for spec in cls.class_tools.values()],
                        "parallel_tool_calls": False,
                    },
                    "ground_truth": orjson.dumps(values).decode(),
                    "depth": size,
                    "breadth": size,
                }
            )

    @classmethod
    def gold_turns(cls, task: CalculationTask) -> Sequence[Sequence[Item]]:
        """Each call that the expressions of the prompt need, innermost first, then the values.

        Raises:
            Unsupported: If the prompt is not of the form that `generate_tasks` gives.
        """
        numbers = counted()
        turns: list[list[Item]] = []
        for expression in _expressions(task):
            try:
                calls = list(steps(expression))
            except (ValueError, ArithmeticError) as error:
                raise Unsupported(f"the prompt can't be worked out: {error}") from error
            turns += [
                [
                    function_call(
                        step.function,
                        orjson.dumps(step.arguments).decode(),
                        f"call_{next(numbers)}",
                    )
                ]
                for step in calls
            ]
        values = ", ".join(str(value) for value in task.ground_truth)
        return [*turns, [assistant_message(f"The values are {values}.")]]


def _solution(function: str, **arguments: float) -> dict[str, float]:
    try:
        return {"solution": evaluate(function, arguments)}
    except ArithmeticError as error:
        raise ToolError(str(error)) from error


def _given(output: str | None) -> float | None:
    """The number that a tool call gave; ``None`` where it gave none."""
    result = json_or_none(output) if output is not None else None
    value = result.get("solution") if isinstance(result, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _question(expressions: Sequence[str]) -> str:
    if len(expressions) == 1:
        return ASKING.format(values="value", expressions=expressions[0])
    *first, last = expressions
    comma = "," if len(first) > 1 else ""
    return ASKING.format(values="values", expressions=f"{', '.join(first)}{comma} and {last}")


def _expressions(task: CalculationTask) -> list[str]:
    """The expressions that the prompt asks for."""
    asked = _ASKED.search(item_text(task.input[-1]))
    if asked is None:
        raise Unsupported("the prompt does not ask for values in the known form")
    # No expression holds the word "and"; commas between expressions are those outside brackets.
    parts, depth, start = [], 0, 0
    text = re.sub(r",?\s+and\s+", ", ", asked[1])
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]
