"""What must hold for every environment that ships with the library."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import jsonschema_rs
import orjson
import pytest
from hypothesis import given, settings, strategies as st

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    EnvironmentEntry,
    Episode,
    EpisodeLimits,
    OutcomeStatus,
    Reward,
    StopReason,
    Task,
    Transcript,
    Unsupported,
    UsageError,
    environment_names,
    load_environment,
)
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import FinishReason, Item, assistant_message, function_call
from gym_adapters.task import read_rows

NAMES = environment_names()
every_environment = pytest.mark.parametrize("name", NAMES)


class Setup(NamedTuple):
    """Settings and resources of a run."""

    config: EnvironmentConfig
    resources: Any


# Environments that start processes or the like, and how many of their episodes run at once here.
CONCURRENT_EPISODES: Mapping[str, int] = {"code_debugging": 24, "code_gen": 40, "swe": 8}
DEFAULT_CONCURRENT_EPISODES = 1000

LIMITS = EpisodeLimits(max_turns=200)

GARBAGE = (
    "",
    " \n\t",
    "asdf qwer",
    "{}",
    "[]",
    "null",
    "\\boxed{}",
    "Answer:",
    "<answer></answer>",
    "<think>",
    "```\n```",
    "I don't know.",
)

NASTY = (
    "\x00\x01\x1b[31m\x7f\u2028\ufeff",
    "\ud800 lone surrogate \udfff",
    "[" * 100_000,
    "{" * 100_000,
    "[{" * 50_000 + "}]" * 50_000,
    '{"a":' * 20_000,
    "[" + "{a}" * 30_000,
    "\\boxed{" * 15_000,
    "\\boxed{" + "{" * 50_000 + "}" * 50_000,
    "```python\n" * 10_000,
    "<answer>" * 12_000,
    "<think>" * 14_000 + "</think>" * 14_000,
    "<a>" * 33_000,
    "Answer:" * 14_000,
    "answer" + " " * 100_000 + "B",
    "9" * 100_000,
    "1," * 50_000,
    "-" * 100_000,
    "1e999999",
    "NaN",
    "(" * 100_000,
    "\\frac{1}{" * 11_000,
    "a" * 100_000 + "!",
    "x^" * 50_000,
    ("word " * 20_000).strip(),
    "🜁‮مرحبا" * 5_000,
)


def loaded(name: str) -> EnvironmentEntry:
    return load_environment(name)


def examples(entry: EnvironmentEntry, at_most: int = 20) -> list[Task]:
    return entry.example_tasks()[:at_most]


@asynccontextmanager
async def opened(entry: EnvironmentEntry) -> AsyncIterator[Setup]:
    runs_programs = hasattr(entry.config(), "sandbox")
    # A program has its CPU time; a machine that stands still for a while must not be its fault.
    config = entry.config(["sandbox.wall_time=60"] if runs_programs else [])
    async with open_episode_resources(entry.environment, config) as resources:
        yield Setup(config, resources)


async def play(
    environment: type[Environment[Any]],
    task: Task,
    turns: Sequence[Sequence[Item]],
    setup: Setup,
    *,
    seed: int = 0,
    last_finish_reason: FinishReason = "stop",
) -> Episode:
    """A finished episode in which the assistant says `turns`; cut where they don't suffice."""
    async with Episode(
        environment,
        task,
        config=setup.config,
        resources=setup.resources,
        seed=seed,
        limits=LIMITS,
    ) as episode:
        step = await episode.start()
        for number, turn in enumerate(turns):
            if step.done:
                break
            last = number == len(turns) - 1
            step = await episode.advance(turn, finish_reason=last_finish_reason if last else "stop")
        if not step.done:
            await episode.truncate(StopReason.MAX_TURNS)
    return episode


async def say(environment: type[Environment[Any]], task: Task, text: str, setup: Setup) -> Episode:
    """A finished episode in which the assistant says nothing but `text`, turn after turn."""
    return await play(environment, task, [[assistant_message(text)]] * 50, setup)


def reward_of(episode: Episode) -> Reward:
    assert episode.outcome is not None
    assert episode.outcome.reward is not None, episode.outcome.failure
    return episode.outcome.reward


