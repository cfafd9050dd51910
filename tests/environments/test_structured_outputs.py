"""The structured_outputs environment: what fits, what is said of what does not, and its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gym_adapters.environments.structured_outputs.environment import (
    StructuredOutputs,
    StructuredOutputsTask,
)

from gym_adapters import Episode, InvalidRow, Reward, StopReason, Transcript
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.task import read_rows

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}


def make_task(**fields: Any) -> StructuredOutputsTask:
    row = {"responses_create_params": {"input": "x"}, "schema_str": json.dumps(SCHEMA), **fields}
    return StructuredOutputsTask.from_row(row)


async def judged(task: StructuredOutputsTask, *items: Item) -> Reward:
    transcript = Transcript(task.input, items, StopReason.ANSWERED)
    return Reward.of(await StructuredOutputs(task).verify(transcript))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json", '{"n": 1, "s": "a"}'),
        ("yaml", "n: 1\ns: a\n"),
        ("toml", 'n = 1\ns = "a"\n'),
    ],
)
async def test_an_answer_that_fits_gets_1(kind: str, text: str) -> None:
    assert (await judged(make_task(schema_type=kind), assistant_message(text))).value == 1.0


async def test_xml_and_csv_are_typed_by_the_schema() -> None:
    xml = make_task(
        schema_type="xml",
        schema_str=json.dumps({"type": "object", "properties": {"root": SCHEMA}}),
    )
    text = "<root><n>1</n><s>2</s></root>"
    assert (await judged(xml, assistant_message(text))).value == 1.0
    table = make_task(schema_type="csv", schema_str=json.dumps({"type": "array", "items": SCHEMA}))
    assert (await judged(table, assistant_message("n,s\n1,2\n3,x\n"))).value == 1.0
    assert (await judged(table, assistant_message("n,s\n1,2,3\n"))).value == 0.0


@pytest.mark.parametrize(
    ("text", "error_type"),
    [
        ("", "empty_response"),
        (" \n", "empty_response"),
        ('```json\n{"n": 1, "s": "a"}\n```', "parse_error"),
        ('Here: {"n": 1, "s": "a"}', "parse_error"),
        ('{"n": 1}', "validation_error"),
        ('{"n": 1, "s": "a", "t": 2}', "validation_error"),
        ('{"n": "1", "s": "a"}', "validation_error"),
        ("[" * 900 + "]" * 900, "validation_error"),
        ("x" * 50_000, "parse_error"),
    ],
)
async def test_what_does_not_fit_gets_0_and_a_reason(text: str, error_type: str) -> None:
    reward = await judged(make_task(), assistant_message(text))
    assert (reward.value, reward.info["error_type"]) == (0.0, error_type)


TOOL = {"response_mode": "tool_call", "tool_name": "record", "tool_payload_key": "data"}
GOOD = '{"data": {"n": 1, "s": "a"}}'


@pytest.mark.parametrize(
    ("items", "error_type"),
    [
        ([function_call("record", GOOD, "c")], None),
        ([assistant_message('{"n": 1, "s": "a"}')], "missing_tool_call"),
        ([function_call("other", GOOD, "c")], "wrong_tool_name"),
        ([function_call("record", GOOD, name) for name in "cd"], "multiple_tool_calls"),
        ([function_call("record", "{", "c")], "tool_arguments_parse_error"),
        ([function_call("record", '{"n": 1, "s": "a"}', "c")], "missing_tool_payload_key"),
        ([function_call("record", "[1]", "c")], "missing_tool_payload_key"),
        ([function_call("record", '{"data": {"n": 1}}', "c")], "validation_error"),
    ],
)
async def test_a_tool_call_is_judged_by_its_arguments(
    items: list[Item], error_type: str | None
) -> None:
    reward = await judged(make_task(**TOOL), *items)
    assert reward.info["error_type"] == error_type
    assert reward.value == float(error_type is None)


async def test_any_tool_and_all_arguments_count_where_the_row_names_none() -> None:
    task = make_task(response_mode="tool_call")
    assert (await judged(task, function_call("any", '{"n": 1, "s": "a"}', "c"))).value == 1.0


async def test_a_call_ends_the_episode() -> None:
    tool = {"type": "function", "name": "record", "parameters": {"type": "object"}}
    task = make_task(**TOOL, responses_create_params={"input": "x", "tools": [tool]})
    async with Episode(StructuredOutputs, task) as episode:
        await episode.start()
        step = await episode.advance([function_call("record", '{"self": 1}', "c")])
    assert step.outcome is not None
    assert step.outcome.stop_reason is StopReason.ENVIRONMENT


def test_a_row_whose_schema_is_broken_is_refused() -> None:
    with pytest.raises(InvalidRow, match="schema_str"):
        make_task(schema_str='{"type": "strnig"}')


@pytest.mark.parametrize("difficulty", [0.0, 0.4, 0.8, 1.0])
async def test_the_gold_answer_fits_in_every_format(difficulty: float) -> None:
    for task in StructuredOutputs.generate_tasks(30, seed=3, difficulty=difficulty):
        (turn,) = StructuredOutputs.gold_turns(task)
        assert await judged(task, *turn) == Reward(
            1.0, info={"error_type": None, "error_message": None}
        )


async def test_the_gold_answer_fits_published_rows(nemo_gym_fixtures: Path) -> None:
    rows = list(read_rows(nemo_gym_fixtures / "structured_outputs.tasks.jsonl"))
    for line, row in rows:
        task = StructuredOutputsTask.from_row(row)
        async with Episode(StructuredOutputs, task) as episode:
            await episode.start()
            (turn,) = StructuredOutputs.gold_turns(task)
            step = await episode.advance(turn)
        assert step.outcome is not None
        assert step.outcome.reward is not None
        assert step.outcome.reward.value == 1.0, f"line {line}"
    assert len(rows) == 3


async def test_recorded_answers_in_code_fences_are_still_no_json(nemo_gym_fixtures: Path) -> None:
    # The tasks of these rollouts were not published: their answers are judged by a schema of ours.
    faults = []
    for _, row in read_rows(nemo_gym_fixtures / "structured_outputs.jsonl"):
        task = make_task(schema_str='{"type": "object"}')
        reward = await judged(task, *row["response"]["output"])
        faults.append((reward.value, row["recorded_reward"]))
    assert all(ours == theirs for ours, theirs in faults)


async def test_an_answer_that_its_budget_cut_gets_0() -> None:
    cut = Transcript([], [assistant_message('{"n": 1, "s": "a"}')], StopReason.LENGTH)
    reward = Reward.of(await StructuredOutputs(make_task()).verify(cut))
    assert (reward.value, reward.info["error_type"]) == (0.0, "incomplete_response")
