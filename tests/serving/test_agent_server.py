from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gym_adapters import Environment, EnvironmentEntry, Reward, Task, Transcript, tool
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.episode import Episode
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.rollouts.models import SharedModel
from gym_adapters.serving.agent_server import AgentServer
from gym_adapters.serving.http_server import bare_app, serving
from gym_adapters.testing import ScriptedGenerator

pytest.importorskip("transformers", reason="needs transformers")

from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer


class Adding(Environment[Task]):
    live = 0

    async def start(self) -> None:
        type(self).live += 1

    @tool
    async def add(self, a: int, b: int) -> int:
        """Add."""
        return a + b

    async def verify(self, transcript: Transcript) -> Reward:
        if transcript.final_text == "crash":
            raise ValueError("a bug")
        right = float(transcript.final_text == "5")
        return Reward(right, {"right": right})

    async def close(self) -> None:
        type(self).live -= 1


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>'
ROW = {"responses_create_params": {"input": "2+3?"}, "note": {"kept": [1]}, "_ng_task_index": 7}


def policy(*turns: str, released: asyncio.Event | None = None) -> TokenChatModel:
    """Says `turns`; with `released`, not before that is set."""
    tokenizer = tiny_tokenizer()
    script = [tokenizer(turn, add_special_tokens=False)["input_ids"] for turn in turns]

    async def said(_: Any, __: str, turn: int) -> list[int]:
        if released is not None:
            await released.wait()
        return script[turn % len(script)]

    return TokenChatModel(
        ScriptedGenerator(said),
        TemplateRenderer(tokenizer),
        output_parser(tokenizer),
        name="scripted",
    )


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def agent(model: TokenChatModel, **options: Any) -> AsyncIterator[Any]:
    entry = EnvironmentEntry("adding", Adding, None)
    app = bare_app()
    async with AgentServer(entry, SharedModel(model), **options) as server:
        server.add_routes(app)
        async with serving(app) as url, aiohttp.ClientSession(url) as http:

            async def post(path: str, body: Any) -> tuple[int, Any]:
                async with http.post(path, json=body) as answer:
                    return answer.status, await answer.json()

            yield post, server


async def test_run_gives_the_verdict_and_contiguous_tokens() -> None:
    model = policy(CALL, "5<|im_end|>")
    async with agent(model) as (post, _):
        status, answer = await post("/run", ROW)
    assert status == 200, answer
    assert (answer["reward"], answer["reward_components"]) == (1.0, {"right": 1.0})
    assert (answer["note"], answer["_ng_task_index"]) == ({"kept": [1]}, 7)
    output = answer["response"]["output"]
    assert [item["type"] for item in output] == ["function_call", "function_call_output", "message"]
    first, second = (item for item in output if "prompt_token_ids" in item)
    seen = first["prompt_token_ids"] + first["generation_token_ids"]
    assert second["prompt_token_ids"][: len(seen)] == seen
    assert [i["type"] for i in (first, second)] == ["function_call", "message"]

    in_process = await ToolAgent().run(
        Episode(Adding, Task.from_row(ROW)), policy(CALL, "5<|im_end|>")
    )
    (segment,) = in_process.segments
    assert [*seen, *second["prompt_token_ids"][len(seen) :], *second["generation_token_ids"]] == [
        *segment.prompt_ids,
        *segment.completion_ids,
    ]
    logprobs = [p for p, mask in zip(segment.logprobs, segment.mask, strict=True) if mask]
    assert first["generation_log_probs"] + second["generation_log_probs"] == logprobs


async def test_an_empty_turn_still_carries_its_tokens() -> None:
    async with agent(policy("<|im_end|>")) as (post, _):
        _, answer = await post("/run", ROW)
    (item,) = answer["response"]["output"]
    assert (item["type"], len(item["generation_token_ids"])) == ("message", 1)


async def test_responses_gives_the_response_alone() -> None:
    async with agent(policy(CALL, "crash<|im_end|>")) as (post, _):
        status, answer = await post("/v1/responses", {"input": "2+3?"})
    assert (status, answer["object"]) == (200, "response")
    assert answer["output"][-1]["content"][0]["text"] == "crash"


async def test_a_failed_attempt_is_an_error_and_no_reward() -> None:
    async with agent(policy(CALL, "crash<|im_end|>")) as (post, _):
        status, answer = await post("/run", ROW)
        assert (status, answer["error"]["type"]) == (500, "verifier")
        status, answer = await post("/run", {"responses_create_params": {}})
        assert (status, answer["error"]["type"]) == (422, "invalid_row")
        status, answer = await post("/run", {**ROW, "_ng_rollout_index": "x"})
        assert status == 422
    assert Adding.live == 0


async def test_a_client_that_vanishes_ends_its_attempt() -> None:
    model = policy("5<|im_end|>", released=asyncio.Event())
    async with agent(model) as (post, server):
        asking = asyncio.create_task(post("/run", ROW))
        await until(lambda: len(model.generator.calls) == 1)
        asking.cancel()
        await until(lambda: server.under_way == 0)
    assert Adding.live == 0
    assert len(model.generator.aborted) == 1


async def test_more_attempts_than_there_is_room_for_are_refused() -> None:
    released = asyncio.Event()
    async with agent(policy("5<|im_end|>", released=released), concurrency=1) as (post, _):
        asking = [asyncio.create_task(post("/run", ROW)) for _ in range(6)]
        # One runs and one waits, for as long as we like.
        await until(lambda: sum(each.done() for each in asking) >= 4)
        released.set()
        answers = await asyncio.gather(*asking)
    assert sorted(status for status, _ in answers) == [200, 200, 503, 503, 503, 503]
