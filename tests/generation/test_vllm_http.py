"""The HTTP generator speaks vLLM's protocol, repeats what is safe, and names what went wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the remote extra")

from aiohttp import web

from gym_adapters.errors import InvalidConfig, ModelError, RolloutTimeout, Unsupported
from gym_adapters.generation import vllm_http
from gym_adapters.generation.constrained import CONSTRAINED_LOGPROBS
from gym_adapters.generation.protocol import SamplingParams, TokenGenerator
from gym_adapters.generation.vllm_http import VLLMHttpGenerator

Answer = Callable[[dict[str, Any]], Awaitable[web.StreamResponse] | web.StreamResponse]


def completion(body: dict[str, Any], **changes: Any) -> web.Response:
    choice = {
        "token_ids": [7, 8],
        "logprobs": {"token_logprobs": [-0.5, -1.5]},
        "finish_reason": "stop",
        "prompt_logprobs": None,
        **changes,
    }
    return web.json_response({"choices": [choice]})


class Server:
    """vLLM's addresses, with answers that a test decides."""

    def __init__(self, answer: Answer = completion, *, mode: str | None = None) -> None:
        self.answer, self.mode = answer, mode
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.dropped = asyncio.Event()
        self.url = ""

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append((request.path, body, dict(request.headers)))
        try:
            answer = self.answer(body)
            return await answer if isinstance(answer, Awaitable) else answer
        except asyncio.CancelledError:
            self.dropped.set()
            raise

    async def models(self, request: web.Request) -> web.Response:
        served = [{"id": "base", "max_model_len": 100}, {"id": "adapter", "max_model_len": None}]
        return web.json_response({"data": served})

    async def info(self, request: web.Request) -> web.Response:
        if self.mode is None:
            raise web.HTTPNotFound
        return web.json_response({"vllm_config": {"model_config": {"logprobs_mode": self.mode}}})


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_post("/v1/completions", server.generate)
    app.router.add_post("/inference/v1/generate", server.generate)
    app.router.add_get("/v1/models", server.models)
    app.router.add_get("/server_info", server.info)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(Server()) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_http, "LONGEST_PAUSE", 0.01)


async def test_a_turn_is_asked_for_with_ids_and_answered_with_ids(server: Server) -> None:
    async with VLLMHttpGenerator(server.url, weights_version=lambda: 4) as generator:
        assert isinstance(generator, TokenGenerator)
        turn = await generator.generate([1, 2], SamplingParams(max_tokens=5), request_id="r")
    assert (turn.token_ids, turn.logprobs) == ([7, 8], [-0.5, -1.5])
    assert (turn.finish_reason, turn.weights_version) == ("stop", 4)
    ((path, body, headers),) = server.asked
    assert path == "/v1/completions"
    assert body == {
        "model": "base",
        "prompt": [1, 2],
        "return_token_ids": True,
        "max_tokens": 5,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [],
        "logprobs": 0,
    }
    assert headers["X-Session-Id"] == "r"
    assert "Authorization" not in headers


async def test_the_other_address_is_spoken_to_in_its_own_way() -> None:
    def answer(body: dict[str, Any]) -> web.Response:
        logprobs = {"content": [{"token": "a", "logprob": -0.25}]}
        choice = {"token_ids": [9], "logprobs": logprobs, "finish_reason": "length"}
        return web.json_response({"choices": [choice]})

    async with (
        serving(Server(answer)) as server,
        VLLMHttpGenerator(f"{server.url}/v1", route="generate", model="adapter") as generator,
    ):
        turn = await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")
    assert (turn.token_ids, turn.logprobs, turn.finish_reason) == ([9], [-0.25], "length")
    ((path, body, _),) = server.asked
    assert path == "/inference/v1/generate"
    assert (body["model"], body["token_ids"]) == ("adapter", [1])
    assert body["sampling_params"]["output_kind"] == 2


async def test_without_a_budget_the_turn_may_fill_the_context(server: Server) -> None:
    async with VLLMHttpGenerator(server.url) as generator:
        await generator.generate([1] * 30, SamplingParams(), request_id="r")
        assert await generator.max_context() == 100
    assert server.asked[0][1]["max_tokens"] == 70


async def test_a_key_is_sent_as_a_bearer_token(server: Server) -> None:
    async with VLLMHttpGenerator(server.url, api_key="secret") as generator:
        await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")
    assert server.asked[0][2]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [400, 503])
async def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_record(status: int) -> None:
    server = Server(lambda body: web.json_response({"error": "not sk-secret"}, status=status))
    async with (
        serving(server),
        VLLMHttpGenerator(server.url, api_key="sk-secret", attempts=1) as generator,
    ):
        with pytest.raises(ModelError, match="not <key>"):
            await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_busy_server_is_asked_again(status: int) -> None:
    answers = [web.json_response({"error": "busy"}, status=status)] * 2

    def answer(body: dict[str, Any]) -> web.Response:
        if answers:
            refusal = answers.pop()
            return web.json_response({"error": "busy"}, status=refusal.status)
        return completion(body)

    async with serving(Server(answer)) as server, VLLMHttpGenerator(server.url) as generator:
        turn = await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")
    assert turn.token_ids == [7, 8]
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_refusal_is_told_and_not_repeated(status: int) -> None:
    def answer(body: dict[str, Any]) -> web.Response:
        return web.json_response({"error": {"message": "prompt too long"}}, status=status)

    async with serving(Server(answer)) as server, VLLMHttpGenerator(server.url) as generator:
        with pytest.raises(ModelError, match=f"{status}: prompt too long"):
            await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")
    assert len(server.asked) == 1