def highest(entry: EnvironmentEntry) -> float:
    assert entry.card is not None
    return entry.card.reward_range[1]


def in_range(entry: EnvironmentEntry, reward: Reward) -> bool:
    assert entry.card is not None
    low, high = entry.card.reward_range
    return low <= reward.value <= high


@every_environment
def test_ships_with_card_readme_and_five_examples(name: str) -> None:
    entry = loaded(name)
    assert entry.environment.name == name
    assert entry.environment.__doc__
    assert entry.folder is not None
    assert entry.card is not None
    assert entry.card.reward_range[0] <= entry.card.reward_range[1]
    for text in (entry.card.description, entry.card.teaches, entry.card.licence, entry.card.domain):
        assert text.strip()
    page = (entry.folder / "README.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    assert f"| Licence | {entry.card.licence} |\n" in page
    assert "\n| Reward" in page
    assert "\n## A run\n" in page
    assert len(entry.example_tasks()) >= 5


@every_environment
def test_example_rows_come_back_as_they_went_in(name: str) -> None:
    entry = loaded(name)
    assert entry.example_path is not None
    for line, row in read_rows(entry.example_path):
        before = copy.deepcopy(row)
        task = entry.environment.task_type.from_row(row, source=name, line=line)
        assert orjson.dumps(task.to_row()) == orjson.dumps(before)
        again = entry.environment.task_type.from_row(json.loads(json.dumps(task.to_row())))
        assert again.task_id == task.task_id


@every_environment
def test_example_tasks_all_differ(name: str) -> None:
    tasks = loaded(name).example_tasks()
    assert len({task.task_id for task in tasks}) == len(tasks)


@every_environment
def test_class_tools_have_strict_valid_schemas(name: str) -> None:
    for tool_name, spec in loaded(name).environment.class_tools.items():
        declared = spec.declaration()
        assert declared["strict"] is True
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool_name)
        assert declared["description"]
        assert jsonschema_rs.meta.is_valid(declared["parameters"])
        assert list(open_objects(declared["parameters"])) == []
        for parameter, schema in declared["parameters"]["properties"].items():
            assert schema.get("description"), f"{tool_name}: {parameter} has no description"


def open_objects(schema: Any) -> Iterator[Any]:
    """Parts of `schema` that strict mode would refuse."""
    if isinstance(schema, list):
        for part in schema:
            yield from open_objects(part)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            closed = schema.get("additionalProperties") is False
            if not closed or schema.get("required") != list(schema["properties"]):
                yield schema
        for part in schema.values():
            yield from open_objects(part)


