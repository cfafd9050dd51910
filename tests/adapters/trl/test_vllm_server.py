from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from gym_adapters.adapters.trl.vllm_server import server_generator
from gym_adapters.generation.protocol import SamplingParams


class Server:
    """Answers as vLLM does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.port = 0

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "policy", "max_model_len": 64}]})

    async def completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        choice = {
            "token_ids": [body["prompt"][-1] + 1, 9],
            "logprobs": {"token_logprobs": [-0.5, -0.25]},
            "finish_reason": "stop",
        }
        return web.json_response({"choices": [choice]})


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
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def trainer_of(server: Server, **named: Any) -> Any:
    told = {"vllm_server_base_url": None, "vllm_server_host": "127.0.0.1"}
    args = SimpleNamespace(**{**told, "vllm_server_port": server.port, **named})
    return SimpleNamespace(args=args, state=SimpleNamespace(global_step=4))


SAMPLING = SamplingParams(max_tokens=7, temperature=0.5, stop_token_ids=(9,), extras={"min_p": 0.1})


async def test_the_trainers_server_gets_ids_and_the_trainers_settings_and_no_seed(
    server: Server,
) -> None:
    generator = server_generator(trainer_of(server))
    given = await generator.generate([1, 2], SAMPLING, request_id="r")
    assert (given.token_ids, given.logprobs) == ([3, 9], [-0.5, -0.25])
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
    await generator.aclose()


async def test_a_turn_is_stamped_with_the_step_it_began_in(server: Server) -> None:
    url = f"http://localhost:{server.port}/"
    trainer = trainer_of(server, vllm_server_base_url=url, vllm_server_port=1)
    generator = server_generator(trainer)
    first = await generator.generate([1], SAMPLING, request_id="r")
    trainer.state.global_step = 5
    second = await generator.generate([1], SAMPLING, request_id="r")
    assert (first.weights_version, second.weights_version) == (4, 5)
    await generator.aclose()


async def test_many_turns_may_be_asked_at_once(server: Server) -> None:
    generator = server_generator(trainer_of(server))
    turns = [generator.generate([n], SAMPLING, request_id=str(n)) for n in range(50)]
    given = await asyncio.gather(*turns)
    assert [g.token_ids[0] for g in given] == [n + 1 for n in range(50)]
    await generator.aclose()
