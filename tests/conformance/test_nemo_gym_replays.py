"""NeMo Gym's recorded rollouts, replayed through our environments: same rewards, same tool results.

A recorded response is fed to an episode turn by turn, so that its tool calls run and whatever state
they leave is there; then the verdict is asked for on the recorded items. A judge, if there is one,
says what the recorded judge said.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gym_adapters import (
    EnvironmentEntry,
    Episode,
    EpisodeLimits,
    Reward,
    StopReason,
    Task,
    Transcript,
    environment_names,
    load_environment,
)
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import Item, final_text, input_items
from gym_adapters.task import read_rows
from gym_adapters.verifiers.judge import JudgeOpener, ScriptedJudge, judge_opener

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "nemo_gym"

pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason=f"the recorded rollouts are not here: {FIXTURES}"
)

Record = dict[str, Any]


@dataclass(frozen=True)
class Replay:
    """How to set an environment up for a replay.

    Attributes:
        overrides: ``key=value`` overrides of its config.
        fields: What a task needs beside its prompt where the task of a record was not published.
    """

    overrides: Sequence[str] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


REPLAY_CONFIG: Mapping[str, Replay] = {
    "equivalence_llm_judge": Replay(overrides=["judge=recorded"]),
    "math_with_judge": Replay(overrides=["judge=recorded"]),
    "math_advanced_calculations": Replay(
        fields={"id": 0, "ground_truth": [0.0], "depth": 1, "breadth": 1}
    ),
    "workplace_assistant": Replay(
        overrides=[f"database={FIXTURES / 'workplace_assistant_db'}"], fields={"ground_truth": []}
    ),
}

# Rewards that differ from the recorded ones on purpose: (environment, row) -> (our reward, why).
DIFFERENCES: Mapping[tuple[str, int], tuple[float, str]] = {
    ("mcqa", 2): (
        1.0,
        "recorded before NeMo Gym read 'C: and the text of C' in a box as C; it now gives 1, too",
    ),
}

# Environments whose recorded tool results must come out again.
WITH_TOOLS = (
    "example_multi_step",
    "example_session_state_mgmt",
    "example_single_tool_call",
    "math_advanced_calculations",
    "workplace_assistant",
)


def recorded(names: Sequence[str]) -> list[Any]:
    """The recorded rollouts of `names`, as parameters of a test."""
    return [
        pytest.param(name, record, id=f"{name}-{record['row']}")
        for name in names
        if (FIXTURES / f"{name}.jsonl").exists()
        for _, record in read_rows(FIXTURES / f"{name}.jsonl")
    ]


AVAILABLE = environment_names()
SCORED = [case for case in recorded(AVAILABLE) if case.values[1]["task"] is not None]
CALLED = recorded([name for name in WITH_TOOLS if name in AVAILABLE])


@asynccontextmanager
async def episode_of(entry: EnvironmentEntry, record: Record) -> AsyncIterator[Episode]:
    """A fresh episode on the record's task."""
    replay = REPLAY_CONFIG.get(entry.name, Replay())
    config = entry.config(replay.overrides)
    row = record["task"]
    if row is None:
        params = record.get("responses_create_params") or {"input": "?"}
        row = {"responses_create_params": params, **replay.fields}
    task: Task = entry.environment.task_type.from_row(row)
    limits = EpisodeLimits(max_turns=1000)
    token = judge_opener.set(recorded_judge(record))
    try:
        async with (
            open_episode_resources(entry.environment, config) as resources,
            Episode(
                entry.environment, task, config=config, resources=resources, limits=limits
            ) as episode,
        ):
            yield episode
    finally:
        judge_opener.reset(token)


def recorded_judge(record: Record) -> JudgeOpener:
    """Opens a judge that says what the judge of `record` said, in order."""
    evaluations = record["recorded_extras"].get("judge_evaluations") or []
    said = [final_text(input_items(asked["response"]["output"])) for asked in evaluations]

    @asynccontextmanager
    async def opener(spec: str) -> AsyncIterator[ScriptedJudge]:
        yield ScriptedJudge(said)

    return opener


def assistant_turns(items: Sequence[Item]) -> list[list[Item]]:
    """What the assistant wrote, cut where the environment answered."""
    turns: list[list[Item]] = [[]]
    for item in items:
        by_assistant = item["type"] in ("reasoning", "function_call") or (
            item["type"] == "message" and item["role"] == "assistant"
        )
        if by_assistant:
            turns[-1].append(item)
        elif turns[-1]:
            turns.append([])
    return [turn for turn in turns if turn]


async def run(episode: Episode, items: Sequence[Item]) -> None:
    """Feed the assistant's turns to `episode`, but for a last one that calls no tool.

    That one would bring the verdict, which the test asks for itself.
    """
    step = await episode.start()
    turns = assistant_turns(items)
    if turns and all(item["type"] != "function_call" for item in turns[-1]):
        turns.pop()
    for turn in turns:
        if step.done:
            return
        step = await episode.advance(turn)


@pytest.mark.parametrize(("name", "record"), SCORED)
async def test_a_recorded_response_gets_its_recorded_reward(name: str, record: Record) -> None:
    items = input_items(record["response"]["output"])
    async with episode_of(load_environment(name), record) as episode:
        await run(episode, items)
        transcript = Transcript(episode.prompt, tuple(items), StopReason.ANSWERED)
        reward = Reward.of(await episode.environment.verify(transcript))
    if (name, record["row"]) in DIFFERENCES:
        expected, _ = DIFFERENCES[name, record["row"]]
        assert reward.value == expected
        assert expected != record["recorded_reward"], "not a difference any more"
    else:
        assert reward.value == pytest.approx(record["recorded_reward"], abs=1e-9)


@pytest.mark.parametrize(("name", "record"), CALLED)
async def test_recorded_tool_calls_give_their_recorded_results(name: str, record: Record) -> None:
    items = input_items(record["response"]["output"])
    async with episode_of(load_environment(name), record) as episode:
        await run(episode, items)
        ours, theirs = results(episode.output), results(items)
    assert ours == theirs


def results(items: Sequence[Item]) -> list[tuple[str, Any]]:
    """Tool results with the ids of their calls, parsed where they are JSON."""
    return [
        (item["call_id"], parsed(item["output"]))
        for item in items
        if item["type"] == "function_call_output"
    ]


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.mark.parametrize(
    "name", [name for name in AVAILABLE if (FIXTURES / f"{name}.tasks.jsonl").exists()]
)
async def test_published_rows_load_start_and_come_back_unchanged(name: str) -> None:
    entry = load_environment(name)
    for line, row in read_rows(FIXTURES / f"{name}.tasks.jsonl"):
        task = entry.environment.task_type.from_row(row, source=name, line=line)
        assert task.to_row() == row
        # Without resources, prompt and tools must be there all the same.
        async with Episode(entry.environment, task, config=entry.config()) as episode:
            step = await episode.start()
            assert step.outcome is None, step.outcome
            declared = row["responses_create_params"].get("tools") or []
            assert [tool["name"] for tool in episode.tools] == [tool["name"] for tool in declared]