@every_environment
async def test_every_example_starts_with_a_prompt_and_valid_tools(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        for task in examples(entry):
            episode = Episode(
                entry.environment, task, config=setup.config, resources=setup.resources
            )
            async with episode:
                step = await episode.start()
                assert step.outcome is None
                assert step.items
                for declared in episode.tools:
                    assert jsonschema_rs.meta.is_valid(declared["parameters"])
                assert bool(episode.tools) <= entry.environment.capabilities().uses_tools


@every_environment
async def test_gold_turns_score_the_most_there_is(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        for task in examples(entry):
            turns = gold_turns(entry, task)
            episode = await play(entry.environment, task, turns, setup)
            assert reward_of(episode).value == highest(entry), task.to_row()
            assert episode.outcome is not None
            assert episode.outcome.status is OutcomeStatus.SCORED
            assert episode.turns == len(turns)


def gold_turns(entry: EnvironmentEntry, task: Task) -> Sequence[Sequence[Item]]:
    try:
        return entry.environment.gold_turns(task)
    except Unsupported as error:
        pytest.skip(f"no gold: {error}")


@every_environment
async def test_same_seed_and_task_give_the_same_episode(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        for task in examples(entry, 6):
            for turns in (gold_turns(entry, task), [[assistant_message("asdf")]] * 5):
                first = await play(entry.environment, task, turns, setup, seed=3)
                again = await play(entry.environment, task, turns, setup, seed=3)
                assert again.prompt == first.prompt
                assert again.tools == first.tools
                assert again.output == first.output
                assert again.outcome == first.outcome


@every_environment
@pytest.mark.parametrize("difficulty", [-0.1, 1.1, float("nan")])
def test_a_difficulty_from_outside_0_to_1_is_refused_at_once(name: str, difficulty: float) -> None:
    environment = loaded(name).environment
    if "generate_tasks" not in vars(environment):
        pytest.skip("it generates no tasks")
    with pytest.raises(UsageError, match="difficulty must be from 0 to 1"):
        environment.generate_tasks(1, difficulty=difficulty)


@every_environment
async def test_an_empty_transcript_does_not_score_the_most(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        for task in examples(entry):
            for turns in ([], [[]], [[assistant_message("")]] * 50):
                reward = reward_of(await play(entry.environment, task, turns, setup))
                assert in_range(entry, reward)
                if entry.card is not None and not entry.card.constant_reward:
                    assert reward.value < highest(entry), task.to_row()


@every_environment
async def test_garbage_does_not_score_the_most(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        for task in examples(entry):
            for text in GARBAGE:
                reward = reward_of(await say(entry.environment, task, text, setup))
                assert in_range(entry, reward)
                if entry.card is not None and not entry.card.constant_reward:
                    assert reward.value < highest(entry), (text, task.to_row())


@every_environment
async def test_a_cut_answer_does_not_score_the_most_where_the_text_is_judged(name: str) -> None:
    entry = loaded(name)
    if entry.card is None or not entry.card.final_text:
        pytest.skip("the verdict is not on the final text")
    async with opened(entry) as setup:
        for task in examples(entry):
            turns = gold_turns(entry, task)
            episode = await play(entry.environment, task, turns, setup, last_finish_reason="length")
            assert episode.outcome is not None
            assert episode.outcome.status is OutcomeStatus.TRUNCATED
            assert reward_of(episode).value < highest(entry)


@every_environment
async def test_verifying_twice_gives_the_same_verdict(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        for task in examples(entry, 6):
            for turns in (gold_turns(entry, task), [[assistant_message("asdf")]] * 5):
                episode = await play(entry.environment, task, turns, setup)
                assert episode.outcome is not None
                transcript = Transcript(
                    episode.prompt, tuple(episode.output), episode.outcome.stop_reason
                )
                again = Reward.of(await episode.environment.verify(transcript))
                assert again == reward_of(episode)
                if entry.environment.stateless_verify:
                    assert await told(entry, task, episode, setup) == reward_of(episode)


async def told(entry: EnvironmentEntry, task: Task, episode: Episode, setup: Setup) -> Reward:
    """The verdict on an episode of an environment in which nothing was run."""
    other = Episode(entry.environment, task, config=setup.config, resources=setup.resources)
    async with other:
        await other.start()
        assert episode.outcome is not None
        await other.judge(episode.output, episode.outcome.stop_reason, turns=episode.turns)
    return reward_of(other)


@every_environment
async def test_no_attempt_changes_its_task(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        for task in examples(entry, 6):
            before = copy.deepcopy((task.to_row(), task.model_dump()))
            await play(entry.environment, task, gold_turns(entry, task), setup)
            await say(entry.environment, task, "asdf", setup)
            assert (task.to_row(), task.model_dump()) == before


@every_environment
async def test_concurrent_episodes_share_nothing_and_are_all_closed(name: str) -> None:
    await run_at_once(name, CONCURRENT_EPISODES.get(name, DEFAULT_CONCURRENT_EPISODES))


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "count"), [("code_debugging", 250), ("code_gen", 1000), ("swe", 60)]
)
async def test_many_more_episodes_that_start_processes_share_nothing(name: str, count: int) -> None:
    await run_at_once(name, count)


async def run_at_once(name: str, count: int) -> None:
    entry = loaded(name)
    closed: list[Environment[Any]] = []

    class Counted(entry.environment):  # type: ignore[name-defined, misc]
        name = entry.environment.name

        async def close(self) -> None:
            await super().close()
            closed.append(self)

    async def attempt(task: Task, setup: Setup, perfect: bool) -> float:
        turns = gold_turns(entry, task) if perfect else [[assistant_message("asdf")]] * 50
        async with Episode(
            Counted, task, config=setup.config, resources=setup.resources, limits=LIMITS
        ) as episode:
            step = await episode.start()
            for turn in turns:
                await asyncio.sleep(0)
                if step.done:
                    break
                step = await episode.advance(turn)
            if not step.done:
                await episode.truncate(StopReason.MAX_TURNS)
        return reward_of(episode).value

    tasks = examples(entry)
    async with opened(entry) as setup:
        perfect = [index % 2 == 0 for index in range(count)]
        rewards = await asyncio.gather(
            *(attempt(tasks[i // 2 % len(tasks)], setup, perfect[i]) for i in range(count))
        )
    assert entry.card is not None
    for is_perfect, reward in zip(perfect, rewards, strict=True):
        expected_best = is_perfect or entry.card.constant_reward
        assert (reward == highest(entry)) is expected_best
    assert len(closed) == count
    assert len({id(environment) for environment in closed}) == count


@every_environment
async def test_nasty_text_never_fails_an_episode(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        for task in examples(entry, 2):
            for text in NASTY:
                assert in_range(
                    entry,
                    reward_of(
                        await play(entry.environment, task, [[assistant_message(text)]], setup)
                    ),
                )


@every_environment
async def test_nasty_tool_arguments_never_fail_an_episode(name: str) -> None:
    entry = loaded(name)
    async with opened(entry) as setup:
        task = examples(entry)[0]
        probe = await play(entry.environment, task, [], setup)
        for declared in probe.tools:
            for arguments in [*NASTY, *nasty_objects(declared["parameters"])]:
                turns = [
                    [function_call(declared["name"], arguments, "call_0")],
                    [assistant_message("done")],
                ]
                reward = reward_of(await play(entry.environment, task, turns, setup))
                assert in_range(entry, reward)


def nasty_objects(schema: Mapping[str, Any]) -> Iterator[str]:
    """JSON objects with the right keys and unlikely values, and with wrong keys."""
    names = list(schema.get("properties", {}))
    values = (
        "",
        "\x00",
        "a" * 50_000,
        "../../etc/passwd",
        "1; drop table x",
        0,
        -1,
        2**63 - 1,
        -(2**63),
        10**400,
        1e308,
        -0.0,
        True,
        None,
        [],
        {},
        [[]] * 1000,
        json.loads("[" * 500 + "]" * 500),
        "2023-13-45",
        "%s{0}${x}",
    )
    for value in values:
        yield json.dumps(dict.fromkeys(names, value))
    yield json.dumps({"no_such_parameter": 1})
    yield '{"a": NaN, "b": Infinity}'
    yield "[1, 2]"


@every_environment
@settings(max_examples=15)
@given(text=st.text(st.characters(), max_size=300), arguments=st.text(st.characters(), max_size=60))
def test_any_text_and_any_call_end_in_a_reward(name: str, text: str, arguments: str) -> None:
    entry = loaded(name)
    task = examples(entry)[0]

    async def attempt() -> Episode:
        async with opened(entry) as setup:
            probe = await play(entry.environment, task, [], setup)
            called = [declared["name"] for declared in probe.tools] + ["no_such_tool", text[:20]]
            calls = [
                function_call(tool, arguments, f"call_{number}")
                for number, tool in enumerate(called)
            ]
            turns: list[list[Item]] = [[*calls], [assistant_message(text)]]
            return await play(entry.environment, task, turns, setup)

    assert in_range(entry, reward_of(asyncio.run(attempt())))


@every_environment
@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
async def test_generated_tasks_are_reproducible_and_solvable(name: str, difficulty: float) -> None:
    entry = loaded(name)

    def rows(seed: int) -> list[dict[str, Any]]:
        try:
            made = entry.environment.generate_tasks(8, seed=seed, difficulty=difficulty)
            return [task.to_row() for task in made]
        except Unsupported as error:
            pytest.skip(f"no generator: {error}")

    first = rows(seed=5)
    assert len(first) == 8
    assert rows(seed=5) == first
    assert rows(seed=6) != first
    async with opened(entry) as setup:
        for row in first:
            task = entry.environment.task_type.from_row(orjson.loads(orjson.dumps(row)))
            episode = await play(entry.environment, task, gold_turns(entry, task), setup)
            assert reward_of(episode).value == highest(entry), row
