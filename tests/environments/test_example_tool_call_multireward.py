"""Three verdicts on one call, each for itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gym_adapters.environments.example_tool_call_multireward.environment import (
    ToolCallRewards,
    ToolCallTask,
)

from gym_adapters import Episode, InvalidRow, StopReason
from gym_adapters.items import Item, assistant_message, function_call, reasoning

ROW: dict[str, Any] = {
    "responses_create_params": {"input": "How is it in Rome?"},
    "expected_call": {"name": "get_weather", "arguments": {"city": "Rome"}},
}


def call(name: str = "get_weather", call_id: str = "c", **arguments: Any) -> Item:
    return function_call(name, json.dumps(arguments), call_id)


@pytest.mark.parametrize(
    ("turn", "correctness", "schema_valid", "form"),
    [
        ([call(city="Rome")], 1.0, 1.0, 1.0),
        ([reasoning("hm"), call(city="Rome")], 1.0, 1.0, 1.0),
        ([assistant_message(" "), call(city="Rome")], 1.0, 1.0, 1.0),
        ([call(city="Oslo")], 0.0, 1.0, 1.0),
        ([assistant_message("Sure!"), call(city="Rome")], 1.0, 1.0, 0.0),
        ([call(city="Oslo"), call(call_id="d", city="Rome")], 1.0, 1.0, 0.0),
        ([call(town="Rome")], 0.0, 0.0, 1.0),
        ([function_call("get_weather", '{"city": ', "c")], 0.0, 0.0, 1.0),
        ([function_call("get_weather", '["Rome"]', "c")], 0.0, 0.0, 1.0),
        ([call("get_climate", city="Rome")], 0.0, 0.0, 1.0),
        ([assistant_message("It is sunny.")], 0.0, 0.0, 0.0),
        ([], 0.0, 0.0, 0.0),
    ],
)
async def test_the_components_are_independent_and_add_up(
    turn: list[Item], correctness: float, schema_valid: float, form: float
) -> None:
    async with Episode(ToolCallRewards, ToolCallTask.from_row(ROW)) as episode:
        await episode.start()
        step = await episode.advance(turn)
        if not step.done:
            step = await episode.truncate(StopReason.MAX_TURNS)
    assert step.outcome is not None
    assert step.outcome.reward is not None
    assert step.outcome.reward.components == {
        "correctness": correctness,
        "schema_valid": schema_valid,
        "format": form,
    }
    assert step.outcome.reward.value == correctness + schema_valid + form


async def test_a_call_ends_the_episode() -> None:
    async with Episode(ToolCallRewards, ToolCallTask.from_row(ROW)) as episode:
        await episode.start()
        step = await episode.advance([call(city="Rome")])
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.ENVIRONMENT
    assert "sunny" in step.items[0]["output"]  # type: ignore[typeddict-item]


@pytest.mark.parametrize("expected", [None, {}, {"arguments": {}}, {"name": 5}])
def test_a_row_without_an_expected_call_is_refused(expected: Any) -> None:
    with pytest.raises(InvalidRow) as caught:
        ToolCallTask.from_row({**ROW, "expected_call": expected})
    assert caught.value.field.startswith("expected_call")
