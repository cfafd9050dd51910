from __future__ import annotations

import pytest

from gym_adapters.adapters.budgeted_chat import BudgetedChat, TokenBudget
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.environment import Environment, Transcript
from gym_adapters.episode import Episode
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.rollout import Rollout
from gym_adapters.task import Task
from gym_adapters.testing.scripted_generator import ScriptedGenerator
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer


class Chatty(Environment[Task]):
    """Answers every message."""

    async def reply(self, message: str) -> str:
        return "more"

    async def verify(self, transcript: Transcript) -> float:
        return 0.5


async def roll_out(prompt: str, budget: TokenBudget) -> Rollout:
    tokenizer = tiny_tokenizer()
    generator = ScriptedGenerator(lambda *_: tokenizer("hello<|im_end|>")["input_ids"])
    model = TokenChatModel(
        generator, TemplateRenderer(tokenizer), output_parser(tokenizer), name="m", strict=True
    )
    task = Task.from_row({"responses_create_params": {"input": prompt}})
    return await ToolAgent().run(Episode(Chatty, task), BudgetedChat(model, budget))


@pytest.mark.parametrize("completion", [1, 5, 6, 7, 40, 41, 100])
async def test_no_completion_exceeds_its_budget_whatever_the_prompt(completion: int) -> None:
    for prompt in ("hi", "a much longer prompt than that"):
        rollout = await roll_out(prompt, TokenBudget(completion))
        (segment,) = rollout.segments
        assert 0 < len(segment.completion_ids) <= completion
        assert rollout.outcome.status.value == "truncated"
        assert rollout.reward == 0.5


async def test_the_budget_is_the_completions_alone() -> None:
    short = await roll_out("hi", TokenBudget(100))
    long = await roll_out("x" * 500, TokenBudget(100))
    assert short.segments[0].completion_ids == long.segments[0].completion_ids


async def test_the_context_bounds_prompt_and_completion_together() -> None:
    (segment,) = (await roll_out("hi", TokenBudget(1000, context=120))).segments
    assert len(segment.prompt_ids) + len(segment.completion_ids) <= 120


async def test_a_prompt_that_fills_the_context_is_truncated_without_a_token() -> None:
    rollout = await roll_out("x" * 500, TokenBudget(100, context=300))
    assert rollout.segments == ()
    assert rollout.outcome.status.value == "truncated"
