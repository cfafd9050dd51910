"""The vLLM server of AsyncGRPOTrainer, as its rollouts ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")

from aiohttp import web

from gym_adapters.adapters.trl.async_generation import ServedPolicy, VersionedGenerator
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.testing.scripted_generator import ScriptedGenerator


class Server:
    """Answers as vLLM does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.models = ["base"]
        self.asked: list[dict[str, Any]] = []
        self.url = ""

    async def served(self, _: web.Request) -> web.Response:
        data = [{"id": name, "max_model_len": 64} for name in self.models]
        return web.json_response({"data": data})

    async def completions(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        choice = {
            "token_ids": [9],
            "logprobs": {"token_logprobs": [-0.5]},
            "finish_reason": "stop",
        }
        return web.json_response({"choices": [choice]})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_get("/v1/models", made.served)
    app.router.add_post("/v1/completions", made.completions)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def settings(server: Server) -> Any:
    return SimpleNamespace(server_url=server.url, request_timeout=20.0, staleness=1)


async def ask(policy: ServedPolicy) -> None:
    await policy.generate([1], SamplingParams(max_tokens=4), request_id="r")


async def test_a_server_of_whole_weights_is_asked_for_its_model(server: Server) -> None:
    policy = ServedPolicy(settings(server), lambda: 3)
    await ask(policy)
    await ask(policy)
    assert [asked["model"] for asked in server.asked] == ["base", "base"]
    await policy.aclose()


async def test_a_server_of_adapters_is_asked_for_the_newest(server: Server) -> None:
    version = 1
    server.models = ["base", "trl-policy-v1"]
    policy = ServedPolicy(settings(server), lambda: version)
    await ask(policy)
    for version in range(2, 7):
        server.models = ["base", f"trl-policy-v{version - 1}", f"trl-policy-v{version}"]
        await ask(policy)
    assert [asked["model"] for asked in server.asked] == [f"trl-policy-v{v}" for v in range(1, 7)]
    assert set(policy._adapters) == {4, 5, 6}
    await policy.aclose()


async def test_seeds_differ_by_turn_and_request_and_are_the_same_in_the_next_run() -> None:
    script = ScriptedGenerator(lambda *_: [7])

    async def seeds() -> list[int | None]:
        generator = VersionedGenerator(script, lambda: 5, seed=1)
        for request, prompt in (("a", [1]), ("a", [1, 2]), ("b", [1])):
            generation = await generator.generate(prompt, SamplingParams(), request_id=request)
            assert generation.weights_version == 5
        return [call.sampling.seed for call in script.calls[-3:]]

    first = await seeds()
    assert len(set(first)) == 3
    assert await seeds() == first
    plain = VersionedGenerator(script, lambda: 5)
    await plain.generate([1], SamplingParams(), request_id="a")
    assert script.calls[-1].sampling.seed is None


async def test_a_turn_is_as_old_as_its_beginning() -> None:
    version = 1

    def answer(*_: object) -> list[int]:
        nonlocal version
        version = 2
        return [7]

    generator = VersionedGenerator(ScriptedGenerator(answer), lambda: version)
    turns = [await generator.generate([1], SamplingParams(), request_id="r") for _ in range(2)]
    assert [turn.weights_version for turn in turns] == [1, 2]
