"""The operators of the other universe, and values that only its tools can give."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from gym_adapters.environments.math_advanced_calculations.environment import (
    AdvancedCalculations,
    CalculationTask,
)
from gym_adapters.environments.math_advanced_calculations.operators import evaluate, steps

from gym_adapters import Episode, InvalidRow, Unsupported
from gym_adapters.items import Item, assistant_message, function_call


def task(ground_truth: Any, prompt: str = "?") -> CalculationTask:
    return CalculationTask.from_row(
        {
            "responses_create_params": {"input": prompt},
            "id": 0,
            "ground_truth": ground_truth,
            "depth": 1,
            "breadth": 1,
        }
    )


# What NeMo Gym's recorded rollouts and published rows show.
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(9.0 - 9.0)", -3.0),
        ("(1.0 / 1.0)", 0.5),
        ("(1.0 * 9.0)", 9.9),
        ("sin(5.0)", 0.28366218546322625),
        ("sin(4)", -0.6536436208636119),
        ("(8.0 ** 8.0)", 1073741824.0),
        ("(6.0 + 10.0)", 17.2),
        ("3.0", 3.0),
        ("cos((5.0 - log(5.0, (5.0 / 1.0))))", 0.7439993082085593),
        ("(-(5.0) - pi)", -0.7182818284590451),
        (
            (
                "((((5.0 / 1.0) + log(3.0, 7.0)) * (-(1.0) - pi)) * "
                "(((6.0 * 7.0) / 7.0) + log(-(6.0), (6.0 - 8.0))))"
            ),
            -142.64940296754523,
        ),
        ("(4.0 ** 6.0 / pi)", 12054.673528305822),
    ],
)
def test_published_values(expression: str, value: float) -> None:
    assert list(steps(expression))[-1].value == value


@pytest.mark.parametrize(
    ("expression", "calls"),
    [
        ("3.0", ["return_constant"]),
        ("pi", ["pi"]),
        ("-(2.0)", ["negate"]),
        ("(1.0 + (2.0 * 3.0))", ["multiply", "add"]),
        ("log(sin(1.0), cos(2.0))", ["sin", "cos", "log"]),
    ],
)
def test_an_expression_is_worked_out_from_the_inside(expression: str, calls: list[str]) -> None:
    assert [step.function for step in steps(expression)] == calls


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "x",
        "sin()",
        "sin(1, 2)",
        "exp(1)",
        "sin(x=1)",
        "'a'",
        "(1).real",
        "1 // 2",
        "(" * 5000,
    ],
)
def test_anything_else_is_no_expression(expression: str) -> None:
    with pytest.raises(ValueError, match=r"not |takes "):
        list(steps(expression))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("divide", {"a": 1.0, "b": 0.0}),
        ("power", {"a": 1e300, "b": 5.0}),
        ("power", {"a": -2.0, "b": 0.5}),
        ("power", {"a": 0.0, "b": -5.0}),
        ("log", {"a": -1.0, "base": 2.0}),
        ("log", {"a": 2.0, "base": -1.5}),
        ("log", {"a": 2.0, "base": -0.5}),
        ("multiply", {"a": 1e308, "b": 1e308}),
        ("add", {"a": math.nan, "b": 1.0}),
        ("sin", {"radians": math.inf}),
    ],
)
async def test_no_value_is_an_error_that_the_model_reads(
    function: str, arguments: dict[str, float]
) -> None:
    with pytest.raises(ArithmeticError):
        evaluate(function, arguments)
    async with Episode(AdvancedCalculations, task([1.0])) as episode:
        await episode.start()
        written = json.dumps({name: str(value) for name, value in arguments.items()})
        step = await episode.advance([function_call(function, written, "c")])
    assert step.outcome is None
    error = json.loads(step.items[0]["output"])["error"]  # type: ignore[typeddict-item]
    assert error["type"] == "tool_error"


async def reward(asked: CalculationTask, *calls: tuple[str, dict[str, float]]) -> float:
    async with Episode(AdvancedCalculations, asked) as episode:
        await episode.start()
        for index, (name, arguments) in enumerate(calls):
            await episode.advance([function_call(name, json.dumps(arguments), f"call_{index}")])
        step = await episode.advance([assistant_message("The values are 17.2 and 0.5.")])
    assert step.outcome is not None
    assert step.outcome.reward is not None
    return step.outcome.reward.value


ADD = ("add", {"a": 6.0, "b": 10.0})
DIVIDE = ("divide", {"a": 1.0, "b": 1.0})


@pytest.mark.parametrize("ground_truth", [[17.2, 0.5], "[17.2, 0.5]"])
async def test_every_expected_value_must_have_come_from_a_tool(ground_truth: Any) -> None:
    asked = task(ground_truth)
    assert await reward(asked, ADD, DIVIDE) == 1.0
    assert await reward(asked, DIVIDE, ("pi", {}), ADD) == 1.0
    assert await reward(asked, ADD) == 0.0
    assert await reward(asked) == 0.0


async def test_nearly_is_not_enough() -> None:
    assert await reward(task([17.2000001]), ADD) == 0.0


@pytest.mark.parametrize("ground_truth", ["[]", [], "not JSON", "5", ["x"], [None], [math.inf]])
def test_a_row_without_values_is_refused(ground_truth: Any) -> None:
    with pytest.raises(InvalidRow) as caught:
        task(ground_truth)
    assert caught.value.field.startswith("ground_truth")


def test_gold_follows_the_prompt() -> None:
    prompt = (
        "Get me the values for 3.0, log(5.0, 2.0), and (-(5.0) - pi) using only the given tools."
    )
    turns = AdvancedCalculations.gold_turns(task([3.0], prompt))
    called: list[Item] = [item for turn in turns for item in turn]
    names = [item["name"] for item in called if item["type"] == "function_call"]
    assert names == ["return_constant", "log", "negate", "pi", "subtract"]


@pytest.mark.parametrize(
    "prompt",
    ["What is 1 + 1?", "Get me the value for exp(1.0) using only the given tools."],
)
def test_there_is_no_gold_for_other_prompts(prompt: str) -> None:
    with pytest.raises(Unsupported):
        AdvancedCalculations.gold_turns(task([1.0], prompt))
