"""It is always cold, and every attempt gets 1."""

from __future__ import annotations

import json

from gym_adapters.environments.example_single_tool_call.environment import Weather

from gym_adapters import Episode, Task
from gym_adapters.items import assistant_message, function_call


async def test_the_weather_is_told_and_the_reward_is_one() -> None:
    task = Task.from_row({"responses_create_params": {"input": "How is it in Rome?"}})
    async with Episode(Weather, task) as episode:
        await episode.start()
        step = await episode.advance([function_call("get_weather", '{"city": "Rome"}', "c")])
        assert json.loads(step.items[0]["output"]) == {  # type: ignore[typeddict-item]
            "city": "Rome",
            "weather_description": "The weather in Rome is cold.",
        }
        step = await episode.advance([assistant_message("I don't care.")])
    assert step.outcome is not None
    assert step.outcome.reward is not None
    assert step.outcome.reward.value == 1.0
