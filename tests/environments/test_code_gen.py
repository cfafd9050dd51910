"""Programs are judged by their test cases alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gym_adapters.environments.code_gen.environment import CodeGen, CodeGenConfig, CodeGenTask

from gym_adapters import Episode, InvalidRow, Outcome, Unsupported
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import Item, assistant_message, reasoning
from gym_adapters.registry import load_environment
from gym_adapters.sandbox import ProcessSandbox
from gym_adapters.task import read_rows

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures" / "nemo_gym"


@pytest.fixture
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    async with open_episode_resources(CodeGen) as opened:
        yield opened


def task(function: str | None = None) -> CodeGenTask:
    tests = {"inputs": ["1\n", "2\n"], "outputs": ["2", "4"], "fn_name": function}
    row = {"responses_create_params": {"input": "?"}, "verifier_metadata": {"unit_tests": tests}}
    return CodeGenTask.from_row(row)


async def outcome(
    asked: CodeGenTask, sandbox: Any, *items: Item, config: CodeGenConfig | None = None
) -> Outcome:
    async with Episode(CodeGen, asked, resources=sandbox, config=config) as episode:
        await episode.start()
        step = await episode.advance(items)
    assert step.outcome is not None
    return step.outcome


async def reward(
    asked: CodeGenTask, sandbox: Any, text: str, config: CodeGenConfig | None = None
) -> tuple[float, dict[str, Any]]:
    done = await outcome(asked, sandbox, assistant_message(text), config=config)
    assert done.reward is not None, done.failure
    return done.reward.value, dict(done.reward.info)


async def test_recorded_rollouts_score_as_recorded(sandbox: ProcessSandbox) -> None:
    path = FIXTURES / "code_gen.jsonl"
    if not path.exists():
        pytest.skip(f"the recorded rollouts are not here: {path}")
    for _, rollout in read_rows(path):
        asked = CodeGenTask.from_row(rollout["task"])
        done = await outcome(asked, sandbox, *rollout["response"]["output"])
        assert done.reward is not None
        assert done.reward.value == rollout["recorded_reward"]


async def test_all_cases_must_pass(sandbox: ProcessSandbox) -> None:
    good = "So:\n```python\nprint(int(input()) * 2)\n```"
    assert await reward(task(), sandbox, good) == (1.0, {"passed": 2, "cases": 2})
    value, info = await reward(task(), sandbox, "```\nprint(2)\n```")
    assert (value, info["passed"], info["reason"]) == (0.0, 1, "wrong_answer")
    value, info = await reward(task(), sandbox, "```\n1 +\n```")
    assert (value, info["reason"]) == (0.0, "error")
    assert "SyntaxError" in info["stderr"]
    assert await reward(task(), sandbox, "I can't.") == (0.0, {"reason": "no code block"})


async def test_functions_are_called(sandbox: ProcessSandbox) -> None:
    text = "```\nclass Solution:\n    def f(self, n: int):\n        return n * 2\n```"
    assert (await reward(task("f"), sandbox, text))[0] == 1.0
    assert (await reward(task("g"), sandbox, text))[0] == 0.0


async def test_think_tags_in_the_answer_give_the_penalty(sandbox: ProcessSandbox) -> None:
    good = "```python\nprint(int(input()) * 2)\n```"
    config = CodeGenConfig(reasoning_format_penalty=-0.5)
    assert (await reward(task(), sandbox, f"</think>{good}", config))[0] == -0.5
    twice = reasoning("<think>a</think><think>b</think>")
    done = await outcome(task(), sandbox, twice, assistant_message(good), config=config)
    assert done.reward is not None
    assert done.reward.value == -0.5
    once = await outcome(task(), sandbox, reasoning("a"), assistant_message(good), config=config)
    assert once.reward is not None
    assert once.reward.value == 1.0


async def test_generated_problems_are_solved_by_their_solutions(sandbox: ProcessSandbox) -> None:
    for difficulty in (0.0, 0.5, 1.0):
        for asked in CodeGen.generate_tasks(4, seed=5, difficulty=difficulty):
            turns = CodeGen.gold_turns(asked)
            done = await outcome(asked, sandbox, *turns[0])
            assert done.reward is not None
            assert done.reward.value == 1.0, (done.reward, turns)


async def test_without_its_sandbox_a_rollout_is_unscored() -> None:
    done = await outcome(task(), None, assistant_message("```\n1\n```"))
    assert done.reward is None
    assert done.failure is not None
    assert done.failure.boundary == "sandbox"


def test_rows_are_checked() -> None:
    tests = {"inputs": ["1"], "outputs": []}
    row = {"responses_create_params": {"input": "?"}, "verifier_metadata": {"unit_tests": tests}}
    with pytest.raises(InvalidRow, match="1 inputs, but 0 outputs"):
        CodeGenTask.from_row(row)
    with pytest.raises(Unsupported, match="solutions of the problems it generated"):
        CodeGen.gold_turns(task())


def test_the_examples_are_the_generators_own() -> None:
    rows = [asked.to_row() for asked in load_environment("code_gen").example_tasks()]
    made = [
        asked.to_row()
        for seed, difficulty in enumerate((0.0, 0.5, 1.0))
        for asked in CodeGen.generate_tasks(2, seed=seed, difficulty=difficulty)
    ]
    assert rows == made