async def test_a_connection_that_breaks_is_made_again() -> None:
    broken: list[str] = []

    class Breaking(Server):
        async def generate(self, request: web.Request) -> web.StreamResponse:
            if len(broken) < 2 and request.transport is not None:
                broken.append(request.path)
                request.transport.abort()
            return await super().generate(request)

    async with serving(Breaking()) as server, VLLMHttpGenerator(server.url) as generator:
        turn = await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")
    assert turn.token_ids == [7, 8]
    assert len(broken) == 2


async def test_a_server_that_is_not_there_is_a_model_error_after_the_last_attempt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with VLLMHttpGenerator(url, attempts=2) as generator:
        with pytest.raises(ModelError, match=r"failed 2 time\(s\)"):
            await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")


async def test_a_turn_past_its_deadline_is_a_timeout(leap: Callable[[float], None]) -> None:
    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        leap(300.5)
        await asyncio.sleep(3600)
        return completion(body)

    async with serving(Server(answer)) as server:
        async with VLLMHttpGenerator(server.url, deadline=300.5) as generator:
            with pytest.raises(RolloutTimeout, match=r"300\.5 s"):
                await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")
        await asyncio.wait_for(server.dropped.wait(), 60)


async def test_cancelling_a_call_closes_its_connection() -> None:
    async def answer(body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        return completion(body)

    async with serving(Server(answer)) as server, VLLMHttpGenerator(server.url) as generator:
        await generator.max_context()
        call = asyncio.create_task(
            generator.generate([1], SamplingParams(max_tokens=1), request_id="r")
        )
        while not server.asked:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(server.dropped.wait(), 60)


async def test_all_turns_of_a_rollout_go_to_one_server_and_rollouts_to_all() -> None:
    async with (
        serving(Server()) as first,
        serving(Server()) as second,
        VLLMHttpGenerator([first.url, second.url]) as generator,
    ):
        for _ in range(3):
            for rollout in range(16):
                how = SamplingParams(max_tokens=1)
                await generator.generate([1], how, request_id=f"rollout-{rollout}")
    seen = [
        {headers["X-Session-Id"] for _, _, headers in server.asked} for server in (first, second)
    ]
    assert seen[0].isdisjoint(seen[1])
    assert all(seen)
    assert len(first.asked) == 3 * len(seen[0])


async def test_a_constrained_turn_is_scored_without_its_constraint() -> None:
    def answer(body: dict[str, Any]) -> web.Response:
        if "prompt_logprobs" in body:
            scores = [None, {"7": {"logprob": -4.0}}, {"8": {"logprob": -5.0}}]
            return completion(body, token_ids=[0], prompt_logprobs=scores)
        return completion(body)

    async with serving(Server(answer)) as server, VLLMHttpGenerator(server.url) as generator:
        how = SamplingParams(max_tokens=5, extras={"regex": "ab"})
        turn = await generator.generate([1], how, request_id="r")
    assert turn.token_ids == [7, 8]
    assert turn.logprobs == [-4.0, -5.0]
    assert turn.extras[CONSTRAINED_LOGPROBS] == [-0.5, -1.5]
    assert server.asked[0][1]["structured_outputs"] == {"regex": "ab"}
    assert server.asked[1][1]["prompt"] == [1, 7, 8]
    assert "structured_outputs" not in server.asked[1][1]


async def test_raw_log_probabilities_are_refused_where_the_server_tells() -> None:
    async with (
        serving(Server(mode="raw_logprobs")) as server,
        VLLMHttpGenerator(server.url) as generator,
    ):
        with pytest.raises(InvalidConfig, match="--logprobs-mode processed_logprobs"):
            await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")


async def test_a_model_that_is_not_served_is_refused(server: Server) -> None:
    async with VLLMHttpGenerator(server.url, model="other") as generator:
        with pytest.raises(InvalidConfig, match="'other', but base, adapter"):
            await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": None},
        {"logprobs": None},
        {"logprobs": {"token_logprobs": [-1.0]}},
        {"logprobs": {"token_logprobs": [-1.0, None]}},
        {"finish_reason": "abort"},
    ],
)
async def test_an_answer_that_is_no_whole_turn_is_a_model_error(changes: dict[str, Any]) -> None:
    async with (
        serving(Server(lambda body: completion(body, **changes))) as server,
        VLLMHttpGenerator(server.url) as generator,
    ):
        with pytest.raises(ModelError):
            await generator.generate([1], SamplingParams(max_tokens=2), request_id="r")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://me:pass@host"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidConfig, match="http://localhost:8000"):
        VLLMHttpGenerator(url)


async def test_images_are_refused(server: Server) -> None:
    async with VLLMHttpGenerator(server.url) as generator:
        with pytest.raises(Unsupported, match="media"):
            await generator.generate([1], SamplingParams(), request_id="r", media=[{"type": "x"}])


def test_a_generator_outlives_the_event_loop_that_it_was_first_used_on() -> None:
    async def once(generator: VLLMHttpGenerator, server: Server) -> list[int]:
        async with serving(server):
            generator._urls = [server.url]
            turn = await generator.generate([1], SamplingParams(max_tokens=1), request_id="r")
            await generator.aclose()
            return list(turn.token_ids)

    generator = VLLMHttpGenerator("http://127.0.0.1:1")
    assert asyncio.run(once(generator, _server())) == [7, 8]
    assert asyncio.run(once(generator, _server())) == [7, 8]


def _server() -> Server:
    return Server()
