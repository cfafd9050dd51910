"""Rollouts to make files of, and a tool conversation with its exact tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import Episode, ModelError, Outcome, Reward, Rollout, StopReason, load_environment
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.items import (
    Item,
    assistant_message,
    function_call,
    function_call_output,
    user_message,
)
from gym_adapters.rollouts import RolloutMetrics, RunFolder
from gym_adapters.rollouts.manifest import Manifest

TOOL = {
    "type": "function",
    "name": "add",
    "description": "Add.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}

MakeRollout = Callable[..., Rollout]
MakeRun = Callable[..., Path]


def _rollout(
    task: str = "a",
    index: int = 0,
    reward: float | None = 1.0,
    output: Sequence[Item] | str = "done",
    *,
    stop: StopReason = StopReason.ANSWERED,
    prompt: Sequence[Item] | None = None,
    tools: Sequence[Any] = (),
    **rest: Any,
) -> Rollout:
    outcome = (
        Outcome.unscored(ModelError("down"))
        if reward is None
        else Outcome.scored(Reward(reward), stop)
    )
    return Rollout(
        row={"responses_create_params": {"input": f"task {task}"}, "number": 1},
        task_id=f"{ord(task[0]):016x}",
        rollout_index=index,
        prompt=[user_message(f"task {task}")] if prompt is None else prompt,
        output=[assistant_message(output)] if isinstance(output, str) else output,
        tools=tools,
        outcome=outcome,
        **rest,
    )


@pytest.fixture
def make_rollout() -> MakeRollout:
    return _rollout


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run's folder with some rollouts."""

    def make(*rollouts: Rollout, name: str = "run") -> Path:
        manifest = Manifest("nowhere", "1", "scripted", None, 0, input="rows.jsonl")
        with RunFolder(tmp_path / name, manifest, metrics=RolloutMetrics(1.0)) as folder:
            for rollout in rollouts:
                folder.append(rollout)
            folder.write_metrics()
        return tmp_path / name

    return make


def tool_turns(answer: str, arguments: str = '{"a": 1}', call_id: str = "call_0") -> list[Item]:
    return [
        function_call("add", arguments, call_id),
        function_call_output(call_id, "2"),
        assistant_message(answer),
    ]


@pytest.fixture
def turns() -> Callable[..., list[Item]]:
    return tool_turns


@pytest.fixture
def tool() -> dict[str, Any]:
    return TOOL


def read(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def read_lines() -> Callable[[Path], list[dict[str, Any]]]:
    return read


@pytest.fixture(scope="session")
def sampled() -> list[Rollout]:
    """Rollouts of the calculator with the tiny tokenizer: two attempts at each of three sums.

    The first of each is right, the second says 0.
    """
    pytest.importorskip("transformers", reason="needs the extra transformers")
    return asyncio.run(_sampled())


async def _sampled() -> list[Rollout]:
    from gym_adapters.generation.token_chat import TokenChatModel
    from gym_adapters.testing import ScriptedGenerator
    from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
    from gym_adapters.tokens.output_parser import output_parser
    from gym_adapters.tokens.template_renderer import TemplateRenderer

    environment = load_environment("arithmetic_tools").environment
    tokenizer: Any = tiny_tokenizer()
    rollouts = []
    for task in environment.generate_tasks(3, seed=0, difficulty=0.0):
        for attempt, answer in enumerate((str(task.expected_answer), "0")):
            call = f'{{"name": "calculate", "arguments": {{"expression": "{task.a}+{task.b}"}}}}'
            said = (f"<tool_call>\n{call}\n</tool_call><|im_end|>", f"{answer}<|im_end|>")
            ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
            model = TokenChatModel(
                ScriptedGenerator(ids),
                TemplateRenderer(tokenizer),
                output_parser(tokenizer, "hermes"),
                name="scripted",
            )
            episode = Episode(environment, task, rollout_index=attempt)
            rollouts.append(await ToolAgent().run(episode, model))
    return rollouts
