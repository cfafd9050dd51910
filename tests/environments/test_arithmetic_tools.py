"""Right number and calculator used: only both together are rewarded."""

from __future__ import annotations

import contextlib
import json

import pytest
from gym_adapters.environments.arithmetic_tools.environment import (
    ArithmeticTask,
    ArithmeticTools,
    evaluate,
)
from hypothesis import given, strategies as st

from gym_adapters import Episode, Reward, ToolError, UsageError
from gym_adapters.items import Item, assistant_message, function_call


def task() -> ArithmeticTask:
    return ArithmeticTask.from_row(
        {
            "responses_create_params": {"input": "What is 37+58?"},
            "a": 37,
            "operator": "+",
            "b": 58,
            "expected_answer": 95,
        }
    )


def calculate(expression: str) -> list[Item]:
    return [function_call("calculate", json.dumps({"expression": expression}), "call_0")]


async def reward(*turns: list[Item]) -> Reward:
    async with Episode(ArithmeticTools, task()) as episode:
        step = await episode.start()
        for turn in turns:
            assert not step.done
            step = await episode.advance(turn)
    assert step.outcome is not None
    assert step.outcome.reward is not None
    return step.outcome.reward


@pytest.mark.parametrize(
    ("turns", "correct", "used_tool"),
    [
        ([calculate("37+58"), [assistant_message("95")]], 1.0, 1.0),
        ([calculate("37+58"), [assistant_message("37+58 is 95.")]], 1.0, 1.0),
        ([calculate("37+58"), [assistant_message("Answer: 95, as 37 fits.")]], 1.0, 1.0),
        ([calculate("37+58"), [assistant_message("94")]], 0.0, 1.0),
        ([calculate("37+58"), [assistant_message("95 or 94")]], 0.0, 1.0),
        ([[assistant_message("95")]], 1.0, 0.0),
        ([calculate("37 plus 58"), [assistant_message("95")]], 1.0, 0.0),
        ([calculate("oops"), calculate("1"), [assistant_message("95")]], 1.0, 1.0),
        ([calculate("37+58"), [assistant_message("")]], 0.0, 1.0),
    ],
)
async def test_the_reward_needs_the_number_and_the_tool(
    turns: list[list[Item]], correct: float, used_tool: float
) -> None:
    got = await reward(*turns)
    assert got.components == {"correct": correct, "used_tool": used_tool}
    assert got.value == correct * used_tool


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("5", 5),
        ("37+58", 95),
        (" 2 + 3 * 4 - 5 ", 9),
        ("-3", -3),
        ("2--3", 5),
        ("2*-3", -6),
        ("-2*-3", 6),
        ("2-3*4", -10),
        ("2×3−1", 5),
        ("007", 7),
    ],
)
def test_expressions(expression: str, value: int) -> None:
    assert evaluate(expression) == value


SUMS = st.lists(
    st.tuples(st.sampled_from(["+", "-", "*"]), st.integers(-999, 999)), min_size=1, max_size=8
)


@given(first=st.integers(-999, 999), rest=SUMS)
def test_expressions_mean_what_they_mean_in_python(first: int, rest: list[tuple[str, int]]) -> None:
    expression = str(first) + "".join(f"{operator}{number}" for operator, number in rest)
    assert evaluate(expression) == eval(expression)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "ends without a number"),
        ("1+", "ends without a number"),
        ("*1", "a number is missing before"),
        ("1+*2", "a number is missing before"),
        ("1---2", "a number is missing before"),
        ("1 2", "an operator is missing before 2"),
        ("1/2", "only whole numbers"),
        ("1.5+2", "only whole numbers"),
        ("(1+2)", "only whole numbers"),
        ("__import__('os')", "only whole numbers"),
        ("٣+1", "only whole numbers"),
        ("1+" * 200 + "1", "at most 200 characters"),
    ],
)
def test_anything_else_is_an_error_that_the_model_reads(expression: str, problem: str) -> None:
    with pytest.raises(ToolError, match=problem):
        evaluate(expression)


@given(st.text(st.sampled_from("0123456789+-* ") | st.characters(), max_size=250))
def test_no_expression_raises_anything_but_a_tool_error(expression: str) -> None:
    with contextlib.suppress(ToolError):
        assert isinstance(evaluate(expression), int)


def test_the_easiest_tasks_are_the_hundred_sums_of_digits() -> None:
    tasks = list(ArithmeticTools.generate_tasks(100, seed=1, difficulty=0.0))
    assert {task.operator for task in tasks} == {"+"}
    assert {(task.a, task.b) for task in tasks} == {(a, b) for a in range(10) for b in range(10)}
    assert len(list(ArithmeticTools.generate_tasks(250, seed=1, difficulty=0.0))) == 250
    content = tasks[0].responses_create_params["input"][0]["content"]
    assert content == f"What is {tasks[0].a}+{tasks[0].b}?"


def test_difficulty_adds_operators_and_digits() -> None:
    def drawn(difficulty: float) -> tuple[set[str], int]:
        tasks = list(ArithmeticTools.generate_tasks(200, seed=1, difficulty=difficulty))
        return {t.operator for t in tasks}, max(len(str(t.a)) for t in tasks)

    assert drawn(0.2) == ({"+", "-"}, 2)
    assert drawn(0.5) == ({"+", "-", "*"}, 3)
    assert drawn(1.0) == ({"+", "-", "*"}, 6)
    with pytest.raises(UsageError, match="from 0 to 1"):
        next(ArithmeticTools.generate_tasks(1, difficulty=2.0))
