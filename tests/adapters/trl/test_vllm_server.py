from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from gym_adapters.adapters.trl.vllm_server import ServedVllm
from gym_adapters.errors import InvalidConfig, ModelError, Unsupported
from gym_adapters.generation.protocol import SamplingParams


class Server:
    """Answers as vLLM does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Any = None
        self.status = 200
        self.url = ""

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "policy"}]})

    async def completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        ids = [body["prompt"][-1] + 1, 9]
        choice = {
            "token_ids": ids,
            "logprobs": {"token_logprobs": [-0.5, -0.25]},
            "finish_reason": "stop",
        }
        answer = {"choices": [choice]} if self.answer is None else self.answer
        return web.json_response(answer, status=self.status)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_get("/v1/models", made.models)
    app.router.add_post("/v1/completions", made.completions)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield made
    await runner.cleanup()


@pytest.fixture
async def generator(server: Server) -> AsyncIterator[ServedVllm]:
    made = ServedVllm(server.url, lambda: 4)
    yield made
    await made.aclose()


SAMPLING = SamplingParams(max_tokens=7, temperature=0.5, stop_token_ids=(9,), extras={"min_p": 0.1})


async def test_ids_go_in_and_ids_come_back(server: Server, generator: ServedVllm) -> None:
    given = await generator.generate([1, 2], SAMPLING, request_id="r")
    assert (given.token_ids, given.logprobs) == ([3, 9], [-0.5, -0.25])
    assert (given.finish_reason, given.weights_version) == ("stop", 4)
    (asked,) = server.asked
    expected = {
        "model": "policy",
        "prompt": [1, 2],
        "max_tokens": 7,
        "temperature": 0.5,
        "min_p": 0.1,
        "stop_token_ids": [9],
        "logprobs": 0,
        "return_token_ids": True,
    }
    assert {key: asked[key] for key in expected} == expected
    assert "seed" not in asked


async def test_many_turns_may_be_asked_at_once(generator: ServedVllm) -> None:
    turns = [generator.generate([n], SAMPLING, request_id=str(n)) for n in range(50)]
    given = await asyncio.gather(*turns)
    assert [g.token_ids[0] for g in given] == [n + 1 for n in range(50)]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ({"error": "prompt too long"}, 400, "answers 400.*prompt too long"),
        ({"choices": []}, 200, "can't be read"),
        ({"choices": [{"token_ids": [1]}]}, 200, "can't be read"),
        (
            {
                "choices": [
                    {
                        "token_ids": [1],
                        "logprobs": {"token_logprobs": [None]},
                        "finish_reason": "stop",
                    }
                ]
            },
            200,
            "can't be read",
        ),
        (
            {
                "choices": [
                    {
                        "token_ids": [1],
                        "logprobs": {"token_logprobs": [-1]},
                        "finish_reason": "abort",
                    }
                ]
            },
            200,
            "abort",
        ),
    ],
)
async def test_whatever_the_server_gets_wrong_is_a_model_error(
    server: Server, generator: ServedVllm, answer: Any, status: int, message: str
) -> None:
    server.answer, server.status = answer, status
    with pytest.raises(ModelError, match=message):
        await generator.generate([1], SAMPLING, request_id="r")


async def test_a_server_that_is_not_there_is_a_model_error() -> None:
    generator = ServedVllm("http://127.0.0.1:1", lambda: 0)
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:1"):
        await generator.generate([1], SAMPLING, request_id="r")
    await generator.aclose()


async def test_media_and_a_missing_budget_are_refused(generator: ServedVllm) -> None:
    with pytest.raises(Unsupported, match="media"):
        await generator.generate([1], SAMPLING, request_id="r", media=[{}])
    with pytest.raises(InvalidConfig, match="max_tokens"):
        await generator.generate([1], SamplingParams(), request_id="r")


async def test_a_constraint_is_refused(generator: ServedVllm) -> None:
    how = replace(SAMPLING, extras={"regex": "a"})
    with pytest.raises(Unsupported, match="regex"):
        await generator.generate([1], how, request_id="r")
