from __future__ import annotations

import asyncio
import sys

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("transformers", reason="needs the extra tokens")

from gym_adapters import Environment, Episode, InvalidConfig, Task, Transcript
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.rollout import Rollout
from gym_adapters.serving.gateway_agent import GatewayAgent
from gym_adapters.testing import ScriptedGenerator
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer

AGENT = """
import json, sys, urllib.request
task = json.load(sys.stdin)
body = json.dumps({"model": "m", "input": task["input"]}).encode()
request = urllib.request.Request(task["base_url"] + "/responses", body)
urllib.request.urlopen(request, timeout=60).read()
"""
TASK = Task.from_row({"responses_create_params": {"input": "say it"}})


class Hello(Environment[Task]):
    async def verify(self, transcript: Transcript) -> float:
        return float(transcript.final_text == "hello")


def policy() -> TokenChatModel:
    tokenizer = tiny_tokenizer()
    said = tokenizer("hello<|im_end|>", add_special_tokens=False)["input_ids"]
    return TokenChatModel(
        ScriptedGenerator(lambda *_: said),
        TemplateRenderer(tokenizer),
        output_parser(tokenizer),
        name="scripted",
    )


async def attempts(agent: GatewayAgent, count: int) -> list[Rollout]:
    model = policy()
    return list(
        await asyncio.gather(
            *(agent.run(Episode(Hello, TASK), model, request_id=f"r{n}") for n in range(count))
        )
    )


def agent() -> GatewayAgent:
    return GatewayAgent(command=[sys.executable, "-c", AGENT])


async def test_attempts_at_once_share_one_gateway() -> None:
    ours = agent()
    rollouts = await attempts(ours, 3)
    assert [rollout.reward for rollout in rollouts] == [1.0] * 3
    assert all(len(rollout.segments) == 1 for rollout in rollouts)
    await ours.aclose()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def test_after_its_end_another_loop_may_use_it() -> None:
    ours = agent()

    async def once() -> float | None:
        (rollout,) = await attempts(ours, 1)
        await ours.aclose()
        return rollout.reward

    assert [asyncio.run(once()) for _ in range(2)] == [1.0, 1.0]


async def test_an_attempt_that_is_cancelled_leaves_the_gateway_to_the_others() -> None:
    ours = agent()
    first = asyncio.create_task(ours.run(Episode(Hello, TASK), policy(), request_id="a"))
    await asyncio.sleep(0)
    second = asyncio.create_task(ours.run(Episode(Hello, TASK), policy(), request_id="b"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).reward == 1.0
    with pytest.raises(asyncio.CancelledError):
        await first
    await ours.aclose()


async def test_it_ends_unused_too() -> None:
    await agent().aclose()


def test_it_is_a_command_or_a_url() -> None:
    with pytest.raises(InvalidConfig, match="a command or a url"):
        GatewayAgent()
