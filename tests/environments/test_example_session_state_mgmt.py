"""The counter decides, and each attempt has its own."""

from __future__ import annotations

import asyncio
import json

import pytest
from gym_adapters.environments.example_session_state_mgmt.environment import Counter, CounterTask

from gym_adapters import Episode
from gym_adapters.items import Item, assistant_message, function_call

TASK = CounterTask.from_row(
    {
        "responses_create_params": {"input": "add 1 then add 2 then get the count"},
        "initial_count": 3,
        "expected_count": 6,
    }
)


def add(*counts: int) -> list[Item]:
    return [
        function_call("increment_counter", json.dumps({"count": count}), f"call_{index}")
        for index, count in enumerate(counts)
    ]


async def attempt(*turns: list[Item]) -> tuple[float, list[str]]:
    async with Episode(Counter, TASK) as episode:
        await episode.start()
        for turn in turns:
            await episode.advance(turn)
        step = await episode.advance([assistant_message("It is 100.")])
    assert step.outcome is not None
    assert step.outcome.reward is not None
    outputs = [i["output"] for i in episode.output if i["type"] == "function_call_output"]
    return step.outcome.reward.value, outputs


READ: list[Item] = [function_call("get_counter_value", "{}", "read")]


@pytest.mark.parametrize(
    ("counts", "reward", "read"),
    [([1, 2], 1.0, 6), ([3], 1.0, 6), ([10, -7], 1.0, 6), ([1], 0.0, 4), ([1, 2, 3], 0.0, 9)],
)
async def test_the_end_state_is_the_verdict(counts: list[int], reward: float, read: int) -> None:
    value, outputs = await attempt(add(*counts), READ)
    assert value == reward
    assert [json.loads(output) for output in outputs] == [
        *[{"success": True}] * len(counts),
        {"count": read},
    ]


async def test_saying_the_total_is_not_enough() -> None:
    assert (await attempt())[0] == 0.0


async def test_a_counter_beyond_64_bits_is_read_like_any_other() -> None:
    huge = 2**63 - 1
    value, outputs = await attempt(add(huge, huge), READ)
    assert json.loads(outputs[-1]) == {"count": 3 + 2 * huge}
    assert value == 0.0


async def test_attempts_at_one_time_have_counters_of_their_own() -> None:
    got = await asyncio.gather(*(attempt(add(index), READ) for index in range(20)))
    assert [value for value, _ in got] == [float(index == 3) for index in range(20)]


def test_difficulty_is_how_many_numbers_are_added() -> None:
    def added(difficulty: float) -> int:
        [task] = Counter.generate_tasks(1, difficulty=difficulty)
        prompt = task.responses_create_params["input"][0]["content"]
        return prompt.count("add ")

    assert [added(d) for d in (0.0, 0.5, 1.0)] == [1, 3, 5]
