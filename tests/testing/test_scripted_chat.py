"""The scripted models that users test with."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import pytest

from gym_adapters import Environment, Episode, ModelError, Task, Unsupported, UsageError, tool
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.generation.chat import ModelTurn
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import Item, assistant_message, function_call, item_text, user_message
from gym_adapters.testing import (
    ScriptedChatCall,
    ScriptedChatModel,
    empty_model,
    garbage_model,
    gold_model,
)
from gym_adapters.testing.scripted_chat import _GARBAGE_TURNS

TASK = Task.from_row({"responses_create_params": {"input": "hi"}})


class Pinger(Environment[Task]):
    """Ping."""

    @tool
    async def ping(self) -> str:
        """Ping."""
        return "pong"

    async def verify(self, transcript: object) -> float:
        return 1.0

    @classmethod
    def gold_turns(cls, task: Task) -> Sequence[Sequence[Item]]:
        return [[function_call("ping", "{}", "a")], [assistant_message("pong")]]


async def say(
    model: ScriptedChatModel, *new: Sequence[Item], request_id: str = "r"
) -> list[object]:
    session = model.open(tools=[], sampling=SamplingParams(), request_id=request_id)
    return [await session.respond(items) for items in new]


async def test_turn_k_is_said_at_the_kth_call_of_every_session() -> None:
    turn = ModelTurn([], "length")
    model = ScriptedChatModel(["hi", [function_call("f", "{}", "1")], turn, None])
    for _ in range(2):
        assert await say(model, [], [], [], []) == [
            ModelTurn([assistant_message("hi")], "stop"),
            ModelTurn([function_call("f", "{}", "1")], "stop"),
            turn,
            None,
        ]


async def test_calls_are_remembered_with_what_was_said_before() -> None:
    model = ScriptedChatModel(["a", "b"])
    await say(model, [user_message("1")], [user_message("2")], request_id="x")
    await say(model, [user_message("3")], request_id="y")
    first, second = model.calls_of("x")
    assert (first.turn, first.new_items, first.history) == (0, (user_message("1"),), ())
    assert second.turn == 1
    assert second.history == (user_message("1"), assistant_message("a"))
    assert len(model.calls) == 3


async def test_exceptions_in_the_script_are_raised() -> None:
    with pytest.raises(ModelError, match="down"):
        await say(ScriptedChatModel([ModelError("down")]), [])


async def test_a_script_that_is_too_short_says_so() -> None:
    with pytest.raises(ModelError, match=r"has 1 turn\(s\).*turn 1 \(from 0\)"):
        await say(ScriptedChatModel(["only"]), [], [])


def test_a_script_that_is_one_text_is_refused_with_the_fix() -> None:
    with pytest.raises(UsageError, match="list of turns"):
        ScriptedChatModel("hello")


async def test_a_function_decides_call_by_call_plain_or_async() -> None:
    async def later(call: ScriptedChatCall) -> str:
        await asyncio.sleep(0)
        return f"turn {call.turn}"

    for script in (later, lambda call: f"turn {call.turn}"):
        turns = await say(ScriptedChatModel(script), [], [])
        assert turns[1] == ModelTurn([assistant_message("turn 1")], "stop")


async def test_cancelled_calls_are_remembered() -> None:
    model = ScriptedChatModel(["late"], delay=lambda call: 60.0)
    work = asyncio.create_task(say(model, []))
    for _ in range(10):
        await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(model.aborted) == 1
    assert model.aborted == model.calls


async def test_gold_is_the_environments_own_best_attempt() -> None:
    rollout = await ToolAgent().run(Episode(Pinger, TASK), gold_model(Pinger, TASK))
    assert rollout.reward == 1.0
    assert rollout.usage.turns == 2


def test_without_gold_there_is_no_gold_model() -> None:
    with pytest.raises(Unsupported, match="no gold"):
        gold_model(Environment, TASK)


async def test_the_empty_model_says_nothing_for_ever() -> None:
    turns = await say(empty_model(), *[[]] * 50)
    assert turns == [ModelTurn([], "stop")] * 50


async def test_garbage_is_the_same_for_the_same_rollout_and_differs_between_them() -> None:
    async def output(index: int) -> Sequence[Item]:
        model = garbage_model(TASK, rollout_index=index)
        return (await ToolAgent().run(Episode(Pinger, TASK), model)).output

    assert await output(0) == await output(0)
    assert len({str(await output(index)) for index in range(20)}) > 5


async def test_garbage_ends() -> None:
    for index in range(30):
        model = garbage_model(TASK, rollout_index=index)
        rollout = await ToolAgent().run(Episode(Pinger, TASK), model)
        assert rollout.reward == 1.0
        assert len(model.calls) <= _GARBAGE_TURNS + 1


async def test_garbage_holds_control_tokens_and_broken_arguments() -> None:
    seen: list[Item] = []
    for index in range(40):
        model = garbage_model(TASK, rollout_index=index)
        seen.extend((await ToolAgent().run(Episode(Pinger, TASK), model)).output)
    assert any("<|im_start|>" in item_text(item) for item in seen)
    assert any(item["type"] == "function_call" and item["arguments"] == "{" for item in seen)
    assert any(item["type"] == "function_call" and item["name"] == "no_such_tool" for item in seen)


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, gym_adapters.testing as t; t.ScriptedChatModel; t.ScriptedGenerator; "
        "heavy = [m for m in ('torch', 'transformers') if m in sys.modules]; "
        "print(heavy, sorted(t.__all__) == dir(t))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_every_public_name_loads_and_no_other() -> None:
    import gym_adapters.testing as testing

    for name in ("ScriptedChatModel", "ScriptedGenerator", "gold_model"):
        assert getattr(testing, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        testing.nothing  # noqa: B018
